"""A grid search that lists its runs, and logs to the best of them again."""

from journaltrack.compat.sagemaker.experiments import Run, SortByType, SortOrderType, list_runs

losses = {}
for depth in (2, 4):
    for width in (8, 16):
        name = f"d{depth}-w{width}"
        with Run("Grid-Search", name, run_display_name=f"depth-{depth}") as run:
            run.log_parameters({"depth": depth, "width": width})
            losses[run.run_name] = abs(depth - 4) + 8 / width
            run.log_metric("loss", losses[run.run_name])

runs = list_runs("Grid-Search", sort_by=SortByType.NAME, sort_order=SortOrderType.ASCENDING)
print([run.run_name for run in runs])
best = min(runs, key=lambda run: losses[run.run_name])
with best as run:
    run.log_parameter("is_best", "yes")
print(best.experiment_config["RunName"])
