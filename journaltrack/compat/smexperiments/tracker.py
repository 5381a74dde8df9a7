"""Trackers, with the original's signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import journaltrack
from journaltrack.compat.smexperiments.trial_component import TrialComponent
from journaltrack.tracking import shapes

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from journaltrack.tracking.validation import Moment, Parameters


class Tracker(journaltrack.Tracker):
    """Record the parameters, metrics and artifacts of one trial component, before a journal.

    See ``journaltrack.Tracker``, which has more options.
    """

    component_type: ClassVar[type[TrialComponent]] = TrialComponent

    @property
    def trial_component(self) -> TrialComponent:
        """Return the component that is tracked."""
        return cast("TrialComponent", super().trial_component)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        trial_component_name: str | None = None,
        artifact_bucket: str | None = None,
        artifact_prefix: str | None = None,
        boto3_session: Any = None,  # noqa: ANN401 - boto3 has no types of its own
        sagemaker_boto_client: Any = None,  # noqa: ANN401
        training_job_name: str | None = None,
        processing_job_name: str | None = None,
    ) -> journaltrack.Tracker:
        """Create a tracker for a trial component that exists."""
        return super().load(
            trial_component_name,
            artifact_bucket,
            artifact_prefix,
            boto3_session,
            sagemaker_boto_client,
            training_job_name,
            processing_job_name,
        )

    @classmethod
    def create(  # type: ignore[override]
        cls,
        base_trial_component_name: str = "TrialComponent",
        display_name: str | None = None,
        artifact_bucket: str | None = None,
        artifact_prefix: str | None = None,
        boto3_session: Any = None,  # noqa: ANN401
        sagemaker_boto_client: Any = None,  # noqa: ANN401
    ) -> journaltrack.Tracker:
        """Create a tracker for a new trial component, without network or credentials."""
        return super().create(
            display_name,
            artifact_bucket,
            artifact_prefix,
            boto3_session,
            sagemaker_boto_client,
            # In lower case, as SageMaker's metrics need it, and without a warning of the default.
            base_trial_component_name=str(base_trial_component_name).lower(),
        )

    def log_artifacts(  # type: ignore[override]
        self, directory: str | os.PathLike[str], media_type: str | None = None
    ) -> None:
        """Record every file below a folder as an output."""
        super().log_artifacts(directory, media_type)

    def log_parameters(self, parameters: Parameters) -> None:  # type: ignore[override]
        """Record parameters. Each is one value: a nested one is its text, as in the original."""
        self._log_named(shapes.named(parameters))

    def log_metric(  # type: ignore[override]
        self,
        metric_name: str,
        value: Any,  # noqa: ANN401
        timestamp: Moment | None = None,
        iteration_number: int | None = None,
    ) -> None:
        """Record a point of a metric, in a training job and elsewhere."""
        super().log_metric(metric_name, value, timestamp, iteration_number)

    def log_table(
        self,
        title: str | None = None,
        values: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] | None = None,
        data_frame: Any = None,  # noqa: ANN401
        output_artifact: bool = True,
    ) -> None:
        """Record a table as a JSON file, with its lineage."""
        super().log_table(title, values, data_frame, output_artifact)
