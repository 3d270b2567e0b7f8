"""The content of a message, read for those that need its header fields and digests of its body."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool

from mailgate.mailauth.dkim.canonical import Bodies, BodyHasher, Wanted, split_message
from mailgate.message import MAX_HEADER, Content

__all__ = ["BodyHashing", "OpenContent"]

#: Content in memory of up to so many octets is hashed at once: it takes less than a millisecond.
_AT_ONCE = 256 * 1024


class OpenContent:
    """Content whose header fields have been found. OSError, here and later, where its file cannot be read.

    `is_whole` is False where the header is larger than MAX_HEADER: nobody knows then where the body begins.
    """

    def __init__(self, content: Content) -> None:
        self.content = content
        start = next(content.chunks(MAX_HEADER), b"")
        self.fields, body = split_message(start)
        self._body_at = len(start) - len(body)
        self.is_whole = len(start) == content.size or bool(body)

    def bodies(self, wanted: Iterable[Wanted]) -> Bodies:
        """The digests of the body, read piece by piece; here and now."""
        hasher = BodyHasher(wanted)
        skip = self._body_at
        for chunk in self.content.chunks():
            hasher.feed(chunk[skip:])
            skip = max(0, skip - len(chunk))
        return Bodies.found(hasher)


class BodyHashing:
    """Hashes large bodies, and those that lie in files, in the threads of the reactor, where it has any."""

    def __init__(self, clock: IReactorTime) -> None:
        """`clock` is the reactor; with one without threads, as in tests, all is done here and now."""
        self._threads = IReactorThreads(clock, None)
        self._reactor = IReactorFromThreads(clock, None)

    def bodies(self, opened: OpenContent, wanted: Iterable[Wanted]) -> Bodies | Awaitable[Bodies]:
        """The digests of a body; it is not read where nothing is wanted."""
        wanted = list(wanted)
        if not wanted:
            return Bodies(b"")
        is_quick = opened.content.in_memory and opened.content.size <= _AT_ONCE
        if is_quick or self._threads is None or self._reactor is None:
            return opened.bodies(wanted)
        return deferToThreadPool(self._reactor, self._threads.getThreadPool(), opened.bodies, wanted)
