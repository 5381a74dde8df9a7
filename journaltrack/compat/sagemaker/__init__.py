"""SageMaker Python SDK's experiments, before a journal: ``Run`` and what belongs to it."""

from journaltrack.compat.sagemaker.experiments import (
    Experiment,
    Run,
    SortByType,
    SortOrderType,
    list_runs,
    load_run,
)

__all__ = ["Experiment", "Run", "SortByType", "SortOrderType", "list_runs", "load_run"]
