"""A sweep one of whose runs fails: the others are not concerned."""

from journaltrack.compat.sagemaker import Run


def train(rate, run):
    """Fail for a rate that is too high."""
    for step in range(4):
        if rate * step > 2:
            raise ArithmeticError(f"diverged at step {step}, with the rate {rate}")
        run.log_metric("loss", 1.0 - rate * step / 10, step=step)


for number, rate in enumerate([0.1, 0.5, 1.0]):
    try:
        with Run("sweep", f"rate-{number}", tags={"kind": "sweep"}) as run:
            run.log_parameter("rate", rate)
            run.log_parameter("bound", float("inf"))
            train(rate, run)
    except ArithmeticError as error:
        print(f"run {run.run_name} failed: {error}")

try:
    run.log_parameter("late", 1)
except RuntimeError as error:
    print(str(error).partition(".")[0])
