"""Tell what these credentials may do, before a sync needs it. Changes nothing.

Each permission is tried with a request that AWS answers and that can't have an effect: it reads, or
it names a component, a trial, an upload or an association that does not exist. AWS refuses such a
request for its permission first. So "no such component" proves the permission, and a refusal of the
permission proves the contrary.

What makes a component or an experiment names nothing else. It is tried with one reserved tag, given
twice: AWS reserves keys that begin with "aws:", and lets no key be there twice. A refusal of the
permission is told. A refusal of the tags proves nothing, since it may come first.

Names of what does not exist end at random, so that none exists by chance. They begin as those of
the journal do, for policies that allow some names only (``experiment-trial-component/team-*``).
Without a journal such a policy refuses them, and the report says so.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from botocore import xform_name
from botocore.exceptions import ClientError

from journaltrack import limits
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws.errors import DENIED, classified, code_of, not_found, status_of
from journaltrack.remotes.upload_notes import prefix_name

if TYPE_CHECKING:
    from journaltrack.remotes.aws.clients import Clients
    from journaltrack.remotes.aws.s3 import Uploader

Feature: TypeAlias = Literal[
    "components", "metrics", "experiments", "tags", "artifacts", "anchors", "lineage"
]
State: TypeAlias = Literal["allowed", "denied", "refused", "unknown"]

PROBE: Final = "journaltrack-probe"
_MISSING: Final = frozenset({"NoSuchUpload", "NoSuchKey", "404"})
_NEVER_TRIED: Final = "can't be tried without making one"
_RESERVED: Final = {"Key": f"{limits.TAG_KEY_RESERVED}{PROBE}", "Value": ""}
_TAGS_MAX: Final = limits.TAGS_MAX - 2
_NAME_CHARS_MAX: Final = 80
"""Characters of a name that a probe begins with: it has 120 at most."""
_SEGMENTS: Final = {
    "component": "experiment-trial-component",
    "experiment": "experiment",
    "trial": "experiment-trial",
}
_NO_ACCOUNT: Final = "STS did not say the account"
CLOCK_TOLERANCE_S: Final = 240
"""AWS refuses requests whose time is wrong by 5 minutes (S3: 15); answers take a while."""


class Model(NamedTuple):
    """A component, experiment or trial that a sync is about: what is tried resembles it."""

    name: str
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Say what to try.

    Attributes:
        actions: The operations of SageMaker.
        places: Bucket and prefix of artifacts; None for the default ones. (): no artifacts.
        anchors: The folder of the anchors in the first of these buckets; None: no anchors.
        models: What a journal names, by "component", "experiment" or "trial". Operations that make
            one are tried only with a model: policies may demand tags.
        names: All names of these, by kind.
        create_buckets: Whether a sync may make a missing bucket.
        named: Whether the bucket was named to ask for it.
    """

    actions: frozenset[str]
    places: tuple[tuple[str | None, str | None], ...] = ()
    anchors: str | None = None
    models: Mapping[str, Model] = field(default_factory=dict)
    names: Mapping[str, Collection[str]] = field(default_factory=dict)
    create_buckets: bool = True
    named: bool = False


@dataclass(frozen=True, slots=True)
class Permission:
    """One action of IAM, and what an attempt showed.

    Attributes:
        feature: What needs it.
        action: IAM's name of it.
        state: "allowed", "denied", "refused" for another reason that stops a sync (the region), or
            "unknown" if no attempt could tell.
        message: AWS's words, or why it is unknown. Empty if it is allowed.
        hint: What to do if it is denied or refused.
    """

    feature: Feature
    action: str
    state: State
    message: str = ""
    hint: str = ""


@dataclass(slots=True)
class Bucket:
    """The bucket of the artifacts.

    Attributes:
        name: Its name; None if the default one's could not be found out.
        is_default: Whether it is the default one.
        exists: None if that could not be told.
        region: Where it is, if S3 says.
        is_needed: Whether a sync fails without it: it is missing, and may not or should not be
            created.
    """

    name: str | None
    is_default: bool
    exists: bool | None = None
    region: str | None = None
    is_needed: bool = False


@dataclass(slots=True)
class Access:
    """Hold what was found out.

    Attributes:
        account, arn: Who asks; None if STS did not say.
        region: Where requests go.
        endpoint: SageMaker's.
        clock_ahead_s: This machine's clock minus AWS's, in seconds; None if no answer had a date.
        bucket: The bucket, of several one that a sync fails for; None if none is needed.
        permissions: What was tried, in the order of the features.
        error: Why not everything was tried; None if it was.
    """

    account: str | None = None
    arn: str | None = None
    region: str | None = None
    endpoint: str | None = None
    clock_ahead_s: float | None = None
    bucket: Bucket | None = None
    permissions: list[Permission] = field(default_factory=list)
    error: RemoteError | None = None

    @property
    def is_clock_wrong(self) -> bool:
        """Return whether AWS refuses requests for this machine's clock, or soon will."""
        return abs(self.clock_ahead_s or 0.0) > CLOCK_TOLERANCE_S

    @property
    def suffices(self) -> bool:
        """Return whether everything could be tried, and nothing speaks against a sync."""
        return self.error is None and not self.is_refused

    @property
    def is_refused(self) -> bool:
        """Return whether a permission, the clock or the bucket speaks against a sync."""
        return (
            any(each.state in {"denied", "refused"} for each in self.permissions)
            or self.is_clock_wrong
            or (self.bucket is not None and self.bucket.is_needed)
        )

    def to_json(self) -> dict[str, Any]:
        """Return this for ``json.dumps``, without the error."""
        told = {
            name: getattr(self, name)
            for name in ("account", "arn", "region", "endpoint", "clock_ahead_s")
        }
        return {
            **told,
            "bucket": asdict(self.bucket) if self.bucket is not None else None,
            "permissions": [asdict(each) for each in self.permissions],
            "suffices": self.suffices,
        }


class Examination:
    """Try what a sync needs.

    Args:
        clients: Of the remote.
        uploader: Of the remote: it knows which bucket is used.
        wanted: What to try.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        clients: Clients,
        uploader: Uploader,
        wanted: Wanted,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clients = clients
        self._uploader = uploader
        self._wanted = wanted
        self._clock = clock
        self._found = Access()
        self._probe = f"{PROBE}-{uuid.uuid4().hex[:16]}"
        self._missing: set[str | None] = set()
        self._names = {
            kind: f"{wanted.models[kind].name[:_NAME_CHARS_MAX].rstrip('-')}-{self._probe}"
            if kind in wanted.models
            else self._probe
            for kind in _SEGMENTS
        }

    def run(self) -> Access:
        """Try everything, until an error shows that every request fails."""
        try:
            self._ask_who()
            self._try_components()
            self._try_experiments()
            self._try_tags()
            for bucket, prefix in self._wanted.places:
                self._try_artifacts(bucket, prefix)
            self._try_anchors()
            self._try_lineage()
        except RemoteError as error:
            self._found.error = error
        except Exception as error:  # noqa: BLE001 - credentials and plug-ins may raise anything
            self._found.error = classified(error)
        return self._found

    # -- who and where -----------------------------------------------------------------------

    def _ask_who(self) -> None:
        sagemaker = self._clients.sagemaker
        self._found.region = str(sagemaker.meta.region_name)
        self._found.endpoint = str(sagemaker.meta.endpoint_url)
        try:
            answer = self._answer(self._clients.sts.get_caller_identity)
        except Exception as error:
            failure = classified(error)
            # A network may reach SageMaker alone (VPC endpoints). Without any, the next try fails.
            if failure.everywhere:
                raise
            return
        self._found.account = str(answer.get("Account") or "") or None
        self._found.arn = str(answer.get("Arn") or "") or None

    def _answer(self, call: Callable[..., Any], **members: Any) -> Any:  # noqa: ANN401 - boto3's
        """Return an answer, and take note of its date."""
        try:
            answer = call(**members)
        except ClientError as error:
            self._note_clock(error.response)
            raise
        self._note_clock(answer)
        return answer

    def _note_clock(self, answer: Mapping[str, Any]) -> None:
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date and self._found.clock_ahead_s is None:
            try:
                at_s = parsedate_to_datetime(date).timestamp()
            except (TypeError, ValueError):
                return
            # The date has whole seconds.
            self._found.clock_ahead_s = float(round(self._clock() - at_s))

    # -- attempts ----------------------------------------------------------------------------

    def _try(
        self,
        feature: Feature,
        action: str,
        call: Callable[..., Any],
        **members: Any,  # noqa: ANN401
    ) -> State:
        """Try one action, and note what that showed.

        Raises:
            RemoteError: Every request fails: there is no answer, or the credentials are not valid.
        """
        try:
            self._answer(call, **members)
        except Exception as error:  # noqa: BLE001 - boto3 and plug-ins may raise anything
            permission = self._shown_by(error, feature, action)
        else:
            permission = Permission(feature, action, "allowed")
        self._found.permissions.append(permission)
        return permission.state

    def _shown_by(self, error: Exception, feature: Feature, action: str) -> Permission:
        """Return what a failure shows of the permission."""
        if isinstance(error, ClientError) and (
            not_found(error) or code_of(error) in _MISSING or _is_no_such_key(error)
        ):
            return Permission(feature, action, "allowed")
        failure = classified(error)
        if self._is_the_end(failure, error):
            raise failure from error
        if failure.kind is ErrorKind.TRANSIENT:
            # The others may be told even so.
            self._found.error = self._found.error or failure
        state: State = "unknown"
        if failure.kind is ErrorKind.HALT:
            state = "denied" if failure.code in DENIED else "refused"
        return Permission(feature, action, state, failure.message, failure.hint)

    def _is_the_end(self, failure: RemoteError, error: Exception) -> bool:
        """Return whether every further request would fail as well.

        An answer that is not the service's ends nothing once others were answered.
        """
        was_answered = any(each.state in {"allowed", "denied"} for each in self._found.permissions)
        is_alone = was_answered and isinstance(error, ClientError)
        return failure.everywhere or (failure.unreachable and not is_alone)

    def _unknown(self, feature: Feature, *actions: str, why: str = _NEVER_TRIED) -> None:
        self._found.permissions += [Permission(feature, each, "unknown", why) for each in actions]

    def _try_sagemaker(self, feature: Feature, operation: str, **members: Any) -> None:  # noqa: ANN401
        """Try an operation, if it is wanted."""
        if operation in self._wanted.actions:
            client = self._clients.metrics if feature == "metrics" else self._clients.sagemaker
            call = getattr(client, xform_name(operation))
            self._try(feature, f"sagemaker:{operation}", call, **members)

    def _try_making(self, feature: Feature, kind: str, operation: str, **members: str) -> None:
        """Try to make something, by a request that AWS can't accept, with the tags of the model."""
        action, model = f"sagemaker:{operation}", self._wanted.models.get(kind)
        if operation not in self._wanted.actions:
            return
        if model is None:
            self._unknown(feature, action)
            return
        tags = [{"Key": key, "Value": value} for key, value in model.tags[:_TAGS_MAX]]
        # A trial needs an experiment, and the one that is named does not exist.
        tags += [] if kind == "trial" else [_RESERVED, _RESERVED]
        request = {**members, **({"Tags": tags} if tags else {})}

        def attempt(**request: Any) -> Any:  # noqa: ANN401 - boto3's
            """Send it. Delete what a stand-in for AWS makes all the same."""
            sagemaker, of_boto = self._clients.sagemaker, xform_name(operation)
            answer = getattr(sagemaker, of_boto)(**request)
            name = next(iter(members))
            getattr(sagemaker, of_boto.replace("create", "delete"))(**{name: members[name]})
            return answer

        self._try(feature, action, attempt, **request)
        shown = self._found.permissions[-1]
        if shown.state == "denied" and "sagemaker:AddTags" in shown.message:
            # The probe has tags, and what is to be made may have none.
            self._found.permissions[-1] = replace(shown, state="unknown", hint="")
        elif shown.state == "denied" and kind != "component" and self._all_exist(kind):
            self._found.permissions.pop()
        elif shown.state == "unknown" and kind != "trial":
            self._found.permissions[-1] = replace(shown, message=_NEVER_TRIED)

    def _all_exist(self, kind: str) -> bool:
        """Return whether all experiments or trials exist: then none needs to be made."""
        describe = getattr(self._clients.sagemaker, f"describe_{kind}")
        names = self._wanted.names[kind]
        try:
            for name in names:
                self._answer(describe, **{f"{kind.capitalize()}Name": name})
        except ClientError:
            return False
        return True

    def _try_components(self) -> None:
        name = {"TrialComponentName": self._names["component"]}
        point = {"MetricName": PROBE, "Timestamp": self._clock(), "Value": 0.0}
        self._try_sagemaker("components", "DescribeTrialComponent", **name)
        self._try_sagemaker("components", "UpdateTrialComponent", **name)
        self._try_making("components", "component", "CreateTrialComponent", **name)
        self._try_sagemaker("metrics", "BatchPutMetrics", **name, MetricData=[point])

    def _try_experiments(self) -> None:
        component = {"TrialComponentName": self._names["component"]}
        experiment = {"ExperimentName": self._names["experiment"]}
        trial = {"TrialName": self._names["trial"]}
        self._try_sagemaker("experiments", "DescribeExperiment", **experiment)
        self._try_sagemaker("experiments", "UpdateExperiment", **experiment)
        self._try_making("experiments", "experiment", "CreateExperiment", **experiment)
        self._try_sagemaker("experiments", "DescribeTrial", **trial)
        self._try_sagemaker("experiments", "UpdateTrial", **trial)
        self._try_making("experiments", "trial", "CreateTrial", **trial, **experiment)
        for operation in ("AssociateTrialComponent", "DisassociateTrialComponent"):
            self._try_sagemaker("experiments", operation, **component, **trial)

    def _try_tags(self) -> None:
        """Try to tag something of each kind that is to be tagged, and does not exist."""
        if "AddTags" not in self._wanted.actions:
            return
        tagged = {kind: model for kind, model in self._wanted.models.items() if model.tags}
        if not tagged or self._found.account is None:
            self._unknown("tags", "sagemaker:AddTags", why=_NO_ACCOUNT if tagged else _NEVER_TRIED)
            return
        for kind, model in tagged.items():
            tags = [{"Key": key, "Value": value} for key, value in model.tags]
            self._try_sagemaker("tags", "AddTags", ResourceArn=self._arn(kind), Tags=tags)

    def _owner(self) -> str:
        """Return what the ARNs of the account in SageMaker begin with."""
        partition = (self._found.arn or "arn:aws").split(":")[1]
        return f"arn:{partition}:sagemaker:{self._found.region}:{self._found.account}"

    def _arn(self, kind: str) -> str:
        """Return the ARN that something of this kind would have, and nothing has."""
        return f"{self._owner()}:{_SEGMENTS[kind]}/{self._names[kind].lower()}"

    def _try_artifacts(self, bucket: str | None, prefix: str | None) -> None:
        if self._look_at_bucket(bucket).exists is False:
            self._unknown("artifacts", "s3:CreateBucket")
            return
        self._try_folder("artifacts", bucket, prefix_name(prefix))

    def _try_anchors(self) -> None:
        if self._wanted.anchors is not None and self._wanted.places:
            bucket = self._wanted.places[0][0]
            if bucket not in self._missing:
                self._try_folder("anchors", bucket, self._wanted.anchors)

    def _try_folder(self, feature: Feature, bucket: str | None, folder: str) -> None:
        s3, name = self._uploader.place(bucket)
        key = f"{folder}/{self._probe}"
        listed = self._try(
            feature, "s3:ListBucket", s3.list_objects_v2, Bucket=name, Prefix=key, MaxKeys=1
        )
        # A part of an upload that nobody began.
        self._try(
            feature,
            "s3:PutObject",
            s3.upload_part,
            Bucket=name,
            Key=key,
            UploadId=self._probe,
            PartNumber=1,
            Body=b"",
        )
        if listed == "denied":
            # Then S3 says "denied" of every missing key.
            self._unknown(feature, "s3:GetObject", why="s3:ListBucket is needed to tell")
            return
        self._try(feature, "s3:GetObject", s3.get_object, Bucket=name, Key=key)

    def _try_lineage(self) -> None:
        uri = f"s3://{PROBE}/{self._probe}"
        self._try_sagemaker("lineage", "ListArtifacts", SourceUri=uri)
        if self._found.account is not None:
            self._try_sagemaker(
                "lineage",
                "AddAssociation",
                SourceArn=self._arn("component"),
                DestinationArn=f"{self._owner()}:artifact/{uuid.uuid4().hex}",
            )
        elif "AddAssociation" in self._wanted.actions:
            self._unknown("lineage", "sagemaker:AddAssociation", why=_NO_ACCOUNT)
        if "CreateArtifact" in self._wanted.actions:
            self._unknown("lineage", "sagemaker:CreateArtifact")

    # -- the bucket --------------------------------------------------------------------------

    def _look_at_bucket(self, named: str | None) -> Bucket:
        """Find out whether a bucket exists, and where."""
        bucket = Bucket(named, is_default=named is None)
        s3, bucket.name = self._uploader.place(named)
        try:
            answer = self._answer(s3.head_bucket, Bucket=bucket.name)
            bucket.exists = True
        except ClientError as error:
            # Without a permission on it, S3 says 403 of a bucket that exists, and names its region.
            answer = error.response
            bucket.exists = {404: False, 403: True, 301: True}.get(status_of(error))
            if bucket.exists is None:
                failure = classified(error)
                if self._is_the_end(failure, error):
                    raise failure from error
                if failure.kind is ErrorKind.TRANSIENT:
                    self._found.error = self._found.error or failure
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        bucket.region = answer.get("BucketRegion") or headers.get("x-amz-bucket-region")
        # Whoever names a bucket wants to know that it is there.
        bucket.is_needed = bucket.exists is False and (
            self._wanted.named or not self._wanted.create_buckets
        )
        if self._found.bucket is None or bucket.is_needed:
            self._found.bucket = bucket
        if bucket.exists is False:
            self._missing.add(named)
        return bucket


def _is_no_such_key(error: ClientError) -> bool:
    return status_of(error) == 404 and code_of(error) != "NoSuchBucket"  # noqa: PLR2004
