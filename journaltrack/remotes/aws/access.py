"""Tell what these credentials may do, before a sync needs it. Changes nothing.

Each permission is tried with a request that AWS answers and that can't have an effect: it reads, or
it names a component, a trial, an upload or an association that does not exist. AWS refuses such a
request for its permission first. So "no such component" proves the permission, and a refusal of the
permission proves the contrary. Some requests always have an effect (CreateTrialComponent). Of these
nothing is told.

Names of what does not exist are made at random, so that none exists by chance. A policy that allows
some names only (``experiment-trial-component/team-*``) refuses these names, and the report says so.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from botocore.exceptions import ClientError

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.remotes.aws.errors import DENIED, classified, code_of, not_found, status_of
from journaltrack.remotes.upload_notes import prefix_name

if TYPE_CHECKING:
    from journaltrack.remotes.aws.clients import Clients
    from journaltrack.remotes.aws.s3 import Uploader

Feature: TypeAlias = Literal[
    "components", "metrics", "experiments", "artifacts", "anchors", "lineage"
]
State: TypeAlias = Literal["allowed", "denied", "refused", "unknown"]

PROBE: Final = "journaltrack-probe"
_MISSING: Final = frozenset({"NoSuchUpload", "NoSuchKey", "404"})
_NEVER_TRIED: Final = "can't be tried without making one"
CLOCK_TOLERANCE_S: Final = 240
"""AWS refuses requests whose time is wrong by 5 minutes (S3: 15); answers take a while."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Say what to try.

    Attributes:
        features: Those that are switched on.
        bucket: The bucket of the artifacts; None for the default one.
        prefix: The prefix of the artifacts; None for the default one.
        anchors: The folder of the anchors in the bucket.
        create_buckets: Whether a sync may make a missing bucket.
    """

    features: tuple[Feature, ...]
    bucket: str | None = None
    prefix: str | None = None
    anchors: str = ""
    create_buckets: bool = True


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
        bucket: The bucket; None if no feature needs one.
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
        """Return whether nothing was found that a sync would fail for."""
        return (
            self.error is None
            and not any(each.state in {"denied", "refused"} for each in self.permissions)
            and not self.is_clock_wrong
            and not (self.bucket is not None and self.bucket.is_needed)
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

    def run(self) -> Access:
        """Try everything, until an error shows that every request fails."""
        try:
            self._ask_who()
            for feature in self._wanted.features:
                getattr(self, f"_try_{feature}")()
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
        if failure.everywhere or failure.unreachable:
            raise failure from error
        if failure.kind is ErrorKind.TRANSIENT:
            # The others may be told even so.
            self._found.error = self._found.error or failure
        state: State = "unknown"
        if failure.kind is ErrorKind.HALT:
            state = "denied" if failure.code in DENIED else "refused"
        return Permission(feature, action, state, failure.message, failure.hint)

    def _unknown(self, feature: Feature, *actions: str, why: str = _NEVER_TRIED) -> None:
        self._found.permissions += [Permission(feature, each, "unknown", why) for each in actions]

    def _try_components(self) -> None:
        sagemaker, name = self._clients.sagemaker, self._probe
        self._try(
            "components",
            "sagemaker:DescribeTrialComponent",
            sagemaker.describe_trial_component,
            TrialComponentName=name,
        )
        self._try(
            "components",
            "sagemaker:UpdateTrialComponent",
            sagemaker.update_trial_component,
            TrialComponentName=name,
        )
        self._unknown("components", "sagemaker:CreateTrialComponent", "sagemaker:AddTags")

    def _try_metrics(self) -> None:
        point = {"MetricName": PROBE, "Timestamp": self._clock(), "Value": 0.0}
        self._try(
            "metrics",
            "sagemaker:BatchPutMetrics",
            self._clients.metrics.batch_put_metrics,
            TrialComponentName=self._probe,
            MetricData=[point],
        )

    def _try_experiments(self) -> None:
        sagemaker, name = self._clients.sagemaker, self._probe
        self._try(
            "experiments", "sagemaker:DescribeTrial", sagemaker.describe_trial, TrialName=name
        )
        self._try(
            "experiments",
            "sagemaker:AssociateTrialComponent",
            sagemaker.associate_trial_component,
            TrialComponentName=name,
            TrialName=name,
        )
        self._unknown("experiments", "sagemaker:CreateExperiment", "sagemaker:CreateTrial")

    def _try_artifacts(self) -> None:
        bucket = self._look_at_bucket()
        if bucket.exists is False:
            self._unknown("artifacts", "s3:CreateBucket")
            return
        self._try_folder("artifacts", prefix_name(self._wanted.prefix))

    def _try_anchors(self) -> None:
        bucket = self._found.bucket or self._look_at_bucket()
        if bucket.exists is not False:
            self._try_folder("anchors", self._wanted.anchors)

    def _try_folder(self, feature: Feature, folder: str) -> None:
        s3, name = self._uploader.place(self._wanted.bucket)
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
        sagemaker = self._clients.sagemaker
        uri = f"s3://{PROBE}/{self._probe}"
        self._try("lineage", "sagemaker:ListArtifacts", sagemaker.list_artifacts, SourceUri=uri)
        partition = (self._found.arn or "arn:aws").split(":")[1]
        owner = f"arn:{partition}:sagemaker:{self._found.region}:{self._found.account}"
        if self._found.account is None:
            self._unknown("lineage", "sagemaker:AddAssociation", why="STS did not say the account")
        else:
            self._try(
                "lineage",
                "sagemaker:AddAssociation",
                sagemaker.add_association,
                SourceArn=f"{owner}:experiment-trial-component/{self._probe}",
                DestinationArn=f"{owner}:artifact/{uuid.uuid4().hex}",
            )
        self._unknown("lineage", "sagemaker:CreateArtifact")

    # -- the bucket --------------------------------------------------------------------------

    def _look_at_bucket(self) -> Bucket:
        """Find out whether the bucket exists, and where."""
        is_default = not self._wanted.bucket
        bucket = self._found.bucket = Bucket(self._wanted.bucket, is_default)
        s3, bucket.name = self._uploader.place(self._wanted.bucket)
        try:
            answer = self._answer(s3.head_bucket, Bucket=bucket.name)
            bucket.exists = True
        except ClientError as error:
            # Without a permission on it, S3 says 403 of a bucket that exists, and names its region.
            answer = error.response
            bucket.exists = {404: False, 403: True, 301: True}.get(status_of(error))
            if bucket.exists is None:
                failure = classified(error)
                if failure.everywhere or failure.unreachable:
                    raise failure from error
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        bucket.region = answer.get("BucketRegion") or headers.get("x-amz-bucket-region")
        # Whoever names a bucket wants to know that it is there.
        bucket.is_needed = bucket.exists is False and not (
            is_default and self._wanted.create_buckets
        )
        return bucket


def _is_no_such_key(error: ClientError) -> bool:
    return status_of(error) == 404 and code_of(error) != "NoSuchBucket"  # noqa: PLR2004
