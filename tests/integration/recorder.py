"""A next hop that offers every extension, takes everything, and keeps what it was told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self

from parts import free_port, wait_until

__all__ = ["EVERYTHING", "Recorder", "Taken"]

#: What EHLO offers; STARTTLS comes to it where there is a certificate.
EVERYTHING = (
    "PIPELINING",
    "SIZE 52428800",
    "8BITMIME",
    "CHUNKING",
    "BINARYMIME",
    "SMTPUTF8",
    "DSN",
    "REQUIRETLS",
    "MT-PRIORITY",
    "DELIVERBY",
    "FUTURERELEASE 604800 2099-01-01T00:00:00Z",
    "AUTH PLAIN",
    "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
    "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
    "ENHANCEDSTATUSCODES",
)


@dataclass(frozen=True)
class Taken:
    """One message: its MAIL and RCPT lines, the content with its dots removed, and the commands of the session up to
    its end. `at` is in seconds since the epoch; `by_bdat` tells that it did not come by DATA."""

    mail: str
    recipients: tuple[str, ...]
    content: bytes
    by_bdat: bool
    is_tls: bool
    commands: tuple[str, ...]
    at: float

    def parameters(self) -> dict[str, str]:
        """What stood behind the address in MAIL, by keyword."""
        words = self.mail.partition(">")[2].split()
        return {keyword: value for keyword, _, value in (word.partition("=") for word in words)}

    def commands_of(self, verb: str) -> list[str]:
        """The arguments of each such command."""
        return [line.partition(" ")[2] for line in self.commands if line.partition(" ")[0].upper() == verb]


@dataclass
class _Session:
    reader: BinaryIO
    connection: socket.socket
    is_tls: bool = False
    mail: str = ""
    recipients: list[str] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def say(self, *lines: str) -> None:
        code, texts = lines[0][:3], [lines[0][4:], *lines[1:]]
        reply = "".join(f"{code}{' ' if text is texts[-1] else '-'}{text}\r\n" for text in texts)
        self.connection.sendall(reply.encode())


class Recorder:
    """It serves between entry and exit of the context, each time on the same loopback port.

    `offers` are the lines of its EHLO; `context` is for STARTTLS. Messages that it took are in `taken`.
    """

    def __init__(self, *, offers: Sequence[str] = EVERYTHING, context: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.taken: list[Taken] = []
        self._context = context
        self._offers = offers
        self._socket: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def of(self, recipient: str, seconds: float = 60.0) -> Taken:
        """The one message for a recipient, once it is there; AssertionError where there are two of it."""

        def found() -> list[Taken]:
            return [one for one in self.taken if one.recipients[0].partition(">")[0] == f"TO:<{recipient}"]

        wait_until(lambda: bool(found()), f"the next hop has what is for {recipient}", seconds)
        (taken,) = found()
        return taken

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._socket)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(connection,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        self._open.add(connection)
        with contextlib.suppress(OSError, ssl.SSLError):
            session = _Session(connection.makefile("rb"), connection)
            session.say("220 recorder.test ESMTP")
            for line in _lines(session):
                session.commands.append(line)
                if not self._command(session, line):
                    break
        self._open.discard(connection)
        connection.close()

    def _command(self, session: _Session, line: str) -> bool:
        """Answer one command; False where the session is over."""
        verb, _, argument = line.partition(" ")
        match verb.upper():
            case "EHLO":
                self._ehlo(session)
            case "STARTTLS" if self._context is not None:
                session.say("220 2.0.0 go ahead")
                session.connection = self._context.wrap_socket(session.connection, server_side=True)
                self._open.add(session.connection)
                session.reader, session.is_tls = session.connection.makefile("rb"), True
            case "MAIL":
                session.mail = argument
                session.say("250 2.1.0 ok")
            case "RCPT":
                session.recipients.append(argument)
                session.say("250 2.1.5 ok")
            case "DATA":
                session.say("354 go on")
                self._take(session, _dotted(session.reader), by_bdat=False)
            case "BDAT":
                self._bdat(session, argument)
            case "RSET":
                _forget(session)
                session.say("250 2.0.0 ok")
            case "AUTH":
                session.say("235 2.7.0 ok")
            case "XCLIENT":
                session.say("220 recorder.test ESMTP")
            case "XFORWARD" | "NOOP":
                session.say("250 2.0.0 ok")
            case "QUIT":
                session.say("221 2.0.0 bye")
                return False
            case _:
                session.say("500 5.5.1 unknown")
        return True

    def _ehlo(self, session: _Session) -> None:
        starttls = ["STARTTLS"] if self._context is not None and not session.is_tls else []
        session.say("250 recorder.test", *starttls, *self._offers)

    def _bdat(self, session: _Session, argument: str) -> None:
        size, *last = argument.split()
        session.chunks.append(session.reader.read(int(size)))
        if last:
            self._take(session, b"".join(session.chunks), by_bdat=True)
        else:
            session.say("250 2.0.0 chunk taken")

    def _take(self, session: _Session, content: bytes, *, by_bdat: bool) -> None:
        self.taken.append(
            Taken(
                session.mail,
                tuple(session.recipients),
                content,
                by_bdat,
                session.is_tls,
                tuple(session.commands),
                time.time(),
            )
        )
        _forget(session)
        session.say("250 2.0.0 taken")


def _lines(session: _Session) -> Iterator[str]:
    """Commands as they come; STARTTLS changes where they are read from."""
    while line := session.reader.readline():
        yield line.decode().rstrip("\r\n")


def _dotted(reader: BinaryIO) -> bytes:
    content = bytearray()
    while (line := reader.readline()) not in (b".\r\n", b""):
        content += line.removeprefix(b".")
    return bytes(content)


def _forget(session: _Session) -> None:
    session.mail = ""
    session.recipients.clear()
    session.chunks.clear()
