"""`[recipients.NAME]` of kind sql: a query finds a row for an address that exists."""

from __future__ import annotations

from mailgate.backends.database import open_database
from mailgate.backends.places import PLACES, values_of
from mailgate.backends.queries import Queries
from mailgate.backends.questions import read_secret
from mailgate.config.recipients import SqlRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.cached import Cached
from mailgate.recipients.source import SourceTools

__all__ = ["build"]


def build(section: SqlRecipients, name: str, tools: SourceTools) -> Cached:
    """See `mailgate.recipients.source`."""
    password = read_secret(section.password_file) if section.password_file else None
    database = open_database(section.url, password, section.query, section.timeout, PLACES)
    return Cached(_Table(Queries(database, tools.reactor, connections=section.connections)), section, name, tools)


class _Table:
    """Asks a database."""

    whom = "the database"

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def find(self, local_part: str, domain: str) -> RecipientStatus | None:
        rows = await self._queries.rows(values_of(local_part, domain))
        return RecipientStatus.KNOWN if rows else None

    def close(self) -> None:
        self._queries.close()
