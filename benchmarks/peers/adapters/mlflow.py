"""MLflow with a local store, by the client: a file store, or SQLite; called synchronously or
not.
"""

import mlflow
from mlflow import MlflowClient


def _uri(folder, store):
    return f"sqlite:///{folder}/mlflow.db" if store == "sqlite" else f"file://{folder}/mlruns"


def start(folder, store="file", synchronous=True):
    mlflow.set_tracking_uri(_uri(folder, store))
    mlflow.set_experiment("benchmark")
    mlflow.start_run(run_name="benchmark")
    log_metric = mlflow.log_metric
    return lambda step: log_metric(
        "loss", 1.0 / (step + 1), step=step, synchronous=synchronous
    ), mlflow.end_run


def found(folder, store="file", synchronous=True):
    client = MlflowClient(_uri(folder, store))
    experiment = client.get_experiment_by_name("benchmark")
    (run,) = client.search_runs([experiment.experiment_id])
    return [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
