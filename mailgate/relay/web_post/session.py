"""One connection to an application, over which one message after another is posted (HTTP/1.1, RFC 9112)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from twisted.internet.defer import CancelledError, Deferred, succeed
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
from mailgate.relay.web_post.answers import Answer, results_of
from mailgate.relay.web_post.request import Request
from mailgate.reply import Reply
from mailgate.tls.failures import TlsFailure
from mailgate.wire.http_response import HttpResponse

__all__ = ["Compose", "WebSession"]

Compose = Callable[[Envelope, Sequence[EnvelopeRecipient], Content], Callable[[], Request]]
"""Gives what makes the request for a message, in another thread."""

#: Octets of one answer that are read: its body, and what is around it.
_LARGEST_BODY, _LARGEST = 64 * 1024, 128 * 1024
_WANTED = frozenset((b"content-type", b"retry-after"))

_LOST = Reply.of(451, "4.4.2", "The connection to the application was lost")
_TIMED_OUT = Reply.of(451, "4.4.2", "The application did not answer in time")
_NO_HTTP = Reply.of(451, "4.5.0", "The application does not speak HTTP as it should")
_TOO_EARLY = Reply.of(451, "4.5.0", "The application took the message before it had all of it")
_UNREADABLE = Reply.of(451, "4.3.0", "The message cannot be read now")


class _Post:
    """One request under way. Its `done` is called back once. `response` is there once anything may be answered."""

    def __init__(
        self, queue_id: str, recipients: Sequence[EnvelopeRecipient], done: Deferred[Sequence[Result]]
    ) -> None:
        self.queue_id = queue_id
        self.recipients = recipients
        self.done = done
        self.response = HttpResponse(_WANTED)
        self.received = 0
        self.pieces: Iterator[bytes] | None = None
        self.left = 0  # octets of the body that have not been written
        self.is_begun = False

    @property
    def is_sent(self) -> bool:
        """Whether the application may have everything."""
        return self.is_begun and not self.left


@implementer(IConnection, IHandshakeListener, IPushProducer)
class WebSession(Protocol):
    """`ready` is called back when requests may be sent, which is after the handshake where there is a `creator`;
    ConnectFailedError. `head` begins each request, up to the fields of the message; `timeout` (seconds) is for each
    step. Whatever the application does ends in results."""

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
        head: str,
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
        self._post: _Post | None = None
        self._is_closed = False
        self._is_paused = False
        self._is_making = False

    # -- IConnection

    @property
    def is_usable(self) -> bool:
        """Whether the next request may be sent."""
        return not self._is_closed and self._post is None and self._ready is None

    def deliver(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Deferred[Sequence[Result]]:
        """As in IConnection."""
        if not self.is_usable:
            return succeed([Result(one, OutcomeKind.DEFERRED, _LOST, next_host=True, again=True) for one in recipients])
        done: Deferred[Sequence[Result]] = Deferred(lambda _: self._cancelled())
        post = self._post = _Post(envelope.queue_id, recipients, done)
        self._deadline.clear()

        def composed(request: Request) -> None:
            if self._post is post:
                self._begin(post, request)

        def failed(failure: Failure) -> None:
            if self._post is not post:
                return
            if failure.check(OSError, ValueError):
                self._settle(post, self._results(_UNREADABLE, failure.getErrorMessage(), is_ours=True))
            else:
                self._post = None
                self._abort()
                done.errback(failure)

        self._work(self._compose(envelope, recipients, content)).addCallback(composed).addErrback(failed)
        return done

    def close(self) -> None:
        """As in IConnection."""
        if self._is_closed:
            return
        if self._post is not None or self._ready is not None:
            self._break_off(_LOST, "closed by us")
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
        post = self._post
        if self._is_closed:
            return
        if post is None or not post.is_begun:
            self._break_off(_LOST, "it sent what it was not asked for")
            return
        response = post.response
        post.received += len(data)
        is_over = response.feed(data)
        if response.fault:
            self._break_off(_NO_HTTP, response.fault)
        elif post.received > _LARGEST or len(response.body) > _LARGEST_BODY:
            if response.status < 200:
                self._break_off(_NO_HTTP, f"no answer in {_LARGEST} octets")
            else:
                self._answered(post, is_kept=False)
        elif is_over:
            # Who answers before he has everything reads no more of it, and is asked nothing more.
            self._answered(post, is_kept=response.is_kept and post.is_sent)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, whoever brought it about."""
        was_closed, self._is_closed = self._is_closed, True
        post = self._post
        if post is not None and not was_closed and post.response.ends_with_connection:
            self._answered(post, is_kept=False)
        else:
            self._break_off(_LOST, why_lost(reason), failure=failure_in(reason))
        self._deadline.stop()

    # -- the request

    def _begin(self, post: _Post, request: Request) -> None:
        self.messages += 1
        post.is_begun, post.left = True, request.length
        lines = [self._head, *(f"{name}: {value}\r\n" for name, value in request.fields)]
        self.transport.write(f"{''.join(lines)}Content-Length: {request.length}\r\n\r\n".encode("ascii"))
        post.pieces = request.pieces()
        self._deadline.set(self._timeout)
        self._is_paused = False
        self.transport.registerProducer(self, True)
        self._make(post)

    def _make(self, post: _Post) -> None:
        """Have the next piece made, where it reads and decodes without holding up anybody."""
        if self._is_making or self._is_paused or post.is_sent or post.pieces is None:
            return
        self._is_making = True
        pieces = post.pieces

        def made(piece: bytes | None) -> None:
            self._is_making = False
            if self._post is not post:
                return
            if piece is None or len(piece) > post.left:
                self._break_off(_UNREADABLE, "the message has another length than before", is_ours=True)
                return
            self.transport.write(piece)
            post.left -= len(piece)
            self._deadline.set(self._timeout)
            if post.is_sent:
                self.transport.unregisterProducer()
            else:
                self._make(post)

        def failed(failure: Failure) -> None:
            self._is_making = False
            if self._post is post:
                self._break_off(_UNREADABLE, failure.getErrorMessage(), is_ours=True)

        self._work(lambda: next(pieces, None)).addCallbacks(made, failed)

    def pauseProducing(self) -> None:
        """See IPushProducer."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """See IPushProducer."""
        self._is_paused = False
        if self._post is not None:
            self._deadline.set(self._timeout)
            self._make(self._post)

    def stopProducing(self) -> None:
        """See IPushProducer; the end of the connection follows."""
        self._is_paused = True

    # -- the end of it

    def _open(self) -> None:
        self._deadline.clear()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(self)

    def _answered(self, post: _Post, *, is_kept: bool) -> None:
        response = post.response
        answer = Answer(
            response.status,
            bytes(response.body[:_LARGEST_BODY]),
            response.fields.get(b"content-type", b"").decode("latin-1"),
            response.fields.get(b"retry-after", b"").decode("latin-1"),
            self._clock.seconds(),
        )
        is_taken = 200 <= response.status < 300
        if not is_kept and is_taken and post.is_sent and response.is_whole:
            self._leave()
        elif not is_kept:
            self._abort()
        if is_taken and not post.is_sent:  # which it never gets now
            self._settle(post, self._results(_TOO_EARLY, f"HTTP {response.status} came too early"))
        else:
            self._settle(post, results_of(answer, post.recipients, str(self.target), post.queue_id))

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
        post = self._post
        if post is not None:
            self._settle(post, self._results(reply, reason, is_ours=is_ours))

    def _results(self, reply: Reply, reason: str, *, is_ours: bool = False) -> Sequence[Result]:
        post = self._post
        if post is None:
            return ()
        # A connection that was kept may have ended at the other side meanwhile. If the request was taken all the same,
        # the application knows it again by its key.
        is_reused = self.messages > int(post.is_begun)
        again = not is_ours and reply is _LOST and is_reused and not post.received
        next_host = again or not (is_ours or post.is_sent)
        host = "" if is_ours else str(self.target)
        return [
            Result(one, OutcomeKind.DEFERRED, reply, host, next_host=next_host, reason=reason, again=again)
            for one in post.recipients
        ]

    def _settle(self, post: _Post, results: Sequence[Result]) -> None:
        self._post = None
        if not self._is_closed:
            self._deadline.clear()
        post.response.close()
        post.done.callback(results)

    def _cancelled(self) -> None:
        post, self._post = self._post, None
        if post is not None:
            post.response.close()
            post.done.errback(CancelledError())
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
