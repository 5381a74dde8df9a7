"""Where attestations come from when they come from elsewhere: what a source offers, and how each is seen to be in its chain.

Must not know SQLite. Nothing here follows an attestation: that is ``applier``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from journaltrack import limits
from journaltrack.errors import EvidenceError
from journaltrack.journal import entries as vocabulary
from journaltrack.util.intervals import as_text

if TYPE_CHECKING:
    from journaltrack.replay.evidence.taken import Origin

_SINCE_0002: Final = 9
"""The place of the first column that format 0001 did not have."""


class WriterRow(NamedTuple):
    """A process as it described itself (``schema.WRITER_COLUMNS``), and the digest of that; None in format 0001."""

    columns: tuple[Any, ...]
    digest: bytes | None

    @property
    def uuid(self) -> str:
        """Its unique id."""
        return str(self.columns[0])

    @property
    def begin(self) -> bytes:
        """What its chain of entries begins with."""
        return self.digest if self.digest is not None else vocabulary.chain_start(self.uuid)


class Attested(NamedTuple):
    """An attestation as it was made."""

    uuid: str
    writer_seq: int
    body: str
    digest: bytes


class Source(Protocol):
    """Where attestations come from."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def origin(self) -> Origin:
        """What is recorded of where they come from."""

    @property
    def writers(self) -> Mapping[str, WriterRow]:
        """The processes that made them, and perhaps others."""

    @property
    def heads(self) -> Mapping[str, int]:
        """How many attestations of each process there are."""

    def attestations(self) -> Iterator[Attested]:
        """All of them, in the order in which they came into that journal; again from the beginning at each call."""


def check_writer(row: WriterRow, where: str) -> None:
    """See that a process is as it described itself.

    Raises:
        EvidenceError: It is not.
    """
    if row.digest is None and all(column is None for column in row.columns[_SINCE_0002:]):
        return
    try:
        right = vocabulary.description_digest(*row.columns) == row.digest
    except (TypeError, ValueError):
        right = False
    if not right:
        raise forged(where, f"the process {limits.shown(row.uuid)} is not as it described itself")


def check_link(each: Attested, chain: tuple[int, bytes], where: str) -> None:
    """See that an attestation comes next in its chain, given the place and digest of the one before.

    Raises:
        EvidenceError: It does not.
    """
    if each.writer_seq != chain[0] + 1:
        raise forged(where, f"{which(each)} comes where {chain[0] + 1} was expected: some are missing")
    if not each.body.isascii() or vocabulary.attestation_next(chain[1], each.body) != each.digest:
        raise forged(where, f"{which(each)} is not what was attested: its digest does not fit its body")


def forged(where: str, what: str) -> EvidenceError:
    """The refusal of what contradicts itself or what is here."""
    return EvidenceError(
        f"{where}: {what}; nothing was taken over",
        hint="get it anew from where it was made; if it is the same there, `journaltrack check` says which journal was changed",
    )


def which(each: Attested) -> str:
    """It, for a message."""
    return f"attestation {each.writer_seq} of the process {limits.shown(each.uuid)}"


def joined(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same with neighbouring runs joined."""
    runs: list[list[int]] = []
    for first, last in places:
        if runs and first == runs[-1][1] + 1:
            runs[-1][1] = last
        else:
            runs.append([first, last])
    return [(first, last) for first, last in runs]


def text_of(places: Iterable[tuple[int, int]]) -> str:
    """Runs as text, neighbours joined."""
    return as_text(joined(places))
