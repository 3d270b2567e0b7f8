"""Webhooks of a gateway that runs, over TLS: in order and at least once, whatever the other end does and whenever the
gateway is killed."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import smtplib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from configurations import configuration
from parts import Gateway, free_port, wait_until
from secured import Trust
from web_peer import QuietHandler, WebPeer

SECRET = b"a secret that both sides know"
ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{local_part}"
"""


class Program:
    """What is told of events; `mood` is what it does with them."""

    def __init__(self) -> None:
        self.mood = "well"
        self.asked = 0
        self.taken: list[dict[str, Any]] = []
        self.forged = 0
        self._over = threading.Event()

    def hear(self, handler: QuietHandler) -> None:
        body = handler.heard()
        self.asked += 1
        if not self._is_ours(handler.headers["Mailgate-Signature"], body):
            self.forged += 1
        match self.mood:
            case "hangs":
                self._over.wait(60)
            case "nonsense":
                handler.wfile.write(b"220 I speak SMTP\r\n")
            case "well":
                self.taken += json.loads(body)["events"]
                handler.send_response(204)
                handler.end_headers()
            case "500":
                handler.send_error(500)
        handler.close_connection = True

    def end(self) -> None:
        self._over.set()

    @staticmethod
    def _is_ours(signature: str, body: bytes) -> bool:
        parts = [part.split("=", 1) for part in signature.split(",")]
        moment = dict(parts)["t"]
        expected = hmac.new(SECRET, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
        is_signed = any(hmac.compare_digest(expected, value) for name, value in parts if name == "v1")
        return is_signed and abs(time.time() - int(moment)) < 300

    def delivered(self) -> list[str]:
        """Whose mail has been delivered, each told once, in the order of the first time."""
        told = {one["id"]: one["data"] for one in self.taken if one["type"] == "delivered"}
        return [one["recipient"] for one in told.values()]


@contextmanager
def serving(program: Program, identity: Path) -> Iterator[WebPeer]:
    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def post(self) -> None:
            program.hear(self)

    peer = WebPeer(Handler, identity)
    try:
        yield peer
    finally:
        program.end()
        peer.close()


def send(port: int, number: int) -> None:
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("ann@client.test", [f"u{number}@box.test"], f"Subject: {number}\r\n\r\nx\r\n")


HOOKS = """
[webhooks.crm]
url = "https://127.0.0.1:{port}/events"
ca = "{ca}"
secret_file = "{secret}"
timeout = "2s"
max_pause = "1s"
events = ["accepted", "delivered"]

[webhooks.nobody]
url = "https://127.0.0.1:{nobody}/"
secret_file = "{secret}"
"""


def waiting(gateway: Gateway) -> int:
    """Deliveries that the queue holds."""
    with closing(sqlite3.connect(gateway.directory / "state" / "webhooks.db")) as database:
        query = "SELECT count(*) FROM events WHERE hook = 'crm' AND kind = 'delivered'"
        return int(database.execute(query).fetchone()[0])


def test_everything_arrives(base: Path, build: Callable[[str, int], Gateway]) -> None:
    trust, program, port = Trust.new(base / "trust"), Program(), free_port()
    secret = base / "secret"
    secret.write_bytes(SECRET + b"\n")
    sent = 0

    def send_some(mood: str) -> None:
        nonlocal sent
        program.mood, asked = mood, program.asked
        for _ in range(3):
            send(port, sent)
            sent += 1
        wait_until(lambda: program.asked > asked, f"it is asked, and does {mood}")

    with serving(program, trust.server()) as peer:
        more = HOOKS.format(port=peer.port, ca=trust.ca, secret=secret, nobody=free_port())
        gateway = build(configuration(port, ROUTES, domains={"box.test": "box"}, more=more), port)
        gateway.start()
        send_some("well")
        wait_until(lambda: len(program.delivered()) == sent and waiting(gateway) == 0, "the first are told")
        for mood in ("500", "nonsense", "hangs"):
            send_some(mood)
        wait_until(lambda: waiting(gateway) == 9, "mail is delivered meanwhile, and what happens is kept")
        gateway.stop(signal.SIGKILL)
        gateway.start()
        send_some("well")
        wait_until(lambda: len(program.delivered()) == sent, "all is told")
        gateway.stop()

    told = [int(one.removeprefix("u").partition("@")[0]) for one in program.delivered()]
    assert sorted(told) == list(range(sent))
    # Three at a time were sent, which may be delivered in any order.
    assert [number // 3 for number in told] == sorted(number // 3 for number in told)
    accepted = {one["data"]["queue_id"] for one in program.taken if one["type"] == "accepted"}
    assert accepted == {one["data"]["queue_id"] for one in program.taken if one["type"] == "delivered"}
    assert program.forged == 0
