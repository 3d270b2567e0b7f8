"""An application that is posted mail, in a thread: what it got, and whether it was ours."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from web_peer import QuietHandler, WebPeer

__all__ = ["SECRET", "Application", "Posted"]

SECRET = b"a secret that both sides know"


@dataclass(frozen=True)
class Posted:
    """One request."""

    fields: dict[str, str]
    body: bytes = field(repr=False)
    connection: object = field(repr=False)

    @property
    def mail(self) -> Any:
        """What it tells, where it is JSON."""
        return json.loads(self.body)

    @property
    def key(self) -> str:
        return self.fields["Idempotency-Key"]

    def is_ours(self, secret: bytes = SECRET) -> bool:
        """Whether the signature is, and is fresh."""
        parts = [part.split("=", 1) for part in self.fields["Mailgate-Signature"].split(",")]
        moment = dict(parts)["t"]
        expected = hmac.new(secret, moment.encode() + b"." + self.body, hashlib.sha256).hexdigest()
        is_signed = any(hmac.compare_digest(expected, value) for name, value in parts if name == "v1")
        return is_signed and abs(time.time() - int(moment)) < 300


Answer = tuple[int, dict[str, str], bytes]


class Application:
    """Answers as `mood` says; what it was sent is in `posted`."""

    def __init__(self) -> None:
        self.mood: Callable[[Posted], Answer] = lambda _: (204, {}, b"")
        self.posted: list[Posted] = []
        self.over = threading.Event()

    def of(self, subject: str) -> list[Posted]:
        """The requests for the message with this subject."""
        return [one for one in self.posted if one.mail["subject"] == subject]

    @contextmanager
    def serving(self, identity: Path | None = None, port: int = 0, clients: Path | None = None) -> Iterator[WebPeer]:
        """It serves, over TLS where it has an identity; `clients` as in WebPeer."""
        application = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def post(self) -> None:
                one = Posted(dict(self.headers.items()), self.heard(), self.connection)
                application.posted.append(one)
                status, fields, said = application.mood(one)
                self.say(status, said, fields)

        peer = WebPeer(Handler, identity, port=port, clients=clients)
        try:
            yield peer
        finally:
            self.over.set()
            peer.close()
