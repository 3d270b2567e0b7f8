"""The transport's side of a session: octets to lines and content, replies to one write, silence to a time-out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from twisted.internet.address import IPv4Address as TCPv4
from twisted.internet.address import IPv6Address as TCPv6
from twisted.internet.interfaces import IAddress, IConsumer, IDelayedCall, IPushProducer, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.mail.smtp import ESMTP
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Session
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import Conversation, SessionServices
from mailgate.smtp.dialogue import Dialogue
from mailgate.sockets import write_now
from mailgate.wire.commands import MAX_COMMAND_LINE

__all__ = ["Host", "ServerProtocol", "client_of"]

_log = Logger()

#: Seconds that a peer has to take our last reply, at least.
_PARTING = 10.0
#: Octets that may wait while an answer is pending; then the client is not read any more.
_MAX_WAITING = 64 * 1024


def client_of(peer: IAddress) -> Client:
    """Who connected: a mapped IPv4 address is an IPv4 address; a unix socket's client has none."""
    if not isinstance(peer, TCPv4 | TCPv6):
        return Client(None)
    return Client(_address(peer.host), peer.port)


@functools.lru_cache(maxsize=4096)
def _address(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


class Host(Protocol):
    """What a session tells its listener."""

    def admit(self, protocol: ServerProtocol, client: Client) -> tuple[Reply, str] | None:
        """Count a connection; the refusal, and its private reason, where it is one too many."""

    def left(self, protocol: ServerProtocol, session: Session, cause: str, started: float) -> None:
        """A connection is gone."""


class _Transport(ITCPTransport, IConsumer, IPushProducer):
    """What a transport of the reactor provides."""


@implementer(IPushProducer)
class ServerProtocol(ESMTP):
    """One connection. Of Twisted's ESMTP only its place in the framework is left; what it reads, says and accepts is
    decided by the Dialogue.
    """

    transport: _Transport

    def __init__(self, listener: Host, settings: ListenerSection, services: SessionServices) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self._listener = listener
        self._settings = settings
        self._services = services
        self._dialogue: Dialogue | None = None
        self._buffer = b""
        self._out: list[bytes] = []
        self._is_open = False  # the banner has been said, or a refusal
        self._is_working = False
        self._is_paused = False  # the peer is not read
        self._is_unheard = False  # the peer does not take what we say
        self._skips_line = False
        self._cause = ""
        self._started = self._end = 0.0
        self._deadline = 0.0

    # -- the framework's calls

    def connectionMade(self) -> None:
        """Greet, or refuse what is over a limit."""
        clock = self._services.clock
        self._started = clock.seconds()
        self._end = self._started + self._settings.session_timeout
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._dialogue = dialogue = Dialogue(
            Conversation(
                client_of(self.transport.getPeer()),
                self._settings,
                self._services,
                say=self._out.append,
                hang_up=self._hang_up,
                resume=self._resume,
                has_more=lambda: bool(self._buffer),
            )
        )
        refusal = self._listener.admit(self, dialogue.session.client)
        self._wait(self._settings.command_timeout)
        self.setTimeout(min(self._tick, self._settings.session_timeout))  # type: ignore[no-untyped-call]  # Twisted's
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
        if dialogue is None or dialogue.is_over:
            return
        if not self._is_open:
            dialogue.session.early_octets += len(data)
        self._buffer = self._buffer + data if self._buffer else data
        if not dialogue.is_busy:
            self._work()
        elif len(self._buffer) > _MAX_WAITING:
            self._pause()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is closed, by whomever."""
        self.setTimeout(None)  # type: ignore[no-untyped-call]  # Twisted's
        dialogue, self._dialogue = self._dialogue, None
        if dialogue is not None:
            try:
                dialogue.lost()
            finally:
                self._listener.left(self, dialogue.session, self._cause or "lost", self._started)

    def callLater(self, period: float, func: Callable[[], None]) -> IDelayedCall:
        """The framework's own seam for the clock."""
        return self._services.clock.callLater(period, func)

    def timeoutConnection(self) -> None:
        """Look whether the peer has been silent for too long, or does not take our last reply."""
        dialogue = self._dialogue
        if dialogue is None:
            return
        left = self._deadline - self._services.clock.seconds()
        if left <= 0 and dialogue.is_over:
            self.transport.abortConnection()
            return
        if left <= 0 and not dialogue.is_busy:  # where we are busy, we are the ones who are slow
            dialogue.time_out()
            self._flush()
            left = _PARTING
        self.setTimeout(min(left, self._tick) if left > 0 else self._tick)  # type: ignore[no-untyped-call]  # Twisted's

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
        if self._dialogue is not None:
            self._dialogue.drain()
            self._flush()

    def cut(self) -> None:
        """End now."""
        if self._dialogue is not None:
            self._dialogue.cut()
            self._flush()

    # -- the work

    def _work(self) -> None:
        dialogue = self._dialogue
        if self._is_working or dialogue is None:
            return
        self._is_working = True
        talk, settings = dialogue.talk, self._settings
        gate = talk.gate
        self._is_open = self._is_open or not gate.is_closed
        try:
            while not (gate.is_closed or talk.is_over):
                if dialogue.is_draining and dialogue.drain():
                    break
                if talk.takes_content:
                    if not self._buffer:
                        self._wait(settings.data_timeout)
                        break
                    data, self._buffer = self._buffer, b""
                    self._buffer = dialogue.content(data)
                    self._wait(settings.data_timeout if talk.takes_content else settings.command_timeout)
                elif not self._buffer or not self._next_line(dialogue):
                    break
        except Exception:
            _log.failure("a session failed")
            dialogue.crash()
        finally:
            self._is_working = False
        if talk.is_over:
            self._buffer = b""
        if self._is_paused and not (gate.is_closed or talk.is_over or self._is_unheard):
            self._is_paused = False
            self.transport.resumeProducing()
        self._flush()

    def _resume(self) -> None:
        """An answer that was awaited has been given: from now on it is the peer that has to be quick."""
        self._wait(self._settings.command_timeout)
        self._work()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pauseProducing()

    def _next_line(self, dialogue: Dialogue) -> bool:
        """Take one command line from the buffer; whether there was one."""
        buffer = self._buffer
        if not self._skips_line:
            end = buffer.find(b"\n", 0, MAX_COMMAND_LINE)
            if end >= 0:
                line, self._buffer = buffer[: end + 1], buffer[end + 1 :]
                self._wait(self._settings.command_timeout)
                if line.endswith(b"\r\n"):
                    dialogue.command(line[:-2])
                else:
                    # Nothing here can be read in two ways: whoever ends lines otherwise is told, and let go.
                    dialogue.end(replies.BARE_LF, "errors")
                return True
            if len(buffer) < MAX_COMMAND_LINE:
                return False
            self._skips_line = True
        end = buffer.find(b"\r\n")
        if end < 0:
            self._buffer = b"\r" if buffer.endswith(b"\r") else b""
            return False
        self._buffer = buffer[end + 2 :]
        self._skips_line = False
        self._wait(self._settings.command_timeout)
        dialogue.mistake(replies.LINE_TOO_LONG)
        return True

    def _flush(self) -> None:
        if self._out:
            write_now(self.transport, b"".join(self._out))
            self._out.clear()
        if self._cause:
            self.transport.loseConnection()

    def _hang_up(self, cause: str) -> None:
        self._wait(_PARTING)
        self._cause = cause
        # A transport that waits for a producer does not close.
        self.transport.unregisterProducer()

    def _wait(self, seconds: float) -> None:
        """Give the peer this long, but not past the end of the session's time; after our last reply, no more."""
        if not self._cause:
            deadline = self._services.clock.seconds() + seconds
            self._deadline = deadline if deadline < self._end else self._end

    @property
    def _tick(self) -> float:
        # One timer a connection, which looks often enough to be late for no deadline: moving a timer forward for each
        # command is what costs.
        return min(self._settings.command_timeout, self._settings.data_timeout)
