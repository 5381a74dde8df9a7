"""Confirm for a prune that the remote holds what the prune would remove here.

It asks the questions of ``verifier``. It reads the journal and the remote and changes neither.
Must not know how entries are removed, nor boto3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from journaltrack.errors import DEADLINE_OVER, ErrorKind, RemoteError
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.verification.diff import Claims, Difference, ObjectClaim, compare_object
from journaltrack.verification.verifier import Verifier, VerifyOptions

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.replay.remote import Remote
    from journaltrack.util.deadline import Deadline

_AT_A_TIME: Final = 200
"""Components per report. If a report can't list all differences, all its components are kept."""
_HARMLESS: Final = frozenset({"status", "display name", "lineage", "experiment", "trial"})
"""Differences that do not prevent a prune, which never removes the entries behind them."""
_LOCATIONS: Final = (
    "SELECT l.sha256, l.component_id, c.name, l.bucket, l.prefix, l.uri, b.size_bytes "
    "FROM location l JOIN component c ON c.id = l.component_id "
    "JOIN blob b ON b.sha256 = l.sha256 WHERE l.sha256 IN (SELECT value FROM json_each(?)) "
    "AND typeof(l.uri) = 'text' ORDER BY l.sha256, l.uri"
)


class Doubt(NamedTuple):
    """Why something must be kept.

    Attributes:
        why: In words.
        is_lacking: The remote lacks it, or has something else. False: the remote does not tell,
            and may later.
    """

    why: str
    is_lacking: bool


class Confirmation:
    """Ask one remote about one journal.

    Args:
        journal: The journal, opened read-only.
        remote: A remote that retries, limits its rate, and raises only ``RemoteError``.
        options: The options of a verification. Each call names its own components.
        deadline: When it is over, calls raise ``RemoteError``.
    """

    def __init__(
        self, journal: Journal, remote: Remote, options: VerifyOptions, deadline: Deadline
    ) -> None:
        self._journal = journal
        self._remote = remote
        self._options = options
        self._deadline = deadline

    def components(self, names: Sequence[str], on_progress: Callable[[], None]) -> dict[str, Doubt]:
        """Ask for everything delivered of these components.

        Args:
            names: Names of the components.
            on_progress: Called from time to time.

        Returns:
            The components that must be kept, with the reason. What is missing counts for more than
            what is unknown.

        Raises:
            RemoteError: The remote can't be asked.
        """
        kept: dict[str, Doubt] = {}
        for start in range(0, len(names), _AT_A_TIME):
            some = frozenset(names[start : start + _AT_A_TIME])
            options = self._options.of(some)
            verifier = Verifier(
                self._journal,
                self._remote,
                options=options,
                deadline=self._deadline,
                on_progress=lambda _: on_progress(),
            )
            found = verifier.run()
            if found.halted is not None:
                raise found.halted
            self._refuse_if_over()
            if sum(found.counts.values()) > len(found.differences):
                many = Doubt("it has more differences than a report can list", is_lacking=True)
                kept.update(dict.fromkeys(some, many))
            for difference in found.differences:
                if difference.kind != "extra" and difference.what not in _HARMLESS:
                    _keep(kept, difference.component, _doubt(difference))
        return kept

    def contents(self, sha256s: Sequence[str], on_progress: Callable[[], None]) -> dict[str, Doubt]:
        """Ask for these contents at each place to which they were uploaded.

        Args:
            sha256s: Digests of the contents.
            on_progress: Called from time to time.

        Returns:
            The contents that must be kept, with the reason.

        Raises:
            RemoteError: The remote can't be asked.
        """
        kept: dict[str, Doubt] = {}
        for sha256, claims, claim in self._uploaded(sha256s):
            self._refuse_if_over()
            on_progress()
            try:
                difference = compare_object(claims, claim, self._remote.find_object(claim.uri))
            except RemoteError as error:
                if error.unreachable or error.everywhere:
                    raise
                _keep(kept, sha256, Doubt(f"{claim.uri}: {error.message}", is_lacking=False))
                continue
            if difference is not None:
                _keep(kept, sha256, _doubt(difference))
        return kept

    def _uploaded(self, sha256s: Sequence[str]) -> Iterator[tuple[str, Claims, ObjectClaim]]:
        for (
            sha256,
            component_id,
            name,
            bucket,
            prefix,
            uri,
            size_bytes,
        ) in self._journal.database.read(_LOCATIONS, (json.dumps(sha256s),)):
            blob = BlobRef(sha256, bucket or None, prefix or None)
            size = size_bytes if isinstance(size_bytes, int) else None
            yield (
                sha256,
                Claims(component_id, str(name), 0),
                ObjectClaim(uri, blob, size, in_spool=True),
            )

    def _refuse_if_over(self) -> None:
        if self._deadline.over:
            raise RemoteError(
                "the deadline expired before everything was asked for",
                kind=ErrorKind.TRANSIENT,
                code=DEADLINE_OVER,
            )


def _keep(kept: dict[str, Doubt], key: str, doubt: Doubt) -> None:
    """Note the first doubt, or the first that something is lacking."""
    if key not in kept or (doubt.is_lacking and not kept[key].is_lacking):
        kept[key] = doubt


def _doubt(difference: Difference) -> Doubt:
    """Describe a difference in one line."""
    which = (
        f" {difference.name}"
        if difference.name is not None and difference.name != difference.component
        else ""
    )
    told = {"missing": "is not there", "different": "is not what was delivered"}.get(
        difference.kind, "is unknown"
    )
    note = f" ({difference.note})" if difference.note else ""
    return Doubt(f"{difference.what}{which} {told}{note}", is_lacking=difference.kind != "unknown")
