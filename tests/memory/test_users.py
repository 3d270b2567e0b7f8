"""Users in a running gateway: a reload under the feet of sessions, warnings, the stop, and ETRN."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs

from mailgate import configurations
from mailgate.auth.file import FileChecker
from mailgate.auth.portal import Authenticator
from mailgate.events import ConfigRefused, ConfigReloaded, Stopped
from tests.memory.configured import configuration
from tests.memory.gateway import Client, MemoryGateway, World
from tests.memory.hop import NextHop
from tests.unit.auth_stand import stored
from tests.unit.certificates import authority

PASSWORD = "correct horse"  # noqa: S105  for tests
RIGHT = base64.b64encode(f"\0ann\0{PASSWORD}".encode())
AUTH = """
[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:588"]
auth = "users"
auth_without_tls = true
pipeline = "in"

[auth.users]
kind = "file"
path = "users"
"""
HTTP = """
[auth.service]
kind = "http"
url = "https://service.example.org/"
ca = "ca.pem"
"""


def start(world: World, tmp_path: Path, more: str = "") -> MemoryGateway:
    folder = tmp_path / "gw"
    folder.mkdir()
    (folder / "users").write_text(f"ann:{stored(PASSWORD, 'scram')}\n")
    (folder / "users").chmod(0o600)
    authority().write_certificate(folder / "ca.pem")
    return MemoryGateway(world, folder, configuration(AUTH + more)).start()


def greet(gateway: MemoryGateway, listener: str = "submission") -> Client:
    client = gateway.connect(listener)
    client.say(b"EHLO client.test\r\n")
    return client


def log_in(client: Client) -> str:
    """The code of the answer. It is computed in a thread."""
    client.say(b"AUTH PLAIN " + RIGHT + b"\r\n")
    for _ in range(200):
        if client.received:
            break
        call, values = client._world.reactor.from_threads.get(timeout=60)
        call(*values)
        client._world.run()
    return client.received.decode()[:3]


def reload(gateway: MemoryGateway, text: str | None = None) -> None:
    if text is not None:
        gateway.file.write_text(text)
    gateway.reload()
    gateway.world.run()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Authenticator]:
    """Those that were closed."""
    found: list[Authenticator] = []
    close = Authenticator.close

    def closing(one: Authenticator) -> Deferred[None]:
        found.append(one)
        return close(one)

    monkeypatch.setattr(Authenticator, "close", closing)
    return found


def test_sessions_from_before_a_reload_can_still_log_in(
    world: World, tmp_path: Path, closed: list[Authenticator]
) -> None:
    gateway = start(world, tmp_path)
    before = gateway.configurations.users["users"]
    old = greet(gateway)
    reload(gateway, configuration(AUTH + 'cache = "1s"\n'))
    after = gateway.configurations.users["users"]
    assert after is not before
    assert gateway.listeners["submission"].services.authenticator is after
    assert log_in(old) == "235"
    assert log_in(greet(gateway)) == "235"
    assert closed == []
    world.run(2 * 3600)
    assert closed == [before]
    gateway.stop()
    assert closed == [before, after]


def test_a_reload_that_changes_nothing_of_the_users_leaves_them(
    world: World, tmp_path: Path, closed: list[Authenticator]
) -> None:
    gateway = start(world, tmp_path, HTTP)
    before = dict(gateway.configurations.users)
    reload(gateway)
    assert len(gateway.of(ConfigReloaded)) == 1
    assert gateway.configurations.users == before
    gateway.stop()
    assert sorted(map(id, closed)) == sorted(map(id, before.values()))


def test_a_stop_closes_those_that_were_replaced_too(world: World, tmp_path: Path, closed: list[Authenticator]) -> None:
    gateway = start(world, tmp_path)
    before = gateway.configurations.users["users"]
    reload(gateway, configuration(AUTH + 'cache = "1s"\n'))
    after = gateway.configurations.users["users"]
    gateway.stop()
    assert closed == [after, before]
    assert gateway.timers() == []


def test_authorities_that_cannot_be_used_any_more_refuse_the_reload(world: World, tmp_path: Path) -> None:
    gateway = start(world, tmp_path, HTTP)
    before = dict(gateway.configurations.users)
    (tmp_path / "gw" / "ca.pem").write_text("none")
    reload(gateway)
    (refused,) = gateway.of(ConfigRefused)
    assert "ca.pem" in refused.errors[0]
    assert gateway.configurations.users == before
    authority("Another authority").write_certificate(tmp_path / "gw" / "ca.pem")
    reload(gateway)
    assert gateway.configurations.users["service"] is not before["service"]
    assert gateway.configurations.users["users"] is before["users"]


@pytest.mark.parametrize("error", ["another user", "another part", "ours"])
def test_a_reload_that_fails_leaves_the_users_and_closes_those_that_it_has_made(
    world: World, tmp_path: Path, closed: list[Authenticator], monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    gateway = start(world, tmp_path, HTTP)
    before, timers = dict(gateway.configurations.users), len(gateway.timers())
    text = configuration(AUTH + 'cache = "1s"\n' + HTTP)
    if error == "another user":
        (tmp_path / "gw" / "ca.pem").write_text("none")
    elif error == "another part":
        text = text.replace('hosts = ["192.0.2.1"]', 'hosts = ["192.0.2.1"]\ntls_ca = "none.pem"')
    else:

        def failing(*_: object, **named: object) -> None:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(configurations, "assemble", failing)
    with capturedLogs() as logs:
        reload(gateway, text)
    (refused,) = gateway.of(ConfigRefused)
    assert len(refused.errors) == 1
    assert any("log_failure" in one for one in logs) is (error == "ours")
    assert gateway.configurations.users == before
    assert closed
    assert not set(closed) & set(before.values())
    assert len(gateway.timers()) == timers
    assert log_in(greet(gateway)) == "235"


def test_a_listener_without_a_section_keeps_its_users(
    world: World, tmp_path: Path, closed: list[Authenticator]
) -> None:
    gateway = start(world, tmp_path)
    reload(gateway, configuration())
    assert gateway.configurations.users == {}
    world.run(3 * 3600)
    assert log_in(greet(gateway)) == "235"
    gateway.stop()
    assert len(closed) == 1


def test_a_file_of_users_that_others_can_read_is_warned_of(world: World, tmp_path: Path) -> None:
    gateway = start(world, tmp_path)
    (tmp_path / "gw" / "users").chmod(0o644)
    with capturedLogs() as logs:
        reload(gateway)
    gateway.stop()
    with capturedLogs() as more:
        MemoryGateway(world, tmp_path / "gw", configuration(AUTH)).start()
    for events in (logs, more):
        assert [text for event in events if "0644" in (text := str(event.get("warning")))]


@pytest.mark.parametrize("part", ["users", "control", "resolver", "relay"])
def test_what_cannot_stop_is_logged_and_the_rest_stops(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    gateway = start(world, tmp_path)

    def broken(*_: object) -> Deferred[None]:
        if part in ("resolver", "users"):
            raise ZeroDivisionError("a bug")
        return fail(ZeroDivisionError("a bug"))

    async def broken_too(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    if part == "users":
        monkeypatch.setattr(FileChecker, "close", broken)
    elif part == "relay":
        monkeypatch.setattr(gateway.relay, "stop", broken_too)
    else:
        owner = gateway.offices if part == "control" else gateway
        monkeypatch.setattr(getattr(owner, part), "close", broken)
    recorded: list[str] = []
    monkeypatch.setattr(gateway.recorder, "close", lambda: recorded.append("closed"))
    with capturedLogs() as logs:
        gateway.stop()
    assert {event["log_failure"].getErrorMessage() for event in logs if "log_failure" in event} == {"a bug"}
    assert isinstance(gateway.seen[-1], Stopped)
    assert recorded == ["closed"]
    MemoryGateway(world, tmp_path / "gw", configuration(AUTH)).start()  # nobody holds the spool


def test_users_that_do_not_close_hold_up_the_stop_for_two_seconds_together(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start(world, tmp_path, "\n".join(f'[auth.u{n}]\nkind = "file"\npath = "users"' for n in range(5)))
    monkeypatch.setattr(FileChecker, "close", lambda _: Deferred())
    before = world.reactor.seconds()
    gateway.stop()
    assert world.reactor.seconds() - before < 3
    assert isinstance(gateway.seen[-1], Stopped)


def test_etrn_tries_what_waits_and_not_again_at_once(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    hop.script["RCPT"] = "451 4.3.0 not now"
    gateway = start(world, tmp_path)
    gateway.connect().mail("ann@client.test", "bob@example.org")
    client = gateway.connect("out", "10.0.0.1")
    client.say(b"EHLO client.test\r\n")
    assert client.say(b"ETRN example.org\r\n")[0].startswith("253 ")
    attempts = gateway.entries()[0].attempts
    assert attempts == 2
    assert client.say(b"ETRN example.org\r\n")[0].startswith("251 ")
    assert gateway.entries()[0].attempts == attempts
