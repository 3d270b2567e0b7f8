"""Content made ready for a next hop: in one piece where it is small, else in chunks with back-pressure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from twisted.internet.interfaces import IConsumer, IPullProducer
from zope.interface import implementer

from mailgate.message import AddHeader, Content, Edit, apply_edits, rendered
from mailgate.reply import Reply
from mailgate.wire.content import Stuffer, stuff

__all__ = ["ContentProducer", "Payload", "UnsendableError", "prepare"]

#: Content in memory up to this size, in octets, is stuffed at once and goes out in one write.
_ONE_WRITE = 256 * 1024

_UNREADABLE = Reply.of(451, "4.3.0", "The message cannot be read now")
_MALFORMED = Reply.of(554, "5.6.0", "The message has lines or fields that cannot be sent by SMTP")
_EIGHT_BIT = Reply.of(554, "5.6.3", "The message has 8-bit data, which the next hop does not take")


class UnsendableError(Exception):
    """This content cannot be sent on this session; `reply` says how that is to be taken (4yz or 5yz)."""

    def __init__(self, reply: Reply, reason: str) -> None:
        super().__init__(reason)
        self.reply = reply


@dataclass(slots=True)
class Payload:
    """Edited content. `size` is in octets, without dots and end of data (RFC 1870 section 3).

    Either `wire` holds all of it with its end, or `chunks` yields it, not stuffed.
    """

    size: int
    wire: bytes
    chunks: Iterator[bytes] | None = None


def prepare(content: Content, edits: Sequence[Edit], *, seven_bit: bool) -> Payload:
    """The content after its edits; UnsendableError where it cannot be sent.

    `seven_bit`: the content was declared 8BITMIME and the next hop does not offer that. It may go only if it has no
    such octets after all (RFC 6152 section 3; it is not recoded, which would break signatures).
    """
    try:
        if not content.in_memory or content.size > _ONE_WRITE:
            return Payload(content.size + _growth(content, edits), b"", rendered(content, edits))
        octets = b"".join(rendered(content, edits))
        if seven_bit and not octets.isascii():
            raise UnsendableError(_EIGHT_BIT, "8-bit content and a next hop without 8BITMIME")
        return Payload(len(octets), stuff(octets))
    except (OSError, ValueError) as error:
        raise _unsendable(error) from error


@implementer(IPullProducer)
class ContentProducer:
    """Writes chunks, each when the one before it has left. It reads 256 KiB at a time in the reactor's thread.

    `sent` is called after each write, with True once the end of data is out; `failed` with an UnsendableError, after
    which the connection must be dropped, as the peer still waits for the rest.
    """

    def __init__(
        self,
        consumer: IConsumer,
        chunks: Iterator[bytes],
        *,
        seven_bit: bool,
        sent: Callable[[bool], None],
        failed: Callable[[UnsendableError], None],
    ) -> None:
        self._consumer = consumer
        self._chunks = chunks
        self._seven_bit = seven_bit
        self._stuffer = Stuffer()
        self._sent = sent
        self._failed = failed
        self._stopped = False

    def resumeProducing(self) -> None:
        """Write the next chunk, or the end."""
        if self._stopped:
            return
        try:
            octets = b""
            while not octets:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                if self._seven_bit and not chunk.isascii():
                    raise UnsendableError(_EIGHT_BIT, "8-bit content and a next hop without 8BITMIME")
                octets = self._stuffer.feed(chunk)
            at_end = not octets
            if at_end:
                octets = self._stuffer.finish()
        except UnsendableError as error:
            self._fail(error)
            return
        except (OSError, ValueError) as error:
            self._fail(_unsendable(error))
            return
        if at_end:
            self._stopped = True
            self._consumer.unregisterProducer()
        self._consumer.write(octets)
        self._sent(at_end)

    def stopProducing(self) -> None:
        """The connection is gone: write nothing more, the end of data least of all, and close the file."""
        self._stopped = True
        if isinstance(self._chunks, Generator):
            self._chunks.close()

    def _fail(self, error: UnsendableError) -> None:
        self.stopProducing()
        self._failed(error)


def _growth(content: Content, edits: Sequence[Edit]) -> int:
    if all(isinstance(edit, AddHeader) for edit in edits):
        return len(apply_edits(b"", edits))
    return len(apply_edits(content.header, edits)) - len(content.header)


def _unsendable(error: OSError | ValueError) -> UnsendableError:
    return UnsendableError(_UNREADABLE if isinstance(error, OSError) else _MALFORMED, str(error))
