"""The transport's side of a session: octets to lines and content, replies to one write, silence to a time-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from twisted.internet.interfaces import IHandshakeListener, IPushProducer, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.mail.smtp import ESMTP
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Tls
from mailgate.smtp import replies
from mailgate.smtp.conversation import Conversation, SessionServices
from mailgate.smtp.dialogue import Dialogue
from mailgate.smtp.host import Host, Refusal
from mailgate.smtp.pace import Pace
from mailgate.smtp.peer import ServerTransport, client_of, handshake_fault, is_in, told_by, was_silent
from mailgate.sockets import write_now
from mailgate.tls.check import outcome_of
from mailgate.tls.info import channel_bindings, tls_of
from mailgate.wire.commands import MAX_AUTH_LINE, MAX_COMMAND_LINE
from mailgate.wire.proxy import ProxyError, ProxyReader

__all__ = ["ServerProtocol"]

_log = Logger()

#: Seconds that a peer has to take our last reply, and under TLS to close in its turn; and while we are closing down.
_PARTING, _CLOSING = 10.0, 5.0
#: Seconds for a PROXY header, and for a handshake.
_OPENING = 30.0
#: Whom a connection is counted for until its PROXY header has come: no limit per client is for them.
_NOBODY = Client(None)
#: Octets that may wait while an answer is pending; then the client is not read any more.
_MAX_WAITING = 64 * 1024


@implementer(IPushProducer, IHandshakeListener)
class ServerProtocol(ESMTP):
    """One connection. Of Twisted's ESMTP only its place in the framework is left; what it reads, says and accepts is
    decided by the Dialogue.
    """

    transport: ServerTransport

    def __init__(self, listener: Host, settings: ListenerSection, services: SessionServices) -> None:
        # What the base would set up is for a dialogue of its own, which never begins.
        self._listener = listener
        self._settings = settings
        self._services = services
        self._vigil = services.vigil
        self._dialogue: Dialogue | None = None
        self._proxy: ProxyReader | None = None  # while a PROXY header is to come
        self._is_shaking = False  # a TLS handshake is under way
        self._max_line = MAX_AUTH_LINE if settings.auth or settings.client_certificates != "none" else MAX_COMMAND_LINE
        self._buffer = b""
        self._out: list[bytes] = []
        self._is_open = False  # the banner has been said, or a refusal
        self._is_working = False
        self._is_paused = False  # the peer is not read
        self._is_unheard = False  # the peer does not take what we say
        self._skips_line = False
        self._cause = ""
        self._started = self._end = 0.0
        self.deadline = inf
        self._pace: Pace | None = None  # under stress

    # -- the framework's calls

    def connectionMade(self) -> None:
        """Greet, or refuse what is over a limit; behind a proxy, when it has said for whom."""
        settings = self._settings
        self._started = self._services.clock.seconds()
        self._end = self._started + settings.session_timeout
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        client = client_of(self.transport.getPeer())
        is_proxy = bool(settings.proxy_protocol_from) and is_in(client, settings.proxy_protocol_from)
        refusal = self._listener.admit(self, _NOBODY if is_proxy else client)
        self._vigil.watch(self)
        if refusal is not None or not is_proxy:  # of one that is refused, it does not matter for whom it is
            self._open(client, refusal)
            return
        self._proxy = ProxyReader()
        self._wait(_OPENING)

    def _open(self, client: Client, refusal: Refusal | None, by: Client | None = None, tls: Tls | None = None) -> None:
        """Begin the session of this client, or refuse it; `by` is the proxy that named it and has ended its `tls`."""
        settings = self._settings
        self.transport.registerProducer(self, True)
        self._dialogue = dialogue = Dialogue(
            Conversation(
                client,
                settings,
                self._services,
                say=self._out.append,
                hang_up=self._hang_up,
                resume=self._resume,
                has_more=lambda: bool(self._buffer),
                bindings=self._bindings,
                proxy=by,
            ),
            self._start_tls,
            lambda other: self._listener.admit(self, other),
        )
        dialogue.session.tls = tls
        if refusal is not None and (settings.tls == "implicit" or refusal[0] is None):
            # A handshake for the sake of a refusal would cost more than it is worth, and hold the connection.
            dialogue.refuse_connection(None, refusal[1])
            self.transport.abortConnection()
            return
        self._wait(settings.command_timeout)
        if settings.tls == "implicit":
            self._start_tls()
        else:
            self._greet(dialogue, refusal)

    def _greet(self, dialogue: Dialogue, refusal: Refusal | None = None) -> None:
        self._is_working = True
        try:
            if refusal is None:
                dialogue.open()
            else:
                dialogue.refuse_connection(*refusal)
        except Exception:
            _log.failure("a session failed")
            dialogue.crash()
        finally:
            self._is_working = False
        self._work()

    def dataReceived(self, data: bytes) -> None:
        """Octets from the peer, in any pieces."""
        dialogue = self._dialogue
        if dialogue is None or dialogue.talk.is_over:
            if self._proxy is not None:
                self._introduced(self._proxy, data)
            return
        if not self._is_open:
            dialogue.session.early_octets += len(data)
        self._buffer = self._buffer + data if self._buffer else data
        if not dialogue.talk.gate.is_closed:
            self._work()
        elif len(self._buffer) > _MAX_WAITING:
            self._pause()

    def _introduced(self, reader: ProxyReader, data: bytes) -> None:
        """Octets of the PROXY header, and what may stand behind it."""
        peer = client_of(self.transport.getPeer())
        try:
            found = reader.feed(data)
        except ProxyError as error:
            _log.warn("{peer} of proxy_protocol_from is not served: {error}", peer=str(peer), error=str(error))
            self._abort("proxy")
            return
        if found is None:
            return
        self._proxy = None
        header, rest = found
        client, tls = told_by(header, peer)
        self._open(client, self._listener.admit(self, client), None if client is peer else peer, tls)
        if rest and not self._cause:
            # With implicit TLS this is the beginning of the handshake: whoever reads the transport now gets it.
            reads = self.transport.protocol if self._is_shaking else self
            reads.dataReceived(rest)

    def _start_tls(self) -> None:
        """What comes next from the peer is its handshake, and nothing of it has come yet."""
        self._flush()
        self._is_shaking = True
        self._wait(_OPENING)
        if self._services.tls is None:
            raise AssertionError("there is no certificate")
        self.transport.startTLS(self._services.tls)

    def handshakeCompleted(self) -> None:
        """The peer speaks TLS."""
        dialogue = self._dialogue
        if dialogue is None or self._cause:
            return
        self._is_shaking = False
        self._wait(self._settings.command_timeout)
        connection = self.transport.getHandle()  # type: ignore[attr-defined]  # ISSLTransport's
        dialogue.secured(tls_of(connection, outcome_of(connection).is_verified))
        if not self._is_open:
            self._greet(dialogue)

    def _bindings(self) -> Mapping[str, bytes]:
        return channel_bindings(self.transport.getHandle(), is_server=True)  # type: ignore[attr-defined]  # ISSLTransport's

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is closed, by whomever."""
        self._vigil.leave(self)
        dialogue, self._dialogue = self._dialogue, None
        if dialogue is None:
            self._listener.left(self, None, self._cause or "lost", self._started)
            return
        try:
            if self._is_shaking and self._cause != "shutdown":
                connection = self.transport.getHandle()  # type: ignore[attr-defined]  # ISSLTransport's
                if self._cause or not was_silent(connection, reason):
                    fault = "it took too long" if self._cause else handshake_fault(reason)
                    dialogue.talk.teller.tell("tls", None, f"the TLS handshake failed: {fault}")
                    self._cause = self._cause or "tls"
            dialogue.lost()
        finally:
            self._listener.left(self, dialogue.session, self._cause or "lost", self._started)

    def out_of_time(self) -> None:
        """The peer has been silent for too long, or does not take our last reply."""
        dialogue = self._dialogue
        if dialogue is None or dialogue.is_over or self._is_shaking:
            # No header, no handshake, or our last reply was not taken.
            self.deadline = inf
            self._abort("timeout")
        elif dialogue.is_busy:  # we are those who are slow
            self.deadline = self._services.clock.seconds() + self._settings.command_timeout
        else:
            dialogue.time_out()
            self._flush()

    def pauseProducing(self) -> None:
        """The peer does not take our replies: it gets no new ones."""
        self._is_unheard = True
        self._pause()

    def resumeProducing(self) -> None:
        """The peer has taken our replies."""
        self._is_unheard = False
        self._work()

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost is what counts."""

    # -- the listener's calls

    def drain(self) -> None:
        """End soon, without cutting a transaction."""
        self._leave(Dialogue.drain)

    def cut(self) -> None:
        """End now."""
        self._leave(Dialogue.cut)

    def _leave(self, end: Callable[[Dialogue], object]) -> None:
        if self._dialogue is None or self._is_shaking:
            self._abort("shutdown")
            return
        end(self._dialogue)
        self._flush()
        if self._cause:
            self._part(_CLOSING)

    def _abort(self, cause: str) -> None:
        # Before a session, and within a handshake, there is no way to say why.
        self._cause = self._cause or cause
        self._proxy = None
        self.transport.abortConnection()

    def hurry(self) -> None:
        """The listener has come under stress: who is silent has less time."""
        now, settings = self._services.clock.seconds(), self._settings
        self._set(min(self.deadline, now + settings.stress_timeout))
        if self._dialogue is not None and self._dialogue.is_receiving:
            self._pace = Pace()
            self._pace.begin(self._dialogue.session.messages, now, settings.data_timeout)

    # -- the work

    def _work(self, *, is_heard: bool = False) -> None:
        """Take what has come; `is_heard`: the time that the peer has begins anew, whatever has come."""
        dialogue = self._dialogue
        if self._is_working or dialogue is None:
            return
        self._is_working = True
        talk = dialogue.talk
        gate = talk.gate
        if not self._is_open:
            self._is_open = not (gate.is_closed or self._is_shaking)
        try:
            while not (gate.is_closed or talk.is_over or self._is_shaking):
                if dialogue.is_draining and dialogue.drain():
                    break
                if not self._buffer:
                    break
                if talk.takes_content:
                    data, self._buffer = self._buffer, b""
                    self._buffer = dialogue.content(data)
                    if self._pace is not None:
                        self._pace.fed += len(data)
                elif not self._next_line(dialogue):
                    break
                is_heard = True
        except Exception:
            _log.failure("a session failed")
            dialogue.crash()
        finally:
            self._is_working = False
        if is_heard and not self._is_shaking:
            settings = self._settings
            self._wait(settings.data_timeout if talk.takes_content else settings.command_timeout)
        if talk.is_over:
            self._buffer = b""
        elif self._is_paused and not (gate.is_closed or self._is_unheard):
            self._is_paused = False
            self.transport.resumeProducing()
        self._flush()

    def _resume(self) -> None:
        """An answer that was awaited has been given: from now on it is the peer that has to be quick."""
        self._work(is_heard=True)

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pauseProducing()

    def _next_line(self, dialogue: Dialogue) -> bool:
        """Take one command line from the buffer; whether there was one."""
        buffer = self._buffer
        if not self._skips_line:
            end = buffer.find(b"\n", 0, self._max_line)
            if end >= 0:
                self._buffer = buffer[end + 1 :]
                if buffer[end - 1 : end] == b"\r":
                    dialogue.command(buffer[: end - 1])
                else:
                    # Nothing here can be read in two ways: whoever ends lines otherwise is told, and let go.
                    dialogue.end(replies.BARE_LF, "errors")
                return True
            if len(buffer) < self._max_line:
                return False
            self._skips_line = True
        end = buffer.find(b"\r\n")
        if end < 0:
            self._buffer = b"\r" if buffer.endswith(b"\r") else b""
            return False
        self._buffer = buffer[end + 2 :]
        self._skips_line = False
        dialogue.line_too_long()
        return True

    def _flush(self) -> None:
        out = self._out
        if out:
            if len(out) == 1:
                write_now(self.transport, out[0], is_last=self._cause == "quit")
            else:  # the answer to content may be in it, which a client that has sent more than QUIT is to get, too
                write_now(self.transport, b"".join(out))
            out.clear()
        if self._cause:
            self.transport.loseConnection()

    def _hang_up(self, cause: str) -> None:
        self._cause = cause
        self.deadline = inf
        self._part(_CLOSING if cause == "shutdown" else _PARTING)
        # A transport that waits for a producer does not close.
        self.transport.unregisterProducer()

    def _part(self, seconds: float) -> None:
        # Our last reply has been said: the connection is cut after this long at most.
        self._set(min(self.deadline, self._services.clock.seconds() + seconds))

    def _wait(self, seconds: float) -> None:
        """Give the peer this long, but not past the end of the session's time; after our last reply, no more."""
        if self._listener.is_stressed:
            self._wait_under_stress(seconds)
        elif not self._cause:
            deadline = self._services.clock.seconds() + seconds
            self.deadline = deadline = deadline if deadline < self._end else self._end
            if deadline < self._vigil.next:
                self._vigil.hasten(deadline)

    def _wait_under_stress(self, seconds: float) -> None:
        """Give the peer no more than the stress allows, and for content nothing where it comes too slowly."""
        if self._cause:
            return
        now, settings, dialogue = self._services.clock.seconds(), self._settings, self._dialogue
        message = dialogue.session.messages if dialogue is not None and dialogue.is_receiving else None
        if self._pace is None:
            self._pace = Pace()
        if self._pace.renews(message, now, settings.data_timeout):
            self._set(min(now + min(seconds, settings.stress_timeout), self._pace.until, self._end))

    def _set(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < self._vigil.next:
            self._vigil.hasten(deadline)
