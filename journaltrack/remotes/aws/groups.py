"""Make experiments and trials, change them, and put components into trials.

Every operation can be repeated: "already exists" is success, and leads to an update of what is
there. A refusal of the update does not keep tags from being added, nor the other way round. Without
the permission to create, what is there is used.

Decides nothing and retries nothing. Raises botocore's ``ClientError`` as well as ``RemoteError``.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from journaltrack.errors import NOT_ALLOWED, ErrorKind, RemoteError
from journaltrack.journal.groups import Declared, Group, GroupKind, named_trial
from journaltrack.remotes.aws.errors import (
    DENIED,
    already_exists,
    classified,
    code_of,
    not_found,
)
from journaltrack.replay.remote import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from journaltrack.remotes.aws.clients import Clients

_NAMES: Final = {"experiment": "ExperimentName", "trial": "TrialName"}
_ARNS: Final = {"experiment": "ExperimentArn", "trial": "TrialArn"}
_PASSING: Final = "it was deleted a moment ago; another attempt makes it again"


class Groups:
    """Experiments and trials. Threads may share it.

    Args:
        clients: Gives the client for SageMaker.
        creates: Whether to create experiments and trials that are missing.
    """

    def __init__(self, clients: Clients, *, creates: bool) -> None:
        self._clients = clients
        self._creates = creates
        # Those that are known to exist, by kind and name in lower case.
        self._known: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def associate(self, component: str, experiment: str | None, trial: str | None) -> Answer:
        """Put the component into the trial. Create trial and experiment when missing."""
        trial = named_trial(experiment, trial)
        if not trial:
            return Answer()
        denial: ClientError | None = None
        if experiment is not None and self._creates:
            try:
                self._ensure(Group("experiment", experiment))
                self._ensure(Group("trial", trial, experiment))
            except ClientError as error:
                if code_of(error) not in DENIED:
                    raise
                denial = error
        try:
            answer = self._clients.sagemaker.associate_trial_component(
                TrialComponentName=component, TrialName=trial
            )
        except ClientError as error:
            if not_found(error):
                raise self._what_is_missing(component, trial, error, denial) from error
            raise
        return Answer(_request_id(answer), arn=answer.get("TrialComponentArn"))

    def disassociate(self, component: str, trial: str) -> Answer:
        """Take the component out of the trial. If one of them is missing, it is not in it."""
        try:
            answer = self._clients.sagemaker.disassociate_trial_component(
                TrialComponentName=component, TrialName=trial
            )
        except ClientError as error:
            if not_found(error):
                return Answer(_request_id(error.response))
            raise
        return Answer(_request_id(answer))

    def declare(self, declared: Declared) -> Answer:
        """Create the experiment or trial, or update the one that is there."""
        denial: ClientError | None = None
        kind, name = declared.make.kind, declared.make.name
        try:
            made = self._made(declared.make)
        except ClientError as error:
            if code_of(error) not in DENIED:
                raise
            denial, made = error, None
        if made is not None:
            return Answer(_request_id(made), arn=made.get(_ARNS[kind]))
        answer = self._found_or_denied(kind, name, denial)
        if answer is None:
            raise self._absent(kind, name)
        held, request_id, arn = _group(kind, answer), _request_id(answer), answer.get(_ARNS[kind])
        wanted = declared.make.experiment
        if wanted is not None and str(held.experiment).lower() != wanted.lower():
            raise RemoteError(
                f"the trial {name} belongs to the experiment {held.experiment}, not to {wanted}",
                kind=ErrorKind.PERMANENT,
                code="TrialOfAnotherExperiment",
                request_id=request_id,
                hint="a trial stays in its experiment: take another name for the new trial",
            )
        if declared.change is not None:
            self._change(held, declared.change, str(arn))
        return Answer(request_id, arn=arn)

    def group(self, kind: GroupKind, name: str, *, tags: bool = True) -> Group | None:
        """Return the experiment or trial, with its tags if asked; None if it does not exist."""
        answer = self._described(kind, name)
        if answer is None:
            return None
        held = self.tags(str(answer.get(_ARNS[kind]))) if tags else {}
        return replace(_group(kind, answer), tags=tuple(held.items()))

    def add_tags(self, arn: str, tags: Mapping[str, str]) -> Answer:
        """Add tags to what has that ARN."""
        told = [{"Key": key, "Value": value} for key, value in tags.items()]
        return Answer(_request_id(self._clients.sagemaker.add_tags(ResourceArn=arn, Tags=told)))

    def tags(self, arn: str) -> dict[str, str]:
        """Return the tags of what has that ARN."""
        pages = _pages(self._clients.sagemaker.list_tags, ResourceArn=arn)
        return {tag["Key"]: tag["Value"] for page in pages for tag in page.get("Tags", ())}

    def trials(self, component: str) -> frozenset[str] | None:
        """Return the trials of a component, in lower case; None if it does not exist."""
        pages = _pages(self._clients.sagemaker.list_trials, TrialComponentName=component)
        try:
            return frozenset(
                str(each["TrialName"]).lower()
                for page in pages
                for each in page.get("TrialSummaries", ())
            )
        except ClientError as error:
            if not_found(error):
                return None
            raise

    def _made(self, group: Group) -> Mapping[str, Any] | None:
        """Create it. Return the answer, or None if it is there, or must not be created."""
        if not self._creates:
            return None
        if group.experiment is not None:
            self._ensure(Group("experiment", group.experiment))
        answer = self._created(group)
        with self._lock:
            self._known.add((group.kind, group.name.lower()))
        return answer

    def _ensure(self, group: Group) -> None:
        """Create an experiment or trial, once per pass, unless it exists."""
        with self._lock:
            if (group.kind, group.name.lower()) in self._known:
                return
        self._created(group)
        with self._lock:
            self._known.add((group.kind, group.name.lower()))

    def _created(self, group: Group) -> Mapping[str, Any] | None:
        """Send CreateExperiment or CreateTrial. Return the answer; None if the name is taken."""
        request: dict[str, Any] = {_NAMES[group.kind]: group.name}
        if group.experiment is not None:
            request["ExperimentName"] = group.experiment
        request |= _settings(group)
        if group.tags:
            request["Tags"] = _tags(group)
        try:
            answer: Mapping[str, Any] = getattr(self._clients.sagemaker, f"create_{group.kind}")(
                **request
            )
        except ClientError as error:
            if already_exists(error):
                return None
            if not_found(error) and group.experiment is not None:
                self._forget("experiment", group.experiment)
                raise _passing(error) from error
            raise
        return answer

    def _change(self, held: Group, change: Group, arn: str) -> None:
        """Send UpdateExperiment or UpdateTrial, and AddTags, as far as something differs."""
        failure: ClientError | None = None
        new = {
            member: value
            for member, value in _settings(change).items()
            if value != _settings(held).get(member)
        }
        if new:
            request = {_NAMES[held.kind]: held.name, **new}
            try:
                getattr(self._clients.sagemaker, f"update_{held.kind}")(**request)
            except ClientError as error:
                failure = error
        if change.tags:
            self.add_tags(arn, dict(change.tags))
        if failure is not None:
            if not_found(failure):
                raise _passing(failure) from failure
            raise failure

    def _described(self, kind: GroupKind, name: str) -> Mapping[str, Any] | None:
        try:
            answer: Mapping[str, Any] = getattr(self._clients.sagemaker, f"describe_{kind}")(
                **{_NAMES[kind]: name}
            )
        except ClientError as error:
            if not_found(error):
                return None
            raise
        return answer

    def _found_or_denied(
        self, kind: GroupKind, name: str, denial: ClientError | None
    ) -> Mapping[str, Any] | None:
        """Return what is there, which need not be made. None if nothing is, and it may be made.

        Raises:
            ClientError: The denial: nothing is there, or nobody may tell.
        """
        try:
            answer = self._described(kind, name)
        except ClientError as error:
            if denial is None:
                raise
            raise denial from error
        if answer is None and denial is not None:
            raise denial
        return answer

    def _absent(self, kind: GroupKind, name: str) -> RemoteError:
        """Return the error for what is not there after it should have been created."""
        self._forget(kind, name)
        if self._creates:
            return RemoteError(
                f"the {kind} {name} is not there: {_PASSING}",
                kind=ErrorKind.TRANSIENT,
                code="ResourceNotFound",
            )
        return self._not_allowed(kind, name)

    def _not_allowed(self, kind: str, name: str, request_id: str | None = None) -> RemoteError:
        return RemoteError(
            f"the {kind} {name} does not exist, and allow.create_experiments is false",
            kind=ErrorKind.HALT,
            code=NOT_ALLOWED,
            request_id=request_id,
            hint="create it and sync again; everything waits in the journal",
        )

    def _what_is_missing(
        self, component: str, trial: str, error: ClientError, denial: ClientError | None
    ) -> RemoteError:
        """Return the error that names what AssociateTrialComponent did not find.

        AWS answers ResourceNotFound for a trial and for a component.
        """
        # If the trial was deleted meanwhile, the next attempt creates it again.
        self._forget("trial", trial)
        try:
            found = self._found_or_denied("trial", trial, denial)
        except ClientError as trial_error:
            return classified(trial_error)
        if found is not None:
            return classified(error, component)
        request_id = _request_id(error.response)
        if not self._creates:
            return self._not_allowed("trial", trial, request_id)
        return RemoteError(
            f"the trial {trial} does not exist: {error}",
            kind=ErrorKind.PERMANENT,
            code="ResourceNotFound",
            request_id=request_id,
            hint="create it (no experiment_name= was given), then `journaltrack retry`",
        )

    def _forget(self, kind: str, name: str) -> None:
        with self._lock:
            self._known.discard((kind, name.lower()))


def _pages(call: Callable[..., Mapping[str, Any]], **members: str) -> Iterator[Mapping[str, Any]]:
    """Yield all pages of an answer."""
    token: dict[str, str] = {}
    while True:
        page = call(**members, **token)
        yield page
        # A stand-in may give the same page for ever.
        if not page.get("NextToken") or page["NextToken"] == token.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}


def _passing(error: ClientError) -> RemoteError:
    return RemoteError(
        f"{error}: {_PASSING}",
        kind=ErrorKind.TRANSIENT,
        code="ResourceNotFound",
        request_id=_request_id(error.response),
    )


def _settings(group: Group) -> dict[str, str]:
    """Return the members that a create and an update have in common."""
    members = {"DisplayName": group.display_name, "Description": group.description}
    return {name: value for name, value in members.items() if value is not None}


def _tags(group: Group) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in group.tags]


def _group(kind: GroupKind, answer: Mapping[str, Any]) -> Group:
    return Group(
        kind,
        answer[_NAMES[kind]],
        answer.get("ExperimentName") if kind == "trial" else None,
        answer.get("DisplayName"),
        answer.get("Description") if kind == "experiment" else None,
    )


def _request_id(answer: Mapping[str, Any]) -> str | None:
    found = answer.get("ResponseMetadata", {}).get("RequestId")
    return None if found is None else str(found)
