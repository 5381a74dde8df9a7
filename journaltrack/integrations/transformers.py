"""Log a run of transformers: ``Trainer(…, callbacks=[JournaltrackCallback()])``.

For transformers 4.40 or later, and every trainer that is one, as TRL's. ``report_to`` takes no
names of others. Must not know other frameworks.

Invariant: what a ``Trainer`` calls at each step waits for nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.integrations.base import FrameworkRun
from journaltrack.integrations.loggers import Logs, checkpoints_kept, importing, with_name

with importing("transformers"):
    from transformers import TrainerCallback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.integrations.loggers import Checkpoints
    from journaltrack.tracking.tracker import Tracker

_SUMMARY: Final = frozenset(
    {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "train_loss",
        "total_flos",
    }
)
"""What the last log of a training has of all of it. Such names get no prefix."""
_ALWAYS: Final = frozenset(
    {
        "learning_rate",
        "lr_scheduler_type",
        "max_steps",
        "num_train_epochs",
        "optim",
        "per_device_train_batch_size",
        "seed",
        "weight_decay",
    }
)
"""Arguments that are parameters even with their default."""


class JournaltrackCallback(Logs, TrainerCallback):
    """Record what a ``Trainer`` logs, on the first process of all.

    Metrics are named as the other callbacks of transformers name them: ``train/loss``,
    ``eval/loss``. The arguments that differ from their defaults are parameters; all of them, and
    the model's configuration, are JSON artifacts. ``train/epoch`` is recorded once per change.

    ``train`` ends the run as Completed; what comes later continues it. transformers tells nothing
    of an exception: then the run becomes Failed when the process exits, or at the end of a
    ``with`` block of the callback.

    ``logging_nan_inf_filter``, on by default, replaces a loss that is NaN by an average before any
    callback sees it. Set it to False to have NaN recorded.

    Args:
        tracker: Record with this tracker, whose end is yours; None to make one.
        log_checkpoints: Which checkpoints to record as artifacts, with their bytes: "last" or
            "best" at the end of ``train``; "all" as they are saved, up to 40 files.
        options: Arguments of ``Tracker.create``. In a search of hyperparameters each trial is a run
            of its own, with a number after the name.
    """

    def __init__(
        self,
        *,
        tracker: Tracker | None = None,
        log_checkpoints: Checkpoints = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self._kept = checkpoints_kept(log_checkpoints)
        self._options = options
        self._run = FrameworkRun(tracker, options, epoch="train/epoch")
        self._first = None if tracker is not None else self._run.name
        self._trials = 0
        self._saved = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Record the arguments and the model's configuration."""
        if not state.is_world_process_zero:
            return
        if state.is_hyper_param_search and self._first is not None:
            self._begin_trial()
        run, self._saved = self._run, ""
        if args.run_name and args.run_name != args.output_dir:
            run.suggest(display_name=limits.suggested_name(args.run_name))
        run.is_training = True
        run.log_parameters({**_changed(args), **(state.trial_params or {})})
        documents = {"training_arguments.json": args.to_dict()}
        config = getattr(given.get("model"), "config", None)
        if config is not None and hasattr(config, "to_dict"):
            documents["model_config.json"] = config.to_dict()
        self._record(documents)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Record the values of a step."""
        if state.is_world_process_zero and logs:
            values = {_metric(name): value for name, value in logs.items()}
            self._run.log_metrics(values, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record a checkpoint, or note where it is."""
        if not state.is_world_process_zero:
            return
        name = f"checkpoint-{state.global_step}"
        self._saved = os.path.join(args.output_dir, name)  # noqa: PTH118 - text
        if self._kept == "all":
            self._run.log_checkpoint(self._saved, f"checkpoints/{name}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the run, and deliver."""
        if not state.is_world_process_zero:
            return
        path = {"last": self._saved, "best": state.best_model_checkpoint}.get(self._kept)
        if path:
            self._run.log_checkpoint(path, f"checkpoints/{self._kept}")
        self._run.end()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the run again after an ``evaluate`` of its own. Its values came to ``on_log``."""
        if state.is_world_process_zero and not self._run.is_training:
            self._run.end()

    def _begin_trial(self) -> None:
        """Begin a run for a trial of a search, and end the one before."""
        self._run.end()
        self._trials += 1
        name = limits.with_end(str(self._first), f"-{self._trials}")
        self._run = FrameworkRun(None, with_name(self._options, name), epoch="train/epoch")

    def _record(self, documents: Mapping[str, Any]) -> None:
        """Record documents as JSON artifacts."""
        with tempfile.TemporaryDirectory() as folder:
            for name, document in documents.items():
                file = Path(folder, name)
                file.write_text(json.dumps(document, indent=2, default=str), encoding="utf-8")
                self._run.tracker.log_artifact(file, media_type="application/json")


def _metric(name: str) -> str:
    """Return the name that other integrations give to a metric, see transformers' rewrite_logs."""
    if name in _SUMMARY:
        return name
    for part in ("eval", "test"):
        if name.startswith(f"{part}_"):
            return f"{part}/{name[len(part) + 1 :]}"
    return f"train/{name}"


def _changed(args: Any) -> dict[str, Any]:
    """Return the arguments that differ from their defaults, and the most important ones."""
    # ``to_dict`` writes enums by their values, and masks the tokens, also those that are None.
    values = args.to_dict()
    return {
        field.name: values[field.name]
        for field in dataclasses.fields(args)
        if field.name in values
        and not field.name.endswith("_token")
        and (field.name in _ALWAYS or values[field.name] != _default(field))
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    found = field.default
    if field.default_factory is not dataclasses.MISSING:
        found = field.default_factory()
    return found.value if isinstance(found, Enum) else found
