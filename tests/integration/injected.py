"""A gateway that takes mail by HTTP, and a client of it."""

from __future__ import annotations

import email
import http.client
import json
import sqlite3
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

from configurations import configuration
from parts import Gateway, free_port, wait_until

from mailgate.web.tokens import hash_of

__all__ = ["ALL", "OTHER", "READER", "SECRET", "WRONG", "InjectionSite"]

#: Those of the tokens: "app" may send as anything in box.test, "other" as itself. The last is nobody's.
SECRET, OTHER, READER, WRONG = "mailgate_app", "mailgate_other", "mailgate_reader", "mailgate_wrong"
ALL = "mailgate_all"
MAILDIR = """
[routes.box]
transport = "maildir"
path = "mail/{local_part}"
"""


class InjectionSite:
    """`more` are lines of `[http.injection]`, `filters` are asked before the usual ones."""

    def __init__(
        self,
        base: Path,
        build: Callable[[str, int], Gateway],
        *,
        routes: str = MAILDIR,
        more: str = "",
        filters: str = "",
        sections: str = "",
    ) -> None:
        self.smtp, self.http = free_port(), free_port()
        text = configuration(self.smtp, routes, domains={"box.test": "box"})
        text += f"""
[pipelines.api]
filters = [{filters}"sender-login", "submission", "headers"]

[filters.sender-login]
allow = {{ app = ["box.test"], other = ["other@box.test"] }}

[http]
endpoints = ["tcp:{self.http}:interface=127.0.0.1"]

[http.injection]
pipeline = "api"
{more}

[http.tokens.app]
hash = "{hash_of(SECRET)}"
scopes = ["send", "queue:read", "status"]

[http.tokens.other]
hash = "{hash_of(OTHER)}"
scopes = ["send"]

[http.tokens.all]
hash = "{hash_of(ALL)}"
scopes = ["send", "queue:read", "queue:write", "quarantine:read", "quarantine:write", "status"]

[http.tokens.reader]
hash = "{hash_of(READER)}"
scopes = ["queue:read", "quarantine:read", "status"]
{sections}
"""
        self.gateway = build(text, self.smtp)

    def start(self) -> InjectionSite:
        self.gateway.start()
        wait_until(lambda: self.ask("GET", "/readyz")[0] == 200, "it is ready")
        return self

    def ask(
        self,
        method: str,
        target: str,
        content: bytes = b"",
        secret: str = SECRET,
        fields: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """The status, and the answer; (0, None) where the connection broke."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=300)
        try:
            given = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", **(fields or {})}
            connection.request(method, target, content, given)
            answer = connection.getresponse()
            octets = answer.read()
            return answer.status, json.loads(octets) if octets[:1] == b"{" else octets
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def post(self, key: str = "", secret: str = SECRET, **order: Any) -> tuple[int, Any]:
        """An order; `from_` is its author."""
        order = {"from": order.pop("from_", "Shop <shop@box.test>"), "subject": "x", "text": "hello\n", **order}
        fields = {"Idempotency-Key": key} if key else {}
        return self.ask("POST", "/v1/messages", json.dumps(order).encode(), secret, fields)

    def mails(self, user: str) -> list[EmailMessage]:
        """What has been delivered."""
        box = self.gateway.directory / "mail" / user / "new"
        found: list[Any] = [email.message_from_bytes(one.read_bytes(), policy=SMTP) for one in sorted(box.glob("*"))]
        return found

    def has(self, user: str) -> bool:
        """Whether a mailbox has mail."""
        return bool(self.mails(user))

    def count(self) -> int:
        """The messages in all mailboxes."""
        return sum(1 for _ in (self.gateway.directory / "mail").glob("*/new/*"))

    def state(self, queue_id: str) -> list[str]:
        """The states of its recipients."""
        status, told = self.ask("GET", f"/v1/messages/{queue_id}")
        return [one["state"] for one in told["recipients"]] if status == 200 else [str(status)]

    def marks(self) -> int:
        """What the spool has noted of calls."""
        with sqlite3.connect(self.gateway.directory / "state" / "spool" / "spool.db") as database:
            return int(database.execute("SELECT count(*) FROM counts WHERE key LIKE '%/injected/%'").fetchone()[0])
