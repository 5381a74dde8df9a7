"""Tell which processes recorded a run, and in what the newest one differs from those before. Pure.

One rule for every view: who recorded more of a run than points recorded it. Who came later and
only added a tag or a note, said how it ended, or delivered it, tells nothing about its results.
Neither does an import: its commit and packages are those of the command that copied the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from journaltrack.journal import vocabulary
from journaltrack.journal.context import facts_of, packages_of
from journaltrack.journal.view import iso_seconds
from journaltrack.journal.vocabulary import Entry
from journaltrack.journal.writer_records import WriterRecord

WRITERS_MAX: Final = 20
"""Our limit: processes that are told with a run; the newest ones."""
IMPORTED_FROM: Final = "imported_from"
IMPORTED_ID: Final = "imported_id"
IMPORTED_PATH: Final = "imported_path"
"""Tags of an imported run: the format, what the source calls it, and where the source was."""
IMPORTED_KEY: Final = "imported_key"
"""The tag by which the next import knows the run: a digest, which tells people nothing."""
_ADDED_LATER: Final = frozenset({vocabulary.TAGS, vocabulary.NOTE, vocabulary.LABEL})
_IN_PROGRESS: Final = "InProgress"
_PACKAGES_TOLD: Final = 5
_COMMIT_CHARS: Final = 12


class Recorders:
    """Collect who recorded a run, from its entries without points."""

    def __init__(self) -> None:
        self._all: dict[int, None] = {}
        self._recorded: dict[int, None] = {}
        # Who made a tracker, not an import.
        self._made: set[int] = set()
        self.imported_from: str | None = None

    def add(self, entry: Entry) -> None:
        """Take in an entry."""
        self._all[entry.writer_id] = None
        if not _is_afterwards(entry):
            self._recorded[entry.writer_id] = None
        if entry.kind == vocabulary.LOAD:
            self._made.add(entry.writer_id)
        elif entry.kind == vocabulary.CREATE:
            tags = entry.detail.get("tags")
            if isinstance(tags, dict) and IMPORTED_FROM in tags:
                names = (IMPORTED_FROM, IMPORTED_ID, IMPORTED_PATH)
                found = (tags.get(name) for name in names)
                self.imported_from = ", ".join(text for text in found if isinstance(text, str))
            else:
                self._made.add(entry.writer_id)

    def records(self, read: Callable[[int], WriterRecord | None]) -> tuple[WriterRecord, ...]:
        """Return the processes, the newest last.

        Of a run that was imported and then resumed, only those that resumed it.

        Args:
            read: Returns the record of a writer, by its id.
        """
        chosen = list(self._recorded or self._all)
        if self.imported_from is not None:
            chosen = [each for each in chosen if each in self._made] or chosen
        found = [record for each in chosen if (record := read(each)) is not None]
        # Ids of a merged journal are in the order of the merge.
        found.sort(key=lambda each: (each.started_at_ns or 0, each.id))
        return tuple(found[-WRITERS_MAX:])

    def is_import(self, writers: Iterable[WriterRecord]) -> bool:
        """Return whether the processes only copied the run from elsewhere."""
        return self.imported_from is not None and not any(each.id in self._made for each in writers)


def _is_afterwards(entry: Entry) -> bool:
    """Return whether an entry may come from a process that is no part of the run."""
    if entry.kind == vocabulary.STATUS:
        return entry.detail.get("primary") != _IN_PROGRESS
    # A pass puts into a file what SageMaker can't take.
    is_file = entry.kind in {vocabulary.UPLOAD, vocabulary.OUTPUT} and (
        vocabulary.is_of_parameters_file(entry) or entry.name == vocabulary.PARAMETERS_FILE
    )
    return is_file or entry.kind in _ADDED_LATER


def code_of(writer: WriterRecord, chars_max: int | None = None) -> str | None:
    """Return the commit that a process ran, and whether it was changed; None without git."""
    if writer.git_commit is None:
        return None
    changed = " with uncommitted changes" if writer.git_dirty else ""
    return f"{writer.git_commit[:chars_max]}{changed}"


def differences(newest: WriterRecord, earlier: WriterRecord) -> str:
    """Return in what an earlier process differs from the newest one; "" in nothing that counts.

    Values are those of the earlier one, so that both can be read side by side.
    """
    found = []
    for label, ask in _COMPARED:
        before = ask(earlier)
        if before != ask(newest):
            found.append(f"{label} {before or 'unknown'}")
    code = dict(facts_of(earlier.context)).get("code")
    if code and code != dict(facts_of(newest.context)).get("code"):
        # What is no part of its commit can't be had from there.
        found.append(code)
    packages = _changed(_packages(earlier), _packages(newest))
    return "; ".join([*found, *([packages] if packages else [])])


_COMPARED: Final[Sequence[tuple[str, Callable[[WriterRecord], str | None]]]] = (
    ("commit", lambda each: code_of(each, _COMMIT_CHARS)),
    ("program", lambda each: each.program),
    ("host", lambda each: each.host),
    ("user", lambda each: each.user),
    ("Python", lambda each: each.python_version),
)


def _packages(writer: WriterRecord) -> Mapping[str, str]:
    return packages_of(writer.context) or writer.packages or {}


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return which versions were others; what only one of both lists tells counts too."""
    # Imported packages of one, and installed packages of the other, can't be compared.
    if not before or not now:
        return ""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    told = [f"{name} {before.get(name, '(none)')}" for name in names[:_PACKAGES_TOLD]]
    more = [f"{len(names) - len(told)} packages more"] if len(names) > len(told) else []
    return ", ".join([*told, *more])


def compared(
    newest: Sequence[tuple[WriterRecord | None, str | None]],
) -> tuple[dict[str, tuple[str | None, ...]], dict[str, tuple[str | None, ...]]]:
    """Return in what the code of runs differs, and which of their packages.

    Args:
        newest: Of each run its newest process, and the SHA-256 of that one's uncommitted changes.
            Of a run without a process, as one that was imported, nothing is known.

    Returns:
        A text per run by label, and a version per run by package. What is the same in all runs of
        which it is known is left out.
    """
    known = [writer for writer, _ in newest if writer is not None]
    asked: dict[str, Callable[[WriterRecord], str | None]] = {
        **dict(_COMPARED),
        # The program's path is told above.
        "code": lambda each: dict(facts_of(each.context)).get("code", "").rpartition(": ")[2],
    }
    found = {
        label: tuple((writer and ask(writer)) or None for writer, _ in newest)
        for label, ask in asked.items()
        if len({ask(writer) for writer in known}) > 1
    }
    diffs = tuple(sha256 and sha256[:_COMMIT_CHARS] for _, sha256 in newest)
    if len({sha256 for (writer, _), sha256 in zip(newest, diffs, strict=True) if writer}) > 1:
        found["uncommitted changes"] = diffs
    lists = [{} if writer is None else _packages(writer) for writer, _ in newest]
    told_of = [each for each in lists if each]
    versions = {
        name: tuple(each.get(name) for each in lists)
        for name in sorted({name for each in told_of for name in each})
        if len({each.get(name) for each in told_of}) > 1
    }
    return found, versions


def told(
    writers: Sequence[WriterRecord], *, imported_from: str | None, is_import: bool
) -> list[tuple[str, str]]:
    """Return who recorded a run with which code, as labels and texts, for people.

    The newest process is told in full, and of each earlier one what differs.

    Args:
        writers: See ``Recorders.records``.
        imported_from: See ``ComponentView``.
        is_import: See ``ComponentView``.
    """
    rows = [("imported from", imported_from)] if imported_from is not None else []
    if not writers:
        return rows
    *earlier, newest = writers
    many = f"; the newest of {len(writers)} processes" if earlier else ""
    rows.append(("imported by" if is_import else "recorded by", f"{_who(newest)}{many}"))
    if is_import:
        return rows
    commit = code_of(newest)
    rows += [("commit", commit)] if commit else []
    facts = facts_of(newest.context)
    if not any(label == "command" for label, _ in facts) and newest.program:
        rows.append(("program", newest.program))
    versions = f"Python {newest.python_version}, journaltrack {newest.package_version}"
    rows += [*facts, ("versions", versions)]
    for each in reversed(earlier):
        differs = differences(newest, each) or "the same code and packages"
        rows.append(("before", f"{_who(each)}: {differs}"))
    return rows


def _who(writer: WriterRecord) -> str:
    """Return who a process was, and when it began."""
    began = iso_seconds(writer.started_at_ns)
    return f"{writer.user}@{writer.host}, pid {writer.pid}" + (f", {began}" if began else "")
