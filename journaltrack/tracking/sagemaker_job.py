"""Which SageMaker job this process runs in, and what that job's trial component is called.

Sources: the environment and files that SageMaker gives to a job, as read by the original library
(``smexperiments/_environment.py``); a job's component is created by SageMaker shortly after the job starts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

PROCESSING_JOB_CONFIG: Final = Path("/opt/ml/config/processingjobconfig.json")


def component_of_this_job(processing_config: Path = PROCESSING_JOB_CONFIG) -> str | None:
    """The name of the component of the training, processing or transform job we are in; None outside of a job."""
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
    """The name of the component that SageMaker makes for a job: ``kind`` is training, processing or transform."""
    return f"{job_name}-aws-{kind}-job".lower()


def _name_in(arn: object) -> str | None:
    """The last part of ``arn:aws:sagemaker:REGION:ACCOUNT:training-job/NAME``."""
    return arn.rpartition("/")[2] or None if isinstance(arn, str) and "/" in arn else None
