"""Bring bundles to where they can be delivered: one journal for all bundles of a journal.

The first bundle is unpacked. Of each later one, what is new is added. Each such journal has one
folder, ``bundles/<journal id>`` in ``paths.home()``. What was delivered from it is recorded there,
so that a later bundle sends only what is new.

Must not know a remote, or the tracker. Invariants: nothing unproved of a bundle gets into the
folder of its journal, and a bundle that was brought already changes nothing.
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
from journaltrack.journal import first_steps
from journaltrack.journal.journal import Journal
from journaltrack.journal.queries import ARRIVED
from journaltrack.replay.evidence import taken
from journaltrack.replay.evidence.attestations import Attestor
from journaltrack.replay.lease import acquire
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.bundle.layout import MANIFEST
from journaltrack.transfer.bundle.unpack import Bundle, open_bundle
from journaltrack.transfer.merge import MergeReport, merge
from journaltrack.util import paths

FOLDER: Final = "bundles"
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Arrived:
    """Say where the journal of a bundle is now.

    Attributes:
        folder: The journal's.
        journal_id: Of the journal that was bundled.
        merged: What a later bundle brought; None for the first one, or one brought already.
        known: Whether this very bundle was brought already.
    """

    folder: Path
    journal_id: str
    merged: MergeReport | None
    known: bool


def bring(
    path: str | os.PathLike[str],
    *,
    into: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Arrived:
    """Unpack a bundle, or add what is new in it to the journal of an earlier bundle.

    Args:
        path: The bundle.
        into: The folder of all journals that arrive; None: ``bundles`` in ``paths.home()``.
        on_progress: Called now and then with how many bytes are done, of how many.

    Raises:
        InvalidInputError: There is no such file.
        BundleError: It is damaged, newer than this version, or can't be unpacked. No changes were
            made.
        EvidenceError: It contradicts what an earlier bundle brought. No changes were made.
        LeaseHeldError: The journal that it belongs to is being delivered now.
        JournalError: That journal can't be read or written.
    """
    place = into or paths.home() / FOLDER
    with open_bundle(path) as bundle:
        journal_id = bundle.manifest.journal_id
        folder = place / (
            journal_id
            if _ID.fullmatch(journal_id)
            else hashlib.sha256(journal_id.encode()).hexdigest()
        )
        first_steps.make_folder(place)
        with _alone(folder):
            if not (folder / paths.DATABASE).exists():
                _bring_first(bundle, folder, on_progress)
                return Arrived(folder, journal_id, None, known=False)
            if _manifest_of(folder) == bundle.manifest_sha256:
                return Arrived(folder, journal_id, None, known=True)
            return Arrived(folder, journal_id, _bring_new(bundle, folder, on_progress), known=False)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from unpacking the same journal.

    The kernel frees the lock with the process.

    Raises:
        LeaseHeldError: Another process unpacks it.
    """
    descriptor = os.open(
        folder.with_name(f".{folder.name}.lock"),
        os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseHeldError(
                f"another process unpacks a bundle of this journal into {folder} now; nothing "
                "was changed",
                hint="wait until it ends, then sync again",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _bring_first(bundle: Bundle, folder: Path, on_progress: Callable[[Progress], None]) -> None:
    """Unpack the first bundle of a journal.

    Before the folder gets its name, record that its claims of delivery come from elsewhere.
    """
    beside = folder.with_name(f".{folder.name}.{bundle.manifest_sha256[:16]}")
    # A killed run left it.
    if beside.exists():
        shutil.rmtree(beside)
    bundle.extract(beside, on_progress)
    try:
        _upgrade(bundle, beside)
        with closing(Journal.open(beside, create=False)) as journal:
            heads = journal.database.read(
                "SELECT w.uuid, max(a.writer_seq) FROM attestation a "
                "JOIN writer w ON w.id = a.writer_id GROUP BY w.uuid"
            )
            if heads or journal.database.read(f"SELECT 1 FROM delivery d WHERE {ARRIVED} LIMIT 1"):
                lease = acquire(journal.database)
                attestor = Attestor(journal.database, lease)
                with attestor.transaction() as connection:
                    places = {str(uuid): (1, last) for uuid, last in heads if isinstance(last, int)}
                    taken.record(
                        connection,
                        attestor,
                        taken.Origin("bundle", bundle.manifest_sha256),
                        places,
                        whole=True,
                    )
                lease.release()
        beside.rename(folder)
        paths.fsync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _bring_new(
    bundle: Bundle, folder: Path, on_progress: Callable[[Progress], None]
) -> MergeReport:
    beside = folder.with_name(f"{folder.name}.{bundle.manifest_sha256[:16]}")
    # A killed run left it: complete, but perhaps not all of it was brought.
    if beside.exists():
        shutil.rmtree(beside)
    bundle.extract(beside, on_progress)
    try:
        _upgrade(bundle, beside)
        report = merge([beside], into=folder)
        # Last: until everything is brought, the next run brings it again, which changes nothing.
        (beside / MANIFEST).replace(folder / MANIFEST)
        paths.fsync(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return report


def _upgrade(bundle: Bundle, folder: Path) -> None:
    """Upgrade an older bundle's schema, so that its needs can be checked."""
    with closing(Journal.open(folder, create=False)) as journal:
        bundle.check_contents(journal.database)


def _manifest_of(folder: Path) -> str | None:
    """Return the SHA-256 of the manifest of the bundle that was brought last."""
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None
