"""Fold what a journal has of a run, or of an experiment, into what MLflow's code reads back.

Pure: no I/O, no clock. Must not know MLflow.

What MLflow tells of a run, and no other tracker has, is in labels (``vocabulary.LABEL``): tags that
SageMaker would refuse, and, under names that begin with ``#``, documents in JSON.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from journaltrack import limits
from journaltrack.compat.mlflow import addresses
from journaltrack.journal import fold, groups, vocabulary
from journaltrack.journal.fold import Status
from journaltrack.journal.vocabulary import (
    DATASET,
    DELETED,
    OWN_LABEL,
    RUN_NAME,
    STAGE,
    Draft,
    Entry,
)

NOTE: Final = "mlflow.note.content"
_SYSTEM: Final = "mlflow."

STATUSES: Final = {
    "RUNNING": "InProgress",
    "SCHEDULED": "InProgress",
    "FINISHED": "Completed",
    "FAILED": "Failed",
    "KILLED": "Stopped",
}
"""SageMaker's status by MLflow's."""
_NAMES: Final = {
    "InProgress": "RUNNING",
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Stopping": "RUNNING",
    "Stopped": "KILLED",
}


class Upload(NamedTuple):
    """A file of a run: its SHA-256, and its size in bytes."""

    sha256: str
    size_bytes: int


class Point(NamedTuple):
    """One point of a metric, as MLflow has it. The time is in milliseconds.

    Points compare as MLflow finds the latest one: by step, time and value.
    """

    step: int
    timestamp_ms: int
    value: float


@dataclass(slots=True)
class RunState:
    """What a run adds up to, without its metrics.

    Attributes:
        name: The component's name, which is the run's id.
        first_ns: When its first entry was recorded, nanoseconds since the epoch.
        last_seq: The last entry that was read.
        parameters: As texts.
        tags: Those that MLflow shows.
        documents: The labels that are no tags, by name.
        status: Status and times.
        experiment: The experiment's name in the journal. None: the default one.
        full_name: The experiment's name in MLflow, if it differs.
        files: Its files, by path.
        folders: The folders that have them.
        legal_tags: The tags that SageMaker gets.
    """

    name: str
    first_ns: int = 0
    last_seq: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    status: Status = field(default_factory=Status)
    experiment: str | None = None
    full_name: str | None = None
    files: dict[str, Upload] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    legal_tags: set[str] = field(default_factory=set)

    def copy(self) -> RunState:
        """Return a state of its own, for a thread that goes through it."""
        return replace(
            self,
            parameters=dict(self.parameters),
            tags=dict(self.tags),
            documents=dict(self.documents),
            files=dict(self.files),
            folders=set(self.folders),
            legal_tags=set(self.legal_tags),
        )

    def add(self, entry: Entry) -> None:
        """Take in an entry that is no metric, in the order of recording.

        One that can't be read is passed over: it must not hide the others.
        """
        self.last_seq = max(self.last_seq, entry.seq)
        self.first_ns = self.first_ns or entry.recorded_at_ns
        with contextlib.suppress(ValueError):
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        kind, detail = entry.kind, entry.detail
        if kind == vocabulary.CREATE:
            self._add_tags(detail.get("tags") or {})
            if isinstance(name := detail.get("display_name"), str):
                self.tags.setdefault(RUN_NAME, name)
        elif kind == vocabulary.TAGS:
            self._add_tags(vocabulary.tags_of(entry))
        elif kind == vocabulary.LABEL:
            self._add_label(entry.name or "", vocabulary.label_of(entry))
        elif kind == vocabulary.NOTE:
            self._set(self.tags, NOTE, vocabulary.note_of(entry) or None)
        elif kind == vocabulary.PARAMETER:
            self.parameters[entry.name or ""] = as_unicode(text_of(vocabulary.parameter_of(entry)))
        elif kind == vocabulary.STATUS:
            merged = fold.merge_status(self.status, fold.value_of(entry))
            self.status = merged if isinstance(merged, Status) else self.status
        elif kind == vocabulary.ASSOCIATE:
            self.experiment = groups.membership_of(entry)[0] or self.experiment
            self.full_name = fold.text_or_none(detail.get("full_name"))
        elif kind == vocabulary.UPLOAD and not vocabulary.is_of_parameters_file(entry):
            size = detail.get("size")
            self.files[entry.name or ""] = Upload(
                fold.blob_of(entry).sha256, size if isinstance(size, int) else 0
            )
            self.folders |= folders_of(entry.name or "")

    def _add_tags(self, tags: Mapping[str, Any]) -> None:
        for key, value in tags.items():
            self.tags[str(key)] = as_unicode(str(value))
            self.legal_tags.add(str(key))

    def _add_label(self, name: str, text: str | None) -> None:
        self._set(self.documents if name.startswith(OWN_LABEL) else self.tags, name, text)

    @staticmethod
    def _set(held: dict[str, str], key: str, text: str | None) -> None:
        if text is None:
            held.pop(key, None)
        else:
            held[key] = as_unicode(text)

    @property
    def is_deleted(self) -> bool:
        """Return whether MLflow's code deleted the run."""
        return self.documents.get(STAGE) == DELETED

    @property
    def run_name(self) -> str:
        """Return the run's name for people."""
        return self.tags.get(RUN_NAME, self.name)

    @property
    def status_name(self) -> str:
        """Return the status as MLflow names it."""
        return _NAMES.get(self.status.primary or "", "SCHEDULED")

    @property
    def start_ms(self) -> int:
        """Return when the run began."""
        start_ns = self.status.start_ns
        return (self.first_ns if start_ns is None else start_ns) // 10**6

    @property
    def end_ms(self) -> int | None:
        """Return when the run ended; None: it has not."""
        return None if self.status.end_ns is None else self.status.end_ns // 10**6

    def told(self, begin: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the documents whose name begins so, by the rest of their name."""
        for name, text in self.documents.items():
            if name.startswith(begin):
                with contextlib.suppress(ValueError):
                    document = json.loads(text)
                    if isinstance(document, dict):
                        yield name.removeprefix(begin), document


def as_unicode(text: str) -> str:
    """Return a text with what is not Unicode as its escape.

    It comes from names of files that are not UTF-8. pandas, Arrow and servers' databases refuse it.
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def folders_of(name: str) -> set[str]:
    """Return the folders that a file of this name is in."""
    parts = name.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def text_of(value: str | float | None) -> str:
    """Return a parameter's value as MLflow's own client would write it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def tag_drafts(tags: Mapping[str, str | None], legal: set[str]) -> list[Draft]:
    """Return the drafts that set tags, or remove those that are None.

    SageMaker gets what it can take, but for MLflow's own tags; the journal has all of them.

    Args:
        tags: By key.
        legal: The tags that SageMaker gets already.
    """
    drafts: list[Draft] = []
    given: dict[str, str] = {}
    known = set(legal)
    for key, value in tags.items():
        if key == NOTE and len(value or "") <= limits.NOTE_CHARS_MAX:
            drafts.append(vocabulary.note(value or ""))
        elif value is not None and _fits(key, value) and len(known | {key}) <= limits.TAGS_MAX:
            given[key] = value
            known.add(key)
        else:
            drafts.append(vocabulary.label(key, value))
    return [vocabulary.tags(given), *drafts] if given else drafts


def _fits(key: str, value: str) -> bool:
    return not key.startswith(_SYSTEM) and limits.tag_problem(key, value) is None


def document(begin: str, name: str, told: Mapping[str, Any]) -> Draft:
    """Draft a label that keeps a document."""
    return vocabulary.label(f"{begin}{name}", json.dumps(told, separators=(",", ":")))


def dataset(told: Mapping[str, Any]) -> Draft:
    """Draft a dataset input: the JSON of MLflow's ``DatasetInput``."""
    each = told["dataset"]
    return document(DATASET, f"{each['digest']}/{each['name']}", told)


@dataclass(slots=True)
class ExperimentState:
    """What an experiment adds up to.

    Attributes:
        name: In the journal and in SageMaker.
        created_ns: When it was recorded first, nanoseconds since the epoch.
        changed_ns: When it was recorded last.
    """

    name: str
    created_ns: int = 0
    changed_ns: int = 0
    full_name: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    is_deleted: bool = False

    def add(self, entry: Entry) -> None:
        """Take in an entry of its row, in the order of recording."""
        self.created_ns = self.created_ns or entry.recorded_at_ns
        self.changed_ns = entry.recorded_at_ns
        with contextlib.suppress(ValueError):
            group = groups.declaration_of(entry).group
            self.name = group.name
            self.full_name = group.full_name or self.full_name
            self.tags |= {key: as_unicode(value) for key, value in group.tags}
            if group.description is not None:
                self.tags[NOTE] = as_unicode(group.description)
            self._add_labels(entry.detail.get("labels"))

    def _add_labels(self, labels: object) -> None:
        for key, text in labels.items() if isinstance(labels, dict) else ():
            if key == STAGE:
                self.is_deleted = text == DELETED
            elif isinstance(text, str):
                self.tags[key] = as_unicode(text)
            else:
                self.tags.pop(key, None)

    @property
    def shown(self) -> str:
        """Return its name in MLflow."""
        return as_unicode(self.full_name or self.name)

    @property
    def id(self) -> str:
        """Return its id in MLflow."""
        return addresses.experiment_id(self.name)


def experiment_draft(
    state: ExperimentState, tags: Mapping[str, str | None], stage: str | None = None
) -> Draft:
    """Draft a change of an experiment. SageMaker gets the tags that it can take.

    Args:
        state: The experiment.
        tags: Tags to set; None removes one, in the journal.
        stage: "deleted" or "active"; None: as it is.
    """
    legal: dict[str, str] = {}
    labels: dict[str, str | None] = {} if stage is None else {STAGE: stage}
    for key, value in tags.items():
        fits = value is not None and _fits(key, value)
        if value is not None and fits and len({*state.tags, *legal, key}) <= limits.TAGS_MAX:
            legal[key] = value
        else:
            labels[key] = value
    return vocabulary.experiment(
        name=state.name,
        tags=legal or None,
        full_name=state.full_name,
        labels=labels or None,
    )
