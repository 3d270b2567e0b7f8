"""A message as it will be sent on, for those that sign it: its fields, and digests of its body."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from mailgate.envelope import Transaction
from mailgate.filters.seven_bit import needs_care
from mailgate.mailauth.dkim.canonical import BodyHasher, Canon, split_header
from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.message import AddHeader, Content, Edit, ReplaceBody, apply_edits, edited_body, release

__all__ = ["Threads", "UnsignableError", "added", "body_digest", "fields_as_sent", "forwards"]

#: Octets up to which content in memory is read at once.
_AT_ONCE = 16 * 1024
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class UnsignableError(ValueError):
    """No signature of this message would hold, or it does not say whose it is; the text says why."""


def fields_as_sent(content: Content, edits: Sequence[Edit]) -> HeaderFields:
    """The header fields after these edits. UnsignableError where a line of the section has no end that all agree on."""
    header = apply_edits(content.header, edits)
    if _BARE.search(header):
        raise UnsignableError("the header section has a bare CR or LF")
    return HeaderFields(split_header(header))


def body_digest(content: Content, edits: Sequence[Edit], canon: Canon) -> bytes:
    """The digest of the body after these edits; it is read piece by piece. OSError where a file cannot be read.

    UnsignableError where nobody can tell where the body begins, or it has a CR or LF alone: to some hosts that is the
    end of a line, and they would send on, or check, another body.
    """
    hasher = BodyHasher([(canon, None)])
    try:
        chunks = edited_body(content, edits)
    except ValueError as error:
        raise UnsignableError(str(error)) from None
    for chunk in chunks if content.is_whole_lines else _whole_lines(chunks):
        hasher.feed(chunk)
    return hasher.finish()[0][canon, None]


def added(raw: bytes) -> AddHeader:
    """The edit that puts a field on top, as a signer has made it, with its last CRLF."""
    name, _, value = raw.decode().removesuffix("\r\n").partition(": ")
    return AddHeader(name, value)


def forwards(transaction: Transaction, is_local: Callable[[str], bool]) -> bool:
    """Whether aliases send this message on to domains that are not ours."""
    return any(not is_local(target.address.domain) for one in transaction.recipients for target in one.targets)


class Threads:
    """Calls that take long, in the threads of the reactor, where it has any."""

    def __init__(self, clock: IReactorTime) -> None:
        """`clock` is the reactor; with one without threads, as in tests, all is done here and now."""
        self._threads = IReactorThreads(clock, None)
        self._reactor = IReactorFromThreads(clock, None)

    def call(
        self,
        call: Callable[[], Sequence[Edit]],
        content: Content,
        edits: Sequence[Edit],
        *,
        at_once: bool,
        converts: str | None = None,
    ) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
        """The edits that the call makes, which reads the content with the edits before. Here and now where that is
        small, and `at_once` says that all else is ready. `converts` is BODY= of MAIL where the call makes US-ASCII of
        content that is something else, and None where it does not."""
        sources = [content, *(edit.content for edit in edits if isinstance(edit, ReplaceBody))]
        is_quick = at_once and all(one.in_memory and one.size <= _AT_ONCE for one in sources)
        if is_quick and converts is not None:
            is_quick = not needs_care(converts, content, edits)
        if is_quick or self._threads is None or self._reactor is None:
            return call()
        done: Deferred[Sequence[Edit]] = Deferred()
        deferToThreadPool(self._reactor, self._threads.getThreadPool(), call).addBoth(_passed_on, done)
        return done


def _passed_on(outcome: Sequence[Edit] | Failure, done: Deferred[Sequence[Edit]]) -> None:
    if not done.called:
        if isinstance(outcome, Failure):
            done.errback(outcome)
        else:
            done.callback(outcome)
    elif not isinstance(outcome, Failure):  # nobody waits for it any more
        release(outcome)


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        rest = b"\r" if data.endswith(b"\r") else b""
        if _BARE.search(data.removesuffix(b"\r")):
            raise UnsignableError("the body has a bare CR or LF")
        yield chunk
    if rest:
        raise UnsignableError("the body has a bare CR or LF")
