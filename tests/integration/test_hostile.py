"""Bad input against the running gateway: each gets a clear answer or a time-out, and mail flows beside it."""

from __future__ import annotations

import contextlib
import random
import resource
import smtplib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from configurations import configuration
from parts import Gateway, free_port, memory_of, wait_until

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{domain}/{local_part}"
"""

LIMITS = """
max_message_size = "100KiB"
max_recipients = 100
command_timeout = "2s"
data_timeout = "2s"
max_connections = 1500
"""


@dataclass
class Site:
    gateway: Gateway
    port: int

    @property
    def mails(self) -> list[Path]:
        return list(self.gateway.directory.glob("mail/hostile.test/*/new/*"))

    def send(self, recipient: str = "good@hostile.test") -> None:
        """An ordinary mail still gets through."""
        before = len(self.mails)
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.sendmail("x@client.test", [recipient], b"Subject: good\r\n\r\nstill here\r\n")
        wait_until(lambda: len(self.mails) == before + 1, "an ordinary mail is delivered")


@pytest.fixture
def site(base: Path) -> Iterator[Site]:
    port = free_port()
    text = configuration(port, ROUTES, domains={"hostile.test": "box"}, listener=LIMITS)
    with Gateway(base / "gateway", text, [port]) as gateway:
        yield Site(gateway, port)


class Peer:
    """A raw connection past the greeting."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.lines = self.socket.makefile("rb")
        assert self.reply().startswith("220 ")

    def reply(self) -> str:
        """The last line of the next reply; "" where the connection was closed."""
        while True:
            try:
                line = self.lines.readline()
            except ConnectionResetError:
                return ""
            if line[3:4] != b"-":
                return line.decode("ascii", "replace").strip()

    def say(self, octets: bytes) -> str:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(octets)
        return self.reply()

    def envelope(self, recipient: bytes = b"bob@hostile.test") -> None:
        assert self.say(b"EHLO client.test\r\n").startswith("250 ")
        assert self.say(b"MAIL FROM:<x@client.test>\r\n").startswith("250 ")
        assert self.say(b"RCPT TO:<" + recipient + b">\r\n").startswith("250 ")

    def data(self) -> None:
        self.envelope()
        assert self.say(b"DATA\r\n").startswith("354 ")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.socket.close()


CONTENT = {
    "bare LF": (b"Subject: x\r\n\r\none\ntwo\r\n.\r\n", "5"),
    "bare CR": (b"Subject: x\r\n\r\none\rtwo\r\n.\r\n", "5"),
    "NUL": (b"Subject: x\r\n\r\none\0two\r\n.\r\n", "5"),
    "LF.LF is no end": (b"Subject: x\r\n\r\none\n.\nMAIL FROM:<evil@client.test>\r\n.\r\n", "5"),
    "LF.CRLF is no end": (b"Subject: x\r\n\r\none\n.\r\nMAIL FROM:<evil@client.test>\r\n.\r\n", "5"),
    "a line of 100,000 octets": (b"Subject: x\r\n\r\n" + b"x" * 90_000 + b"\r\n.\r\n", "5"),
    "too large": (b"Subject: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * 5_000 + b".\r\n", "552 5.3.4"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_bad_content_is_refused_whole(site: Site, name: str) -> None:
    octets, answer = CONTENT[name]
    with Peer(site.port) as peer:
        peer.data()
        assert peer.say(octets).startswith(answer)
        assert peer.say(b"NOOP\r\n").startswith("250 ")
    site.send()
    assert len(site.mails) == 1


COMMANDS: dict[str, tuple[bytes, str | tuple[str, ...]]] = {
    "an endless line": (b"EHLO " + b"x" * 200_000 + b"\r\n", "500 "),
    "control characters": (b"EHLO \x01\x02\r\n", "500 "),
    "bare LF in a command": (b"NOOP\nNOOP\r\n", "500 "),
    "eight-bit noise": (bytes(range(128, 256)) + b"\r\n", "500 "),
    "a proxy's request": (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", ("421 ", "500 ", "")),
    "an address with a line end": (b"MAIL FROM:<a\rb@x.test>\r\n", "50"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_commands_get_an_answer(site: Site, name: str) -> None:
    octets, answer = COMMANDS[name]
    with Peer(site.port) as peer:
        assert peer.say(octets).startswith(answer)
    site.send()


def test_binary_noise_is_bounded(site: Site) -> None:
    chance = random.Random(2)
    for _ in range(20):
        with Peer(site.port) as peer, contextlib.suppress(OSError):
            for _ in range(20):
                peer.socket.sendall(chance.randbytes(50_000))
    site.send()


def test_too_many_recipients_get_452_and_the_others_their_mail(site: Site) -> None:
    with Peer(site.port) as peer:
        peer.envelope(b"user0@hostile.test")
        replies = [peer.say(b"RCPT TO:<user%d@hostile.test>\r\n" % number) for number in range(1, 120)]
        assert [reply[:3] for reply in replies] == ["250"] * 99 + ["452"] * 20
        assert peer.say(b"DATA\r\n").startswith("354 ")
        assert peer.say(b"Subject: many\r\n\r\nx\r\n.\r\n").startswith("250 ")
    wait_until(lambda: len(site.mails) == 100, "one mail for each")


def stall_in_content(peer: Peer) -> None:
    peer.data()
    peer.socket.sendall(b"Subject: stalled\r\n")


STALLS: dict[str, Callable[[Peer], None]] = {
    "after the banner": lambda peer: None,
    "in a command": lambda peer: peer.socket.sendall(b"EH"),
    "after EHLO": lambda peer: peer.socket.sendall(b"EHLO client.test\r\n"),
    "after RCPT": Peer.envelope,
    "in the content": stall_in_content,
}


@pytest.mark.parametrize("phase", STALLS)
def test_a_client_that_stalls_is_let_go(site: Site, phase: str) -> None:
    with Peer(site.port) as peer:
        STALLS[phase](peer)
        answers = [peer.reply()]
        while answers[-1]:
            answers.append(peer.reply())
        assert any(answer.startswith("421 ") for answer in answers), answers
    assert site.mails == []


def test_a_thousand_idle_connections(base: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    port = free_port()
    text = configuration(port, ROUTES, domains={"hostile.test": "box"}, listener="max_connections = 1500")
    with Gateway(base / "gateway", text, [port]) as gateway, contextlib.ExitStack() as stack:
        site = Site(gateway, port)
        site.send()
        before = memory_of(gateway.pid)
        for _ in range(1000):
            stack.enter_context(Peer(port))
        grown = memory_of(gateway.pid) - before
        print(f"1,000 idle connections: {before / 2**20:.0f} MiB before, {grown / 2**20:.0f} MiB more")
        assert grown < 100 * 2**20
        site.send()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_over_the_limit_get_421(base: Path) -> None:
    port = free_port()
    text = configuration(port, ROUTES, domains={"hostile.test": "box"}, listener="max_connections = 10")
    with Gateway(base / "gateway", text, [port]) as gateway, contextlib.ExitStack() as stack:
        wait_until(lambda: bool(gateway.events("session_closed")), "the connection is gone that asked if it serves")
        for _ in range(10):
            stack.enter_context(Peer(port))
        with socket.create_connection(("127.0.0.1", port), 60) as one_more:
            assert one_more.recv(100).startswith(b"421 ")
