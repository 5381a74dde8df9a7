"""A bundle becomes a journal that can be delivered: unpacked once, and brought up to date by each later bundle of the same journal.

Each journal that arrives in bundles has one folder, ``bundles/<journal id>`` in ``paths.home()``: what was delivered from it is
recorded there, so that a later bundle sends only what is new. Must not know a remote.

Invariant: nothing of a bundle that is not proved gets into that folder; a bundle that was brought already changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from journaltrack.errors import LeaseHeldError
from journaltrack.journal import opening
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import ARRIVED
from journaltrack.replay import lease as leases
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.bundle import layout
from journaltrack.transfer.bundle.reading import Bundle, open_bundle
from journaltrack.transfer.merge.merger import MergeReport, merge
from journaltrack.util import paths

FOLDER: Final = "bundles"
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Arrived:
    """Where the journal of a bundle is now.

    Attributes:
        folder: The journal's.
        journal_id: Of the journal that was bundled.
        merged: What a later bundle brought; None if it is the first one, or was brought already.
        known: Whether this very bundle was brought already.
    """

    folder: Path
    journal_id: str
    merged: MergeReport | None
    known: bool


def bring(path: str | os.PathLike[str], *, into: Path | None = None, on_progress: Callable[[Progress], None] = lambda _: None) -> Arrived:
    """Unpack a bundle, or bring what is new in it into the journal that an earlier one of the same journal became.

    Args:
        path: The bundle.
        into: The folder of all that arrive; None: ``bundles`` in ``paths.home()``.
        on_progress: Called now and then with how many bytes are done, of how many.

    Raises:
        InvalidInputError: There is no such file.
        BundleError: It is damaged, newer than this version, or can't be unpacked. Nothing was changed.
        EvidenceError: It contradicts what an earlier bundle brought. Nothing was changed.
        LeaseHeldError: The journal that it belongs to is being delivered now.
        JournalError: That journal can't be read or written.
    """
    place = into or paths.home() / FOLDER
    with open_bundle(path) as bundle:
        journal_id = bundle.manifest.journal_id
        folder = place / (journal_id if _ID.fullmatch(journal_id) else hashlib.sha256(journal_id.encode()).hexdigest())
        opening.make_folder(place)
        with _alone(folder):
            if not (folder / paths.DATABASE).exists():
                _bring_first(bundle, folder, on_progress)
                return Arrived(folder, journal_id, None, known=False)
            if _manifest_of(folder) == bundle.manifest_sha256:
                return Arrived(folder, journal_id, None, known=True)
            return Arrived(folder, journal_id, _bring_new(bundle, folder, on_progress), known=False)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from unpacking the same journal meanwhile; the kernel frees the lock with the process.

    Raises:
        LeaseHeldError: One does.
    """
    descriptor = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseHeldError(
                f"another process unpacks a bundle of this journal into {folder} now; nothing was changed",
                hint="wait until it has ended, then sync again",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _bring_first(bundle: Bundle, folder: Path, on_progress: Callable[[Progress], None]) -> None:
    """Unpack it, and record that all that it says of deliveries comes from elsewhere, before it has its name."""
    beside = folder.with_name(f".{folder.name}.{bundle.manifest_sha256[:16]}")
    if beside.exists():  # of a run that was killed
        shutil.rmtree(beside)
    bundle.extract(beside, on_progress)
    try:
        _upgrade(bundle, beside)
        with closing(Journal.open(beside, create=False)) as journal:
            heads = journal.database.read(
                "SELECT w.uuid, max(a.writer_seq) FROM attestation a JOIN writer w ON w.id = a.writer_id GROUP BY w.uuid"
            )
            if heads or journal.database.read(f"SELECT 1 FROM delivery d WHERE {ARRIVED} LIMIT 1"):
                lease = leases.acquire(journal.database)
                attestor = Attestor(journal.database, lease)
                with attestor.transaction() as connection:
                    places = {str(uuid): (1, last) for uuid, last in heads if isinstance(last, int)}
                    taken.record(connection, attestor, taken.Origin("bundle", bundle.manifest_sha256), places, whole=True)
                lease.release()
        beside.rename(folder)
        paths.fsync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _bring_new(bundle: Bundle, folder: Path, on_progress: Callable[[Progress], None]) -> MergeReport:
    beside = folder.with_name(f"{folder.name}.{bundle.manifest_sha256[:16]}")
    if beside.exists():  # of a run that was killed; whole, but perhaps not all of it was brought
        shutil.rmtree(beside)
    bundle.extract(beside, on_progress)
    try:
        _upgrade(bundle, beside)
        report = merge([beside], into=folder)
        # Last: until all is brought, the next run brings it again, which changes nothing.
        (beside / layout.MANIFEST).replace(folder / layout.MANIFEST)
        paths.fsync(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return report


def _upgrade(bundle: Bundle, folder: Path) -> None:
    """A bundle of an older version has an older schema: opening brings it up to date, and what it needs can be looked at."""
    with closing(Journal.open(folder, create=False)) as journal:
        bundle.check_contents(journal.database)


def _manifest_of(folder: Path) -> str | None:
    """The SHA-256 of the manifest of the bundle that was brought last."""
    try:
        return hashlib.sha256((folder / layout.MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None
