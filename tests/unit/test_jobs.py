"""Which SageMaker job we are in, from what SageMaker gives to a job."""

from __future__ import annotations

import json

import pytest

from journaltrack.tracking.settings import component_of_this_job

ARN = "arn:aws:sagemaker:eu-west-1:123456789012:{}-job/My-Job"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Where a processing job's configuration would be; no job so far."""
    monkeypatch.delenv("TRANSFORM_JOB_ARN", raising=False)
    return tmp_path / "processingjobconfig.json"


def test_outside_of_a_job_there_is_no_component(config):
    """Neither a variable nor a file: no job."""
    assert component_of_this_job(config) is None


@pytest.mark.parametrize("kind", ["training", "transform"])
def test_a_variable_names_the_job(config, monkeypatch, kind):
    """The component of a training or transform job is named after it, in lower case."""
    monkeypatch.setenv(f"{kind.upper()}_JOB_ARN", ARN.format(kind))
    assert component_of_this_job(config) == f"my-job-aws-{kind}-job"


def test_a_file_names_the_processing_job(config):
    """The component of a processing job is named after it, in lower case."""
    config.write_text(json.dumps({"ProcessingJobArn": ARN.format("processing")}))
    assert component_of_this_job(config) == "my-job-aws-processing-job"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"ProcessingJobArn": 3}',
        '{"ProcessingJobArn": "no arn"}',
        '{"ProcessingJobArn": "x/"}',
    ],
)
def test_a_file_that_names_no_job_is_no_job(config, text):
    """What can't be read as a job's configuration never breaks the training."""
    config.write_text(text)
    assert component_of_this_job(config) is None


def test_a_file_that_is_not_utf8_is_no_job(config):
    """Arbitrary bytes never break the training."""
    config.write_bytes(b"\xff\xfe\x00")
    assert component_of_this_job(config) is None


@pytest.mark.parametrize(
    "arn", ["", "no arn", "arn:aws:sagemaker:eu-west-1:123456789012:training-job/"]
)
def test_a_variable_that_names_no_job_gives_way_to_the_file(config, monkeypatch, arn):
    """A malformed ARN is passed over."""
    monkeypatch.setenv("TRAINING_JOB_ARN", arn)
    config.write_text(json.dumps({"ProcessingJobArn": ARN.format("processing")}))
    assert component_of_this_job(config) == "my-job-aws-processing-job"
