"""A database asked from the reactor: its queries run in threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from mailgate.backends.database import Database, Row
from mailgate.backends.threads import Threads

__all__ = ["Queries"]


class Queries:
    """As many threads as connections, each with one query at a time."""

    def __init__(self, database: Database[object], reactor: IReactorFromThreads, *, connections: int) -> None:
        self._database = database
        self._threads = Threads(reactor, connections, "sql")

    def rows(self, values: Mapping[str, str]) -> Deferred[Sequence[Row]]:
        """As in Database. Cancelling ends the waiting; a query that runs goes on to its time-out."""
        return self._threads.run(lambda: self._database.rows(values))

    def close(self) -> None:
        """End the threads and the connections; it does not wait for a query that still runs."""
        self._threads.close()
        self._database.close()
