"""Journals to test on: an open one with components and entries, or the closed one of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from journaltrack import Tracker
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef

CREATION = vocabulary.create(owner="me")


def points(count: int, name: str = "loss") -> list[Any]:
    """Make drafts of so many points: the value is the step."""
    return [vocabulary.metric(name, float(step), step, 1) for step in range(count)]


@contextmanager
def opened(
    folder: Path, components: Mapping[str, Sequence[Any]] | None = None, **options: Any
) -> Iterator[Journal]:
    """Give an open journal in ``folder/journal``, in which these components recorded these
    drafts.
    """
    with closing(Journal.open(folder / "journal", **options)) as journal:
        for component, drafts in (components or {}).items():
            journal.append(journal.component(component), drafts)
        yield journal


def add_artifact(journal: Journal, content: bytes = b"model", component: str = "run") -> None:
    """Record the artifact "model" of a component, with its content in the spool."""
    source = journal.path / "model"
    source.write_bytes(content)
    blob = Spool(journal.path / "spool").add(source)
    source.unlink()
    journal.add_blob(blob.sha256, blob.size_bytes)
    ref = BlobRef(blob.sha256, "the-bucket", "the-prefix")
    upload = vocabulary.upload("model", ref, blob.size_bytes, None, "model")
    journal.append(
        journal.component(component), [upload, vocabulary.artifact("output", "model", ref, None)]
    )


def tracked(
    folder: Path,
    *,
    steps: int = 0,
    parameters: Mapping[str, Any] | None = None,
    artifact: bytes | None = None,
) -> Path:
    """Return the closed journal ``folder/journal`` of a component "run": parameters, points of
    "loss", ``model.bin``.
    """
    with Tracker.create(
        trial_component_name="run", journal=folder / "journal", sync="off"
    ) as tracker:
        tracker.log_parameters(parameters or {})
        for step in range(steps):
            tracker.log_metric("loss", 1.0 + step, iteration_number=step)
        if artifact is not None:
            (folder / "model.bin").write_bytes(artifact)
            tracker.log_artifact(folder / "model.bin")
    return folder / "journal"
