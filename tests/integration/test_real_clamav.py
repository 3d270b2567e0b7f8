"""The filter clamav and a real clamd: EICAR in its wrappings, and a clamd that is killed, hung, or no clamd at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import quopri
import signal
import smtplib
import socketserver
import tarfile
import threading
import zipfile
from base64 import encodebytes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parts import Gateway, folder, free_port, wait_until
from scanner_parts import EICAR, Clamd, ask, mail

pytestmark = pytest.mark.needs("clamd")


@pytest.fixture(scope="module")
def clamd() -> Iterator[Clamd]:
    with folder("clamav") as directory, Clamd(directory / "clamd", largest=4 * 1024 * 1024) as server:
        yield server


def zipped(data: bytes, name: str = "eicar.com") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        entry = tarfile.TarInfo("eicar.com")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def attached(data: bytes, name: str = "eicar.com", kind: str = "application/octet-stream") -> bytes:
    """A message with an attachment in base64."""
    part = (
        f'Content-Type: {kind}; name="{name}"\r\nContent-Disposition: attachment; filename="{name}"\r\n'
        "Content-Transfer-Encoding: base64\r\n\r\n"
    )
    encoded = encodebytes(data).replace(b"\n", b"\r\n")
    body = b"--b\r\nContent-Type: text/plain\r\n\r\nsee there\r\n--b\r\n" + part.encode() + encoded + b"--b--\r\n"
    return mail(body, 'Content-Type: multipart/mixed; boundary="b"')


WRAPPED: dict[str, bytes] = {
    "plain": mail(EICAR + b"\r\n"),
    "quoted-printable": mail(quopri.encodestring(EICAR), "Content-Transfer-Encoding: quoted-printable"),
    "base64": mail(encodebytes(EICAR).replace(b"\n", b"\r\n"), "Content-Transfer-Encoding: base64"),
    "attached": attached(EICAR),
    "renamed": attached(EICAR, "holiday.jpg", "image/jpeg"),
    "zip": attached(zipped(EICAR), "eicar.zip", "application/zip"),
    "zip that is called a picture": attached(zipped(EICAR), "holiday.png", "image/png"),
    "zip in a zip": attached(zipped(zipped(EICAR), "inner.zip"), "eicar.zip", "application/zip"),
    "five zips": attached(zipped(zipped(zipped(zipped(zipped(EICAR), "4"), "3"), "2"), "1"), "eicar.zip"),
    "gzip": attached(gzip.compress(EICAR), "eicar.gz", "application/gzip"),
    "tar.gz": attached(tarred(EICAR), "eicar.tgz", "application/gzip"),
    "behind a field that nobody knows": b"Zz: 1\r\nmime-version" + attached(EICAR).partition(b"MIME-Version")[2],
    "behind the octets of a picture": b"GIF89a: 1\r\nMIME-Version" + attached(EICAR).partition(b"MIME-Version")[2],
    "behind a line that is no field": b"hello\r\nMIME-Version" + attached(EICAR).partition(b"MIME-Version")[2],
    "without a header": EICAR + b"\r\n",
    "behind an empty header": b"\r\n" + EICAR + b"\r\n",
    "forwarded": mail(attached(EICAR), "Content-Type: message/rfc822"),
}


def test_eicar_is_found_in_every_wrapping(clamd: Clamd) -> None:
    answers = ask("clamav", {"servers": [clamd.server]}, *WRAPPED.values())
    assert {name: one["verdict"] for name, one in zip(WRAPPED, answers, strict=True)} == dict.fromkeys(
        WRAPPED, "reject"
    )
    for one in answers:
        assert one["reply"].startswith("550 5.7.1 Refused: this message contains a virus: Test.EICAR")
        assert one["facts"][0] == "clamav.found"


def test_what_is_clean_goes_on_as_it_is(clamd: Clamd) -> None:
    clean = [mail(b"hello\r\n"), attached(zipped(b"hello")), mail(bytes(range(256)) * 4000), b"\r\n", b"no header\r\n"]
    answers = ask("clamav", {"servers": [f"unix:{clamd.socket}"], "connections": 2}, *clean)
    assert [one["facts"] for one in answers] == [["clamav.clean"]] * len(clean)
    assert [one["message"].encode("latin-1") for one in answers] == clean


def test_a_suspicion_is_told(clamd: Clamd) -> None:
    (one,) = ask("clamav", {"servers": [clamd.server]}, mail(b"SUSPECT-MARK\r\n"))
    assert one["verdict"] == "continue"
    assert one["message"].startswith("X-Virus-Status: Suspected (Heuristics.Test.UNOFFICIAL)\r\n")


def test_more_than_clamd_takes_is_not_scanned(clamd: Clamd) -> None:
    options = {"servers": [clamd.server], "oversize": "quarantine"}
    large, right = (mail(b"x" * (size * 1024 * 1024) + EICAR) for size in (20, 3))
    answers = ask("clamav", options, large, right, mail(EICAR))
    assert [one["facts"][0] for one in answers] == ["clamav.oversize", "clamav.clean", "clamav.found"]
    assert answers[0]["verdict"] == "quarantine"


def test_another_clamd_answers_where_the_first_is_away_or_hangs(clamd: Clamd, base: Path) -> None:
    with Clamd(base / "hung") as hung:
        os.kill(hung.pid, signal.SIGSTOP)
        for bad in (hung.server, f"127.0.0.1:{free_port()}", f"unix:{base}/nobody"):
            options = {"servers": [bad, clamd.server], "timeout": "2s"}
            answers = ask("clamav", options, mail(b"hello\r\n"), mail(EICAR))
            assert [one.get("verdict") for one in answers] == ["continue", "reject"], bad
        os.kill(hung.pid, signal.SIGCONT)


# -- while mail flows

CONFIGURATION = """\
[gateway]
hostname = "mailgate.test"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:@PORT@:interface=127.0.0.1"]
pipeline = "inbound"

[[listeners]]
name = "well"
endpoints = ["tcp:@WELL@:interface=127.0.0.1"]
pipeline = "well"

[pipelines.inbound]
filters = ["clamav", "headers"]

[pipelines.well]
filters = ["headers"]

[filters.clamav]
servers = ["@CLAMD@"]
timeout = "1s"
connect_timeout = "500ms"

[domains."box.test"]
route = "box"

[routes.box]
transport = "maildir"
path = "mail/{domain}/{local_part}"
"""


class Flow:
    """A gateway before a clamd, and mails that go through it; each that was taken must arrive, and no other."""

    def __init__(self, base: Path, build: Callable[[str, int], Gateway], clamd: Clamd) -> None:
        self.port, self.well = free_port(), free_port()
        places = {"PORT": self.port, "WELL": self.well, "CLAMD": clamd.server}
        text = CONFIGURATION
        for name, value in places.items():
            text = text.replace(f"@{name}@", str(value))
        self.clamd = clamd
        self.gateway = build(text, self.port)
        self.gateway.start()
        self.mails = base / "gateway" / "mail" / "box.test" / "bob" / "new"
        self.taken = 0

    def send(self, body: bytes = b"hello\r\n", port: int | None = None) -> str:
        """The reply to the end of a mail."""
        with smtplib.SMTP("127.0.0.1", port or self.port, timeout=60) as client:
            client.ehlo("client.test")
            client.mail("ann@client.test")
            client.rcpt("bob@box.test")
            code, text = client.data(mail(body))
        self.taken += code == 250
        return f"{code} {text.decode()}"

    def works(self) -> None:
        """Clean mail is taken, a virus is not."""
        assert self.send().startswith("250 ")
        assert self.send(EICAR).startswith("550 5.7.1 ")

    def check(self) -> None:
        """What was taken has arrived, and no virus has."""
        wait_until(lambda: len(list(self.mails.glob("*"))) == self.taken, f"{self.taken} mails have arrived")
        assert not [one for one in self.mails.glob("*") if EICAR in one.read_bytes()]
        assert self.gateway.stop() == 0


@pytest.fixture
def flow(base: Path, build: Callable[[str, int], Gateway]) -> Iterator[Flow]:
    with Clamd(base / "clamd") as clamd:
        yield Flow(base, build, clamd)


def test_a_clamd_that_hangs(flow: Flow) -> None:
    flow.works()
    os.kill(flow.clamd.pid, signal.SIGSTOP)
    replies: list[str] = []
    waiting = threading.Thread(target=lambda: replies.append(flow.send(EICAR)))
    waiting.start()
    # Mail whose filters are well is through before the other has an answer.
    assert flow.send(port=flow.well).startswith("250 ")
    assert replies == []
    waiting.join()
    assert replies == ["451 4.3.0 Temporary failure, try again later"]
    os.kill(flow.clamd.pid, signal.SIGCONT)
    flow.works()
    flow.check()


def test_a_clamd_that_is_killed_and_the_breaker(flow: Flow) -> None:
    flow.works()
    flow.clamd.stop(signal.SIGKILL)
    for _ in range(7):
        assert flow.send(EICAR).startswith("451 4.3.0 ")
    wait_until(lambda: len(flow.gateway.events("breaker_changed")) == 1, "the breaker is open")
    assert flow.send(port=flow.well).startswith("250 ")
    flow.clamd.start()
    # It stays open for 30 seconds, in which nothing is let through; then it closes by itself.
    wait_until(lambda: flow.send(EICAR).startswith("550 "), "clamd is asked again", 60)
    flow.works()
    wait_until(
        lambda: [one["is_open"] for one in flow.gateway.events("breaker_changed")] == [True, False], "it is closed"
    )
    flow.check()


class _Nonsense(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.recv(100)
            self.request.sendall(self.server.says)  # type: ignore[attr-defined]  # ours, below


class _Impostor(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    says = b""


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 200 OK\r\n\r\nOK\0", b"stream: OK\0stream: OK\0", b"", b"stream: OK", b"\0" * 100_000]
)
def test_a_clamd_that_is_none(base: Path, build: Callable[[str, int], Gateway], says: bytes) -> None:
    class Nobody(Clamd):
        def is_ready(self) -> bool:
            return True

    stand_in = Nobody(base / "clamd")
    with _Impostor(("127.0.0.1", stand_in.port), _Nonsense) as server:
        server.says = says
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            flow = Flow(base, build, stand_in)
            assert flow.send(EICAR).startswith("451 4.3.0 ")
            assert flow.send().startswith("451 4.3.0 ")
            assert flow.send(port=flow.well).startswith("250 ")
            flow.check()
        finally:
            server.shutdown()
            serving.join()
