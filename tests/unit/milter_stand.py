"""A mail server in memory that asks our milter: what it says is a script, and what it does with the answers is what
Postfix and Sendmail do."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.mta import MilterSection
from mailgate.envelope import Identity, Recipient, Session, Transaction
from mailgate.interfaces import Expanded, IIntake, IPipeline
from mailgate.message import Content, For, MemoryBudget, Message
from mailgate.mta.milter.services import Edit, MilterServices
from mailgate.mta.office import MtaOffice
from mailgate.relay.editing import ContentEditor
from mailgate.reply import Reply
from mailgate.stores.slots import LocalTally
from mailgate.testing import EventRecorder
from mailgate.verdict import Continue, Verdict
from mailgate.wire.milter.codec import (
    Answer,
    Options,
    PacketReader,
    options_data,
    packet,
    parse_answer,
    strings,
)
from mailgate.wire.milter.words import Actions, Code, Plain, Steps

__all__ = [
    "ALL_STEPS",
    "BOB",
    "BYE",
    "EVE",
    "EVERYTHING",
    "LATER",
    "LOCAL",
    "NO",
    "Desk",
    "Judge",
    "Taking",
    "Transport",
    "changing",
    "saying",
    "section",
]

EVERYTHING = 0x1FF
ALL_STEPS = 0x1FFFFF
NO = Reply.of(550, "5.7.1", "Not 100% liked")
LATER = Reply.of(450, "4.7.1", "Come again")
BYE = Reply.of(450, "4.7.0", "Leave")
BOB, EVE = Address("bob", "here.example"), Address("eve", "here.example")
STAGES = ("connect", "helo", "auth", "mail", "rcpt", "data", "message")

Say = Callable[..., Verdict | Awaitable[Verdict]]


def section(**settings: Any) -> MilterSection:
    """A section, as the file would have it."""
    return MilterSection.model_validate({"endpoints": ["tcp:8891"], "pipeline": "in", **settings})


def saying(verdict: Any) -> Say:
    """A stage that says this."""
    return lambda *_: verdict


def changing(*edits: Any, verdict: Any = None) -> Callable[..., Any]:
    """A message stage that changes something."""

    def message(_session: Any, transaction: Any, _message: Any) -> Any:
        transaction.edits += [one for one in edits if not isinstance(one, For)]
        transaction.edits_for = tuple(one for one in edits if isinstance(one, For))
        return verdict or Continue()

    return message


@implementer(IPipeline)
class Judge:
    """Says Continue, or what a test has put in for a stage; `asked` has what it was asked, in order."""

    def __init__(self, stages: Sequence[str] = STAGES) -> None:
        self.stages = frozenset(stages)
        self.says: dict[str, Callable[..., Any]] = {}
        self.asked: list[str] = []
        self.session: Session | None = None
        self.transaction: Transaction | None = None
        self.content = b""

    def _say(self, stage: str, *values: Any) -> Any:
        self.asked.append(stage)
        return self.says[stage](*values) if stage in self.says else Continue()

    def connect(self, session: Session) -> Any:
        self.session = session
        return self._say("connect", session)

    def helo(self, session: Session) -> Any:
        return self._say("helo", session)

    def auth(self, session: Session, identity: Identity) -> Any:
        return self._say("auth", session, identity)

    def mail(self, session: Session, transaction: Transaction) -> Any:
        self.transaction = transaction
        return self._say("mail", session, transaction)

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Any:
        return self._say("rcpt", session, transaction, recipient)

    def data(self, session: Session, transaction: Transaction) -> Any:
        return self._say("data", session, transaction)

    def message(self, session: Session, transaction: Transaction, message: Message) -> Any:
        self.content = message.content.read()
        found = self._say("message", session, transaction, message)
        return found if isinstance(found, list | Awaitable) else [found] * len(transaction.recipients)


@implementer(IIntake)
class Taking:
    """Takes everything, or says what the test wants."""

    def __init__(self) -> None:
        self.taken: list[tuple[Transaction, bytes, Sequence[Verdict]]] = []
        self.answer: Any = None
        self.refusal: Reply | None = None

    def take(
        self, session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Awaitable[Sequence[Reply]]:
        self.taken.append((transaction, content.read(), verdicts))
        content.discard()
        content.give_back()

        async def answer() -> Sequence[Reply]:
            if self.answer is not None:
                return [await self.answer if isinstance(self.answer, Awaitable) else self.answer]
            return [Reply.of(250, "2.0.0", f"queued as {transaction.id}")] * len(verdicts)

        return answer()

    def refuse_before_data(self, size: int | None) -> Reply | None:
        return self.refusal


class Transport(StringTransport):
    """One whose end a test can see."""

    def __init__(self, peer: IAddress) -> None:
        super().__init__(peerAddress=peer)  # type: ignore[no-untyped-call]  # Twisted's
        self.is_open = True
        self.is_paused = False

    def loseConnection(self) -> None:  # noqa: N802 (Twisted's)
        self.is_open = False

    abortConnection = loseConnection  # noqa: N815 (Twisted's)

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False


class Desk:
    """A milter of ours, and one connection to it."""

    def __init__(
        self,
        folder: Path,
        judge: Judge | None = None,
        *,
        trusted: Judge | None = None,
        peer: IAddress | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.events = EventRecorder()
        self.judge = judge or Judge()
        self.trusted = trusted or self.judge
        self.intake = Taking()
        self.edit: Edit | None = None
        self.aliases: dict[Address, Expanded] = {}
        self.folder = folder
        self.budget = MemoryBudget(10**6)
        self.tally = LocalTally()
        self.settings = settings
        config: Any = type(
            "Configured", (), {"milters": {"front": section(**settings)}, "policy_services": {}, "socketmaps": {}}
        )
        self.office = MtaOffice(config, self.tally)
        self.use()
        self.peer = peer or IPv4Address("TCP", "127.0.0.1", 40000)
        self.connect_again()

    def use(self, **changes: Any) -> None:
        """Serve by these settings, as after a reload."""
        self.settings |= changes
        editor = ContentEditor(self.folder, self.clock, self.budget)
        services = MilterServices(
            name="front",
            section=section(**self.settings),
            hostname="mx.test",
            clock=self.clock,
            events=self.events,
            intake=self.intake,
            pipeline=self.judge,
            trusted_pipeline=self.trusted,
            expand=self.aliases.get,
            edit=self.edit or editor.edit,
            incoming=self.folder,
            memory_limit=4096,
            budget=self.budget,
        )
        self.office.use({"front": services})

    def connect_again(self) -> None:
        """Another connection."""
        self.transport = Transport(self.peer)
        self.reader = PacketReader(2**20)
        self.server: Any = self.office.doors["front"].buildProtocol(None)
        self.server.makeConnection(self.transport)

    # -- octets

    def send(self, *packets: bytes) -> list[Answer]:
        """Say these; what has been answered by now, in as many turns of the reactor as that takes."""
        self.server.dataReceived(b"".join(packets))
        while self.server._turn is not None:
            self.clock.advance(0)
        return self.answers()

    def answers(self) -> list[Answer]:
        """What has come since."""
        self.reader.feed(self.transport.value())  # type: ignore[no-untyped-call]  # Twisted's
        self.transport.clear()  # type: ignore[no-untyped-call]  # Twisted's
        found = []
        while (one := self.reader.take()) is not None:
            found.append(parse_answer(*one))
        return found

    # -- steps

    def agree(self, version: int = 6, actions: int = EVERYTHING, steps: int = ALL_STEPS) -> Options:
        """Offer; what it chooses."""
        (chosen,) = self.send(packet(Code.OPTIONS, options_data(Options(version, actions, steps))))
        assert isinstance(chosen, Options)
        self.chosen = chosen
        return chosen

    def macros(self, code: Code, **values: str) -> bytes:
        """Macros for a step."""
        told = [
            text.encode()
            for name, value in values.items()
            for text in (f"{{{name}}}" if len(name) > 1 else name, value)
        ]
        return packet(Code.MACROS, code.value + strings(*told))

    def client(
        self, address: str = "192.0.2.1", name: str = "client.example", port: int = 4711, **macros: str
    ) -> list[Answer]:
        """Somebody has connected to it."""
        data = strings(name.encode()) + (b"6" if ":" in address else b"4") + struct.pack("!H", port)
        return self.send(
            self.macros(Code.CONNECT, j="mx.test", v="Postfix 3.7", **macros),
            packet(Code.CONNECT, data + strings(address.encode())),
        )

    def helo(self, name: str = "client.example", **macros: str) -> list[Answer]:
        return self.send(self.macros(Code.HELO, **macros), packet(Code.HELO, strings(name.encode())))

    def mail(self, sender: str = "ann@client.example", *words: str, **macros: str) -> list[Answer]:
        data = strings(f"<{sender}>".encode(), *[word.encode() for word in words])
        return self.send(self.macros(Code.MAIL, **macros), packet(Code.MAIL, data))

    def rcpt(self, recipient: str = "bob@here.example", *words: str, **macros: str) -> list[Answer]:
        data = strings(f"<{recipient}>".encode(), *[word.encode() for word in words])
        return self.send(self.macros(Code.RCPT, **macros), packet(Code.RCPT, data))

    def begin(self, *recipients: str) -> None:
        """All up to the content."""
        self.agree()
        self.client()
        self.helo()
        self.envelope(*recipients)

    def envelope(self, *recipients: str) -> None:
        """A message, up to its content."""
        assert self.mail() == [Plain.CONTINUE]
        for one in recipients or ("bob@here.example",):
            assert self.rcpt(one) == [Plain.CONTINUE]

    def content(
        self,
        fields: Sequence[tuple[bytes, bytes]] = ((b"Subject", b" hello"), (b"From", b" <ann@client.example>")),
        body: bytes = b"Hello\r\n",
        **macros: str,
    ) -> list[Answer]:
        """A message's header, body and end; what is answered to all of it."""
        packets = [packet(Code.HEADER, strings(name, value)) for name, value in fields]
        packets.append(packet(Code.END_OF_HEADER))
        packets += [packet(Code.BODY, body[at : at + 65535]) for at in range(0, len(body), 65535)]
        if macros:
            packets.append(self.macros(Code.END_OF_BODY, **macros))
        return self.send(*packets, packet(Code.END_OF_BODY))

    def is_right(self, right: Actions) -> bool:
        return bool(self.chosen.actions & right)

    def is_step(self, step: Steps) -> bool:
        return bool(self.chosen.steps & step)

    def left_over(self) -> list[str]:
        """Files of content that are still there."""
        return [path.name for path in self.folder.glob("incoming-*")]


#: An address of a unix socket's client.
LOCAL = UNIXAddress(None)
