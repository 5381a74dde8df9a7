"""What a disk may hold after a loss of power, given what a program did (``disktrace``).

Certain is only what was synced: bytes by an fsync of their file, names by an fsync of their folder.
Of everything else any part may be there: each write in pieces of a sector, each change of a name by
itself. That is more than real file systems lose (they keep some order), and nothing that POSIX
forbids.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

SECTOR = 512
CHOICES = ("nothing", "everything", "random", "random")


class File:
    """Bytes, those that are certain and the changes that are not yet."""

    def __init__(self):
        self.certain = bytearray()
        self.pending = []  # (offset, bytes) or (size, None): a write or a truncation

    def sync(self):
        """fsync(2)."""
        for change in self.pending:
            _apply(self.certain, *change)
        self.pending.clear()

    def after(self, choice, chance):
        """What may be on the disk."""
        content = bytearray(self.certain)
        for offset, data in self.pending:
            if choice == "everything":
                _apply(content, offset, data)
            elif choice == "random" and data is None:
                if chance.random() < 0.5:
                    _apply(content, offset, None)
            elif choice == "random":
                for start, part in sectors(offset, data):
                    if chance.random() < 0.5:
                        _apply(content, start, part)
                    elif chance.random() < 0.3 and len(content) < start + len(part):
                        # the size arrived, the bytes did not
                        content.extend(bytes(start + len(part) - len(content)))
        return bytes(content)


class Folder:
    """Names, those that are certain and the changes that are not yet."""

    def __init__(self):
        self.certain = {}
        self.now = {}
        self.pending = []  # {name: File, Folder, or None for none}: all of it or nothing

    def change(self, **names):
        """A call that changes names: all of them at once, or not at all."""
        self.pending.append(names)
        _rename(self.now, names)

    def sync(self):
        """fsync(2) of a folder."""
        self.certain = dict(self.now)
        self.pending.clear()

    def after(self, choice, chance):
        """The names that may be there."""
        names = dict(self.certain)
        for change in self.pending:
            if choice == "everything" or (choice == "random" and chance.random() < 0.5):
                _rename(names, change)
        return names


class Disk:
    """All files below a folder, as far as events have come."""

    def __init__(self, root):
        self.root = str(root)
        self.top = Folder()

    def apply(self, event):
        """One event further."""
        kind, path = event.kind, event.path
        if kind == "fsync":
            found = self.find(path)
            if found is not None:
                found.sync()
        elif kind == "create":
            self.parent(path).change(**{os.path.basename(path): File()})
        elif kind == "mkdir":
            self.parent(path).change(**{os.path.basename(path): Folder()})
        elif kind in {"unlink", "rmdir"}:
            self.parent(path).change(**{os.path.basename(path): None})
        elif kind == "rename":
            self.move(path, event.to)
        elif kind == "link":
            self.parent(event.to).change(**{os.path.basename(event.to): self.find(path)})
        elif kind in {"write", "truncate"}:
            found = self.find(path)
            if found is not None:  # else it was unlinked, and nobody will see it
                found.pending.append((event.offset, event.data if kind == "write" else None))

    def move(self, path, to):
        """A rename: within a folder one change, between two of them one in each."""
        moved, name, new = self.find(path), os.path.basename(path), os.path.basename(to)
        if os.path.dirname(path) == os.path.dirname(to):
            self.parent(path).change(**{name: None, new: moved})
        else:
            self.parent(to).change(**{new: moved})
            self.parent(path).change(**{name: None})

    def find(self, path):
        """The file or folder of that name now, or None."""
        found = self.top
        for part in os.path.relpath(path, self.root).split(os.sep):
            if part == ".":
                continue
            found = found.now.get(part) if isinstance(found, Folder) else None
        return found

    def parent(self, path):
        """The folder that the name is in."""
        return self.find(os.path.dirname(path))

    def write_to(self, target, choice, seed):
        """Make a folder that holds what the disk may hold now."""
        chance = random.Random(seed)
        written = {}  # a file under two names is one file

        def write(folder, path):
            path.mkdir(mode=0o700)
            for name, found in folder.after(choice, chance).items():
                if isinstance(found, Folder):
                    write(found, path / name)
                elif id(found) in written:
                    os.link(written[id(found)], path / name)
                else:
                    (path / name).write_bytes(found.after(choice, chance))
                    written[id(found)] = path / name

        write(self.top, Path(target))


def sectors(offset, data):
    """A write in the pieces that a disk writes whole."""
    start = offset
    while start < offset + len(data):
        end = min(offset + len(data), (start // SECTOR + 1) * SECTOR)
        yield start, data[start - offset : end - offset]
        start = end


def _apply(content, offset, data):
    if data is None:
        if offset < len(content):
            del content[offset:]
        else:
            content.extend(bytes(offset - len(content)))
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _rename(names, change):
    for name, found in change.items():
        if found is None:
            names.pop(name, None)
        else:
            names[name] = found
