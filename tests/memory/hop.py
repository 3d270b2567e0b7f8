"""Next hops in the world of a test: servers that keep what they take, and answer as a script says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from twisted.internet.protocol import Protocol

from tests.memory.gateway import World
from tests.memory.wire import Wire

__all__ = ["Mail", "NextHop"]


@dataclass(frozen=True, slots=True)
class Mail:
    """What a next hop has taken: `octets` as they came, with the dots that SMTP added taken off."""

    sender: str
    recipients: tuple[str, ...]
    octets: bytes


class NextHop:
    """A server by SMTP or LMTP, at an address or a unix socket.

    `script` holds its replies by command word ("END" is the end of data), or by word and recipient
    ("RCPT bob@example.org", by LMTP "END bob@example.org" too); what it does not name is answered as it should be. None
    is no answer.
    """

    def __init__(self, world: World, place: str = "192.0.2.1", port: int = 25, *, lmtp: bool = False) -> None:
        self._world = world
        self._place = (place, port)
        self.lmtp = lmtp
        self.mails: list[Mail] = []
        self.sessions = 0
        self.commands: list[str] = []
        self.script: dict[str, str | None] = {}
        self.open: list[_Server] = []
        self.up()

    def up(self) -> None:
        """Take connections."""
        self._world.servers[self._place] = lambda: _Server(self)

    def down(self) -> None:
        """Refuse them."""
        del self._world.servers[self._place]

    def answer(self, reply: str) -> None:
        """Say in the latest session what was not said when it was due."""
        self.open[-1].say(reply)

    def cut(self) -> None:
        """Break the latest session off."""
        cast(Wire, self.open[-1].transport).loseConnection()

    def reply(self, word: str, recipient: str, otherwise: str) -> str | None:
        """What the script says."""
        return self.script.get(f"{word} {recipient}", self.script.get(word, otherwise))


class _Server(Protocol):
    def __init__(self, hop: NextHop) -> None:
        self._hop = hop
        self._buffer = b""
        self._in_content = False
        self._sender = ""
        self._recipients: list[str] = []

    def connectionMade(self) -> None:
        self._hop.sessions += 1
        self._hop.open.append(self)
        self.say("220 hop.test")

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while self._take():
            pass

    def _take(self) -> bool:
        if self._in_content:
            # The end of data, the CRLF before it being that of DATA where there is no content at all.
            content, end, rest = (b"\r\n" + self._buffer).partition(b"\r\n.\r\n")
            if end:
                self._buffer, self._in_content = rest, False
                self._end((content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:])
        else:
            line, end, rest = self._buffer.partition(b"\r\n")
            if end:
                self._buffer = rest
                self._command(line.decode())
        return bool(end)

    def _command(self, line: str) -> None:
        hop = self._hop
        hop.commands.append(line)
        word, path = line[:4].upper(), line.partition("<")[2].partition(">")[0]
        if word in ("EHLO", "LHLO"):
            self.say(hop.reply(word, "", "250-hop.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000"))
        elif word == "QUIT":
            self.say("221 bye")
            cast(Wire, self.transport).loseConnection()
        elif word == "DATA":
            answer = hop.reply(word, "", "354 go on" if self._recipients else "503 nobody")
            self._in_content = answer is not None and answer.startswith("354")
            self.say(answer)
        else:
            answer = hop.reply(word, path, "250 ok")
            if word == "MAIL":
                self._sender, self._recipients = path, []
            elif word == "RCPT" and answer is not None and answer.startswith("2"):
                self._recipients.append(path)
            self.say(answer)

    def _end(self, octets: bytes) -> None:
        hop = self._hop
        answers = [hop.reply("END", one, "250 2.0.0 taken") for one in self._recipients]
        if not hop.lmtp:
            answers = [hop.reply("END", "", "250 2.0.0 taken")] * len(answers)
        taken = [
            one for one, answer in zip(self._recipients, answers, strict=True) if answer is None or answer[0] == "2"
        ]
        if taken:
            hop.mails.append(Mail(self._sender, tuple(taken), octets))
        for answer in answers if hop.lmtp else answers[:1]:
            self.say(answer)

    def say(self, reply: str | None) -> None:
        """Say something, or nothing."""
        if reply is not None:
            cast(Wire, self.transport).write(reply.encode() + b"\r\n")
