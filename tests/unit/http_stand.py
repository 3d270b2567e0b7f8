"""The listener of `[http]` in memory: Twisted's HTTP, our resources, and a quarantine on a spool in memory."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailgate.address import NULL_PATH, Address
from mailgate.config.digest import DigestSection
from mailgate.config.http import HttpSection, TokenSection
from mailgate.envelope import Envelope, EnvelopeRecipient, Kept, TraceStep
from mailgate.interfaces import Selector
from mailgate.message import Content
from mailgate.observe.metrics import Metrics
from mailgate.quarantine.originals import Originals
from mailgate.quarantine.rescan import Rescanner
from mailgate.quarantine.review import Review
from mailgate.quarantine.sending import Sending
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import EventRecorder, MemorySpool
from mailgate.web.control import StatusBoard
from mailgate.web.front import Front
from mailgate.web.links import Links, Meant
from mailgate.web.numbers import Numbers
from mailgate.web.operations import QueueOperations
from mailgate.web.pages import ReleasePages
from mailgate.web.quarantine import QuarantineOperations
from mailgate.web.quarantine_models import Rescanned, RescanOrder
from mailgate.web.recipients import ForRecipients
from mailgate.web.rendering import Templates
from mailgate.web.resources import resources
from mailgate.web.server import HttpServer
from mailgate.web.steering import Steering
from mailgate.web.tokens import Tokens, hash_of
from tests.unit.told_relay import ToldRelay

__all__ = ["NOW", "SECRETS", "Answer", "Connection", "HttpStand", "result"]

#: A day in 2027.
NOW = 1_800_000_000.0
DAY = 86400.0
TEMPLATES = Templates()
SECRETS = {
    "reader": "mailgate_reads-the-queue",
    "writer": "mailgate_writes-the-queue",
    "keeper": "mailgate_sees-to-the-quarantine",
    "prometheus": "mailgate_reads-metrics",
    "old": "mailgate_has-expired",
}
_SCOPES: Mapping[str, list[Any]] = {
    "reader": ["queue:read"],
    "writer": ["queue:read", "queue:write"],
    "keeper": ["quarantine:read", "quarantine:write", "status"],
    "prometheus": ["metrics"],
    "old": ["queue:read", "status"],
}


def result(answer: Any) -> Any:
    """What is there at once."""
    found: list[Any] = []
    done = answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(answer)
    done.addBoth(found.append)
    assert found, "it is not there yet"
    if isinstance(found[0], BaseException) or hasattr(found[0], "raiseException"):
        found[0].raiseException()
    return found[0]


class Answer:
    """An answer as it went over the wire."""

    def __init__(self, octets: bytes) -> None:
        head, _, self.content = octets.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if self.fields.get("transfer-encoding") == "chunked":
            self.content = b"".join(self.content.split(b"\r\n")[1::2])

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class _Transport(StringTransport):
    aborting = False

    def abortConnection(self) -> None:  # noqa: N802  Twisted's name
        self.aborting = True


class Connection:
    """A client's connection."""

    def __init__(self, stand: HttpStand, address: str) -> None:
        kind: Any = IPv6Address if ":" in address else IPv4Address
        peer: IAddress = kind("TCP", address, 40000)
        self.channel = stand.server.factory.buildProtocol(peer)
        self.transport: Any = _Transport(peerAddress=peer)  # type: ignore[no-untyped-call]  # Twisted's
        self.is_admitted = self.channel is not None
        if self.is_admitted:
            self.channel.makeConnection(self.transport)

    def send(self, octets: bytes) -> bytes:
        """What is there to read then."""
        self.channel.dataReceived(octets)
        return bytes(self.transport.value())

    def end(self) -> None:
        """The client goes."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def is_closing(self) -> bool:
        return bool(self.transport.disconnecting or self.transport.aborting)


class RescanningQuarantine(QuarantineOperations):
    """One whose filters say what the test wants."""

    says = Rescanned(matched=0)

    async def rescan(self, order: RescanOrder) -> Rescanned:
        self.asked = order
        return self.says


class HttpStand:
    """Everything, at NOW; `http` and `digest` are the keys of the sections."""

    def __init__(self, folder: Path, http: Mapping[str, Any] | None = None, **digest: Any) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.spool = MemorySpool(self.clock)
        self.events = EventRecorder()
        self.counters = MemoryCounters(self.clock, 1000)
        self.board = StatusBoard(self.clock.seconds)
        self.metrics = Metrics()
        gone = datetime.date(2027, 1, 15)
        tokens = {
            name: TokenSection(
                hash=hash_of(secret), scopes=list(_SCOPES[name]), expires=gone if name == "old" else None
            )
            for name, secret in SECRETS.items()
        }
        self.section = HttpSection(tokens=tokens, **(http or {}))
        relay = ToldRelay(self.spool, self.events, self.clock)
        now, routes = self.clock.seconds, lambda: ("box",)
        queue = QueueOperations(self.spool, self.events, relay, routes, now=now)
        originals = Originals(folder)
        self.quarantine = RescanningQuarantine(
            self.spool,
            self.events,
            queue=queue,
            originals=originals,
            review=Review(self.spool, self.events, relay, Rescanner(), now),
            sending=Sending(
                self.spool,
                self.events,
                relay,
                originals=originals,
                route_of=lambda recipient, sender: "box",
                incoming=folder,
                now=now,
            ),
            retention=lambda: 30 * DAY,
            now=now,
        )
        steering = Steering(self.spool, self.events, relay, routes, now)
        self.api = resources(queue, steering, self.board.status, self.quarantine)
        self.links = Links(b"s" * 32)
        numbers = Numbers(self.metrics, self.spool, now)
        self.front = Front(Tokens(self.counters, now), self.board.status, numbers.text)
        self.server = HttpServer(self.section, self.front, self.clock, has_tls=False, wanted=self.front.wanted)
        self.use(**digest)

    def use(self, **digest: Any) -> None:
        """Serve it, with this section for the digest."""
        section = DigestSection(**{"from": "quarantine@example.org", "scan": False, **digest})
        shown = ForRecipients(self.quarantine, section.exclude, scan=section.scan)
        pages = ReleasePages(
            self.links, shown, self.clock.seconds, TEMPLATES, organization="Example Ltd", contact="desk@example.org"
        )
        self.server.use(None, self.section.forwarded_from)
        self.front.use(self.section, self.api.children[b"v1"], pages)

    def keep(
        self,
        queue_id: str,
        *recipients: str,
        content: bytes = b"From: Eve <eve@far.test>\r\nSubject: hello\r\n\r\nx\r\n",
        steps: Sequence[TraceStep] = (TraceStep("message", "score", "quarantine", "looks like spam"),),
        reason: str = "looks like spam",
        sender: Address = NULL_PATH,
    ) -> None:
        """Put a message into quarantine."""
        envelope = Envelope(
            queue_id=queue_id,
            sender=sender,
            recipients=tuple(
                EnvelopeRecipient(number, Address.parse(one), "box", reason)
                for number, one in enumerate(recipients or ("ann@example.org",))
            ),
            received=self.clock.seconds(),
            size=len(content),
            kept=Kept(steps=tuple(steps)),
        )
        result(self.spool.accept(envelope, Content(content), self.clock.seconds() + 60))

    def states(self) -> dict[str, str]:
        """The state of each entry of the spool."""
        return {f"{one.queue_id}:{one.number}": one.state for one in result(self.spool.view(Selector(), 1000))}

    def token(self, queue_id: str, number: int = 0, recipient: str = "ann@example.org", **more: Any) -> str:
        """A link's signed part."""
        return self.links.sign(Meant(queue_id, number, recipient, more.get("expires", int(NOW + 30 * DAY))))

    def connect(self, address: str = "192.0.2.7") -> Connection:
        """A connection."""
        return Connection(self, address)

    def ask(
        self,
        method: str,
        target: str,
        secret: str | None = None,
        *,
        address: str = "192.0.2.7",
        content: bytes = b"",
        **fields: str,
    ) -> Answer:
        """One request on a connection of its own; `fields` with _ for -."""
        connection = self.connect(address)
        assert connection.is_admitted
        lines = [f"{method} {target} HTTP/1.1", "Host: gate.test", f"Content-Length: {len(content)}"]
        if secret is not None:
            lines.append(f"Authorization: Bearer {secret}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        answer = Answer(connection.send("\r\n".join([*lines, "", ""]).encode() + content))
        connection.end()
        return answer
