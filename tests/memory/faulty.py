"""A next hop that goes wrong at one point of the dialogue, in one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import cast

from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.memory.gateway import World
from tests.memory.hop import Mail
from tests.memory.wire import Wire

__all__ = ["FAULTS", "PHASES", "FaultyHop"]

#: Where it may go wrong: "CONTENT" is when the first of the content has come, "END" when the last has, "SECURE" where
#: the handshake of TLS is to begin.
PHASES = ("CONNECT", "BANNER", "EHLO", "STARTTLS", "SECURE", "MAIL", "RCPT", "DATA", "CONTENT", "END", "RSET", "QUIT")

#: How: replies, or what is none. "silent" says nothing more, and reads nothing more; "reset" breaks the connection.
#: "endless" is an octet a second of a reply that has no end. At CONNECT it may be "refused", too.
FAULTS = {
    "silent": None,
    "4xx": b"451 4.3.0 not now\r\n",
    "5xx": b"550 5.7.1 never\r\n",
    "garbage": b"\x16\x03what is this\xff\r\n",
    "421": b"421 4.3.2 closing\r\n",
    "reset": b"",
}


class FaultyHop:
    """A server by SMTP or LMTP which goes wrong at `phase` with `fault`, in its first `times` sessions that come there.

    `offers` are the keywords of its EHLO. `answers` are those to RCPT that are no, by recipient. By LMTP it says of the
    first `after` recipients that they have the message, before it goes wrong at END. `endless` is said again and again
    where that is the fault. `pace`: seconds for each octet of a reply. `at_once`: the sessions that it has room for;
    who comes beside them is greeted with 421.

    `mails` is what it has taken, or may be thought to have taken: whose end it has seen and not refused. `most` is the
    highest number of connections that there were at one time, `open` that of now.
    """

    def __init__(
        self,
        world: World,
        place: str = "192.0.2.61",
        port: int = 25,
        *,
        phase: str = "",
        fault: str = "",
        times: int = 1_000_000,
        offers: Sequence[str] = ("PIPELINING", "8BITMIME", "SIZE 50000000"),
        answers: Mapping[str, str] = MappingProxyType({}),
        after: int = 0,
        endless: bytes = b"220-go on\r\n",
        pace: float = 0.0,
        at_once: int = 1_000_000,
    ) -> None:
        self.world = world
        self.place = (place, port)
        self.phase, self.fault, self.times = phase, fault, times
        self.offers = offers
        self.answers = answers
        self.after = after
        self.endless = endless
        self.pace = pace
        self.at_once = at_once
        self.mails: list[Mail] = []
        self.commands: list[str] = []
        self.sessions = self.open = self.most = 0
        if fault != "refused":
            world.servers[self.place] = self._come

    def heal(self) -> None:
        """From now on everything goes well."""
        self.phase = ""
        self.world.servers[self.place] = self._come

    def _come(self) -> Protocol | None:
        if self.phase == "CONNECT" and self.fault == "silent":
            return None
        return _Server(self)

    def goes_wrong(self, phase: str) -> bool:
        """Whether this is where it does, and if so, count it."""
        if phase != self.phase or self.times == 0:
            return False
        self.times -= 1
        return True


class _Server(Protocol):
    def __init__(self, hop: FaultyHop) -> None:
        self._hop = hop
        self._buffer = b""
        self._is_lmtp = False
        self._in_content = self._in_handshake = self._is_mute = False
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._busy_until = 0.0

    @property
    def _wire(self) -> Wire:
        return cast(Wire, self.transport)

    def connectionMade(self) -> None:
        hop = self._hop
        hop.sessions += 1
        hop.open += 1
        hop.most = max(hop.most, hop.open)
        if hop.open > hop.at_once:
            self._say(b"421 4.7.0 one at a time\r\n")
            self._wire.loseConnection()
        elif not self._go_wrong("BANNER"):
            self._say(b"220 hop.test\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_mute, self.connected = True, 0
        self._hop.open -= 1

    def dataReceived(self, data: bytes) -> None:
        if self._in_handshake:  # of which it knows nothing
            self._go_wrong("SECURE")
            return
        self._buffer += data
        while not self._is_mute and self._take():
            pass

    def _take(self) -> bool:
        if not self._in_content:
            line, end, rest = self._buffer.partition(b"\r\n")
            if end:
                self._buffer = rest
                self._command(line.decode("ascii"))
            return bool(end)
        if self._buffer and self._go_wrong("CONTENT"):
            self._hop.heal()  # but for once
            return False
        content, end, rest = (b"\r\n" + self._buffer).partition(b"\r\n.\r\n")
        if end:
            self._buffer, self._in_content = rest, False
            self._end((content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:])
        return bool(end)

    def _command(self, line: str) -> None:
        hop = self._hop
        hop.commands.append(line)
        word, path = line.partition(" ")[0], line.partition("<")[2].partition(">")[0]
        if not self._go_wrong({"LHLO": "EHLO"}.get(word, word)):
            self._well(word, path)
        elif word == "MAIL":
            self._sender = None

    def _well(self, word: str, path: str) -> None:
        """As it should be answered."""
        hop = self._hop
        match word:
            case "EHLO" | "LHLO":
                self._is_lmtp = word == "LHLO"
                lines = ["hop.test", *hop.offers]
                self._say("".join(f"250{'-' if one is not lines[-1] else ' '}{one}\r\n" for one in lines).encode())
            case "STARTTLS":
                self._say(b"220 go ahead\r\n")
                self._in_handshake = True
            case "MAIL":
                self._sender, self._recipients = path, []
                self._say(b"250 ok\r\n")
            case "RCPT" if self._sender is None:
                self._say(b"503 5.5.1 no sender\r\n")
            case "RCPT" if path in hop.answers:
                self._say(f"{hop.answers[path]}\r\n".encode())
            case "RCPT":
                self._recipients.append(path)
                self._say(b"250 ok\r\n")
            case "DATA" if not self._recipients or self._sender is None:
                self._say(b"503 5.5.1 nobody to send to\r\n")
            case "DATA":
                self._in_content = True
                self._say(b"354 go on\r\n")
            case "RSET":
                self._sender, self._recipients = None, []
                self._say(b"250 ok\r\n")
            case "QUIT":
                self._say(b"221 bye\r\n")
                self._wire.loseConnection()
            case _:
                self._say(b"250 ok\r\n")

    def _end(self, octets: bytes) -> None:
        hop = self._hop
        mail = Mail(self._sender or "", tuple(self._recipients), octets)
        self._sender, self._recipients = None, []
        answers = len(mail.recipients) if self._is_lmtp else 1
        wrong = 0
        if hop.goes_wrong("END"):
            answers, wrong = hop.after, 1
            if hop.fault in ("4xx", "5xx"):  # for those it has not taken the message
                wrong = len(mail.recipients) - answers if self._is_lmtp else 1
                mail = replace(mail, recipients=mail.recipients[:answers])
        if mail.recipients:
            hop.mails.append(mail)
        for _ in range(answers):
            self._say(b"250 2.0.0 taken\r\n")
        for _ in range(wrong):
            self._do_wrong()

    def _go_wrong(self, phase: str) -> bool:
        if self._hop.goes_wrong(phase):
            self._do_wrong()
            return True
        return False

    def _do_wrong(self) -> None:
        hop = self._hop
        said = FAULTS.get(hop.fault)
        if hop.fault == "endless":
            self._is_mute = True
            self._drip(0)
        elif said is None:
            self._is_mute = True
            self._wire.pauseProducing()
        elif not said:
            self._is_mute = True
            self._wire.loseConnection()
        else:
            self._say(said)
            if hop.fault == "421":
                self._is_mute = True
                self._wire.loseConnection()

    def _drip(self, number: int) -> None:
        if self.connected:
            self._wire.write(self._hop.endless[number % len(self._hop.endless) :][:1])
            self._hop.world.reactor.callLater(1.0, self._drip, number + 1)

    def _say(self, reply: bytes) -> None:
        hop = self._hop
        if not hop.pace:
            self._wire.write(reply)
            return
        begin = max(hop.world.reactor.seconds(), self._busy_until)
        self._busy_until = begin + len(reply) * hop.pace
        for number in range(len(reply)):
            wait = begin + (number + 1) * hop.pace - hop.world.reactor.seconds()
            hop.world.reactor.callLater(wait, self._wire.write, reply[number : number + 1])
