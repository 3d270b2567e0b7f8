"""Mail that a gateway has: what waits in its queue, and what is kept back. It is read beside a daemon that runs."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from time import time
from typing import Any, TypeVar

from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.envelope import Envelope
from mailgate.interfaces import EntryView, Selector, SpoolError
from mailgate.message import Content
from mailgate.rehearsal.recorded import MOST_OCTETS, Place, Recorded, UnreadableError
from mailgate.spool.reader import SpoolReader

__all__ = ["SpooledMail"]

T = TypeVar("T")

#: Entries that are read at one time.
_PAGE = 500


class SpooledMail:
    """Reads the spool in a directory, and the `originals` of what filters have changed; OSError or sqlite3.Error where
    there is none. Nothing is leased or locked: what leaves the queue meanwhile is not there when it is read."""

    def __init__(self, spool: Path, originals: Path) -> None:
        self._reader = SpoolReader(spool, lambda call, *values: call(*values), time)
        self._originals = originals

    def places(self, states: Collection[str]) -> Iterator[Place]:
        """The messages with recipients in these states ("quarantined", "queued"...), oldest first, for those alone.
        SpoolError where they cannot be read."""
        asked = next(iter(states)) if len(states) == 1 else ""
        chosen = (one for one in self._entries(asked) if one.state in states)
        for queue_id, entries in groupby(chosen, lambda one: one.queue_id):
            found = list(entries)
            yield Place(queue_id, found[0].received, partial(self._read, queue_id, found))

    def close(self) -> None:
        """Let go of the spool."""
        self._reader.close()

    def _entries(self, state: str) -> Iterator[EntryView]:
        after: tuple[str, int] | None = None
        while True:
            page = self._ask(self._reader.view(Selector(state=state), _PAGE, after))
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].queue_id, page[-1].number

    def _read(self, queue_id: str, entries: list[EntryView]) -> Recorded:
        try:
            found = self._ask(self._reader.content(queue_id))
        except SpoolError as error:
            raise UnreadableError(str(error)) from None
        if found is None:
            raise UnreadableError("it has left the queue meanwhile")
        envelope, content = found
        if not envelope.listener:
            raise UnreadableError("it is mail of the gateway's own")
        content = self._as_it_came(envelope, content)
        if content.size > MOST_OCTETS:
            raise UnreadableError(f"larger than {MOST_OCTETS} octets")
        state = {one.number: one.state for one in entries}
        meant = [one for one in envelope.recipients if one.number in state]
        origin = envelope.origin
        return Recorded(
            address=_address(origin.address),
            name=origin.name,
            helo=origin.helo,
            identity=origin.login,
            sender=envelope.sender,
            recipients=tuple(one.address for one in meant),
            listener=envelope.listener,
            received=envelope.received,
            content=content,
            parameters=envelope.parameters,
            then=tuple("quarantined" if state[one.number] == "quarantined" else "taken" for one in meant),
        )

    def _as_it_came(self, envelope: Envelope, content: Content) -> Content:
        """What filters had been shown; a file of the spool may go at any time, and so it is read at once."""
        path = content.path
        if envelope.kept is not None and envelope.kept.has_original and envelope.queue_id.isalnum():
            path = self._originals / envelope.queue_id
        if path is None:
            return content
        if path.stat().st_size > MOST_OCTETS:
            raise UnreadableError(f"larger than {MOST_OCTETS} octets")
        return Content(path.read_bytes())

    def _ask(self, asked: Awaitable[T]) -> T:
        """The answer, given by this thread."""
        results: list[T | Failure] = []
        as_deferred(asked).addBoth(results.append)
        jobs: SimpleQueue[Any] = self._reader.jobs
        while not results:
            self._reader.answer(*jobs.get())
        result = results[0]
        if isinstance(result, Failure):
            result.raiseException()
        return result


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
