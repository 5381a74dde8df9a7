"""Make lineage artifacts of uploaded objects, and associate them with trial components.

The requests and their members are those of sagemaker-experiments 0.1.45. AWS documents neither what
makes an artifact unique nor how to find one that exists. So "already exists" is resolved by asking
for the artifacts of the object's URI, and every operation can be repeated.

Decides nothing and retries nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from journaltrack import limits
from journaltrack.errors import ComponentMissingError, ErrorKind, RemoteError
from journaltrack.remotes.aws.errors import already_exists, classified, not_found
from journaltrack.replay.remote import Answer, ArtifactLink, Linked

if TYPE_CHECKING:
    from journaltrack.remotes.aws.clients import Clients
    from journaltrack.remotes.aws.s3 import Uploader


class Lineage:
    """Links objects and components. Threads may share it.

    Args:
        clients: Gives the client for SageMaker.
        uploader: Tells an object's ETag.
        find: Returns a component's ARN as SageMaker says it; None if there is no such component.
            A journal's own word is not enough: it may name somebody else's component.
    """

    def __init__(
        self, clients: Clients, uploader: Uploader, find: Callable[[str], str | None]
    ) -> None:
        self._clients = clients
        self._uploader = uploader
        self._find = find
        # By name in lower case.
        self._arns: dict[str, str] = {}

    def link(self, link: ArtifactLink) -> Answer:
        """Make the artifact and the association, unless they exist.

        Raises:
            ComponentMissingError: There is no such component.
            RemoteError: The object is not the uploaded one.
            ClientError: A request was refused.
        """
        component = self._arn_of(link.component)
        if component is None:
            raise ComponentMissingError(
                f"there is no trial component {link.component}",
                kind=ErrorKind.HOLD,
                code="ResourceNotFound",
                hint="`journaltrack check --remote --repair` creates it again",
            )
        association = _association(link, component, self._artifact(link))
        try:
            answer = self._clients.sagemaker.add_association(**association)
        except ClientError as error:
            if already_exists(error):
                return Answer(_request_id(error.response))
            if not_found(error):
                # One of both was deleted a moment ago: another attempt looks again.
                self._arns.pop(link.component.lower(), None)
                raise _passing(error, str(error)) from error
            raise
        return Answer(_request_id(answer))

    def linked(self, link: ArtifactLink) -> Linked:
        """Return whether the object has an artifact that is associated with the component."""
        component = self._arn_of(link.component)
        answer = self._listed(link)
        artifacts = [held["ArtifactArn"] for held in answer["ArtifactSummaries"]]
        return Linked(
            bool(artifacts),
            component is not None
            and any(self._is_associated(link, component, each) for each in artifacts),
            _request_id(answer),
        )

    def _is_associated(self, link: ArtifactLink, component: str, artifact: str) -> bool:
        sagemaker = self._clients.sagemaker
        answer = sagemaker.list_associations(**_association(link, component, artifact))
        return bool(answer["AssociationSummaries"])

    def _artifact(self, link: ArtifactLink) -> str:
        """Return the ARN of the lineage artifact of an object. Make it if there is none.

        If the account refuses a second artifact of the name, the digest tells them apart.
        """
        etag = self._uploader.etag_of(link.uri, link.sha256)
        source_types = [{"SourceIdType": "S3ETag", "Value": etag}] if etag else []
        told_apart = f"{link.name[: limits.NAME_CHARS_MAX - 13]}-{link.sha256[:12]}"
        for name in (link.name, told_apart):
            try:
                answer = self._clients.sagemaker.create_artifact(
                    ArtifactName=name,
                    ArtifactType=link.artifact_type,
                    Source={"SourceUri": link.uri, "SourceTypes": source_types},
                )
            except ClientError as error:
                if not already_exists(error):
                    raise
                refused = error
            else:
                return str(answer["ArtifactArn"])
            # Should there be several, prefer the one of this content and type.
            known = {
                (
                    held["Source"].get("SourceTypes", []) == source_types,
                    held.get("ArtifactType") == link.artifact_type,
                ): str(held["ArtifactArn"])
                for held in self._listed(link)["ArtifactSummaries"]
            }
            if known:
                return known[max(known)]
        raise _passing(refused, f"{refused}, and ListArtifacts does not list it")

    def _listed(self, link: ArtifactLink) -> Any:  # noqa: ANN401 - boto3 has no types of its own
        return self._clients.sagemaker.list_artifacts(SourceUri=link.uri)

    def _arn_of(self, component: str) -> str | None:
        arn = self._arns.get(component.lower())
        if arn is None and (arn := self._find(component)) is not None:
            self._arns[component.lower()] = arn
        return arn


def _association(link: ArtifactLink, component: str, artifact: str) -> dict[str, str]:
    """Return the members of an association: from what was first to what came of it."""
    source, destination, kind = (
        (component, artifact, "Produced")
        if link.is_output
        else (artifact, component, "ContributedTo")
    )
    return {"SourceArn": source, "DestinationArn": destination, "AssociationType": kind}


def _passing(error: ClientError, text: str) -> RemoteError:
    """Make the error for a state that another attempt, or a later pass, may find changed."""
    told = classified(error)
    return RemoteError(text, kind=ErrorKind.TRANSIENT, code=told.code, request_id=told.request_id)


def _request_id(answer: Any) -> str | None:  # noqa: ANN401
    request_id = answer.get("ResponseMetadata", {}).get("RequestId")
    return str(request_id) if request_id else None
