"""Let one copy of a mirrored journal deliver it, and bring its receipts to the others.

A *claim* is a file in the mirror: ``<journal id>/delivery/00000001.claim``. It names the replica
that delivers the journal, and how long it holds. Its maker *renews* it by the next number, and
*releases* it after its receipts were written into the mirror. Each number is made once: its file
must be new to the server. So renewing and taking over are the same step, and one of two succeeds,
whatever either has cached.

Whoever takes over has seen no renewal for a quarter longer than the claim holds. The maker counts
that time from before it made the file, and sends nothing behind it (``left_s``). Both count on
their own clock, which counts a suspended machine's time. So no two clocks are compared, and they
may differ by hours. What the maker had sent without an answer is in doubt then.

Must not know a remote.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from journaltrack.errors import JournaltrackError, LeaseHeldError, LeaseLostError, MirrorError
from journaltrack.journal.journal import Journal
from journaltrack.mirror import blobs, exchange, folders, shared_files
from journaltrack.mirror.exchange import Since, State
from journaltrack.mirror.folders import Mirror
from journaltrack.mirror.ship import UNSETTLED, Shipper
from journaltrack.mirror.take import Taker, make_empty
from journaltrack.replay.lease import CLAIM_S
from journaltrack.transfer.merge import merge_source
from journaltrack.transfer.merge_source import Found, JournalSource
from journaltrack.util import paths, process
from journaltrack.util.intervals import SEQ_MAX, extend
from journaltrack.util.text import duration

logger = logging.getLogger(__name__)

FOLDER: Final = "delivery"
LOCK: Final = "mirror-delivery.lock"
LOST: Final = "the copy that delivered the journal was lost: it may have sent it"
_CLAIM_MAX_S: Final = 7 * 86_400.0
_RENEWED: Final = 0.25
"""Our choice: the part of that time after which it is renewed."""
_RETRY: Final = 0.05
"""Our choice: the part of it after which a renewal that failed is tried again."""
_PATIENCE: Final = 1.25
"""Our choice: how much longer others wait. Clocks of machines run at rates that differ by less than
a thousandth; nothing else needs to be covered, since a renewal that nobody sees makes the next
number, too.
"""
_NUMBERS_KEPT: Final = 64
"""Our choice: how many numbers stay behind the newest one: those of 2.5 hours.

Whoever sees an older listing would make a number again that was removed.
"""
_OWN_MAX: Final = 2**20
"""Our choice: what a pass makes itself, such as a file of long parameters, has fewer bytes. Larger
artifacts are left to who mirrors the journal.
"""
_FILE: Final = re.compile(r"(\d{8,18})\.(claim|released)", re.ASCII)
_BYTES_MAX: Final = 4096
_WAIT_S: Final = 10.0
"""Our choice: how long to wait for a process that mirrors the same copy."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The newest claim of a journal.

    Attributes:
        number: From 1 on; 0: there was none.
        replica: Who made it; "" if it can't be read.
        released: The last segment of that replica when it released it; None: it did not.
        expires_s: How long it holds without a renewal; None: until it is released.
    """

    number: int = 0
    replica: str = ""
    released: int | None = None
    expires_s: float | None = None

    @property
    def is_held(self) -> bool:
        """Return whether its maker may still deliver."""
        return self.number > 0 and self.released is None


class Hold:
    """The claim of this process on one journal in one mirror.

    Args:
        journal: The folder of the copy.
        journal_id: The journal's.
        mirror: The mirror.
        replica: The copy's name there.
        claim_s: How long the claim shall hold without a renewal.

    Attributes:
        number: Of the claim.
        is_busy: Whether ``delivering`` uses and renews it now.
        is_used: Whether that was so since the last renewal.
    """

    def __init__(
        self, journal: Path, journal_id: str, mirror: Mirror, replica: str, claim_s: float
    ) -> None:
        self.journal = journal
        self.journal_id = journal_id
        self.mirror = mirror
        self.replica = replica
        self.number = 0
        self.is_busy = False
        self.is_used = True
        self._claim_s = claim_s
        self._ends_s = 0.0
        self._told = False

    @property
    def place(self) -> Path:
        """Return the folder of the claims."""
        return self.mirror.path / self.journal_id / FOLDER

    def left_s(self) -> float:
        """Return for how many seconds nobody else may deliver; 0: somebody may already."""
        return max(0.0, self._ends_s - process.since_boot_s())

    @property
    def is_due(self) -> bool:
        """Return whether it is time to renew it."""
        return self.left_s() <= (1 - _RENEWED) * self._claim_s

    @property
    def due_in_s(self) -> float:
        """Return the seconds until then."""
        return max(0.0, self.left_s() - (1 - _RENEWED) * self._claim_s)

    def make(self, number: int) -> None:
        """Make the claim with a number, the next one.

        Raises:
            LeaseHeldError: Another copy has made it.
            MirrorError: It can't be written.
        """
        # Whoever sees the file counts from a later moment.
        began_s = process.since_boot_s()
        members = {
            "replica": self.replica,
            "token": os.urandom(16).hex(),
            "expires_s": self._claim_s,
        }
        file = _file(self.place, number, "claim")
        with shared_files.explained(file, "written"):
            shared_files.make_folder(self.place, self.mirror.path)
            data = json.dumps(members).encode() + b"\n"
            is_ours = shared_files.put_new(file, data, self.mirror.path)
        claim = newest(self.mirror, self.journal_id)
        # If a number was made again that had been removed, later ones are there.
        if not is_ours or claim.number > number:
            self._ends_s = 0.0
            raise _held(self.journal, self.mirror, claim)
        self.number, self._ends_s, self._told = number, began_s + self._claim_s, False
        with contextlib.suppress(OSError, MirrorError):
            for name in shared_files.names(self.place):
                if (found := _FILE.fullmatch(name)) and int(found[1]) <= number - _NUMBERS_KEPT:
                    (self.place / name).unlink(missing_ok=True)

    def renew(self) -> bool:
        """Make the next number if it is time to; return whether the claim is still this copy's.

        After its end, too: if nobody has taken it over, the next number is free.
        """
        if not self.is_due:
            return True
        try:
            self.make(self.number + 1)
        except LeaseHeldError as error:
            # The next pass says so.
            logger.debug("%s", error.message)
            return False
        except JournaltrackError as error:
            if not self._told:
                logger.warning("the claim can't be renewed: %s", error.message)
            self._told = True
        return True


_kept: dict[tuple[Path, str], Hold] = {}
"""The claims of this process that ``delivering`` kept, by journal and mirror."""


def is_mirrored(journal: Path) -> bool:
    """Return whether a journal has a mirror, or is a copy made of one."""
    return (journal / paths.MIRRORED).exists()


@contextlib.contextmanager
def delivering(
    journal: Path, *, stay: bool = False, claim_s: float = CLAIM_S
) -> Iterator[Callable[[], float]]:
    """Deliver a mirrored journal for the block, unless another copy delivers it.

    Behind the block, what it attested is in the mirror. Without a mirror, this does nothing.

    Args:
        journal: Its folder.
        stay: Keep the claim behind the block, as a watcher does, who calls ``tend``.
        claim_s: How long the claim shall hold without a renewal.

    Yields:
        Returns for how many seconds requests may still leave. A thread renews that.

    Raises:
        LeaseHeldError: Another copy delivers the journal, or its receipts are not here yet.
        LeaseLostError: The claim could not be renewed in time, and the block had to end.
        MirrorError: The mirror can't be read or written: nobody can tell. Nothing was sent.
    """
    if not is_mirrored(journal):
        yield lambda: float("inf")
        return
    # Else one process could release the claim while another one of the same copy sends.
    with exchange.alone(journal, name=LOCK):
        holds: list[Hold] = []
        try:
            for mirror_id, state in exchange.all_of(journal).items():
                mirror = _mirror_of(journal, mirror_id, state)
                holds.append(_claimed(journal, mirror, claim_s))
            with _renewing(holds, claim_s):
                for hold in holds:
                    with closing(Journal.open(journal, create=False, read_only=True)) as opened:
                        blobs.fetch(opened, hold.mirror)
                yield lambda: min((hold.left_s() for hold in holds), default=float("inf"))
            if not all(hold.left_s() for hold in holds):
                raise LeaseLostError(
                    f"the claim on the journal at {journal} could not be renewed in time, and "
                    "another copy may deliver it now; this pass ended, and nothing is lost",
                    hint="sync again when the mirror can be written",
                )
        finally:
            for hold in holds:
                hold.is_busy = False
                _bring_back(hold, stay=stay or not hold.left_s())


@contextlib.contextmanager
def _renewing(holds: list[Hold], claim_s: float) -> Iterator[None]:
    """Renew claims on a thread, for the block."""
    ended = threading.Event()

    def run() -> None:
        """Renew whatever is due."""
        while not ended.wait(max(_RETRY * claim_s, min(hold.due_in_s for hold in holds))):
            # One that another copy has made is left alone: nothing may be sent any more.
            if not all(hold.renew() for hold in holds):
                return

    thread = threading.Thread(target=run, name="journaltrack-claim", daemon=True)
    if holds:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if holds:
            thread.join()


def tend(journal: Path) -> None:
    """Renew the claims that ``delivering`` kept; release those that nothing was delivered by.

    Call it often: it looks at a clock, unless a claim is due.
    """
    for (folder, _), hold in list(_kept.items()):
        if folder == journal and not hold.is_busy and hold.is_due:
            if not hold.is_used:
                release(journal)
                return
            hold.is_used = False
            if not hold.renew():
                _kept.pop((folder, hold.mirror.id), None)


def bring_bytes(journal: Path, copy: Path) -> None:
    """Give a copy for another destination the bytes that only the journal's mirrors have.

    Args:
        journal: A mirrored journal's folder.
        copy: The copy's.

    Raises:
        MirrorError: A mirror can't be read.
    """
    with closing(Journal.open(copy, create=False, read_only=True)) as opened:
        for mirror_id, state in exchange.all_of(journal).items():
            blobs.fetch(opened, _mirror_of(journal, mirror_id, state))


def take_over(journal: Path, mirror: Mirror) -> int:
    """Claim a journal that a lost copy has claimed; return how many points are in doubt by that.

    The lost copy may have sent points without anybody knowing: those that are pending here.

    Raises:
        JournalError: The journal or the mirror can't be read or written.
    """
    with exchange.alone(journal, name=LOCK):
        hold = _hold_of(journal, mirror, CLAIM_S)
        claim = newest(mirror, hold.journal_id)
        if not claim.is_held or claim.replica == hold.replica:
            return 0
        count = _doubt_pending(journal)
        hold.make(claim.number + 1)
        return count


def _doubt_pending(journal: Path) -> int:
    """Put in doubt what a lost copy may have sent: the pending points; return how many."""
    with (
        tempfile.TemporaryDirectory(prefix="journaltrack-") as place,
        closing(Journal.open(journal, create=False)) as opened,
    ):
        make_empty(Path(place, paths.DATABASE), opened.journal_id)
        with closing(Journal.open(place, create=False, read_only=True)) as nothing:
            return merge_source(opened, _MaybeSent(nothing, opened)).taken_as_found


class _MaybeSent(JournalSource):
    """A source that knows nothing but that all pending points may have been sent.

    Args:
        nothing: An empty journal.
        journal: The journal.
    """

    def __init__(self, nothing: Journal, journal: Journal) -> None:
        super().__init__(nothing)
        self._pending = journal
        self._at_ns = time.time_ns()

    def unattested(self, _in_flight: str) -> Iterator[Found]:
        """Yield the pending points."""
        rows = self._pending.database.read(UNSETTLED, (1, SEQ_MAX))
        places: dict[str, list[tuple[int, int]]] = {}
        for uuid, place in rows:
            extend(places.setdefault(uuid, []), place, place)
        for uuid, runs in places.items():
            for first, last in runs:
                yield Found(uuid, first, last, "in doubt", LOST, self._at_ns)


def release(journal: Path) -> None:
    """Release the claims that ``delivering`` kept for a copy."""
    for mirror_id, state in exchange.all_of(journal).items():
        # Not while another process of this copy delivers.
        with _told(journal), exchange.alone(journal, name=LOCK):
            mirror = _mirror_of(journal, mirror_id, state)
            kept = _kept.pop((journal, mirror_id), None)
            hold = kept or _hold_of(journal, mirror, CLAIM_S)
            claim = newest(mirror, hold.journal_id)
            if claim.is_held and claim.replica == state.replica:
                hold.number = claim.number
                _bring_back(hold, stay=False)


def newest(mirror: Mirror, journal_id: str) -> Claim:
    """Return the newest claim of a journal.

    Raises:
        MirrorError: It can't be read.
    """
    place = mirror.path / journal_id / FOLDER
    found = [m for name in shared_files.names(place) if (m := _FILE.fullmatch(name))]
    number = max((int(m[1]) for m in found), default=0)
    if not number:
        return Claim()
    members = _members(_file(place, number, "claim"))
    replica, expires_s = members.get("replica"), members.get("expires_s")
    segment = (
        _members(_file(place, number, "released")).get("segment")
        if any(m[2] == "released" and int(m[1]) == number for m in found)
        else None
    )
    return Claim(
        number,
        replica if isinstance(replica, str) else "",
        segment if isinstance(segment, int) and isinstance(replica, str) else None,
        _time_of(expires_s),
    )


def _time_of(value: Any) -> float | None:  # noqa: ANN401 - of JSON
    """Return how long a claim holds, in seconds; None: it does not say."""
    return float(value) if type(value) in {int, float} and 0 < value <= _CLAIM_MAX_S else None


def _mirror_of(journal: Path, mirror_id: str, state: State) -> Mirror:
    mirror = folders.opened(state.folder)
    if mirror.id != mirror_id:
        raise MirrorError(
            f"{state.folder} is another mirror than the one of the journal at {journal}; nothing "
            "was sent",
            hint=f"mount the mirror there again, or remove {journal / paths.MIRRORED}",
        )
    return mirror


def _hold_of(journal: Path, mirror: Mirror, claim_s: float) -> Hold:
    """Return a hold without a claim, of this copy under its name."""
    replica = _named(journal, mirror).replica
    with closing(Journal.open(journal, create=False, read_only=True)) as opened:
        return Hold(journal, opened.journal_id, mirror, replica, claim_s)


def _claimed(journal: Path, mirror: Mirror, claim_s: float) -> Hold:
    """Claim the journal for this copy.

    Raises:
        LeaseHeldError: Another copy has claimed it.
    """
    hold = _kept.get((journal, mirror.id)) or _hold_of(journal, mirror, claim_s)
    claim = newest(mirror, hold.journal_id)
    is_own = claim.replica == hold.replica
    if claim.is_held and not is_own:
        _kept.pop((journal, mirror.id), None)
        _await_end(hold, claim)
        _take_over_ended(hold, claim)
    elif not claim.is_held or claim.number != hold.number or hold.is_due:
        # One of a killed process of this copy: how long it would hold, nobody knows.
        if not claim.is_held and not is_own:
            _refuse_without_receipts(hold, claim)
        hold.make(claim.number + 1)
    hold.is_busy = hold.is_used = True
    return hold


def _refuse_without_receipts(hold: Hold, claim: Claim) -> None:
    seen = exchange.load(hold.journal, hold.mirror.id).seen.get(claim.replica)
    if (claim.released or 0) > (seen.number if seen is not None else 0):
        raise LeaseHeldError(
            f"the receipts of {claim.replica}, which delivered the journal at {hold.journal} "
            "before, are not here yet; nothing was sent",
            hint="sync the mirror's folder again in a minute",
        )


def _await_end(hold: Hold, claim: Claim) -> None:
    """Return if another copy's claim has not been renewed for longer than it holds.

    Raises:
        LeaseHeldError: It may still deliver.
    """
    if claim.expires_s is None:
        raise _held(hold.journal, hold.mirror, claim)
    with exchange.alone(hold.journal, wait_s=_WAIT_S):
        state = exchange.load(hold.journal, hold.mirror.id)
        since = state.claim
        waited_s = None if since is None or since.of != claim.number else since.passed_s()
        if waited_s is None:
            state.claim = Since.now(claim.number)
            exchange.save(hold.journal, hold.mirror.id, state)
    if waited_s is None or waited_s < _PATIENCE * claim.expires_s:
        raise _held(hold.journal, hold.mirror, claim)


def _take_over_ended(hold: Hold, claim: Claim) -> None:
    """Claim what another copy's claim has ended for. What that may have sent is in doubt.

    Raises:
        LeaseHeldError: Another copy was first, or something that the other one may have had is not
            here yet.
    """
    with (
        exchange.alone(hold.journal, wait_s=_WAIT_S),
        closing(Journal.open(hold.journal, create=False)) as opened,
    ):
        for each in Taker(opened, hold.mirror).take():
            if each.waits is not None or each.problem is not None:
                raise LeaseHeldError(
                    f"{claim.replica} has not renewed its claim on the journal at {hold.journal}, "
                    f"and not all of {each.name} is here: what it sent, nobody can tell",
                    hint="`journaltrack status` on the mirror says for what this waits; else "
                    f"journaltrack mirror --take-over {hold.mirror.path}",
                )
    count = _doubt_pending(hold.journal)
    hold.make(claim.number + 1)
    logger.warning(
        "%s has not renewed its claim on the journal at %s: it is delivered from here now, and %d "
        "points that it may have sent are in doubt",
        claim.replica,
        hold.journal,
        count,
    )


def _named(journal: Path, mirror: Mirror) -> State:
    """Return what is known of the mirror, with a name for this copy."""
    state = exchange.load(journal, mirror.id)
    if not state.replica:
        with exchange.alone(journal, wait_s=_WAIT_S):
            state = exchange.load(journal, mirror.id)
            state.replica = state.replica or exchange.new_replica()
            exchange.save(journal, mirror.id, state)
    return state


def _held(journal: Path, mirror: Mirror, claim: Claim) -> LeaseHeldError:
    who = claim.replica or "another copy of it"
    wait = (
        ""
        if claim.expires_s is None
        else f"; it is taken over {duration(_PATIENCE * claim.expires_s)} after its last renewal"
    )
    return LeaseHeldError(
        f"{who} delivers the journal at {journal}; nothing was sent",
        hint=f"its name begins with its machine: sync there, or stop the watcher there{wait}; if "
        f"it is lost: journaltrack mirror --take-over {mirror.path}",
    )


def _bring_back(hold: Hold, *, stay: bool) -> None:
    """Write what this copy attested into the mirror, then release the claim unless it stays."""
    key = (hold.journal, hold.mirror.id)
    if stay:
        _kept[key] = hold
    with _told(hold.journal), exchange.alone(hold.journal, wait_s=_WAIT_S):
        if hold.mirror.is_removed(hold.journal_id):
            # Nobody there needs receipts. They go with the next pass after a node came back.
            segment = exchange.load(hold.journal, hold.mirror.id).number
        else:
            with closing(Shipper(hold.journal, hold.mirror)) as shipper:
                # Others wait with the receipts for what they name.
                shipper.copy_blobs(shipper.ship(), _OWN_MAX)
                segment = shipper.number
        if not stay:
            _kept.pop(key, None)
            file = _file(hold.place, hold.number, "released")
            with shared_files.explained(file, "written"):
                shared_files.write_whole(
                    file, json.dumps({"segment": segment}).encode() + b"\n", hold.mirror.path
                )


@contextlib.contextmanager
def _told(journal: Path) -> Iterator[None]:
    """Log what could not be brought back: the next pass from here does it."""
    try:
        yield
    except JournaltrackError as error:
        logger.warning(
            "the receipts of the journal at %s are not in its mirror yet, and no other copy may "
            "deliver it: %s",
            journal,
            error.message,
        )


def _file(place: Path, number: int, kind: str) -> Path:
    return place / f"{number:08d}.{kind}"


def _members(file: Path) -> dict[str, Any]:
    with shared_files.explained(file, "read"):
        data = shared_files.content(file, _BYTES_MAX)
    try:
        members = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}
