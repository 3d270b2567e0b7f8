"""What content filters ask, each with ways to be out of order: killed, hung, or there and talking nonsense."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Literal

import dkim  # type: ignore[import-untyped]  # it has none
from milter_parts import DOMAIN, SELECTOR, OpenDkim
from parts import Part, children_of, free_port, listens, wait_until
from scanner_parts import EICAR, GTUBE, Clamd, Rspamd, Spamd, mail

__all__ = ["TROUBLES", "Asked", "Trouble", "all_asked"]

Trouble = Literal["killed", "hung", "nonsense"]
TROUBLES: tuple[Trouble, ...] = ("killed", "hung", "nonsense")


class Asked(ABC):
    """What a filter of `kind` asks; `options` are lines of the filter's section. `good` it lets pass, `bad` it has
    refused."""

    kind: str
    options: str
    key: Path | None = None
    """a private key, which it knows"""
    good = mail(b"hello\r\n")
    bad = mail(GTUBE + b"\r\n")

    @abstractmethod
    def begin(self, trouble: Trouble) -> None:
        """From now on it is out of order."""

    @abstractmethod
    def end(self, trouble: Trouble) -> None:
        """It works again."""


class AskedPart(Asked):
    """A process, with its children, at `port`; `nonsense` is what stands in for it answers, in turns."""

    def __init__(self, kind: str, part: Part, port: int, options: str, nonsense: Sequence[bytes]) -> None:
        self.kind = kind
        self.options = options
        self._part = part
        self._port = port
        self._nonsense = nonsense
        self._stand_in: _StandIn | None = None

    def begin(self, trouble: Trouble) -> None:
        self._signal(signal.SIGSTOP)  # before anything else: it must not make more processes, or replace them
        if trouble != "hung":
            self._signal(signal.SIGKILL)
            self._part.stop(signal.SIGKILL)
        if trouble == "nonsense":
            wait_until(lambda: not _is_taken(self._port), f"{self._part.name} has left its port")
            self._stand_in = _StandIn(self._port, self._nonsense)

    def end(self, trouble: Trouble) -> None:
        if self._stand_in is not None:
            self._stand_in.close()
            self._stand_in = None
        if trouble == "hung":
            self._signal(signal.SIGCONT)
        else:
            self._part.start()

    def _signal(self, number: int) -> None:
        for pid in (self._part.pid, *children_of(self._part.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class AskedCommand(Asked):
    """A command that does to itself what a file tells it."""

    kind = "command"

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._word = directory / "word"
        script = directory / "judge.py"
        script.write_text(_COMMAND.replace("@WORD@", str(self._word)).replace("@MARK@", GTUBE[:20].decode()))
        self.options = f'command = ["{sys.executable}", "-I", "{script}"]\nkept = true\nprocesses = 2\n'
        self._say("works")

    def begin(self, trouble: Trouble) -> None:
        self._say(trouble)

    def end(self, trouble: Trouble) -> None:
        self._say("works")

    def _say(self, word: str) -> None:
        new = self._word.with_suffix(".new")
        new.write_text(word)
        new.rename(self._word)


class Judge(Part):
    """A service behind HTTP, in a process of its own, that refuses what has the mark of spam in it."""

    name = "judge"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()

    def prepare(self) -> Sequence[str]:
        script = self.directory / "judge.py"
        script.write_text(_JUDGE.replace("@PORT@", str(self.port)).replace("@MARK@", GTUBE[:20].decode()))
        return [sys.executable, "-I", str(script)]

    def is_ready(self) -> bool:
        return listens(self.port)


@contextlib.contextmanager
def all_asked(directory: Path) -> Iterator[list[Asked]]:
    """All of them, started: clamd, spamd, rspamd, OpenDKIM, a service and a command."""
    clamd = Clamd(directory / "clamd")
    judge = Judge(directory / "judge")
    milter = OpenDkim(directory / "opendkim")
    rspamd = Rspamd(directory / "rspamd")
    spamd = Spamd(directory / "spamd")
    parts = (clamd, judge, milter, rspamd, spamd)
    try:
        for part in parts:
            part.begin()
        for part in parts:
            wait_until(part.is_ready, f"{part.name} serves", part.ready_seconds)
        asked = AskedPart("milter", milter, milter.port, f'servers = ["{milter.server}"]\n', _NO_MILTER)
        asked.key = directory / "opendkim" / f"{SELECTOR}.private"
        signature = dkim.sign(mail(b"hello\r\n"), SELECTOR.encode(), DOMAIN.encode(), asked.key.read_bytes())
        asked.good, asked.bad = signature + mail(b"hello\r\n"), signature + mail(b"hullo\r\n")
        viruses = AskedPart("clamav", clamd, clamd.port, f'servers = ["{clamd.server}"]\n', _NO_CLAMD)
        viruses.bad = mail(EICAR + b"\r\n")
        yield [
            asked,
            viruses,
            AskedPart("spamassassin", spamd, spamd.port, f'servers = ["{spamd.server}"]\n', _NO_SPAMD),
            AskedPart("rspamd", rspamd, rspamd.port, f'servers = ["{rspamd.server}"]\n', _NO_RSPAMD),
            AskedPart(
                "http",
                judge,
                judge.port,
                f'urls = ["http://127.0.0.1:{judge.port}/"]\ncontent = "base64"\n',
                _NO_JUDGE,
            ),
            AskedCommand(directory / "command"),
        ]
    finally:
        for part in parts:
            if part.process is not None and part.process.poll() is None:
                part.stop(signal.SIGKILL)


class _StandIn:
    """Listens where a scanner should, hears what it is told, and answers with nonsense, of which it has several."""

    def __init__(self, port: int, answers: Sequence[bytes]) -> None:
        numbers = count()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.request.settimeout(0.1)
                    with contextlib.suppress(TimeoutError):
                        while self.request.recv(65536):
                            pass
                    self.request.sendall(answers[next(numbers) % len(answers)])

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _http(body: bytes, status: bytes = b"200 OK", field: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), field, body)


#: What is no answer to anything.
_NOTHING = (b"", b"\0" * 2000, b"220 mail.example ESMTP\r\n", b"\xff" * 70_000)
_NO_CLAMD = (*_NOTHING, b"stream: OK", b"stream: OK\0stream: OK\0", b"stream: ERROR\0", b"OK\0", _http(b"stream: OK\0"))
_NO_SPAMD = (
    *_NOTHING,
    b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\n\r\n",
    b"SPAMD/1.1 0 EX_OK\r\nSpam: Perhaps ; x / y\r\n\r\n",
    b"SPAMD/1.1 74 EX_IOERR\r\n\r\n",
    _http(b"{}"),
)
_NO_RSPAMD = (
    *_NOTHING,
    _http(b"{}"),
    _http(b"[" * 100_000),
    _http(b'{"action": 5, "score": "much"}'),
    _http(b'{"error": "no"}', b"500 Internal Server Error"),
    _http(b"", b"302 Found", b"Location: http://127.0.0.1:1/\r\n"),
)
_NO_JUDGE = (
    *_NOTHING,
    _http(b'{"verdict": "maybe"}'),
    _http(b'"continue"'),
    _http(b"<html>It works!</html>"),
    _http(b'{"verdict": "continue"}', b"404 Not Found"),
    _http(b'{"verdict": "continue", "unknown": 1}'),
)
_NO_MILTER = (
    *_NOTHING,
    b"\0\0\0\x01c",  # `continue` in place of the negotiation
    b"\0\0\0\x0dO" + b"\0\0\0\x63" + b"\xff" * 8,
    b"\0\0\0\x05O\0\0\0\x06",
    _http(b"{}"),
)

_COMMAND = """\
import itertools, json, os, signal, sys
wrong = ["ok", '{"verdict": "maybe"}', "x" * 200_000, '"continue"', '{"verdict": "continue", "id": "?"}']
nonsense = itertools.cycle(wrong)
while line := sys.stdin.buffer.readline():
    asked = json.loads(line)
    is_bad = b"@MARK@" in sys.stdin.buffer.read(asked["size"])
    word = open("@WORD@").read()
    if word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hung":
        os.kill(os.getpid(), signal.SIGSTOP)
    answer = json.dumps({"verdict": "reject" if is_bad else "continue", "id": asked["id"]})
    print(next(nonsense) if word == "nonsense" else answer, flush=True)
"""

_JUDGE = """\
import json
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_bad = b"@MARK@" in b64decode(told["content"])
        body = json.dumps({"verdict": "reject" if is_bad else "continue"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

ThreadingHTTPServer.request_queue_size = 50
ThreadingHTTPServer(("127.0.0.1", @PORT@), Handler).serve_forever()
"""
