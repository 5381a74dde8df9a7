"""Are the artifact bytes there that the entries name, and whole? Follows no link, opens regular files in the spool alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from journaltrack.doctor.findings import Finding
from journaltrack.reports.proof.check import blob_problem, is_absent, needed_contents, references_without_blob
from journaltrack.reports.proof.replayed import Evidence, attestation_problems
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database


def check_spool(database: Database, progress: Callable[[int], None] = lambda _: None) -> Iterator[Finding]:
    """Every recorded content, and every file in the spool.

    Args:
        database: Of the journal.
        progress: Told the bytes of each content when it has been read.
    """
    folder = database.path.parent
    wanted = needed_contents(database)
    evidence = Evidence()
    attestation_problems(database, evidence)
    removed = evidence.blobs_removed - wanted
    recorded = database.read("SELECT sha256, size_bytes FROM blob ORDER BY sha256")
    bad: dict[str, str] = {}
    for sha256, size_bytes in recorded:
        if sha256 in removed and is_absent(folder / paths.SPOOL, sha256):
            continue  # on the record: see ``prune``
        message = blob_problem(folder / paths.SPOOL, sha256, size_bytes)
        if message is not None:
            bad[str(sha256)] = message
        progress(size_bytes if isinstance(size_bytes, int) else 0)
    needed = {sha256: message for sha256, message in bad.items() if sha256 in wanted}
    if needed:
        yield Finding(
            "spool",
            "problem",
            _listed(needed),
            "artifacts with these bytes can't be delivered; all else can",
            "journaltrack doctor --repair --restore-from FOLDER takes them from wherever the files are still; then journaltrack retry",
            "spool",
            tuple(sorted(needed)),
        )
    done = {sha256: message for sha256, message in bad.items() if sha256 not in wanted}
    if done:
        yield Finding(
            "spool",
            "note",
            _listed(done),
            "they are delivered: S3 holds them",
            "nothing, unless you want them here too",
            None,
            tuple(sorted(done)),
        )
    for problem in references_without_blob(database):
        yield Finding(
            "spool",
            "problem",
            problem.message,
            "the artifact can't be delivered unless its bytes are found",
            "journaltrack doctor --repair --restore-from FOLDER; then journaltrack retry",
            "spool",
            (str(problem.sha256),),
        )
    yield from _strangers(folder, {str(sha256) for sha256, _ in recorded})


def _listed(bad: dict[str, str]) -> str:
    messages = [bad[sha256] for sha256 in sorted(bad)]
    return "; ".join(messages[:3]) + (f"; and {len(messages) - 3} more" if len(messages) > 3 else "")  # noqa: PLR2004


def _strangers(folder: Path, recorded: set[str]) -> Iterator[Finding]:
    strangers = [path for path in files_in_spool(folder) if path.name not in recorded and not path.name.startswith("incoming-")]
    if strangers:
        yield Finding(
            "spool",
            "note",
            f"files in the spool that belong to no entry: {len(strangers)}",
            "a kill left them before their call was recorded, or their entry is on a page that is lost: they are kept",
            "remove them by hand if the journal is otherwise well",
            subjects=tuple(str(path.relative_to(folder)) for path in strangers[:100]),
        )


def files_in_spool(folder: Path) -> Iterator[Path]:
    """All files of the spool (two levels; links are not followed)."""
    spool = folder / paths.SPOOL
    if spool.is_symlink() or not spool.is_dir():
        return
    with os.scandir(spool) as found:
        for entry in sorted(found, key=lambda e: e.name):
            if entry.is_dir(follow_symlinks=False):
                with os.scandir(entry.path) as inside:
                    yield from (Path(e.path) for e in sorted(inside, key=lambda e: e.name))
            else:
                yield Path(entry.path)
