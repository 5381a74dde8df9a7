"""Write metrics to a file that a training job's agent sends, as the original does.

``Tracker.log_metric`` needs none of this: it records in the journal, in a job and elsewhere. This
writer is for scripts that use it by itself.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.tracking import validation

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

logger = logging.getLogger(__name__)

METRICS_DIR: Final = os.environ.get("SAGEMAKER_METRICS_DIRECTORY", ".")


class SageMakerMetricsWriterException(Exception):  # noqa: N818 - the original's name
    """Report that a closed writer was written to."""

    def __init__(self, message: str, errors: Any = None) -> None:  # noqa: ANN401
        super().__init__(message)
        if errors:
            self.errors = errors


class SageMakerFileMetricsWriter:
    """Write one JSON object a line, each flushed at once.

    Args:
        metrics_file_path: The file; None: ``PID.json`` in ``METRICS_DIR``.
    """

    def __init__(self, metrics_file_path: str | None = None) -> None:
        self._path = metrics_file_path
        self._file: IO[str] | None = None
        self._closed = False

    def log_metric(
        self,
        metric_name: str,
        value: Any,  # noqa: ANN401 - what has a float()
        timestamp: Any = None,  # noqa: ANN401 - a time or seconds
        iteration_number: int | None = None,
    ) -> None:
        """Write a metric.

        Args:
            metric_name: Its name.
            value: A number, or a text that is one.
            timestamp: A time, or seconds since the epoch: within two weeks before and two hours
                after now.
            iteration_number: The step.

        Raises:
            SageMakerMetricsWriterException: The writer is closed.
            InvalidInputError: (a ValueError) The time is out of these bounds.
            InvalidTypeError: The step is no integer.
        """
        if self._closed:
            raise SageMakerMetricsWriterException("log_metric called on a closed writer")
        now_s = time.time()
        at_s = now_s if timestamp is None else validation.timestamp_ns(timestamp) / 1e9
        if not now_s - limits.METRIC_AGE_MAX_S <= at_s <= now_s + limits.METRIC_AHEAD_MAX_S:
            raise InvalidInputError(
                f"the timestamp {at_s:f} is more than two weeks old or two hours ahead; "
                "nothing was written",
                hint="Tracker.log_metric keeps it in the journal",
            )
        number = float(value)
        record = {"MetricName": metric_name, "Value": number, "Timestamp": at_s}
        if iteration_number is not None:
            if not isinstance(iteration_number, int):
                raise InvalidTypeError("iteration_number must be an int; nothing was written")
            record["IterationNumber"] = iteration_number
        if not math.isfinite(number):
            logger.warning("%s is %s, which the agent does not take", metric_name, value)
            return
        if self._file is None:
            path = Path(self._path or Path(METRICS_DIR) / f"{os.getpid()}.json")
            self._file = path.open("a", buffering=1, encoding="utf-8")
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
