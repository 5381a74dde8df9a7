"""What ``sagemaker.experiments`` has, under the same names."""

from journaltrack.compat.sagemaker.experiments.experiment import Experiment
from journaltrack.compat.sagemaker.experiments.run import (
    Run,
    SortByType,
    SortOrderType,
    list_runs,
    load_run,
)

__all__ = ["Experiment", "Run", "SortByType", "SortOrderType", "list_runs", "load_run"]
