"""Keep a copy of each journal of a mirror, to read and to deliver from.

The copies are in ``mirrors/<mirror id>/<journal id>`` in ``paths.home()``. Each is a journal like
any other, with the id of the one that it is a copy of. It is extended by what is new in the mirror
whenever a command names that. A copy that was lost is made again.

Invariant: of a mirror, nothing but claims and receipts is written (``delivery``). Must not know a
remote.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from journaltrack.errors import EvidenceError, JournaltrackError, MirrorError
from journaltrack.journal import first_steps
from journaltrack.journal.journal import Journal
from journaltrack.mirror import delivery, exchange, folders, segments, shared_files, silence
from journaltrack.mirror.exchange import State
from journaltrack.mirror.folders import Mirror
from journaltrack.mirror.segments import Segment
from journaltrack.mirror.silence import Settled
from journaltrack.mirror.take import Replicated, Taker, make_empty
from journaltrack.util import paths, process
from journaltrack.util.deadline import Deadline
from journaltrack.util.text import logfmt

logger = logging.getLogger(__name__)

_SETTLE_S: Final = 30.0
"""Our choice: how often to look for nodes that went silent."""
WAIT_S: Final = 5.0
"""Our choice: how long to wait for another process that extends the same copy."""
_MISSING_WAIT_S: Final = 10.0
"""Our choice: how long a run that is continued waits for segments that are not visible yet."""
_LOOK_S: Final = 0.25
_OTHERS: Final = "elsewhere"
"""In a journal's folder: copies of other journals that have a run of its."""


@dataclass(slots=True)
class Copied:
    """The copy of one journal.

    Attributes:
        journal_id: The journal's.
        folder: Of the copy; None: no segment of the journal is whole yet.
        replicas: How far each replica was taken over.
        problem: Why the copy was not extended, or not made; None: it was.
    """

    journal_id: str
    folder: Path | None = None
    replicas: list[Replicated] = field(default_factory=list)
    problem: JournaltrackError | None = None

    @property
    def notes(self) -> list[str]:
        """Return what is missing in the copy, and why: one sentence each."""
        found = []
        for each in self.replicas:
            upto = f"segment {each.number} of {each.newest}" if each.number else "no segment"
            if each.problem is not None:
                found.append(f"{each.name}: taken up to {upto}: {each.problem.message}")
            elif each.waits is not None:
                found.append(f"{each.name}: taken up to {upto}, waiting: {each.waits}")
            found += [
                f"{each.name}: the entries of the process {uuid} from number {place} on were "
                "altered in the journal, and are not mirrored"
                for uuid, place in each.halted.items()
            ]
        return found


def folder_of(found: Iterable[Copied], mirror: Path) -> Path:
    """Return the folder of a mirror's copies.

    Args:
        found: The copies, as of ``extended``.
        mirror: The mirror's folder, for the error.

    Raises:
        MirrorError: There is none: no segment is whole yet.
    """
    for copied in found:
        if copied.folder is not None:
            return copied.folder.parent
    raise MirrorError(
        f"the mirror at {mirror} has no whole segment yet; nothing can be read from it",
        hint="`journaltrack mirror JOURNAL FOLDER` writes one; wait until it is visible here",
    )


def extended(folder: Path, looked: set[str] | None = None) -> list[Copied]:
    """Extend the copies of all journals of a mirror, and return them.

    Args:
        folder: The mirror's.
        looked: Of who looks again and again: ids of the journals whose copies it has extended, and
            that are opened only if there are new segments. Is added to.

    Raises:
        MirrorError: The mirror can't be read.
        JournalTooNewError, InvalidInputError: It is none, or a newer version made it.
    """
    mirror = folders.opened(folder)
    found = []
    for journal_id in mirror.journals():
        copied = _unchanged(mirror, journal_id) if looked and journal_id in looked else None
        if copied is None:
            copied = _extended(mirror, journal_id)
            if looked is not None and copied.problem is None and copied.folder is not None:
                looked.add(journal_id)
        found.append(copied)
    return found


def _unchanged(mirror: Mirror, journal_id: str) -> Copied | None:
    """Return a copy for which nothing is new in the mirror; None: something may be."""
    folder = place_of(mirror) / journal_id
    state = exchange.load(folder, mirror.id)
    replicas = []
    for name in mirror.replicas(journal_id):
        if name != state.replica:
            seen = state.seen.get(name)
            if seen is None or mirror.replica(journal_id, name).listed(seen.number).spans:
                return None
            replicas.append(Replicated(name, seen.number, seen.number, halted=seen.halted))
    return Copied(journal_id, folder, replicas) if (folder / paths.DATABASE).exists() else None


def settle(
    mirror: Mirror, copied: Sequence[Copied], after_s: float, claim_s: float, *, stay: bool = False
) -> list[Settled]:
    """End the runs of silent nodes in copies that were just extended (``silence.settle``).

    What fails is logged, and the other copies go on.
    """
    done = []
    for each in copied:
        if each.folder is not None:
            waiting = {r.name for r in each.replicas if r.waits is not None}
            try:
                done.append(
                    silence.settle(
                        each.folder, mirror, after_s, waiting, stay=stay, claim_s=claim_s
                    )
                )
            except JournaltrackError as error:
                logger.warning(logfmt("mirror", folder=mirror.path, text=error.message))
    return done


@dataclass(frozen=True, slots=True)
class Delivering:
    """What who delivers the copies of a mirror does beside that.

    Attributes:
        silent_after_s: See ``silence.settle``.
        claim_s: See ``delivery.delivering``.
    """

    silent_after_s: float
    claim_s: float


class _Keeper:
    """Extend the copies of a mirror, again and again.

    Args:
        folder: The mirror's.
        delivers: See ``keep_extended``.
    """

    def __init__(self, folder: Path, delivers: Callable[[], Delivering] | None) -> None:
        self._folder = folder
        self._delivers = delivers
        self._looked: set[str] = set()
        self._told: set[str] = set()
        self._settled_s = float("-inf")

    def look(self) -> None:
        """Extend them, and log what changed."""
        notes: list[str] = []
        try:
            found = extended(self._folder, self._looked)
            for copied in found:
                problem = [] if copied.problem is None else [copied.problem.message]
                notes += [*copied.notes, *problem]
            if self._delivers is not None:
                self._tend(found, self._delivers())
        except JournaltrackError as error:
            notes.append(error.message)
        for note in notes:
            if note not in self._told:
                logger.warning(logfmt("mirror", folder=self._folder, text=note))
        self._told = set(notes)

    def _tend(self, found: Sequence[Copied], settings: Delivering) -> None:
        """Renew claims, and end the runs of silent nodes."""
        for copied in found:
            if copied.folder is not None:
                delivery.tend(copied.folder)
        now_s = process.since_boot_s()
        if now_s - self._settled_s >= min(_SETTLE_S, settings.silent_after_s / 8 or _SETTLE_S):
            self._settled_s = now_s
            mirror = folders.opened(self._folder)
            settle(mirror, found, settings.silent_after_s, settings.claim_s, stay=True)


def keep_extended(
    folder: Path,
    every_s: float,
    ended: threading.Event,
    delivers: Callable[[], Delivering] | None = None,
) -> threading.Thread:
    """Extend the copies of a mirror on a thread, until ``ended`` is set.

    What is missing in them is logged once. While the mirror can't be read, it is tried again.

    Args:
        folder: The mirror's.
        every_s: Seconds between two looks.
        ended: Ends it.
        delivers: Of a watcher: returns what it does for nodes. Its claims are renewed, then.
    """
    keeper = _Keeper(folder, delivers)

    def run() -> None:
        """Extend again and again."""
        while not ended.is_set():
            keeper.look()
            ended.wait(every_s)

    thread = threading.Thread(target=run, name="journaltrack-mirror", daemon=True)
    thread.start()
    return thread


def place_of(mirror: Mirror) -> Path:
    """Return the folder of all copies of a mirror's journals."""
    return paths.copies_of_mirrors() / mirror.id


def _extended(mirror: Mirror, journal_id: str) -> Copied:
    copied = Copied(journal_id)
    place = place_of(mirror)
    first_steps.make_folder(place)
    folder = place / journal_id
    try:
        with exchange.alone(place, name=f".{journal_id}.lock", wait_s=WAIT_S):
            if not (folder / paths.DATABASE).exists() and not _made(mirror, journal_id, folder):
                return copied
        # One process at a time extends it. After a while, others read what is there.
        with (
            exchange.alone(folder, wait_s=WAIT_S),
            closing(Journal.open(folder, create=False)) as journal,
        ):
            copied.replicas = Taker(journal, mirror).take()
    except JournaltrackError as error:
        copied.problem = error
    if (folder / paths.DATABASE).exists():
        copied.folder = folder
    return copied


def _made(mirror: Mirror, journal_id: str, folder: Path) -> bool:
    """Make an empty copy; return whether a whole segment says what the journal is."""
    beside = folder.with_name(f".{folder.name}.partial")
    if not begin(mirror, journal_id, beside):
        return False
    beside.rename(folder)
    paths.fsync(folder.parent)
    return True


def fetch(journal: Path, folder: Path, run: str, deadline: Deadline) -> bool:
    """Make a journal that continues the one that knows a run in a mirror.

    The new journal is one more replica: what it records is mirrored, and comes to all others. The
    bytes of artifacts stay in the mirror. Processes that call this at once make one journal.

    Args:
        journal: The journal's folder. There is no journal yet.
        folder: The mirror's.
        run: The run's name.
        deadline: Ends it. Then nothing was made, or what was found until then.

    Returns:
        Whether the journal is there now.

    Raises:
        MirrorError: The mirror can't be read.
        JournalError: The journal can't be made.
    """
    mirror = _begun(folder)
    if mirror is None:
        return False
    first_steps.make_folder(journal.parent)
    with exchange.alone(
        journal.parent, name=f".{journal.name}.lock", wait_s=deadline.remaining_s()
    ):
        if (journal / paths.DATABASE).exists():
            return True
        for journal_id in reversed(mirror.journals_of(run)):
            beside = journal.with_name(f".{journal.name}.partial")
            if begin(mirror, journal_id, beside):
                break
        else:
            return False
        notes = _taken(beside, mirror, deadline)
        if deadline.over:
            # The caller has made another journal meanwhile.
            return False
        with contextlib.suppress(OSError):
            # An empty folder that was made for the journal.
            journal.rmdir()
        beside.rename(journal)
        paths.fsync(journal.parent)
    logger.info("%s continues the journal of %s from the mirror at %s.", journal, run, folder)
    if notes:
        logger.warning("the run %s continues from its mirror. It lacks: %s", run, "; ".join(notes))
    return True


def elsewhere(journal: Path, folder: Path, run: str, deadline: Deadline) -> list[Path]:
    """Bring a journal what its mirror has of it, and copy the other journals there with a run.

    The copies stay in the journal's folder, to read: a run of several nodes has points in each. The
    bytes of artifacts stay in the mirror. What is missing is logged.

    Args:
        journal: The journal's folder.
        folder: The mirror's.
        run: The run's name.
        deadline: For how long to wait for other processes, and for what is missing.

    Returns:
        The folders of the copies.

    Raises:
        MirrorError: The mirror can't be read.
        JournalError: The journal or a copy can't be written.
    """
    mirror = _begun(folder)
    if mirror is None:
        return []
    with closing(Journal.open(journal, create=False)) as opened:
        own = opened.journal_id
    notes: list[str] = []
    if set(mirror.replicas(own)) - {exchange.load(journal, mirror.id).replica}:
        with exchange.alone(journal, wait_s=deadline.remaining_s()):
            notes += _taken(journal, mirror, deadline)
    found = []
    for journal_id in mirror.journals_of(run):
        if journal_id == own:
            continue
        place = journal / _OTHERS / mirror.id
        first_steps.make_folder(place)
        copy = place / journal_id
        with exchange.alone(place, name=f".{journal_id}.lock", wait_s=deadline.remaining_s()):
            if (copy / paths.DATABASE).exists() or _made(mirror, journal_id, copy):
                notes += _taken(copy, mirror, deadline)
                found.append(copy)
    if notes:
        logger.warning("of the run %s, the mirror lacks points: %s", run, "; ".join(notes))
    return found


def _begun(folder: Path) -> Mirror | None:
    """Return the mirror in a folder; None: no machine has mirrored anything yet."""
    with shared_files.explained(folder, "read"):
        is_mirror = paths.is_mirror(folder)
    return folders.opened(folder) if is_mirror else None


def _taken(journal: Path, mirror: Mirror, deadline: Deadline) -> list[str]:
    """Take over what a mirror has; wait a while for what is missing. Return what is."""
    patience = Deadline(_MISSING_WAIT_S)
    while True:
        with closing(Journal.open(journal, create=False)) as opened:
            copied = Copied(opened.journal_id)
            copied.replicas = Taker(opened, mirror, bytes_too=False).take()
        if not copied.notes or patience.over or not deadline.wait(_LOOK_S):
            return copied.notes


def begin(mirror: Mirror, journal_id: str, beside: Path) -> bool:
    """Make an empty copy in a folder that gets its name when it is ready.

    Args:
        mirror: Where its journal is.
        journal_id: The journal's.
        beside: The folder. What a killed process left there is removed.

    Returns:
        Whether a whole segment says what the journal is. If not, nothing was made.

    Raises:
        MirrorError: The mirror can't be read.
    """
    first = next(_whole(mirror, journal_id), None)
    if first is None:
        return False
    shutil.rmtree(beside, ignore_errors=True)
    (beside / paths.SPOOL).mkdir(mode=0o700, parents=True)
    beside.chmod(0o700)
    file = beside / paths.DATABASE
    file.touch(mode=0o600)
    _, created_at_ns, version, *_ = first.journal
    make_empty(file, journal_id, created_at_ns=int(created_at_ns), version=str(version))
    # Chooses the log. A process that is killed meanwhile leaves something that can't be read.
    Journal.open(beside, create=False).close()
    # From its first entry on, a pass knows that others may deliver it (``delivery``).
    exchange.save(beside, mirror.id, State(folder=str(mirror.path)))
    return True


def _whole(mirror: Mirror, journal_id: str) -> Iterator[Segment]:
    for name in mirror.replicas(journal_id):
        replica = mirror.replica(journal_id, name)
        for span in replica.listed().spans:
            data = replica.read(span, segments.BYTES_MAX)
            try:
                segment = segments.parse(data or b"", str(replica.file(span)))
            except (segments.NotWholeError, EvidenceError):
                continue
            if segment.journal_id == journal_id:
                yield segment
