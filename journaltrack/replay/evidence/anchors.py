"""An anchor: the document that holds the heads of a journal's chains outside of it. Pure: text in, values out.

It names, by the writer's uuid, the number and digest of the newest entry and the newest attestation of every process that has
recorded something since the document before, and that one's SHA-256. docs/journal-format.md has its members.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from journaltrack._version import __version__

Heads: TypeAlias = Mapping[str, tuple[int, str]]
"""By a writer's uuid: the number and the digest (hexadecimal) of the newest link of its chain."""
Kind: TypeAlias = Literal["entries", "attestations"]

FORMAT: Final = "journaltrack-anchor"
VERSION: Final = 1
BYTES_MAX: Final = 64 << 20
"""Ours: of a document that is read; one has 150 bytes for each process that logged since the one before."""


@dataclass(frozen=True, slots=True)
class Document:
    """What an anchor says. ``previous`` is the SHA-256 of the one before, None for the first; ``made_at_ns`` is nanoseconds since the epoch."""

    journal_id: str
    number: int
    previous: str | None
    made_at_ns: int
    entries: Heads
    attestations: Heads

    def encode(self) -> bytes:
        """As it is stored."""
        told = {
            "format": FORMAT,
            "version": VERSION,
            "journal_id": self.journal_id,
            "number": self.number,
            "previous": self.previous,
            "made_at_ns": self.made_at_ns,
            "made_by": f"journaltrack {__version__}",
            "entries": self.entries,
            "attestations": self.attestations,
        }
        return json.dumps(told, separators=(",", ":")).encode()


def folder_of(journal_id: str) -> str:
    """Where the anchors of a journal are, below the prefix of its artifacts."""
    return f"journaltrack-anchors/{journal_id}"


def name_of(number: int, sha256: str) -> str:
    """The name of a document: its number, and its SHA-256."""
    return f"{number:08d}-{sha256}.json"


def decode(content: bytes) -> Document | None:
    """What a document says; None if it is none of ours."""
    try:
        told = json.loads(content) if len(content) <= BYTES_MAX else None
        if not isinstance(told, dict) or told["format"] != FORMAT or told["version"] != VERSION:
            return None
        document = Document(
            told["journal_id"], told["number"], told["previous"], told["made_at_ns"], _heads(told["entries"]), _heads(told["attestations"])
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = isinstance(document.journal_id, str) and isinstance(document.number, int) and isinstance(document.previous, (str, type(None)))
    return document if sound and isinstance(document.made_at_ns, int) else None


def _heads(told: dict[str, list[object]]) -> dict[str, tuple[int, str]]:
    heads = {}
    for uuid, (number, digest) in told.items():
        if type(number) is not int or number < 1 or not isinstance(digest, str):
            raise TypeError
        heads[uuid] = (number, digest)
    return heads
