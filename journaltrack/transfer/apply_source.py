"""Check attestations from elsewhere before any of them is taken over.

``apply`` takes them over in many transactions. So a source is read here from its first attestation
to its last. If it contradicts itself or this journal, it is refused before the first transaction.
The module changes nothing.
"""

from __future__ import annotations

import bisect
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

from journaltrack import limits
from journaltrack.errors import EvidenceError
from journaltrack.journal import vocabulary
from journaltrack.journal.chain import is_described
from journaltrack.journal.places import Places
from journaltrack.journal.schema import schema
from journaltrack.replay.evidence import statements, taken
from journaltrack.replay.evidence.statements import Group, Named, Said, looked

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.evidence.taken import Origin

T = TypeVar("T")
_HEADS: Final = (
    "SELECT w.uuid, max(a.writer_seq) FROM attestation a JOIN writer w ON w.id = a.writer_id "
    "GROUP BY a.writer_id"
)
_DESCRIBED: Final = ", ".join(schema.WRITER_COLUMNS)
_INSERT_WRITER: Final = schema.insert_writer_sql()


class WriterRow(NamedTuple):
    """A process as it described itself.

    Attributes:
        columns: By ``schema.WRITER_COLUMNS``.
        digest: Of the columns; None in format 0001.
    """

    columns: tuple[Any, ...]
    digest: bytes | None

    @property
    def uuid(self) -> str:
        """Return its unique id."""
        return str(self.columns[0])

    @property
    def begin(self) -> bytes:
        """Return what its chain of entries begins with."""
        return self.digest if self.digest is not None else vocabulary.chain_start(self.uuid)


class Attested(NamedTuple):
    """An attestation as it was made."""

    uuid: str
    writer_seq: int
    body: str
    digest: bytes


class Source(Protocol):
    """Offers attestations."""

    @property
    def name(self) -> str:
        """Return its name for messages."""

    @property
    def origin(self) -> Origin:
        """Return what is recorded of where the attestations come from."""

    @property
    def writers(self) -> Mapping[str, WriterRow]:
        """Return the processes that made the attestations, and perhaps others, by uuid."""

    @property
    def heads(self) -> Mapping[str, int]:
        """Return how many attestations of each process there are, by uuid."""

    def attestations(self) -> Iterator[Attested]:
        """Yield all attestations in the order in which they came into that journal.

        Each call starts again from the first one.
        """


def check_writer(row: WriterRow, where: str) -> None:
    """Check that a process is as it described itself.

    Raises:
        EvidenceError: It is not.
    """
    if not is_described(row.digest, row.columns):
        raise forged(where, f"the process {limits.shown(row.uuid)} is not as it described itself")


def check_link(each: Attested, chain: tuple[int, bytes], where: str) -> None:
    """Check that an attestation comes next in its chain.

    Args:
        each: The attestation.
        chain: Place and digest of the one before.
        where: The source, for the message.

    Raises:
        EvidenceError: It does not.
    """
    if each.writer_seq != chain[0] + 1:
        raise forged(
            where, f"{which(each)} comes where {chain[0] + 1} was expected: some are missing"
        )
    if not each.body.isascii() or vocabulary.attestation_next(chain[1], each.body) != each.digest:
        raise forged(
            where, f"{which(each)} is not what was attested: its digest does not fit its body"
        )


def forged(where: str, what: str) -> EvidenceError:
    """Make the error for a source that contradicts itself or this journal."""
    return EvidenceError(
        f"{where}: {what}; nothing was taken over",
        hint="get it again from where it was made; if that fails, run `journaltrack check` there",
    )


def which(each: Attested) -> str:
    """Name an attestation for a message."""
    return f"attestation {each.writer_seq} of the process {limits.shown(each.uuid)}"


class Coverage(Generic[T]):
    """Keeps the claims about places of one writer; the last one about a place holds."""

    __slots__ = ("_claims", "_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._claims: list[T] = []

    def put(self, first: int, last: int, claim: T | None) -> None:
        """Give these places this claim; None removes their claims."""
        if not self._lasts or first > self._lasts[-1]:
            if claim is not None:
                self._firsts.append(first)
                self._lasts.append(last)
                self._claims.append(claim)
            return
        start = bisect.bisect_left(self._lasts, first)
        end = bisect.bisect_right(self._firsts, last)
        firsts, lasts, claims = [], [], []
        if start < end and self._firsts[start] < first:
            firsts.append(self._firsts[start])
            lasts.append(first - 1)
            claims.append(self._claims[start])
        if claim is not None:
            firsts.append(first)
            lasts.append(last)
            claims.append(claim)
        if start < end and self._lasts[end - 1] > last:
            firsts.append(last + 1)
            lasts.append(self._lasts[end - 1])
            claims.append(self._claims[end - 1])
        self._firsts[start:end], self._lasts[start:end], self._claims[start:end] = (
            firsts,
            lasts,
            claims,
        )

    def of(self, first: int, last: int) -> list[tuple[int, int, T]]:
        """Return the claims about these places, in order, cut to them."""
        start, end = bisect.bisect_left(self._lasts, first), bisect.bisect_right(self._firsts, last)
        return [
            (max(first, self._firsts[i]), min(last, self._lasts[i]), self._claims[i])
            for i in range(start, end)
        ]


class Fate(NamedTuple):
    """What became of entries after the source had released them.

    Attributes:
        is_known: Whether that attestation is here already, and so will not come.
        group: How they were settled; None where they are pending.
    """

    is_known: bool
    group: Group | None


class Checked(NamedTuple):
    """A source that may be taken over.

    Attributes:
        source: The source.
        heads: How many attestations of each process were here before it.
        known: How many of its attestations are here already.
        reconcilers: How many of its processes had no attestation here.
        fates: By the writer's uuid: what became of entries that were released there.
        taken: By the process's uuid: first and last place of the attestations to take over. Empty
            if all of them are notes of what was taken over there. Otherwise copies would exchange
            notes endlessly.
    """

    source: Source
    heads: Mapping[str, int]
    known: int
    reconcilers: int
    fates: Mapping[str, Coverage[Fate]]
    taken: Mapping[str, tuple[int, int]]


class Here:
    """Find what is in this journal of other copies' processes, components and entries.

    Args:
        database: Of the journal.

    Attributes:
        writers: The ids of processes by their uuids.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = Places(database)
        self.writers = self._places.writers

    def close(self) -> None:
        """Drop the index of places."""
        self._places.close()

    def check_writer(self, row: WriterRow, where: str) -> None:
        """Check that a process is as it described itself, and as it is described here.

        Raises:
            EvidenceError: It is not.
        """
        if row.uuid not in self.writers:
            check_writer(row, where)
            return
        (found,) = self._database.read(
            f"SELECT {_DESCRIBED}, digest FROM writer WHERE id = ?", (self.writers[row.uuid],)
        )
        if (*row.columns, row.digest) != tuple(found):
            raise forged(
                where, f"the process {limits.shown(row.uuid)} is described differently here"
            )

    def add_writer(self, connection: sqlite3.Connection, row: WriterRow) -> int:
        """Return the local id of a checked process. Record it if it is new.

        Args:
            connection: In a transaction.
            row: The process.
        """
        known = self.writers.get(row.uuid)
        if known is None:
            known = int(
                connection.execute(_INSERT_WRITER, (*row.columns, row.digest)).lastrowid or 0
            )
            self.writers[row.uuid] = known
        return known

    def heads(self) -> dict[str, int]:
        """Return how many attestations of each process are here."""
        return {str(uuid): int(seq) for uuid, seq in self._database.read(_HEADS)}

    def spelling(self, name: str) -> str | None:
        """Return how a component is spelled here, or None if it is not here.

        Case does not matter in ``name``.
        """
        found = self._database.read("SELECT name FROM component WHERE name = ?", (name,))
        return str(found[0][0]) if found else None

    def add_run(self, writer_id: int, first: int, last: int, shift: int) -> None:
        """Note that entries of these places were added; ``shift`` is ``seq`` less place."""
        self._places.add(writer_id, first, last, shift)

    def places(self, named: Named, above: int = 0) -> list[tuple[int, int]]:
        """Return where the named entries are here, as (first, last) of ``seq``.

        Only entries with a ``seq`` beyond ``above`` come.
        """
        return self._places.find(named, above)

    def components_of(self, named: Named) -> Iterator[tuple[str, str]]:
        """Yield the components of the named entries that are here.

        With each component comes one of its entries, first and in words.
        """
        for first, last in self.places(named):
            sql = (
                "SELECT min(e.seq), c.name FROM entry e "
                "JOIN component c ON c.id = e.component_id WHERE e.seq BETWEEN ? AND ? "
                "GROUP BY c.id"
            )
            for seq, name in self._database.read(sql, (first, last)):
                yield f"entry {seq}", str(name)


class Checker:
    """Checks sources that are to be taken over one after the other.

    Args:
        here: What is here.
        database: Of the journal.
        components_of: For entries that are here or about to come: yields one entry of each
            component, in words, with the component.
    """

    def __init__(
        self,
        here: Here,
        database: Database,
        components_of: Callable[[Named], Iterable[tuple[str, str]]],
    ) -> None:
        self._here = here
        self._database = database
        self._components_of = components_of
        self._heads_here = here.heads()
        # What is here, and what the sources before bring.
        self._heads = dict(self._heads_here)
        # Attestations that these sources bring.
        self._brought = sqlite3.connect("", isolation_level=None)
        self._brought.execute(
            "CREATE TABLE attestation (uuid, writer_seq, digest, PRIMARY KEY (uuid, writer_seq)) "
            "WITHOUT ROWID"
        )

    def close(self) -> None:
        """Drop what was kept of the sources."""
        self._brought.close()

    def check(self, source: Source) -> Checked:
        """Check a source before anything of it is taken over.

        Its attestations must be in their chains and readable. They must contradict neither each
        other nor what is here by then, the sources before included.

        Raises:
            EvidenceError: They do not hold.
        """
        before = dict(self._heads)
        chains: dict[str, tuple[int, bytes]] = {}
        known = 0
        fates: dict[str, Coverage[Fate]] = defaultdict(Coverage)
        new: dict[str, tuple[int, int]] = {}
        is_told = False
        self._brought.execute("BEGIN")
        for each in source.attestations():
            is_known = each.writer_seq <= before.get(each.uuid, 0)
            if is_known:
                self._refuse_fork(source, each)
                known += 1
                if not fates:
                    continue
            said = said_by(source, each)
            if not is_known:
                check_link(each, chains.get(each.uuid) or self._chain(source, each), source.name)
                chains[each.uuid] = (each.writer_seq, each.digest)
                self._heads[each.uuid] = each.writer_seq
                self._brought.execute(
                    "INSERT INTO attestation VALUES (?, ?, ?)",
                    (each.uuid, each.writer_seq, each.digest),
                )
                self._refuse_others(source, each, said)
                new[each.uuid] = (new.get(each.uuid, (each.writer_seq, 0))[0], each.writer_seq)
                is_told |= not taken.is_note(said)
            _foresee(fates, said, is_known=is_known)
        self._brought.execute("COMMIT")
        return Checked(
            source,
            before,
            known,
            len(self._heads.keys() - before.keys()),
            fates,
            new if is_told else {},
        )

    def _digest(self, uuid: str, writer_seq: int) -> bytes | None:
        if writer_seq > self._heads_here.get(uuid, 0):
            sql = "SELECT digest FROM attestation WHERE uuid = ? AND writer_seq = ?"
            found = self._brought.execute(sql, (uuid, writer_seq)).fetchall()
        else:
            sql = "SELECT digest FROM attestation WHERE writer_id = ? AND writer_seq = ?"
            found = self._database.read(sql, (self._here.writers[uuid], writer_seq))
        return found[0][0] if found else None

    def _chain(self, source: Source, each: Attested) -> tuple[int, bytes]:
        """Return the last link of the process's chain that is here."""
        head = self._heads.get(each.uuid)
        if head is not None:
            return head, self._digest(each.uuid, head) or b""
        row = source.writers.get(each.uuid)
        if row is None:
            raise forged(
                source.name,
                f"an attestation is of the process {limits.shown(each.uuid)}, which is not "
                "described",
            )
        self._here.check_writer(row, source.name)
        return 0, vocabulary.attestation_start(row.begin)

    def _refuse_fork(self, source: Source, each: Attested) -> None:
        if self._digest(each.uuid, each.writer_seq) != each.digest:
            what = (
                f"attestation {each.writer_seq} of the process {limits.shown(each.uuid)} says "
                "something else there than here"
            )
            raise forged(source.name, f"{what}: one of the two was forged")

    def _refuse_others(self, source: Source, each: Attested, said: Said) -> None:
        """Check that a statement about a component names only entries of that component."""
        for what, component in (
            self._components_of(said.entries) if said.component is not None else ()
        ):
            if component.lower() != str(said.component).lower():
                told = (
                    f"{what} is not of the component {limits.shown(str(said.component))}, "
                    "although it says so"
                )
                raise forged(f"{which(each)} of {source.name}", told)


def said_by(source: Source, each: Attested) -> Said:
    """Return what an attestation says.

    Raises:
        EvidenceError: It can't be read.
    """
    try:
        return statements.read(each.body)
    except ValueError as error:
        raise forged(source.name, f"{which(each)} can't be read: {error}") from error


def _foresee(fates: dict[str, Coverage[Fate]], said: Said, *, is_known: bool) -> None:
    """Follow what becomes of entries from their first release on."""
    for uuid, intervals in said.entries.items() if said.released else ():
        for first, last in intervals:
            fates[uuid].put(first, last, Fate(is_known, None))
    for group in said.settled if fates else ():
        if not looked(said.action, group.outcome):
            _change(fates, group.entries, Fate(is_known, group))


def _change(fates: dict[str, Coverage[Fate]], named: Named, fate: Fate) -> None:
    for uuid, intervals in named.items():
        coverage = fates.get(uuid)
        for first, last in intervals if coverage is not None else ():
            for begin, end, _ in coverage.of(first, last):  # type: ignore[union-attr]
                coverage.put(begin, end, fate)  # type: ignore[union-attr]
