"""Which job we are in, and which runs its launches have."""

from __future__ import annotations

import json
import threading
from contextlib import closing

import pytest

from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.tracking import jobs
from journaltrack.tracking.jobs import component_of_this_job

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


# -- several launches of one job ---------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Where the journal is."""
    return tmp_path / "journal"


class Jobs:
    """Launches of a job whose runs are called `job`."""

    def __init__(self, folder):
        self.journal = Journal.open(folder)

    def launch(self, *command, restart=0, step="", rank=None, status=None):
        """The run that a launch gets; `status` is how it ends."""
        start = jobs.Start.of(command, None, 0, {})._replace(job=str(restart), step=step, rank=rank)
        draft = vocabulary.create(owner="o", resume=True, launch=start.to_json())
        name, component_id = jobs.claim(self.journal, "job", start, draft)
        if status is not None:
            self.journal.append(component_id, [vocabulary.status(primary=status)])
        return name


@pytest.fixture
def job(folder):
    """A job that nothing was launched in."""
    found = Jobs(folder)
    yield found
    found.journal.close()


def test_each_command_of_a_job_is_a_run_that_a_requeue_continues(job):
    """The same command twice, other arguments, a failure: a run each. The job's next start finds
    them in their order, and by their command also if it skips some.
    """
    assert job.launch("train", status="Failed") == "job"
    assert job.launch("train", status="Completed") == "job-2"
    assert job.launch("train", "--lr", "2", status="Completed") == "job-3"
    assert job.launch("train", "--lr", "3") == "job-4"
    assert job.launch("train", "--lr", "3", restart=1) == "job-4"
    assert job.launch("train", "--lr", "2", restart=1) == "job-3"
    assert job.launch("train", restart=1) == "job"
    assert job.launch("train", restart=1) == "job-2"
    assert job.launch("train", restart=1) == "job-5"
    assert job.launch("train", "--lr", "3", restart=2) == "job-4"


@pytest.mark.parametrize(
    ("status", "found"),
    [("InProgress", "job"), ("Stopped", "job"), ("Failed", "job-2"), ("Completed", "job-2")],
)
def test_changed_arguments_continue_the_one_run_that_was_cut_short(job, status, found):
    """A requeued script may add `--resume`. A run that ended is another one's."""
    job.launch("train", status=status)
    assert job.launch("train", "--resume", restart=1) == found


def test_changed_arguments_continue_none_of_several_runs(job):
    """Which one is meant can't be known."""
    job.launch("train", "1", status="Stopped")
    job.launch("train", "2", status="Stopped")
    assert job.launch("train", "--resume", restart=1) == "job-3"


def test_ranks_share_the_runs_of_their_job(job):
    """Each rank's first launch is the first run, its second the second, whoever comes first, also
    where each step of the job has another number of ranks, or ranks have arguments of their own.
    """
    assert [job.launch("a", rank=rank) for rank in ("1", None, None, "1")] == [
        *("job", "job", "job-2", "job-2")
    ]
    assert job.launch("a", restart=1, step="0") == "job"
    assert job.launch("a", restart=1, step="1", rank="1") == "job-2"
    assert job.launch("a", "--rank", "2", restart=1, step="1", rank="2") == "job-2"
    assert job.launch("a", restart=1, step="1") == "job-2"


def test_a_run_of_somebody_else_is_not_continued(job):
    """A component that no launch made keeps its name to itself."""
    other = job.journal.component("job")
    job.journal.append(other, [vocabulary.create(owner="x")])
    assert job.launch("train") == "job-2"
    assert job.launch("train", restart=1) == "job-2"


def test_launches_at_once_are_different_runs(folder):
    """Eight threads with a journal of their own each, one command: eight runs."""
    with closing(Journal.open(folder)):
        pass
    barrier, names = threading.Barrier(8), []

    def launch():
        at_once = Jobs(folder)
        barrier.wait()
        names.append(at_once.launch("train"))
        at_once.journal.close()

    threads = [threading.Thread(target=launch) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(names) == ["job", *(f"job-{n}" for n in range(2, 9))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"SLURM_JOB_ID": "1"}, {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "1"}),
        (
            {"AWS_BATCH_JOB_ID": "1", "AWS_BATCH_JOB_ATTEMPT": "1"},
            {"AWS_BATCH_JOB_ID": "1", "AWS_BATCH_JOB_ATTEMPT": "2"},
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x"},
            {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"},
        ),
    ],
)
def test_the_starts_of_a_job_differ(one, other):
    """And the launches of one start have the same."""
    assert jobs.start_of_this_job(one) == jobs.start_of_this_job(dict(one))
    assert jobs.start_of_this_job(one) != jobs.start_of_this_job(other)


@pytest.mark.parametrize("launch", [None, [], {}, {"job": 1, "rank": [], "since_ns": "x"}])
def test_a_strangers_launch_is_read_or_passed_over(job, launch):
    """Any JSON in a creation is no error."""
    number = job.journal.component("job")
    job.journal.append(number, [vocabulary.create(owner="o", launch=launch)])
    assert list(jobs.starts_in(job.journal, number)) in ([], [(number, jobs.Start())])
