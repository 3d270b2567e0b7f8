"""`[aliases.NAME]` of kind sql: a query finds what an address stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mailgate.backends.database import open_database
from mailgate.backends.places import PLACES
from mailgate.backends.queries import Queries
from mailgate.backends.questions import BackendError, read_secret
from mailgate.config.aliases import SqlAliases
from mailgate.rewriting.asked import AskedAliases, bounded
from mailgate.rewriting.source import MAX_TARGETS, AliasTools
from mailgate.rewriting.tables import split_targets

__all__ = ["build"]


def build(section: SqlAliases, name: str, tools: AliasTools) -> AskedAliases:
    """See `mailgate.rewriting.source`."""
    password = read_secret(section.password_file) if section.password_file else None
    most = MAX_TARGETS + 1
    database = open_database(section.url, password, section.query, section.timeout, PLACES, most=most)
    queries = Queries(database, tools.reactor, connections=section.connections)
    return AskedAliases(_Table(queries), section, name, tools)


class _Table:
    """Asks a database."""

    whom = "the database"

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def find(self, values: Mapping[str, str]) -> tuple[str, ...] | None:
        rows = await self._queries.rows(values)
        return bounded(target for row in rows for target in _targets(row))

    def close(self) -> None:
        self._queries.close()


def _targets(row: Sequence[object]) -> Sequence[str]:
    if row[0] is None:
        return ()  # an outer join has found nobody
    if not isinstance(row[0], str):
        raise BackendError("the first column of the query's rows is no text")
    return split_targets(row[0])
