"""A listener in memory, with a pipeline and an intake that answer as a test says, and clients that talk to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.address import IPv4Address as TCPv4
from twisted.internet.address import IPv6Address as TCPv6
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Identity, Recipient, Session, Transaction
from mailgate.events import Refused, SessionClosed
from mailgate.interfaces import IIntake, IPipeline, IRouting
from mailgate.message import Content, MemoryBudget, Message
from mailgate.reply import MAX_REPLY_LINE, Reply
from mailgate.smtp.conversation import SessionServices
from mailgate.smtp.factory import Listener
from mailgate.smtp.offers import Offers
from mailgate.smtp.protocol import ServerProtocol
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.slots import LocalTally
from mailgate.testing import EventRecorder
from mailgate.verdict import Continue, Reject
from mailgate.wire.replies import ReplyReader
from tests.unit.tls_pair import Side

__all__ = ["CONTENT", "ENVELOPE", "Call", "Script", "Stand", "TcpTransport", "Wire"]

ENVELOPE = b"MAIL FROM:<ann@client.example>\r\nRCPT TO:<bob@example.org>\r\n"
CONTENT = b"Subject: hello\r\nMessage-ID: <1@client.example>\r\n\r\n..stuffed\r\ntext\r\n.\r\n"


class Call:
    """An answer of the script that is made when it is asked for."""

    def __init__(self, make: Callable[..., object]) -> None:
        self.make = make


@implementer(IPipeline, IIntake, IRouting)
class Script:
    """What a listener asks. `answers` holds, by stage, a value, an exception to raise, a Call, or a Deferred.

    Without one nobody objects: recipients of example.org are routed, and messages are taken into `messages`.
    `asked` names each stage that was asked, in order.
    """

    def __init__(self) -> None:
        self.stages = frozenset({"connect", "helo", "auth", "mail", "rcpt", "data", "message"})
        self.answers: dict[str, object] = {}
        self.asked: list[str] = []
        self.taken: list[tuple[Session, Transaction, Content, Sequence[object]]] = []

    def connect(self, session: Session) -> Any:
        return self._answer("connect", Continue(), session)

    def helo(self, session: Session) -> Any:
        return self._answer("helo", Continue(), session)

    def auth(self, session: Session, identity: Identity) -> Any:
        return self._answer("auth", Continue(), session, identity)

    def mail(self, session: Session, transaction: Transaction) -> Any:
        return self._answer("mail", Continue(), session, transaction)

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Any:
        return self._answer("rcpt", Continue(), session, transaction, recipient)

    def data(self, session: Session, transaction: Transaction) -> Any:
        return self._answer("data", Continue(), session, transaction)

    def message(self, session: Session, transaction: Transaction, message: Message) -> Any:
        verdicts = [Continue()] * len(transaction.recipients)
        return self._answer("message", verdicts, session, transaction, message)

    def route(self, session: Session, transaction: Transaction, address: Address) -> str | Reject:
        if address.domain == "example.org":
            return "inside"
        return Reject(Reply.of(550, "5.7.1", "Relaying denied"), "not ours")

    def refuse_before_data(self, size: int | None) -> Reply | None:
        return cast("Reply | None", self._answer("room", None, size))

    def take(
        self, session: Session, transaction: Transaction, content: Content, verdicts: Sequence[object]
    ) -> Awaitable[Sequence[Reply]]:
        self.taken.append((session, transaction, content, verdicts))
        content.give_back()
        replies = [Reply.of(250, "2.0.0", "queued")] * len(transaction.recipients)
        return cast("Awaitable[Sequence[Reply]]", self._answer("take", succeed(replies)))

    @property
    def messages(self) -> list[bytes]:
        """What the intake was given."""
        return [content.read() for _, _, content, _ in self.taken]

    def _answer(self, stage: str, otherwise: object, *values: object) -> object:
        self.asked.append(stage)
        answer = self.answers.get(stage, otherwise)
        if isinstance(answer, Exception):
            raise answer
        return answer.make(*values) if isinstance(answer, Call) else answer


class TcpTransport(StringTransport):
    """A transport that counts its writes, and goes on under TLS as Twisted's sockets do (twisted.internet._newtls)."""

    protocol: Any

    def __init__(self, peer: IAddress, clock: Clock) -> None:
        super().__init__(peerAddress=peer)  # type: ignore[no-untyped-call]  # Twisted's
        self._clock = clock
        self._tls: Any = None
        self.writes = 0

    def startTLS(self, creator: IOpenSSLServerConnectionCreator, normal: bool = True) -> None:  # noqa: N802  Twisted's
        producer = self.producer
        self.unregisterProducer()
        factory = TLSMemoryBIOFactory(creator, not normal, Factory(), self._clock)
        self.protocol = tls = factory.protocol(factory, self.protocol, False)
        self._tls = tls
        tls.makeConnection(_Beneath(self))
        self.registerProducer(producer, True)

    def getHandle(self) -> SSL.Connection:  # noqa: N802  Twisted's name
        return cast(SSL.Connection, self._tls.getHandle())

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._tls.write(data) if self._tls is not None else super().write(data)  # type: ignore[no-untyped-call]

    def loseConnection(self) -> None:  # noqa: N802  Twisted's name
        if self._tls is None:
            super().loseConnection()  # type: ignore[no-untyped-call]  # Twisted's
        elif not self.disconnecting:
            self._tls.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802  Twisted's name
        where: Any = super() if self._tls is None else self._tls
        where.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802  Twisted's name
        where: Any = super() if self._tls is None else self._tls
        where.unregisterProducer()

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        self.disconnected = self.disconnecting = True


class _Beneath:
    """The transport as its TLS sees it."""

    def __init__(self, transport: TcpTransport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "loseConnection", "registerProducer", "unregisterProducer"):
            return partial(getattr(StringTransport, name), self._transport)
        return getattr(self._transport, name)


class Wire:
    """One client, connected. What it is told is checked to be well-formed replies."""

    def __init__(self, stand: Stand, address: str = "192.0.2.1") -> None:
        self.stand = stand
        self._side: Side | None = None
        self._heard = 0  # octets of what TLS has brought that were looked at
        peer: IAddress
        if address.startswith("/"):
            peer = UNIXAddress(address)
        else:
            peer = (TCPv6 if ":" in address else TCPv4)("TCP", address, 40000)
        self.transport = TcpTransport(peer, stand.clock)
        self.protocol: ServerProtocol = stand.listener.buildProtocol(None)
        self.transport.protocol = self.protocol
        self.octets = b""
        self._reader = ReplyReader()
        self._is_gone = False
        self.protocol.makeConnection(self.transport)  # type: ignore[no-untyped-call]  # Twisted's

    def send(self, data: bytes) -> list[int]:
        """Send octets at once; the codes of the replies that are there now."""
        if self._side is not None:
            self._side.send(data)
        else:
            self.transport.protocol.dataReceived(data)
        return self.codes()

    def secure(self, client: IOpenSSLClientConnectionCreator, before: bytes = b"") -> Wire:
        """Begin a handshake, and carry on with it for as long as there is something to carry; `before` goes ahead of
        its first octet."""
        self._side = Side(client, is_client=True)
        self.transport.protocol.dataReceived(before + self._side.sent())
        self._carry()
        return self

    def starttls(self, client: IOpenSSLClientConnectionCreator) -> Wire:
        """Go on under TLS, not greeted yet."""
        assert self.say("STARTTLS") == [220]
        return self.secure(client)

    @property
    def tls(self) -> SSL.Connection:
        """The client's end of TLS."""
        assert self._side is not None
        return self._side.connection

    def _carry(self) -> None:
        """Carry what is under TLS to and fro until there is nothing more."""
        side = self._side
        assert side is not None
        while True:
            self.stand.clock.advance(0)
            back: bytes = self.transport.value()  # type: ignore[no-untyped-call]  # Twisted's
            self.transport.clear()  # type: ignore[no-untyped-call]  # Twisted's
            side.take(back)
            there = side.sent()
            if there and not self._is_gone:
                self.transport.protocol.dataReceived(there)
            if not (there or back):
                return

    def say(self, *lines: str) -> list[int]:
        """Send command lines, all in one piece."""
        return self.send("".join(f"{line}\r\n" for line in lines).encode())

    def codes(self) -> list[int]:
        """The codes of what was said since the last look."""
        return [reply.code for reply in self.replies()]

    def replies(self) -> list[Reply]:
        """What was said since the last look."""
        if self._side is not None:
            self._carry()
            octets = self._side.received[self._heard :]
            self._heard += len(octets)
        else:
            octets = self.transport.value()  # type: ignore[no-untyped-call]  # Twisted's
            self.transport.clear()  # type: ignore[no-untyped-call]  # Twisted's
        self.octets += octets
        replies = self._reader.feed(octets)
        assert self._reader.is_empty, f"malformed: {octets!r}"
        assert all(len(line) <= MAX_REPLY_LINE for line in octets.splitlines(keepends=True))
        return replies

    def hello(self) -> Wire:
        """Get past the banner and the greeting."""
        assert self.codes() == [220]
        assert self.say("LHLO client.example" if self.stand.is_lmtp else "EHLO client.example") == [250]
        return self

    def data(self, envelope: bytes = ENVELOPE) -> Wire:
        """Get to the content."""
        self.hello()
        assert self.send(envelope + b"DATA\r\n")[-1] == 354
        return self

    def data_again(self) -> list[int]:
        """Send one more message; the code of its last reply."""
        assert self.send(ENVELOPE + b"DATA\r\n") == [250, 250, 354]
        return self.send(CONTENT)

    @property
    def session(self) -> Session:
        """What filters see of it."""
        dialogue = self.protocol._dialogue
        assert dialogue is not None
        return dialogue.session

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed, or will when its last reply has left."""
        return self.transport.disconnecting

    @property
    def is_read(self) -> bool:
        """Whether the server takes what the client sends."""
        return self.transport.producerState == "producing"

    def lose(self) -> None:
        """The connection is gone."""
        if not self._is_gone:
            self._is_gone = True
            self.transport.protocol.connectionLost(Failure(ConnectionDone()))


class Stand:
    """A listener with a script behind it. `settings` are those of its section, `services` fields of SessionServices."""

    def __init__(self, folder: Path, settings: dict[str, object] | None = None, **services: Any) -> None:
        self.folder = folder
        self.clock = Clock()
        self.events = EventRecorder()
        self.script = Script()
        self.trusted = Script()
        self.errors: list[LogEvent] = []
        self.wires: list[Wire] = []
        self.strangers = 0  # connections that never came to a session
        fields: dict[str, object] = {"name": "mx", "endpoints": ["tcp:25"], "pipeline": "p", "resolve_clients": False}
        section = ListenerSection.model_validate(fields | (settings or {}))
        self.is_lmtp = section.protocol == "lmtp"
        self.listener = Listener(section, LocalTally())
        values: dict[str, Any] = {
            "hostname": "mx.example.org",
            "clock": self.clock,
            "events": self.events,
            "routing": self.script,
            "intake": self.script,
            "pipeline": self.script,
            "trusted_pipeline": self.trusted,
            "client_name": lambda address: "",
            "incoming": folder,
            "memory_limit": 1000,
            "budget": MemoryBudget(1_000_000),
            "counters": MemoryCounters(self.clock, 1000),
            "turn": self.turn,
            "secret": b"of the tests",
        }
        values |= services
        authenticator = values.get("authenticator")
        values["offers"] = Offers(
            "mx.example.org",
            section,
            has_tls=values.get("tls") is not None,
            mechanisms=frozenset if authenticator is None else lambda: authenticator.mechanisms,
        )
        self.listener.serve(section, SessionServices(**values))
        self.turned: list[str] = []

    def turn(self, domain: str) -> Deferred[int]:
        """Note for which domain the queue was to be tried; two recipients wait for each."""
        self.turned.append(domain)
        return succeed(2)

    def connect(self, address: str = "192.0.2.1") -> Wire:
        """A client that has connected."""
        wire = Wire(self, address)
        self.wires.append(wire)
        return wire

    def pend(self, stage: str) -> Deferred[Any]:
        """From now on the stage's answer waits for this Deferred."""
        deferred: Deferred[Any] = Deferred()
        self.script.answers[stage] = deferred
        return deferred

    @property
    def refusals(self) -> list[tuple[str, str]]:
        """Stage and reply of each refusal that was made known."""
        return [(event.stage, event.reply[:3]) for event in self.events.of(Refused)]

    @property
    def causes(self) -> list[str]:
        """How sessions ended."""
        return [event.cause for event in self.events.of(SessionClosed)]

    @property
    def files(self) -> list[Path]:
        """Content that lies on the disk."""
        return list(self.folder.iterdir())

    def failed(self) -> list[str]:
        """The exceptions that were logged since the last look, each of which some test must have made."""
        errors, self.errors = self.errors, []
        return [event["log_failure"].getErrorMessage() for event in errors]

    @contextmanager
    def watched(self) -> Iterator[Stand]:
        """Log nothing that is not looked at, and leave nothing behind when all clients have gone."""
        observer = cast(ILogObserver, lambda event: self.errors.append(event) if "log_failure" in event else None)
        globalLogPublisher.addObserver(observer)
        try:
            yield self
            for wire in self.wires:
                wire.lose()
        finally:
            globalLogPublisher.removeObserver(observer)
        assert self.failed() == []
        assert self.clock.getDelayedCalls() == []
        assert self.listener.session_count == 0
        assert len(self.causes) == len(self.wires) - self.strangers
        assert self.listener.services.budget.used == 0
        kept = {content.path for script in (self.script, self.trusted) for _, _, content, _ in script.taken}
        assert set(self.files) <= kept, "content that nobody has is left on the disk"
