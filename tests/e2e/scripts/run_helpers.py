"""Helpers that load the run of the block they are called in; later, the run is logged to again."""

from journaltrack.compat.sagemaker.experiments.run import Run, load_run


def prepare(rows):
    """Log what the data is like, as a module without a run of its own does."""
    with load_run() as run:
        run.log_parameter("rows", rows)


def evaluate(step):
    """Log a point to the run of the block."""
    run = load_run()
    run.log_metric("score", 0.5 + step / 10, step=step)


with Run(experiment_name="helpers", run_name="pipeline") as run:
    prepare(1000)
    for step in range(3):
        evaluate(step)

with load_run(experiment_name="helpers", run_name="pipeline") as run:
    run.log_metric("score", 0.9, step=3)
    run.log_parameter("reviewed", "yes")

with run:
    run.log_parameter("rows", 1001)
