"""A scripted next hop in memory, for tests of the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from twisted.internet.defer import Deferred, execute
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, Result, Target
from mailgate.relay.client.connector import IClientReactor, SmtpConnector
from mailgate.relay.client.seams import Work
from mailgate.relay.client.terms import Terms

MESSAGE = b"From: <ann@client.test>\r\nSubject: one\r\n\r\n.dot\r\nbody\r\n"
STUFFED = MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n"

MX = Target("mx.example.org", "192.0.2.1", 25)
LMTP = Target("box", "/run/lmtp", 0, lmtp=True)

Recipients = int | tuple[EnvelopeRecipient, ...]

#: What a script may hold in the place of a reply.
LOST, SILENT = b"(lost)", b"(silent)"


class Peer:
    """A next hop. `script` holds its replies by command word ("END" is the end of data), one after another.

    The last reply to a word is given again and again; what the script does not name is answered as it should be.
    """

    PLAIN: ClassVar[dict[str, list[bytes]]] = {
        "EHLO": [b"250-mx.example.org\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 100000"],
        "DATA": [b"354 go on"],
        "QUIT": [b"221 bye"],
        "END": [b"250 2.0.0 taken"],
    }

    #: On what terms the client comes, and who does its long work.
    terms: ClassVar[Terms] = Terms()
    work: ClassVar[Sequence[Work]] = (execute,)

    def __init__(self, target: Target = MX, banner: bytes = b"220 hello", **script: Sequence[bytes]) -> None:
        self.script = {**self.PLAIN, "LHLO": self.PLAIN["EHLO"], **{k: list(v) for k, v in script.items()}}
        self.reactor = MemoryReactorClock()
        self.commands: list[str] = []
        self.writes: list[bytes] = []
        self.contents: list[bytes] = []
        self.accepted = 0
        self.is_receiving = False
        self.transport = StringTransport()
        reactor = cast(IClientReactor, self.reactor)
        times = (30.0, 300.0, 600.0)
        self.connector = SmtpConnector(reactor, "gw.example", *times, terms=self.terms, work=self.work[0])
        self.sessions: list[IConnection | Failure] = []
        self.connecting = self.connector.connect(target)
        self.connecting.addBoth(self.sessions.append)
        clients = self.reactor.tcpClients if target.port else self.reactor.unixClients
        factory: Any = clients[0][2 if target.port else 1]
        self.protocol: IProtocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        self.answer([banner])
        self.serve()

    @property
    def session(self) -> IConnection:
        (session,) = self.sessions
        assert not isinstance(session, Failure), session
        return session

    @property
    def refusal(self) -> ConnectFailedError:
        (failure,) = self.sessions
        assert isinstance(failure, Failure)
        return cast(ConnectFailedError, failure.value)

    def say(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def serve(self) -> None:
        """Answer everything that was sent, and what is sent because of that, until nothing comes any more."""
        while not self.transport.disconnecting and (data := self.transport.value()):
            self.transport.clear()
            self.writes.append(data)
            replies = []
            if self.is_receiving:
                self.contents.append(data)
                if not data.endswith(b"\r\n.\r\n") and data != b".\r\n":
                    continue
                self.is_receiving = False
                replies = self.ends()
            elif data.startswith(b"BDAT "):
                command, _, chunk = data.partition(b"\r\n")
                self.commands.append(command.decode())
                self.contents.append(chunk)
                assert int(command.split()[1]) == len(chunk)
                replies = self.ends() if command.endswith(b" LAST") else [self.next("BDAT")]
            else:
                for line in data.decode().split("\r\n")[:-1]:
                    self.commands.append(line)
                    replies.append(self.next(line[:4]))
                    if line.startswith("MAIL"):
                        self.accepted = 0
                    self.accepted += line.startswith("RCPT") and replies[-1].startswith(b"2")
                    self.is_receiving = line == "DATA" and replies[-1].startswith(b"354")
            self.answer(replies)

    def ends(self) -> list[bytes]:
        """The replies to the end of the content."""
        return [self.next("END") for _ in range(self.accepted if "LHLO" in self.commands[0] else 1)]

    def next(self, word: str) -> bytes:
        replies = self.script.get(word, [b"250 ok"])
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def answer(self, replies: Sequence[bytes]) -> None:
        said = b""
        for reply in replies:
            if reply in (LOST, SILENT):
                break
            said += reply + b"\r\n"
        if said:
            self.say(said)
        if LOST in replies:
            self.lose()

    def send(self, recipients: Recipients = 1, content: bytes | Content = MESSAGE, **more: Any) -> list[Result]:
        """Deliver, with the peer answering as it goes; the results, or nothing if there are none yet."""
        found = self.start(recipients, content, **more)
        self.serve()
        return found

    def start(self, recipients: Recipients = 1, content: bytes | Content = MESSAGE, **more: Any) -> list[Result]:
        """Deliver to a peer that has not answered yet; the results come into the list."""
        found: list[Result] = []
        self.delivery(recipients, content, **more).addCallback(found.extend)
        return found

    def delivery(
        self, recipients: Recipients = 1, content: bytes | Content = MESSAGE, **more: Any
    ) -> Deferred[Sequence[Result]]:
        """What `deliver` returns."""
        content = content if isinstance(content, Content) else Content(content)
        one = envelope(recipients, content.size, **more)
        return cast("Deferred[Sequence[Result]]", self.session.deliver(one, one.recipients, content))

    @property
    def is_pulling(self) -> bool:
        """Whether content is still to come, were the transport to ask for it."""
        return self.transport.producer is not None and not self.transport.disconnecting

    def pull(self) -> bytes:
        """Let one more piece of the content come, as a transport does when the last one has left; all that came."""
        producer: Any = self.transport.producer
        producer.resumeProducing()
        return bytes(self.transport.value())


def envelope(recipients: Recipients = 1, size: int = 10, **more: Any) -> Envelope:
    """A message of Ann's, to user0, user1, ... or to the given recipients."""
    if isinstance(recipients, int):
        recipients = tuple(
            EnvelopeRecipient(number, Address(f"user{number}", "example.org"), "mx") for number in range(recipients)
        )
    values: dict[str, Any] = {"sender": Address("ann", "client.test"), **more}
    return Envelope(queue_id="0Q", recipients=recipients, received=0.0, size=size, **values)


def kinds(results: Sequence[Result]) -> list[OutcomeKind]:
    """The outcomes alone."""
    return [result.kind for result in results]
