"""A scripted Exchange: what it offers and says, its limits and its patience, as a server and as a client.

Its words and numbers are those that servers of Exchange 2016 to SE and Exchange Online are known by; every wait is
multiplied by `scale`.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self

__all__ = ["ExchangeDouble", "Taken", "send_as_exchange"]

#: What front end transport says to EHLO; verbs of Exchange for Exchange are among them.
_OFFER = (
    "SIZE 37748736",
    "PIPELINING",
    "DSN",
    "ENHANCEDSTATUSCODES",
    "8BITMIME",
    "BINARYMIME",
    "CHUNKING",
    "SMTPUTF8",
    "X-ANONYMOUSTLS",
    "X-EXPS GSSAPI NTLM",
    "XRDST",
)
TOO_MANY = "421 4.3.2 The maximum number of concurrent connections has exceeded a limit, closing transmission channel"
TENANT_ATTRIBUTION = "550 5.7.64 TenantAttribution; Relay Access Denied SMTP"
NOT_FOUND = "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"
TAKEN = "250 2.6.0 <{id}@ex.test> [InternalId={id}, Hostname=ex.test] Queued mail for delivery"


@dataclass(frozen=True)
class Taken:
    """A message that it has said 250 to."""

    sender: str
    recipients: tuple[str, ...]
    octets: bytes
    mail: str
    rcpt: tuple[str, ...]
    by_chunks: bool
    session: int


@dataclass
class _Mail:
    sender: str
    parameters: str
    recipients: list[str] = field(default_factory=list)
    rcpt: list[str] = field(default_factory=list)
    octets: bytes = b""


class ExchangeDouble:
    """One host on a loopback port, for `with`.

    `script` has replies for a stage ("GREETING", "MAIL", "RCPT", "END"), of which each is said once, the first first;
    `always` has one for a stage that is said each time, and "RCPT address" one for an address. Whoever is in `unknown`
    is refused after the content, and with him the whole message, as a front end does that only hands on. `ack` is how
    long the end of data waits, as for shadow redundancy. `connector` is the name that a client's certificate must have,
    as TlsSenderCertificateName of an inbound connector: others are strangers to it.
    """

    def __init__(
        self,
        *,
        scale: float = 0.01,
        ack: float = 0.0,
        most_connections: int = 20,
        offer: Sequence[str] = _OFFER,
        tls: ssl.SSLContext | None = None,
        connector: str = "",
        port: int = 0,
    ) -> None:
        self.scale = scale
        self.ack = ack
        self.most_connections = most_connections
        self.offer = offer
        self.tls = tls
        self.connector = connector
        self.script: dict[str, deque[str]] = {}
        self.always: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.taken: list[Taken] = []
        self.commands: list[str] = []
        self.said: Counter[str] = Counter()
        self.sessions = 0
        self.most_at_once = 0
        self._open = 0
        self._lock = threading.Lock()
        double = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                double._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]

    @property
    def place(self) -> str:
        """Where it is, for `hosts`."""
        return f"127.0.0.1:{self.port}"

    def received(self, recipient: str) -> list[Taken]:
        """What it has taken for a recipient."""
        return [one for one in list(self.taken) if recipient in one.recipients]

    def has(self, number: int) -> bool:
        """Whether it has taken so many messages."""
        return len(self.taken) == number

    def will_say(self, stage: str, *replies: str) -> None:
        """Say these at the next occasions."""
        with self._lock:
            self.script.setdefault(stage, deque()).extend(replies)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    # -- a session

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.sessions += 1
            self._open += 1
            number, is_over = self.sessions, self._open > self.most_connections
            if not is_over:
                self.most_at_once = max(self.most_at_once, self._open)
        try:
            with contextlib.suppress(OSError, EOFError):
                _Session(self, connection, number).run(TOO_MANY if is_over else "")
        finally:
            with self._lock:
                self._open -= 1

    def reply(self, stage: str, otherwise: str, address: str = "") -> str:
        """What is said now."""
        with self._lock:
            waiting = self.script.get(stage)
            text = waiting.popleft() if waiting else self.always.get(f"{stage} {address}", self.always.get(stage, ""))
            text = text or otherwise
            self.said[text] += 1
            return text

    def end(self, mail: _Mail, *, by_chunks: bool, session: int) -> str:
        """What is said to the content, which it takes or not as a whole."""
        time.sleep(self.ack * self.scale)
        refused = NOT_FOUND if self.unknown.intersection(mail.recipients) else ""
        text = refused or self.reply("END", TAKEN.format(id=len(self.taken) + 1))
        if refused:
            self.said[refused] += 1
        if text.startswith("2"):
            taken = Taken(
                mail.sender, tuple(mail.recipients), mail.octets, mail.parameters, tuple(mail.rcpt), by_chunks, session
            )
            with self._lock:
                self.taken.append(taken)
        return text


class _Session:
    def __init__(self, double: ExchangeDouble, connection: socket.socket, number: int) -> None:
        self._double = double
        self._connection = connection
        self._number = number
        self._file = connection.makefile("rb")
        self._mail: _Mail | None = None

    def run(self, refusal: str) -> None:
        double = self._double
        greeting = refusal or double.reply("GREETING", "220 ex.test Microsoft ESMTP MAIL Service ready")
        if not self._say(greeting):
            return
        while line := self._file.readline(4096):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            double.commands.append(text)
            if not self._command(text):
                return

    def _command(self, text: str) -> bool:
        word, _, rest = text.partition(" ")
        match word.upper():
            case "EHLO":
                keywords = [*self._double.offer, *(["STARTTLS"] if self._can_tls() else [])]
                return self._say("\r\n".join(["250-ex.test Hello", *(f"250-{one}" for one in keywords), "250 XOORG"]))
            case "STARTTLS":
                return self._start_tls()
            case "MAIL":
                return self._begin(rest)
            case "RCPT":
                return self._recipient(rest)
            case "DATA":
                return self._data()
            case "BDAT":
                return self._chunk(rest)
            case "RSET":
                self._mail = None
                return self._say("250 2.0.0 Resetting")
            case "NOOP":
                return self._say("250 2.0.0 OK")
            case "QUIT":
                self._say("221 2.0.0 Service closing transmission channel")
                return False
        return self._say("500 5.3.3 Unrecognized command")

    def _is_known(self) -> bool:
        """Whether the client's certificate is that of the connector."""
        if not self._double.connector:
            return True
        shown = self._connection.getpeercert() if isinstance(self._connection, ssl.SSLSocket) else None
        names = shown.get("subjectAltName", ()) if shown else ()
        return ("DNS", self._double.connector) in names

    def _can_tls(self) -> bool:
        return self._double.tls is not None and not isinstance(self._connection, ssl.SSLSocket)

    def _start_tls(self) -> bool:
        if self._double.tls is None or not self._say("220 2.0.0 SMTP server ready"):
            return False
        self._connection = self._double.tls.wrap_socket(self._connection, server_side=True)
        self._file = self._connection.makefile("rb")
        return True

    def _begin(self, rest: str) -> bool:
        path, _, parameters = rest.partition(" ")
        sender = path.partition("<")[2].rstrip(">")
        answer = self._double.reply("MAIL", "250 2.1.0 Sender OK", sender)
        self._mail = _Mail(sender, parameters) if answer.startswith("2") else None
        return self._say(answer)

    def _recipient(self, rest: str) -> bool:
        if self._mail is None:
            return self._say("503 5.5.2 Need mail command")
        path, _, parameters = rest.partition(" ")
        address = path.partition("<")[2].rstrip(">")
        otherwise = "250 2.1.5 Recipient OK" if self._is_known() else TENANT_ATTRIBUTION
        answer = self._double.reply("RCPT", otherwise, address)
        if answer.startswith("2"):
            self._mail.recipients.append(address)
            self._mail.rcpt.append(parameters)
        return self._say(answer)

    def _data(self) -> bool:
        if self._mail is None or not self._mail.recipients:
            return self._say("503 5.5.2 Need rcpt command")
        self._say("354 Start mail input; end with <CRLF>.<CRLF>")
        lines = []
        while (line := self._file.readline()) != b".\r\n":
            if not line:
                return False
            lines.append(line.removeprefix(b"."))
        self._mail.octets = b"".join(lines)
        return self._end(by_chunks=False)

    def _chunk(self, rest: str) -> bool:
        count, _, last = rest.partition(" ")
        octets = self._file.read(int(count))
        if self._mail is None or not self._mail.recipients:
            return self._say("503 5.5.2 Need rcpt command")
        self._mail.octets += octets
        if last.upper() == "LAST":
            return self._end(by_chunks=True)
        return self._say(f"250 2.6.0 CHUNK received OK, {count} octets")

    def _end(self, *, by_chunks: bool) -> bool:
        mail, self._mail = self._mail, None
        assert mail is not None
        return self._say(self._double.end(mail, by_chunks=by_chunks, session=self._number))

    def _say(self, text: str) -> bool:
        """Whether the session goes on."""
        self._connection.sendall(text.encode() + b"\r\n")
        return not text.startswith("421")


def send_as_exchange(
    port: int,
    sender: str,
    recipients: Iterable[str],
    octets: bytes,
    *,
    source: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    rcpt: str = "",
    mail: str = "",
    chunk: int = 0,
) -> list[str]:
    """Hand a message over as a send connector does: by BDAT and as BINARYMIME wherever that is offered, all commands in
    one write. The replies from MAIL on; the keywords of EHLO before them, in one line."""
    with socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0)) as plain:
        connection: socket.socket = plain
        file = connection.makefile("rb")
        _reply(file)
        offer = _ask(connection, file, "EHLO ex.test")
        if tls is not None:
            _ask(connection, file, "STARTTLS")
            connection = tls.wrap_socket(plain, server_hostname="127.0.0.1")
            file = connection.makefile("rb")
            offer = _ask(connection, file, "EHLO ex.test")
        keywords = [line[4:] for line in offer.split("\r\n")[1:]]
        words = {line.partition(" ")[0] for line in keywords}
        body = " BODY=BINARYMIME" if "BINARYMIME" in words else " BODY=8BITMIME"
        commands = [f"MAIL FROM:<{sender}> SIZE={len(octets)}{body}{mail}"]
        commands += [f"RCPT TO:<{one}>{rcpt}" for one in recipients]
        wire = "".join(f"{command}\r\n" for command in commands).encode()
        pieces = [octets[at : at + chunk] for at in range(0, len(octets), chunk)] if chunk else [octets]
        if "CHUNKING" not in words:
            raise AssertionError("Exchange Online refuses bare line feeds to a host without CHUNKING")
        wire += b"".join(b"BDAT %d\r\n%s" % (len(piece), piece) for piece in pieces) + b"BDAT 0 LAST\r\n"
        connection.sendall(wire)
        replies = [_reply(file) for _ in range(len(commands) + len(pieces) + 1)]
        with contextlib.suppress(OSError):
            connection.sendall(b"QUIT\r\n")
        return [" | ".join(keywords), *replies]


def _ask(connection: socket.socket, file: IO[bytes], command: str) -> str:
    connection.sendall(f"{command}\r\n".encode())
    return _reply(file)


def _reply(file: IO[bytes]) -> str:
    lines = []
    while line := file.readline():
        lines.append(line.decode().rstrip("\r\n"))
        if line[3:4] != b"-":
            break
    return "\r\n".join(lines)
