"""The gateway in memory, for those who test filters: users, and what it makes of TLS."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.envelope import Identity, Session
from mailgate.events import Refused
from mailgate.interfaces import FilterServices, IAuthFilter, IFilterFactory
from mailgate.reply import Reply
from mailgate.testing.gateway import MemoryClient, MemoryGateway
from mailgate.verdict import Reject, Verdict
from tests.unit.certificates import authority, issue
from tests.unit.session_security import b64

CONFIG = """
[gateway]
hostname = "mx.example.org"
state_dir = "state"

[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:587"]
pipeline = "outbound"
tls = "{tls}"
auth = "users"

[tls]
certificate = "server.pem"

[auth.users]
kind = "file"
path = "users"

[filters.not-eve]

[pipelines.outbound]
filters = ["not-eve"]

[domains."example.org"]
route = "inside"

[routes.inside]
transport = "smtp"
hosts = ["mail.inside.example:25"]
"""
USERS = {"ann": "correct horse", "eve": "battery"}


@implementer(IAuthFilter)
class NotEve:
    """Lets everyone in but eve."""

    def on_auth(self, session: Session, identity: Identity) -> Verdict | Awaitable[Verdict] | None:
        if identity.name == "eve":
            return Reject(Reply.of(535, "5.7.8", "Not you"), "it is eve")
        return None


@implementer(IFilterFactory)
class NotEveFactory:
    name = "not-eve"
    summary = "no eve"
    options = Section

    def build(self, options: object, services: FilterServices) -> NotEve:
        return NotEve()


def connect(folder: Path, tls: str = "required") -> tuple[MemoryGateway, MemoryClient]:
    issue(authority(), "mx.example.org").write(folder / "server.pem")
    (folder / "users").write_text("")
    path = folder / "mailgate.toml"
    path.write_text(CONFIG.format(tls=tls))
    gateway = MemoryGateway(path, filters=[NotEveFactory()], users=USERS)
    client = gateway.connect()
    client.said()
    client.send(b"EHLO client.example\r\n")
    return gateway, client


def say(client: MemoryClient, *lines: str) -> list[str]:
    """The code of each line of what is answered."""
    client.send("".join(f"{line}\r\n" for line in lines).encode())
    return [line[:3] for line in client.said()]


@pytest.mark.parametrize("tls", ["optional", "required", "implicit"])
def test_auth_in_memory(tmp_path: Path, tls: str) -> None:
    gateway, client = connect(tmp_path, tls)
    offered = client.said()
    assert any(line[4:].split()[0] == "AUTH" and "PLAIN" in line.split() for line in offered)
    assert not any("STARTTLS" in line for line in offered)
    assert say(client, "MAIL FROM:<ann@example.org>") == ["530"]
    assert say(client, f"AUTH PLAIN {b64(chr(0) + 'ann' + chr(0) + USERS['ann'])}") == ["235"]
    assert say(client, "MAIL FROM:<ann@example.org>", "RCPT TO:<bob@example.org>", "DATA") == ["250", "250", "354"]
    assert say(client, "Subject: hello", "", "text", ".") == ["250"]
    assert len(gateway.leases) == 1
    client.disconnect()
    assert gateway.clock.getDelayedCalls() == []


def test_a_filter_of_auth_in_memory(tmp_path: Path) -> None:
    gateway, client = connect(tmp_path)
    client.said()
    assert say(client, f"AUTH PLAIN {b64(chr(0) + 'eve' + chr(0) + USERS['eve'])}") == ["535"]
    assert [event.reason for event in gateway.events if isinstance(event, Refused)] == ["it is eve"]
    client.disconnect()


@pytest.mark.parametrize("login", ["\0ann\0wrong", "\0bob\0correct horse"])
def test_wrong_passwords_in_memory(tmp_path: Path, login: str) -> None:
    gateway, client = connect(tmp_path)
    client.said()
    assert say(client, f"AUTH PLAIN {b64(login)}") == []
    gateway.pass_time(2)
    assert [line[:3] for line in client.said()] == ["535"]
    client.disconnect()


def test_without_users_nobody_gets_in(tmp_path: Path) -> None:
    connect(tmp_path)
    client = MemoryGateway(tmp_path / "mailgate.toml", filters=[NotEveFactory()]).connect()
    assert say(client, "EHLO client.example", f"AUTH PLAIN {b64(chr(0) + 'ann' + chr(0) + 'x')}")[-1] == "250"
    client.disconnect()
