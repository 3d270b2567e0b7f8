"""A gateway with all filters of content, between clients that send any octets and a next hop that keeps them."""

from __future__ import annotations

import contextlib
import json
import select
import smtplib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from parts import Gateway, free_port, memory_of, wait_until
from recorder import Recorder

__all__ = ["DOMAIN", "ContentStand", "Reply", "sampled"]

DOMAIN = "box.test"

#: Octets of content that are sent at a time.
_PIECE = 256 * 1024

_GATEWAY = """\
[gateway]
hostname = "mailgate.test"
state_dir = "state"

[dns]
servers = ["@DNS@"]

[[listeners]]
name = "mx"
endpoints = ["tcp:@PORT@:interface=127.0.0.1"]
pipeline = "inbound"
max_message_size = "110MiB"

[domains."box.test"]
route = "box"

[routes.box]
transport = "smtp"
hosts = ["127.0.0.1:@HOP@"]
tls = "off"
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What was said of a message; `code` is 0 where there was no reply."""

    code: int
    text: str


class ContentStand:
    """The gateway, started, with these pipelines and filters (lines of a mailgate.toml)."""

    def __init__(self, build: Callable[[str, int], Gateway], hop: Recorder, dns: str, filters: str) -> None:
        self.port = free_port()
        text = _GATEWAY.replace("@PORT@", str(self.port)).replace("@HOP@", str(hop.port)).replace("@DNS@", dns)
        self.hop = hop
        self.gateway = build(text + filters, self.port)
        self.gateway.start()
        self._names: dict[str, int] = {}
        self._taken: set[str] = set()

    def send_all(self, mails: Iterable[tuple[str, bytes]], clients: int = 3) -> dict[str, Reply]:
        """Send them by several clients; the reply to each by its name."""
        with ThreadPoolExecutor(clients) as pool:
            replies = {name: pool.submit(self.send, name, content) for name, content in mails}
            return {name: one.result() for name, one in replies.items()}

    def send(self, name: str, content: bytes, *, by_data: bool = False) -> Reply:
        """Send one as it is, by BDAT and as BINARYMIME, or by DATA; `name` is what it is asked for with `arrived`."""
        recipient = self._recipient(name)
        try:
            with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=100) as client:
                client.ehlo()
                client.mail("ann@client.example", [] if by_data else ["BODY=BINARYMIME"])
                client.rcpt(recipient)
                if by_data:
                    code, text = _by_data(client, content)
                else:
                    client.send(b"BDAT %d LAST\r\n" % len(content))
                    client.send(content)
                    code, text = client.getreply()
        except smtplib.SMTPResponseException as error:
            return Reply(error.smtp_code, str(error.smtp_error))
        except OSError as error:
            return Reply(0, f"{type(error).__name__}: {error}")
        if code == 250:
            self._taken.add(recipient)
        return Reply(code, text.decode())

    def arrived(self, name: str) -> bytes:
        """What the next hop has been given of that name."""
        return self.hop.of(self._recipient(name), 60).content

    def kept(self) -> set[str]:
        """The recipients whose mail is in quarantine."""
        return {one["recipient"] for one in self._queue() if one["state"] == "quarantined"}

    def check_ledger(self) -> None:
        """What was taken is at the next hop, or in quarantine; and nothing else is."""
        wait_until(lambda: {one["state"] for one in self._queue()} <= {"quarantined"}, "nothing waits any more", 60)
        kept = self.kept()
        delivered = [one.recipients[0].partition("<")[2].partition(">")[0] for one in self.hop.taken]
        assert len(delivered) == len(set(delivered))
        assert kept.isdisjoint(delivered)
        assert kept | set(delivered) == self._taken

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the log has of them."""
        return self.gateway.events(name)

    def _queue(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(
            self.gateway.command("queue", "list", "--json", "--limit", "100000").stdout
        )
        return found

    def _recipient(self, name: str) -> str:
        return f"m{self._names.setdefault(name, len(self._names))}@{DOMAIN}"


def _by_data(client: smtplib.SMTP, content: bytes) -> tuple[int, bytes]:
    """As a client does that listens while it speaks: what it is told before the end is its answer."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    client.docmd("DATA")
    assert client.sock is not None
    with contextlib.suppress(ConnectionError):
        for at in range(0, len(stuffed), _PIECE):
            client.sock.sendall(stuffed[at : at + _PIECE])
            if select.select([client.sock], [], [], 0)[0]:
                break
        else:
            client.sock.sendall(b".\r\n")
    return client.getreply()


@contextmanager
def sampled(gateway: Gateway) -> Iterator[Callable[[], int]]:
    """How much more than at entry the gateway with its workers has held since, at most, in octets; it is looked at
    several times a second."""
    before, is_over = memory_of(gateway.pid), threading.Event()
    peak = before

    def look() -> None:
        nonlocal peak
        while not is_over.wait(0.2):
            peak = max(peak, memory_of(gateway.pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        is_over.set()
        thread.join()
