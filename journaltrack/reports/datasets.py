"""Tell the dataset inputs of a run: labels that keep the JSON of MLflow's ``DatasetInput``.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from journaltrack.journal.vocabulary import DATASET, DATASET_CONTEXT, LABEL, Entry, label_of

_SOURCE_CHARS_MAX: Final = 200
"""Ours: of a source that is told; the entry has the whole one."""


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A dataset that a run used.

    Attributes:
        digest: As the caller computed it.
        context: What it was used for, such as "training".
        source_type, source: Where it came from; of a long source the beginning.
    """

    name: str
    digest: str
    context: str | None = None
    source_type: str | None = None
    source: str | None = None

    @property
    def text(self) -> str:
        """Return it in one line."""
        told = (f"{self.name} ({self.digest})", self.context, self.source_type)
        return ", ".join(filter(None, told))


def of_labels(entries: Iterable[Entry]) -> tuple[DatasetView, ...]:
    """Return the datasets of a run's labels and tags, in their order. The last of each counts."""
    found: dict[str, DatasetView | None] = {}
    for entry in entries:
        if entry.kind == LABEL and (entry.name or "").startswith(DATASET):
            found[entry.name or ""] = _view(label_of(entry))
    return tuple(view for view in found.values() if view is not None)


def _view(text: str | None) -> DatasetView | None:
    """Return a dataset of its JSON; None: there is none, or it can't be read."""
    try:
        told = json.loads(text or "null")
        dataset, tags = told["dataset"], told.get("tags") or ()
        context = next((each["value"] for each in tags if each["key"] == DATASET_CONTEXT), None)
        more = (context, dataset.get("source_type"), dataset.get("source"))
        return DatasetView(str(dataset["name"]), str(dataset["digest"]), *map(_cut, more))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _cut(told: Any) -> str | None:  # noqa: ANN401 - anything of JSON
    if not isinstance(told, str):
        return None
    return told if len(told) <= _SOURCE_CHARS_MAX else f"{told[: _SOURCE_CHARS_MAX - 1]}…"
