"""Let one copy of a mirrored journal deliver it, and bring its receipts to the others.

A *claim* is a file in the mirror: ``<journal id>/delivery/00000001.claim``. It names the replica
that delivers the journal. The next number is free once its maker has released it, after its
receipts were written into the mirror. So there is no clock in it, and no cached listing does harm:
to make a claim, its file must be new to the server, and whoever sees an old claim or misses a
release waits. If the maker was killed, it goes on: its claim is still its own. If it is lost, the
operator takes the claim over. Then what it may have sent is in doubt.

Must not know a remote.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from journaltrack.errors import JournaltrackError, LeaseHeldError, MirrorError
from journaltrack.journal.journal import Journal
from journaltrack.mirror import exchange, folders
from journaltrack.mirror.exchange import State
from journaltrack.mirror.folders import Mirror
from journaltrack.mirror.ship import UNSETTLED, Shipper
from journaltrack.mirror.take import fetch_bytes, make_empty
from journaltrack.transfer.merge import merge_source
from journaltrack.transfer.merge_source import Found, JournalSource
from journaltrack.util import paths
from journaltrack.util.intervals import SEQ_MAX, extend

logger = logging.getLogger(__name__)

FOLDER: Final = "delivery"
LOCK: Final = "mirror-delivery.lock"
LOST: Final = "the copy that delivered the journal was lost: it may have sent it"
_FILE: Final = re.compile(r"(\d{8,18})\.(claim|released)")
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
    """

    number: int = 0
    replica: str = ""
    released: int | None = None

    @property
    def is_held(self) -> bool:
        """Return whether its maker may still deliver."""
        return self.number > 0 and self.released is None


def is_mirrored(journal: Path) -> bool:
    """Return whether a journal has a mirror, or is a copy made of one."""
    return (journal / paths.MIRRORED).exists()


@contextlib.contextmanager
def delivering(journal: Path, *, stay: bool = False) -> Iterator[None]:
    """Deliver a mirrored journal for the block, unless another copy delivers it.

    Behind the block, what it attested is in the mirror. Without a mirror, this does nothing.

    Args:
        journal: Its folder.
        stay: Keep the claim behind the block, as a watcher does.

    Raises:
        LeaseHeldError: Another copy delivers the journal, or its receipts are not here yet.
        MirrorError: The mirror can't be read or written: nobody can tell. Nothing was sent.
    """
    if not is_mirrored(journal):
        yield
        return
    # Else one process could release the claim while another one of the same copy sends.
    with exchange.alone(journal, name=LOCK):
        held = []
        try:
            for mirror_id, state in exchange.all_of(journal).items():
                mirror = _mirror_of(journal, mirror_id, state)
                held.append((mirror, _claimed(journal, mirror)))
                with closing(Journal.open(journal, create=False, read_only=True)) as opened:
                    fetch_bytes(opened, mirror)
            yield
        finally:
            for mirror, number in held:
                _bring_back(journal, mirror, number, stay=stay)


def take_over(journal: Path, mirror: Mirror) -> int:
    """Claim a journal that a lost copy has claimed; return how many points are in doubt by that.

    The lost copy may have sent points without anybody knowing: those that are pending here.

    Raises:
        JournalError: The journal or the mirror can't be read or written.
    """
    with exchange.alone(journal, name=LOCK):
        claim = newest(mirror, _id_of(journal))
        state = _named(journal, mirror)
        if not claim.is_held or claim.replica == state.replica:
            return 0
        with (
            tempfile.TemporaryDirectory(prefix="journaltrack-") as place,
            closing(Journal.open(journal, create=False)) as opened,
        ):
            make_empty(Path(place, paths.DATABASE), opened.journal_id)
            with closing(Journal.open(place, create=False, read_only=True)) as nothing:
                done = merge_source(opened, _MaybeSent(nothing, opened))
        _put(journal, mirror, claim.number + 1, state.replica)
        return done.taken_as_found


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
            claim = newest(mirror, _id_of(journal))
            if claim.is_held and claim.replica == state.replica:
                _bring_back(journal, mirror, claim.number, stay=False)


def newest(mirror: Mirror, journal_id: str) -> Claim:
    """Return the newest claim of a journal.

    Raises:
        MirrorError: It can't be read.
    """
    place = mirror.path / journal_id / FOLDER
    found = [m for name in folders.names(place) if (m := _FILE.fullmatch(name))]
    number = max((int(m[1]) for m in found), default=0)
    if not number:
        return Claim()
    replica = _member(_file(place, number, "claim"), "replica")
    segment = (
        _member(_file(place, number, "released"), "segment")
        if any(m[2] == "released" and int(m[1]) == number for m in found)
        else None
    )
    is_known = isinstance(segment, int) and isinstance(replica, str)
    return Claim(number, replica if isinstance(replica, str) else "", segment if is_known else None)


def _mirror_of(journal: Path, mirror_id: str, state: State) -> Mirror:
    mirror = folders.opened(state.folder)
    if mirror.id != mirror_id:
        raise MirrorError(
            f"{state.folder} is another mirror than the one of the journal at {journal}; nothing "
            "was sent",
            hint=f"mount the mirror there again, or remove {journal / paths.MIRRORED}",
        )
    return mirror


def _claimed(journal: Path, mirror: Mirror) -> int:
    """Claim the journal for this copy; return the claim's number.

    Raises:
        LeaseHeldError: Another copy has claimed it.
    """
    journal_id = _id_of(journal)
    state = _named(journal, mirror)
    claim = newest(mirror, journal_id)
    if claim.is_held:
        if claim.replica != state.replica:
            raise _held(journal, mirror, claim)
        return claim.number
    if claim.number and claim.replica != state.replica:
        seen = state.seen.get(claim.replica)
        if (claim.released or 0) > (seen.number if seen is not None else 0):
            raise LeaseHeldError(
                f"the receipts of {claim.replica}, which delivered the journal at {journal} "
                "before, are not here yet; nothing was sent",
                hint="sync the mirror's folder again in a minute",
            )
    _put(journal, mirror, claim.number + 1, state.replica)
    return claim.number + 1


def _named(journal: Path, mirror: Mirror) -> State:
    """Return what is known of the mirror, with a name for this copy."""
    state = exchange.load(journal, mirror.id)
    if not state.replica:
        with exchange.alone(journal, wait_s=_WAIT_S):
            state = exchange.load(journal, mirror.id)
            state.replica = state.replica or exchange.new_replica()
            exchange.save(journal, mirror.id, state)
    return state


def _put(journal: Path, mirror: Mirror, number: int, replica: str) -> None:
    place = mirror.path / _id_of(journal) / FOLDER
    data = json.dumps({"replica": replica, "token": os.urandom(16).hex()}).encode() + b"\n"
    file = _file(place, number, "claim")
    with folders.explained(file, "written"):
        folders.make_folder(place, mirror.path)
        if not folders.put_new(file, data, mirror.path):
            raise _held(journal, mirror, newest(mirror, _id_of(journal)))
        # Nobody needs the ones before.
        for name in folders.names(place):
            if (found := _FILE.fullmatch(name)) and int(found[1]) < number:
                (place / name).unlink(missing_ok=True)


def _held(journal: Path, mirror: Mirror, claim: Claim) -> LeaseHeldError:
    who = claim.replica or "another copy of it"
    return LeaseHeldError(
        f"{who} delivers the journal at {journal}; nothing was sent",
        hint="its name begins with its machine: sync there, or stop the watcher there; if it is "
        f"lost: journaltrack mirror --take-over {mirror.path}",
    )


def _bring_back(journal: Path, mirror: Mirror, number: int, *, stay: bool) -> None:
    """Write what this copy attested into the mirror, then release the claim."""
    with _told(journal), exchange.alone(journal, wait_s=_WAIT_S):
        with closing(Shipper(journal, mirror)) as shipper:
            shipper.ship()
            segment = shipper.number
        if not stay:
            file = _file(mirror.path / _id_of(journal) / FOLDER, number, "released")
            with folders.explained(file, "written"):
                folders.write_whole(
                    file, json.dumps({"segment": segment}).encode() + b"\n", mirror.path
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


def _id_of(journal: Path) -> str:
    with closing(Journal.open(journal, create=False, read_only=True)) as opened:
        return opened.journal_id


def _file(place: Path, number: int, kind: str) -> Path:
    return place / f"{number:08d}.{kind}"


def _member(file: Path, name: str) -> Any:  # noqa: ANN401 - json's
    with folders.explained(file, "read"):
        data = folders.content(file, _BYTES_MAX)
    try:
        members = json.loads(data or b"")
        return members.get(name) if isinstance(members, dict) else None
    except (ValueError, RecursionError):
        return None
