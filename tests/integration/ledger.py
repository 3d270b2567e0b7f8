"""Mail with a ledger: clients that remember what they were promised, a next hop that remembers what it was given, and
what must hold between the two after every `kill -9`.

Each message says by its recipients what is to become of it: "ok-7@..." is taken, "slow-7@..." taken after a moment,
"later-7@..." put off once, "no-7@..." refused for good, which its sender, s7@..., has to be told in a report.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import smtplib
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from parts import Gateway, free_port

__all__ = ["DOMAIN", "HOME", "Arrival", "Hop", "Ledger", "Load", "leftovers", "queued"]

#: Where mail goes, and where reports go.
DOMAIN, HOME = "kill.test", "home.test"

#: Seconds between the reply of the next hop and its outcome on the disk, at most, on a busy machine.
_UNTIL_WRITTEN = 2.0

_DIGEST = re.compile(rb"^X-Digest: ([0-9a-f]{64})\r\n", re.MULTILINE)
_FINAL = re.compile(rb"^Final-Recipient: rfc822; (\S+)\r\nAction: failed\r\n", re.MULTILINE | re.IGNORECASE)


@dataclass(slots=True)
class Arrival:
    """A message that came whole, for one recipient: when its end came, and when that had been answered (0.0: never).

    `failed` are the recipients that it tells of, where it is a report.
    """

    recipient: str
    ended: float
    is_whole: bool
    failed: tuple[str, ...] = ()
    answered: float = 0.0


class Ledger:
    """What was promised, and what has arrived. Times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, str] = {}
        """the sender of each recipient whose message was acknowledged"""
        self.arrivals: defaultdict[str, list[Arrival]] = defaultdict(list)
        self.lock = threading.Lock()
        self._down: list[tuple[float, float]] = []

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """The gateway is killed on entry, or cannot write any more; on exit it is about to be started."""
        killed = time.monotonic()
        try:
            yield
        finally:
            self._down.append((killed, time.monotonic()))

    def missing(self, still_there: Collection[str] = ()) -> set[str]:
        """Recipients that have neither the message, nor a report to its sender, nor either of them in the queue."""
        with self.lock:
            reported = {one for arrivals in self.arrivals.values() for arrival in arrivals for one in arrival.failed}
            without = self.acknowledged.keys() - self.arrivals.keys() - reported - set(still_there)
            return {one for one in without if self.acknowledged[one] not in still_there}

    def damaged(self) -> list[Arrival]:
        """What did not arrive as it was sent."""
        with self.lock:
            return [one for arrivals in self.arrivals.values() for one in arrivals if not one.is_whole]

    def again(self) -> tuple[int, list[str]]:
        """How often a message came once more because a kill had left its fate open; and what came once more without
        that excuse, each with the seconds from its answers to the next kill."""
        excused, unexcused = 0, []
        with self.lock:
            for arrivals in self.arrivals.values():
                for one in arrivals[:-1]:
                    if any(self._was_open(one, *down) for down in self._down):
                        excused += 1
                    else:
                        until = [round(killed - one.answered, 3) for killed, _ in self._down if killed > one.answered]
                        unexcused.append(f"{one.recipient} {until[:1]}")
        return excused, unexcused

    def wrongly_told(self) -> set[str]:
        """Recipients of whom a report says that they have not got what they have got, or were to get."""
        with self.lock:
            reported = {one for arrivals in self.arrivals.values() for arrival in arrivals for one in arrival.failed}
        return {one for one in reported if not one.startswith("no-")}

    @staticmethod
    def _was_open(arrival: Arrival, killed: float, started: float) -> bool:
        # What the kernel had of it when the gateway died, the next hop may read a little later.
        return arrival.ended <= started and (not arrival.answered or arrival.answered >= killed - _UNTIL_WRITTEN)


class Hop:
    """The next hop of all that. It serves between entry and exit of the context, on a loopback port of its own.

    `slowness` is how long it thinks about the end of a "slow" message, in seconds, at most.
    """

    def __init__(self, ledger: Ledger, slowness: float = 1.0) -> None:
        self.port = free_port()
        self.slowness = slowness
        self._ledger = ledger
        self._put_off: set[str] = set()
        self._random = random.Random(5)
        self._socket: socket.socket | None = None
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=200)
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """Those that are open now."""
        return len(self._open)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(120)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(connection)
        with contextlib.suppress(OSError):
            self._talk(connection)
        connection.close()
        self._open.discard(connection)

    def _talk(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            connection.sendall(b"220 hop.test ESMTP\r\n")
            taken: list[str] = []
            while line := reader.readline():
                word, path = line[:4].upper(), line.partition(b"<")[2].partition(b">")[0].decode()
                if word == b"DATA" and taken:
                    connection.sendall(b"354 go on\r\n")
                    content = bytearray()
                    while (line := reader.readline()) != b".\r\n":
                        if not line:
                            return
                        content += line[1:] if line.startswith(b".") else line
                    self._take(connection, taken, bytes(content))
                    taken = []
                    continue
                reply = self._reply(word, path, taken)
                connection.sendall(reply)
                if word == b"QUIT":
                    return

    def _reply(self, word: bytes, path: str, taken: list[str]) -> bytes:
        if word == b"EHLO":
            return b"250-hop.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME\r\n"
        if word == b"DATA":
            return b"503 5.5.1 nobody to send to\r\n"
        if word in (b"MAIL", b"RSET"):
            taken.clear()
        if word == b"RCPT":
            if path.startswith("no-"):
                return b"550 5.1.1 no such user\r\n"
            if path.startswith("later-") and path not in self._put_off:
                self._put_off.add(path)
                return b"450 4.2.0 not now\r\n"
            taken.append(path)
        return b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n"

    def _take(self, connection: socket.socket, recipients: list[str], content: bytes) -> None:
        now = time.monotonic()
        digest = _DIGEST.search(content)
        whole = digest is not None and digest[1].decode() == _digest_of(content.partition(b"\r\n\r\n")[2])
        failed = tuple(one.decode() for one in _FINAL.findall(content)) if digest is None or not whole else ()
        arrivals = [Arrival(one, now, whole or bool(failed), failed) for one in recipients]
        with self._ledger.lock:
            for arrival in arrivals:
                self._ledger.arrivals[arrival.recipient].append(arrival)
        if any(one.startswith("slow-") for one in recipients):
            time.sleep(self._random.random() * self.slowness)
        # What is written here may be read before anything else happens: the moment before is what is known.
        answered = time.monotonic()
        for arrival in arrivals:
            arrival.answered = answered
        connection.sendall(b"250 2.0.0 taken\r\n")


class Load:
    """Clients that send until they are told to stop: `words` says whom message `number` is for, and `size` how large
    it is. A connection that breaks, or a 4yz reply, is no promise, and the message is not sent again.

    `pause` are the seconds that each client rests after a message; `domain` is that of all recipients.
    """

    def __init__(
        self,
        port: int,
        ledger: Ledger,
        *,
        clients: int = 8,
        size: Callable[[int], int] = lambda number: 2000,
        words: Callable[[int], Sequence[str]] = lambda number: ("ok",),
        pause: float = 0.0,
        domain: str = DOMAIN,
    ) -> None:
        self.port = port
        self.failures = 0
        self.refusals: set[bytes] = set()
        self._ledger = ledger
        self._size, self._words = size, words
        self._pause, self._domain = pause, domain
        self._next = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it and wait for the clients."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=60) as client:
                    while not self._stop.wait(self._pause):
                        self._send(client)
            except smtplib.SMTPResponseException as error:
                self.refusals.add(b"%d %b" % (error.smtp_code, _octets(error.smtp_error)))
                self._fail()
            except (OSError, smtplib.SMTPException):
                self._fail()

    def _fail(self) -> None:
        self.failures += 1
        self._stop.wait(0.05)

    def _send(self, client: smtplib.SMTP) -> None:
        with self._ledger.lock:
            self._next += 1
            number = self._next
        sender = f"s{number}@{HOME}"
        recipients = [f"{word}-{number}@{self._domain}" for word in self._words(number)]
        client.sendmail(sender, recipients, _message(number, sender, self._size(number)))
        with self._ledger.lock:
            self._ledger.acknowledged.update(dict.fromkeys(recipients, sender))


_BLOCK = b"".join(
    (b"." if number % 9 == 0 else b"") + random.Random(number).randbytes(30).hex().encode() + b"\r\n"
    for number in range(20_000)
)


def _message(number: int, sender: str, size: int) -> bytes:
    start = _BLOCK.index(b"\r\n", number * 7919 % (len(_BLOCK) // 2)) + 2
    body = _BLOCK[start : start + max(size, 100)].rpartition(b"\r\n")[0] + b"\r\n"
    header = f"From: <{sender}>\r\nMessage-ID: <{number}@load.test>\r\nX-Digest: {_digest_of(body)}\r\n\r\n"
    return header.encode() + body


def _digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _octets(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def queued(gateway: Gateway) -> set[str]:
    """The recipients in the queue, whether the daemon runs or not."""
    out = gateway.command("queue", "list", "--json", "--limit", "1000000").stdout
    return {one["recipient"] for one in json.loads(out)}


def leftovers(spool: Path) -> list[str]:
    """Files that an empty spool has no use for."""
    return [
        str(file.relative_to(spool))
        for name in ("content", "incoming", "set-aside")
        for file in (spool / name).rglob("*")
        if file.is_file()
    ]
