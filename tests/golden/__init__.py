"""Journals as released versions wrote them; see README.md."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).parent
REVISIONS = sorted(path.name for path in HERE.iterdir() if (path / "journal.sql").is_file())


def restore(revision: str, folder: Path) -> Path:
    """Make the journal of that revision in a folder of its own, which it returns."""
    folder.mkdir(mode=0o700, parents=True)
    shutil.copytree(HERE / revision / "spool", folder / "spool")
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        connection.executescript((HERE / revision / "journal.sql").read_text(encoding="utf-8"))
        connection.execute("PRAGMA journal_mode=WAL")
    (folder / "journal.db").chmod(0o600)
    return folder
