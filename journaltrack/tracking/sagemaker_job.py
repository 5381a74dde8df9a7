"""Find the trial component of the SageMaker job that this process runs in.

SageMaker creates a job's component shortly after the job starts. The sources are the environment
and the files that SageMaker gives to a job, as the original library reads them
(``smexperiments/_environment.py``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

PROCESSING_JOB_CONFIG: Final = Path("/opt/ml/config/processingjobconfig.json")


def component_of_this_job(processing_config: Path = PROCESSING_JOB_CONFIG) -> str | None:
    """Return the name of this job's component; None outside a SageMaker job."""
    for variable, kind in (("TRAINING_JOB_ARN", "training"), ("TRANSFORM_JOB_ARN", "transform")):
        name = _name_in(os.environ.get(variable))
        if name:
            return component_of(name, kind)
    try:
        config = json.loads(processing_config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = _name_in(config.get("ProcessingJobArn") if isinstance(config, dict) else None)
    return component_of(name, "processing") if name else None


def component_of(job_name: str, kind: str) -> str:
    """Return the name of the component that SageMaker creates for a job.

    ``kind`` is "training", "processing" or "transform".
    """
    return f"{job_name}-aws-{kind}-job".lower()


def _name_in(arn: object) -> str | None:
    """Return the last part of ``arn:aws:sagemaker:REGION:ACCOUNT:training-job/NAME``."""
    return arn.rpartition("/")[2] or None if isinstance(arn, str) and "/" in arn else None
