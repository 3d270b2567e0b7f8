"""Content made ready for a next hop: in one piece where it is small, else sent in chunks with back-pressure."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import AddHeader, Content, HeaderEdit, apply_edits, rendered
from mailgate.mime.recode import RecodeError, Recoding, recoded
from mailgate.mime.recode import Target as Fit
from mailgate.relay.attempt import Result
from mailgate.relay.client.seams import IOutlet
from mailgate.relay.findings import for_now
from mailgate.reply import Reply
from mailgate.sockets import write_now
from mailgate.wire.content import Stuffer, stuff

__all__ = ["ContentSender", "Payload", "UnsendableError", "convert", "prepare"]

#: Content in memory up to this size, in octets, goes out in one write; other content in pieces of about this size.
_ONE_WRITE = 256 * 1024

_UNREADABLE = Reply.of(451, "4.3.0", "The message cannot be read now")
_MALFORMED = Reply.of(554, "5.6.0", "The message has lines or fields that cannot be sent by SMTP")


class UnsendableError(Exception):
    """This message cannot be sent on this session; `reply` says how that is to be taken (4yz or 5yz).

    `next_host`: it is for what this host does not offer; another one may.
    """

    def __init__(self, reply: Reply, reason: str, *, next_host: bool = False) -> None:
        super().__init__(reason)
        self.reply = reply
        self.next_host = next_host

    @classmethod
    def of(cls, error: OSError | ValueError) -> UnsendableError:
        """Content that cannot be read, or is not fit for the wire."""
        return cls(_UNREADABLE if isinstance(error, OSError) else _MALFORMED, str(error))

    def results(self, recipients: Sequence[EnvelopeRecipient], *, is_fallback: bool) -> list[Result]:
        """What it comes to for each of them, in a session that `is_fallback` (see IConnection) or is not."""
        reply, reason = self.reply, str(self)
        if is_fallback and self.next_host:
            reply, reason = for_now(reply), f"{reason}; in clear text, as TLS has failed with this host"
        kind = OutcomeKind.FAILED if reply.is_permanent else OutcomeKind.DEFERRED
        return [Result(one, kind, reply, next_host=self.next_host, reason=reason) for one in recipients]


@dataclass(slots=True)
class Payload:
    """Edited content. `size` is in octets, without dots and end of data (RFC 1870 section 3).

    `wire` holds all of it with its end; or `chunks` yields it, not stuffed, for DATA; or `pieces` yields it with the
    BDAT commands, each with whether it is the last.
    """

    size: int
    wire: bytes
    chunks: Iterator[bytes] | None = None
    pieces: Iterator[tuple[bytes, bool]] | None = None


def prepare(content: Content, edits: Sequence[HeaderEdit], *, by_chunks: bool = False) -> Payload:
    """The content after its edits; UnsendableError where it cannot be sent. `by_chunks` is for BDAT (RFC 3030)."""
    try:
        if not _is_small(content):
            size = content.size + _growth(content, edits)
            chunks = rendered(content, edits)
            return Payload(size, b"", pieces=_pieces(chunks)) if by_chunks else Payload(size, b"", chunks)
        octets, is_whole_lines = _edited(content, edits)
        return Payload(
            len(octets), _bdat(octets, is_last=True) if by_chunks else stuff(octets, is_whole_lines=is_whole_lines)
        )
    except (OSError, ValueError) as error:
        raise UnsendableError.of(error) from error


def convert(content: Content, edits: Sequence[HeaderEdit], fit: Fit) -> Payload:
    """As `prepare`, with the content made fit for the next hop (see `recode`), which is for another thread than the
    reactor's: what it takes goes by the parts of the content, of which a small one may have thousands.

    Large content is converted to know whether it can be sent, and how large it is then, and once more as it is sent.
    """
    try:
        if _is_small(content):
            octets = b"".join(recoded(content, edits, fit))
            return Payload(len(octets), stuff(octets))
        edited = apply_edits(content.header, edits)
        recoding = Recoding.of(content, fit, edited)
        header = recoding.header(edited)
        size = len(header) + sum(map(len, recoding.body()))
    except RecodeError as error:
        raise _unfit(error) from error
    except (OSError, ValueError) as error:
        raise UnsendableError.of(error) from error
    return Payload(size, b"", _whole(header, recoding))


@implementer(IPullProducer)
class ContentSender:
    """Sends a payload that is no single `wire`: in chunks, each when the one before it has left; by BDAT, each when the
    next hop has taken the one before it. It reads 256 KiB at a time in the reactor's thread.

    `sending` is called before each write, with whether the end of the content goes out with it; `failed` with an
    UnsendableError, after which the connection must be dropped, as the peer still waits for the rest.
    """

    __slots__ = ("_failed", "_outlet", "_payload", "_sending", "_stopped", "_stuffer")

    def __init__(
        self,
        outlet: IOutlet,
        payload: Payload,
        sending: Callable[[bool], None],
        failed: Callable[[UnsendableError], None],
    ) -> None:
        self._outlet = outlet
        self._payload = payload
        self._sending = sending
        self._failed = failed
        self._stuffer: Stuffer | None = None
        self._stopped = False

    def go_on(self) -> None:
        """The next hop asks for the content, or for its next chunk by BDAT."""
        payload = self._payload
        if payload.pieces is not None:
            self._send_piece(payload.pieces)
        else:
            self._stuffer = Stuffer()
            self._outlet.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Write the next chunk, or the end."""
        chunks, stuffer = self._payload.chunks, self._stuffer
        if self._stopped or chunks is None or stuffer is None:
            return
        try:
            octets = b""
            while not octets:
                chunk = next(chunks, None)
                if chunk is None:
                    break
                octets = stuffer.feed(chunk)
            at_end = not octets
            if at_end:
                octets = stuffer.finish()
        except (OSError, ValueError) as error:
            self._fail(error)
            return
        if at_end:
            self._stopped = True
            self._outlet.unregisterProducer()
        self._sending(at_end)
        self._outlet.write(octets)

    def stopProducing(self) -> None:
        """The connection is gone: write nothing more, the end of data least of all, and close the file."""
        self._stopped = True
        for source in (self._payload.chunks, self._payload.pieces):
            if isinstance(source, Generator):
                source.close()

    def _send_piece(self, pieces: Iterator[tuple[bytes, bool]]) -> None:
        try:
            octets, is_last = next(pieces)
        except (OSError, ValueError) as error:
            self._fail(error)
            return
        self._sending(is_last)
        write_now(self._outlet, octets)

    def _fail(self, error: OSError | ValueError) -> None:
        self.stopProducing()
        self._failed(UnsendableError.of(error))


def _edited(content: Content, edits: Sequence[HeaderEdit]) -> tuple[bytes, bool]:
    """Small content after its edits, of which most are a field or two on top, and whether it is known that all its
    lines are whole."""
    pieces = [content.read()]
    for edit in edits:
        if not isinstance(edit, AddHeader) or edit.at_end:
            return b"".join(rendered(content, edits)), False
        pieces.append(edit.raw)
    pieces.reverse()
    return b"".join(pieces), content.is_whole_lines


def _is_small(content: Content) -> bool:
    return content.in_memory and content.size <= _ONE_WRITE


def _bdat(octets: bytes, *, is_last: bool) -> bytes:
    return b"BDAT %d%s\r\n" % (len(octets), b" LAST" if is_last else b"") + octets


def _pieces(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        if size >= _ONE_WRITE:
            yield _bdat(b"".join(waiting), is_last=False), False
            waiting.clear()
            size = 0
        waiting.append(chunk)
        size += len(chunk)
    yield _bdat(b"".join(waiting), is_last=True), True


def _whole(header: bytes, recoding: Recoding) -> Iterator[bytes]:
    yield header
    yield from recoding.body()


def _growth(content: Content, edits: Sequence[HeaderEdit]) -> int:
    if all(isinstance(edit, AddHeader) for edit in edits):
        return len(apply_edits(b"", edits))
    return len(apply_edits(content.header, edits)) - len(content.header)


def _unfit(error: RecodeError) -> UnsendableError:
    code, what = (550, "header fields") if error.status == "5.6.7" else (554, "data")
    text = f"The message has {what} that the next hop cannot take, and that must not or cannot be converted"
    return UnsendableError(Reply.of(code, error.status, text), str(error), next_host=True)
