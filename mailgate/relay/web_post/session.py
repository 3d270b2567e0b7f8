"""One connection to an application, over which one message after another is posted (HTTP/1.1, RFC 9112)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.envelope import Envelope, EnvelopeRecipient, Tls
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, Result, Target
from mailgate.relay.client.deadline import Deadline
from mailgate.relay.client.handshake import failure_in, look_at, told_for_people, why_lost
from mailgate.relay.client.seams import IOutlet, Work
from mailgate.relay.web_post.answers import Answer
from mailgate.relay.web_post.request import Request
from mailgate.relay.web_post.under_way import LOST, Post, Question, UnderWay
from mailgate.reply import Reply
from mailgate.tls.failures import TlsFailure

__all__ = ["Compose", "WebSession"]

Compose = Callable[[Envelope, Sequence[EnvelopeRecipient], Content], Callable[[], Request]]
"""Gives what makes the request for a message, in another thread."""

#: Octets of one answer that are read: its body, and what is around it.
_LARGEST_BODY, _LARGEST = 64 * 1024, 128 * 1024

_TIMED_OUT = Reply.of(451, "4.4.2", "The application did not answer in time")
_NO_HTTP = Reply.of(451, "4.5.0", "The application does not speak HTTP as it should")
_UNREADABLE = Reply.of(451, "4.3.0", "The message cannot be read now")


@implementer(IConnection, IHandshakeListener, IPushProducer)
class WebSession(Protocol):
    """`ready` is called back when requests may be sent, which is after the handshake where there is a `creator`;
    ConnectFailedError. `head` says how a request of a method begins, up to its own fields; `timeout` (seconds) is for
    each step, and for the whole of an answer. Whatever the application does ends in results."""

    transport: IOutlet
    is_authenticated = False
    is_fallback = False
    is_for_domain = False
    max_size = 0
    tls_failure: TlsFailure = ""

    def __init__(
        self,
        target: Target,
        ready: Deferred[IConnection],
        *,
        head: Callable[[str], str],
        creator: IOpenSSLClientConnectionCreator | None,
        compose: Compose,
        work: Work,
        clock: IReactorTime,
        timeout: float,
    ) -> None:
        self.target = target
        self.messages = 0
        self.tls: Tls | None = None
        self.security = ""
        self._ready: Deferred[IConnection] | None = ready
        self._head = head
        self._creator = creator
        self._compose = compose
        self._work = work
        self._clock = clock
        self._timeout = timeout
        self._deadline = Deadline(clock, self._too_late)
        self._asked: UnderWay | None = None
        self._is_closed = False
        self._is_paused = False
        self._is_making = False

    # -- IConnection

    @property
    def is_usable(self) -> bool:
        """Whether the next request may be sent."""
        return not self._is_closed and self._asked is None and self._ready is None

    def deliver(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Deferred[Sequence[Result]]:
        """As in IConnection."""
        if not self.is_usable:
            return succeed([Result(one, OutcomeKind.DEFERRED, LOST, next_host=True, again=True) for one in recipients])
        done: Deferred[Sequence[Result]] = Deferred(lambda _: self._cancelled())
        post = Post(self.target, envelope.queue_id, recipients, done)
        self._take(post)

        def composed(request: Request) -> None:
            if self._asked is post:
                self._begin(post, request)

        def failed(failure: Failure) -> None:
            if self._asked is not post:
                return
            self._settle(post)
            if failure.check(OSError, ValueError):
                post.broken(_UNREADABLE, failure.getErrorMessage(), is_ours=True)
            else:
                self._abort()
                post.failed(failure)

        self._work(self._compose(envelope, recipients, content)).addCallback(composed).addErrback(failed)
        return done

    def ask(self, method: str, request: Request) -> Deferred[Answer]:
        """What is answered to a request that brings no mail; ConnectFailedError. Cancelling drops the connection."""
        if not self.is_usable:
            return fail(ConnectFailedError(self.target, LOST, LOST.text, stage="answer"))
        done: Deferred[Answer] = Deferred(lambda _: self._cancelled())
        question = Question(method, self.target, done)
        self._take(question)
        self._begin(question, request)
        return done

    def close(self) -> None:
        """As in IConnection."""
        if self._is_closed:
            return
        if self._asked is not None or self._ready is not None:
            self._break_off(LOST, "closed by us")
        else:
            self._leave()

    # -- Twisted's Protocol

    def connectionMade(self) -> None:
        """Begin."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        if self._creator is None:
            self._open()
        else:
            self._deadline.set(self._timeout)
            self.transport.startTLS(self._creator)

    def handshakeCompleted(self) -> None:
        """See IHandshakeListener."""
        self.tls, _ = look_at(self.transport.getHandle())
        self.security = told_for_people(self.tls)
        self._open()

    def dataReceived(self, data: bytes) -> None:
        """A piece of the answer, or what nobody has asked for."""
        asked = self._asked
        if self._is_closed:
            return
        if asked is None or not asked.is_begun:
            self._break_off(LOST, "it sent what it was not asked for")
            return
        response = asked.response
        asked.received += len(data)
        is_over = response.feed(data)
        if response.fault:
            self._break_off(_NO_HTTP, response.fault)
        elif asked.received > _LARGEST or len(response.body) > _LARGEST_BODY:
            if response.status < 200:
                self._break_off(_NO_HTTP, f"no answer in {_LARGEST} octets")
            else:
                self._answered(asked, is_kept=False)
        elif is_over:
            # Who answers before he has everything reads no more of it, and is asked nothing more.
            self._answered(asked, is_kept=response.is_kept and asked.is_sent)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, whoever brought it about."""
        was_closed, self._is_closed = self._is_closed, True
        asked = self._asked
        # Where it was torn, and not ended, nobody knows what more it would have said.
        is_ended = asked is not None and asked.response.ends_with_connection and reason.check(ConnectionDone)
        if asked is not None and not was_closed and is_ended:
            self._answered(asked, is_kept=False)
        else:
            self._break_off(LOST, why_lost(reason), failure=failure_in(reason))
        self._deadline.stop()

    # -- the request

    def _take(self, asked: UnderWay) -> None:
        asked.is_reused = self.messages > 0
        self._asked = asked
        self._deadline.clear()

    def _begin(self, asked: UnderWay, request: Request) -> None:
        self.messages += 1
        asked.is_begun, asked.left = True, request.length
        lines = [self._head(asked.method), *(f"{name}: {value}\r\n" for name, value in request.fields)]
        self.transport.write(f"{''.join(lines)}Content-Length: {request.length}\r\n\r\n".encode("ascii"))
        asked.pieces = request.pieces()
        self._deadline.set(self._timeout)
        self._is_paused = False
        if not asked.is_sent:
            self.transport.registerProducer(self, True)
            self._make(asked)

    def _make(self, asked: UnderWay) -> None:
        """Have the next piece made, where it reads and decodes without holding up anybody."""
        if self._is_making or self._is_paused or asked.is_sent or asked.pieces is None:
            return
        self._is_making = True
        pieces = asked.pieces

        def made(piece: bytes | None) -> None:
            self._is_making = False
            if self._asked is not asked:
                return
            if piece is None or len(piece) > asked.left:
                self._break_off(_UNREADABLE, "the message has another length than before", is_ours=True)
                return
            self.transport.write(piece)
            asked.left -= len(piece)
            self._deadline.set(self._timeout)
            if asked.is_sent:
                self.transport.unregisterProducer()
            else:
                self._make(asked)

        def failed(failure: Failure) -> None:
            self._is_making = False
            if self._asked is asked:
                self._break_off(_UNREADABLE, failure.getErrorMessage(), is_ours=True)

        self._work(lambda: next(pieces, None)).addCallbacks(made, failed)

    def pauseProducing(self) -> None:
        """See IPushProducer."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """See IPushProducer."""
        self._is_paused = False
        if self._asked is not None:
            self._deadline.set(self._timeout)
            self._make(self._asked)

    def stopProducing(self) -> None:
        """See IPushProducer; the end of the connection follows."""
        self._is_paused = True

    # -- the end of it

    def _open(self) -> None:
        self._deadline.clear()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(self)

    def _answered(self, asked: UnderWay, *, is_kept: bool) -> None:
        response = asked.response
        answer = Answer(
            response.status,
            bytes(response.body[:_LARGEST_BODY]),
            response.fields.get(b"content-type", b"").decode("latin-1"),
            response.fields.get(b"retry-after", b"").decode("latin-1"),
            self._clock.seconds(),
            location=response.fields.get(b"location", b"").decode("latin-1"),
            is_whole=response.is_whole,
        )
        is_taken = 200 <= response.status < 300
        if not is_kept and is_taken and asked.is_sent and response.is_whole:
            self._leave()
        elif not is_kept:
            self._abort()
        self._settle(asked)
        asked.answered(answer)

    def _break_off(
        self,
        reply: Reply,
        reason: str,
        *,
        is_ours: bool = False,
        failure: TlsFailure = "validation-failure",
    ) -> None:
        self._abort()
        ready, self._ready = self._ready, None
        if ready is not None:
            if self._creator is None:
                error = ConnectFailedError(self.target, reply, reason, stage="connect", is_ours=is_ours)
            else:
                error = ConnectFailedError(
                    self.target, reply, reason, stage="tls", is_ours=is_ours, tls_failure=failure
                )
            ready.errback(error)
        asked = self._asked
        if asked is not None:
            self._settle(asked)
            asked.broken(reply, reason, is_ours=is_ours)

    def _settle(self, asked: UnderWay) -> None:
        """Before whoever waits is told: he may ask for the next thing at once."""
        self._asked = None
        if not self._is_closed:
            self._deadline.clear()
        asked.response.close()

    def _cancelled(self) -> None:
        asked = self._asked
        if asked is not None:
            self._settle(asked)
            asked.failed(Failure(CancelledError()))
        self._abort()

    def _leave(self) -> None:
        """Close, when the application has what has been written; for that it has some time, too."""
        self._is_closed = True
        self._deadline.set(self._timeout)
        self.transport.loseConnection()

    def _abort(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._deadline.clear()
            self.transport.abortConnection()

    def _too_late(self) -> None:
        if self._is_closed:
            self.transport.abortConnection()
        else:
            self._break_off(_TIMED_OUT, f"nothing for {self._timeout:g} s")

    def forget(self) -> None:
        """Nobody waits for the connection any more."""
        self._ready = None
        self._is_closed = True

    def connect_failed(self, error: ConnectFailedError) -> None:
        """There will be no connection: tell whoever waits for it."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.errback(error)
