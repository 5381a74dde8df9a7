"""``journaltrack.bundle``: a journal in one file, to be carried from a machine without a network to one that has it. Changes no journal.

Must not know a remote. Invariants: a bundle is one consistent snapshot with the blobs that it needs, each checked against its digest as
it is copied; a bundle has its name only when it is whole and on the disk; memory does not grow with the entries of the journal.
docs/bundles.md has the format, docs/adr/0014-bundles.md the reasons.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack._version import __version__
from journaltrack.errors import BundleError, BundleSpoolError, InvalidInputError
from journaltrack.journal import view
from journaltrack.journal.spool.copy import Copier
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.sqlite import files
from journaltrack.replay.pass_report import Progress
from journaltrack.transfer.bundle import layout as layouts
from journaltrack.transfer.bundle.layout import Content, Harm, Layout, Manifest, Member
from journaltrack.transfer.bundle.partial import SUFFIX, Partial, exists
from journaltrack.transfer.bundle.snapshot import Snapshot, snapshot
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal

_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class BundleReport:
    """What was bundled.

    Attributes:
        journal, journal_id: From where.
        output: The bundle.
        size_bytes: Its size; ``database_bytes`` and ``blobs_bytes`` of it are the snapshot's and the blobs'.
        blobs: How many are in it.
        left_out: How many are not, because they are delivered.
        damaged: Digests of those that are not, because they are missing from the spool or damaged there.
        last_seq: The newest entry in it. Later ones were recorded meanwhile.
        manifest_sha256: Digest of the manifest: two bundles with the same one are the same.
        resumed_bytes: How much of it an earlier run had written.
    """

    journal: str
    journal_id: str
    output: str
    size_bytes: int
    database_bytes: int
    blobs: int
    blobs_bytes: int
    left_out: int
    damaged: tuple[str, ...]
    last_seq: int
    manifest_sha256: str
    resumed_bytes: int

    def to_json(self) -> dict[str, Any]:
        """What ``json.dumps`` takes."""
        members: dict[str, Any] = view.to_json(self)
        return members


def bundle(
    journal: Journal | str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str],
    all_blobs: bool = False,
    skip_damaged: bool = False,
    restart: bool = False,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    clock_ns: Callable[[], int] = time.time_ns,
) -> BundleReport:
    """Pack a snapshot of a journal and its blobs into one file. Others may go on appending.

    The file is ``TO.partial`` until it is whole. What an interrupted run left there is checked and used: what comes out is then the
    snapshot of that run.

    Args:
        journal: An open journal, a path, or None for the default journal.
        to: The file.
        all_blobs: Also those that are delivered; without it, those that some entry still needs.
        skip_damaged: Leave out blobs that are missing from the spool or damaged, and say so in the bundle.
        restart: Begin anew, whatever an interrupted run left.
        force: Replace the file if it exists.
        on_progress: Called now and then with how many bytes are done, of how many.
        clock_ns: Nanoseconds since the epoch.

    Raises:
        InvalidInputError: The file exists, or an unfinished one belongs to another journal. Nothing was written.
        BundleSpoolError: Blobs are missing or damaged; ``blobs`` has them.
        BundleError: The file can't be written; what there is of it is kept.
        JournalError: The journal can't be read.
    """
    with view.opened(journal) as own, Copier() as copier:
        target = _target(to, own.path, force=force)
        with Partial(target, copier) as unfinished:
            work = _Work(own, unfinished, "all" if all_blobs else "undelivered", on_progress or (lambda _: None), clock_ns)
            harmed: dict[str, Harm] = {}
            while True:
                try:
                    layout, resumed_bytes = work.write(harmed, copier, restart=restart or bool(harmed))
                except BundleSpoolError as error:  # noqa: PERF203 - twice round at most, but for damage that goes on
                    if not skip_damaged:
                        raise
                    harmed |= error.blobs  # the manifest comes first in the file, and names them
                else:
                    break
            unfinished.finish(layout, force=force)
        manifest = layout.manifest
        return BundleReport(
            str(own.path),
            own.journal_id,
            str(target),
            layout.size_bytes,
            manifest.database_bytes,
            len(manifest.blobs),
            sum(manifest.blobs.values()),
            len(manifest.left_out),
            tuple(manifest.damaged or ()),
            manifest.last_seq,
            layout.manifest_sha256,
            resumed_bytes,
        )


class _Work:
    """What one call of ``bundle`` does, until only the end of the file is missing."""

    def __init__(
        self, journal: Journal, partial: Partial, content: Content, on_progress: Callable[[Progress], None], clock_ns: Callable[[], int]
    ) -> None:
        self._journal = journal
        self._spool = Spool(journal.path / paths.SPOOL)
        self._partial = partial
        self._content: Content = content
        self._on_progress = on_progress
        self._clock_ns = clock_ns
        self._done_bytes = self._total_bytes = 0

    def write(self, harmed: dict[str, Harm], copier: Copier, *, restart: bool) -> tuple[Layout, int]:
        """Everything up to the last blob; the layout, and how many bytes were there already.

        Args:
            harmed: Blobs that are known to be missing or damaged: they are left out.
            copier: Hashes and copies.
            restart: Use nothing of what is there.

        Raises:
            BundleSpoolError: Others are, too; all of them are named.
        """
        layout, last = self._resumed(restart=restart)
        resumed_bytes = 0 if last is None else last.end
        if layout is None or last is None:
            with snapshot(self._journal) as taken:
                layout = Layout(self._manifest(taken, harmed, copier))
                if len(layout.manifest_bytes) > limits.MANIFEST_BYTES_MAX:
                    raise BundleError(
                        f"the journal has {len(layout.manifest.blobs)} artifact contents, more than a bundle can list",
                        hint="copy the journal's folder instead",
                    )
                self._begin(layout)
                self._partial.start(layout, taken, self._tell)
            last = layout.database
        blobs = (member for member in layout.blobs() if member.offset >= last.end)
        for member in blobs:
            harm = self._add(layout, member)
            if harm is not None:
                raise self._incomplete({member.sha256: harm} | self._harm_in(blobs, copier))
        return layout, resumed_bytes

    def _resumed(self, *, restart: bool) -> tuple[Layout | None, Member | None]:
        left = self._partial.left(self._journal.journal_id, restart=restart)
        if left is None:
            return None, None
        if left.content != self._content:
            raise InvalidInputError(
                f"{self._partial.path} was begun {'with' if left.content == 'all' else 'without'} --all-blobs; it was left as it is",
                hint="say the same to go on, or begin anew with --restart",
            )
        layout = Layout(left)
        self._begin(layout)
        last = self._partial.resume(layout, self._tell)
        if last is not None:  # what is read of a member that is not whole does not count
            self._done_bytes = layout.database.size_bytes + sum(m.size_bytes for m in layout.blobs() if m.end <= last.end)
        return layout, last

    def _manifest(self, taken: Snapshot, harmed: dict[str, Harm], copier: Copier) -> Manifest:
        wanted = taken.undelivered | (taken.delivered if self._content == "all" else frozenset())
        blobs: dict[str, int] = {}
        missing: dict[str, Harm] = {}
        for sha256 in sorted(wanted - harmed.keys()):
            if self._spool.has(sha256):
                blobs[sha256] = self._spool.path_of(sha256).lstat().st_size
            elif sha256 in taken.undelivered:  # of others, S3 holds the content: they are left out, as without --all-blobs
                missing[sha256] = "missing"
        if missing:
            raise self._incomplete(missing)
        os.lseek(taken.descriptor, 0, os.SEEK_SET)
        database_sha256 = copier.digest(taken.descriptor, taken.size_bytes)
        os.lseek(taken.descriptor, 0, os.SEEK_SET)
        return Manifest(
            self._journal.journal_id,
            self._clock_ns(),
            __version__,
            layouts.host_of(socket.gethostname()),
            taken.last_seq,
            self._content,
            taken.size_bytes,
            database_sha256,
            blobs,
            tuple(sorted(taken.delivered - blobs.keys() - harmed.keys())),
            dict(sorted(harmed.items())),
        )

    def _add(self, layout: Layout, member: Member) -> Harm | None:
        """Copy a blob; what is wrong with it, if anything is."""
        return self._harm(member, lambda source: self._partial.add(layout, member, source, self._tell))

    def _harm_in(self, members: Iterable[Member], copier: Copier) -> dict[str, Harm]:
        """What is wrong with the rest: a person shall learn of it at once, and not blob by blob."""
        found: dict[str, Harm] = {}
        for member in members:
            harm = self._harm(member, partial(copier.digest, size_bytes=member.size_bytes))
            if harm is not None:
                found[member.sha256] = harm
        return found

    def _harm(self, member: Member, read: Callable[[int], str]) -> Harm | None:
        """What is wrong with a blob; ``read`` gives the digest of what it reads from a descriptor."""
        try:
            with files.opened_blob(self._spool.path_of(member.sha256)) as source:
                whole = os.fstat(source).st_size == member.size_bytes and read(source) == member.sha256
        except FileNotFoundError:
            return "missing"
        except (OSError, ValueError):
            return "damaged"
        return None if whole else "damaged"

    def _incomplete(self, harmed: dict[str, Harm]) -> BundleSpoolError:
        some = ", ".join(f"{sha256} is {harm}" for sha256, harm in sorted(harmed.items())[:_NAMED_MAX])
        more = f", and {len(harmed) - _NAMED_MAX} more" if len(harmed) > _NAMED_MAX else ""
        return BundleSpoolError(
            f"blobs in the spool of {self._journal.path} are not what was logged: {some}{more}; the bundle was not finished",
            hint="`journaltrack doctor --repair --restore-from FOLDER` takes their bytes from wherever the files are still; "
            "--skip-damaged bundles all the others",
            blobs=harmed,
        )

    def _begin(self, layout: Layout) -> None:
        self._done_bytes = 0
        self._total_bytes = layout.manifest.database_bytes + sum(layout.manifest.blobs.values())
        self._on_progress(Progress(0, self._total_bytes, 0))

    def _tell(self, count_bytes: int) -> None:
        self._done_bytes += count_bytes
        self._on_progress(Progress(self._done_bytes, self._total_bytes, 0))


def _target(to: str | os.PathLike[str], journal: Path, *, force: bool) -> Path:
    """Where the bundle goes, links followed; nothing but a regular file is ever replaced, and nothing inside of the journal."""
    target = paths.expanded(to).resolve()
    if target.is_relative_to(journal.resolve()):
        raise InvalidInputError(f"{target} is inside of the journal", hint="a journal's folder is its own: name a file elsewhere")
    if target.is_dir() or (target.exists() and not target.is_file()):
        raise InvalidInputError(f"{target} is not a file", hint="name a file")
    if target.name.endswith(SUFFIX):
        raise InvalidInputError(f"{target} has the name of an unfinished bundle", hint=f"name it without {SUFFIX}")
    if target.exists() and not force:
        raise exists(target)
    if not target.parent.is_dir():
        raise InvalidInputError(f"there is no folder {target.parent}", hint="make it first, or name another one")
    return target
