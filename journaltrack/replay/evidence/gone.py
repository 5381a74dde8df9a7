"""Tell which components a remote no longer has, although they were delivered.

Somebody deleted them, or the remote was emptied or replaced. A pass sends only what is pending, so
it would deliver the rest to the new one and tell nothing.

Must not know any particular remote.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from journaltrack.errors import RemoteError
from journaltrack.journal.groups import IS_RUN

if TYPE_CHECKING:
    from journaltrack.journal.sqlite.connection import Database
    from journaltrack.replay.remote import Remote

logger = logging.getLogger(__name__)

REMEDY: Final = (
    "`journaltrack check --remote` with the same --to tells all that is gone, and --repair sends "
    "it again"
)
_SELECT_LAST: Final = (
    f"SELECT c.name FROM component c WHERE {IS_RUN} AND c.confirmed_at_ns IS NOT NULL "
    "ORDER BY c.confirmed_at_ns DESC LIMIT 1"
)
_SELECT_GONE: Final = (
    f"SELECT c.name FROM component c WHERE {IS_RUN} AND c.confirmed_at_ns IS NULL AND EXISTS "
    "(SELECT 1 FROM receipt r WHERE r.component_id = c.id AND r.action = 'ensure' "
    "AND r.outcome = 'delivered') ORDER BY c.id"
)


def gone(database: Database) -> list[str]:
    """Return the components that were delivered, and of which the remote said that it has none."""
    return [str(name) for (name,) in database.read(_SELECT_GONE)]


def ask(database: Database, remote: Remote) -> None:
    """Ask for the component that was confirmed last, and warn if it is gone."""
    for (name,) in database.read(_SELECT_LAST):
        try:
            found = remote.describe(str(name))
        # The next request meets the same.
        except RemoteError:
            return
        if found is None:
            logger.warning(
                "%s no longer has %s, which was delivered: it was deleted there, or all that was "
                "delivered is gone. %s",
                remote.can.service,
                name,
                REMEDY,
            )
