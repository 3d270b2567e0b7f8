"""Inline delivery where a session with the next hop ends otherwise than it should: what the client is told, when, and
what is said of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.logger import capturedLogs

from mailgate.events import Refused
from tests.memory.configured import HOST
from tests.memory.gateway import Client, World
from tests.memory.test_inline import CONTENT, SECOND, Site, inline

KEEPS = 'idle_timeout = "10m"\n'
UNKNOWN = "it may have been delivered"


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path, inline(KEEPS))


def forget(site: Site) -> None:
    """A firewall has forgotten every connection that is there: whatever is sent over them is lost."""
    for server in site.hop.open:
        server.dataReceived = lambda data: None  # type: ignore[method-assign]


def warm(site: Site, number: int = 1) -> None:
    """So many connections are idle."""
    clients = [site.client() for _ in range(number)]
    for client in clients:
        assert site.ask(client, "bob@example.org") == ["250 ok"]
    for client in clients:
        site.content(client)
    assert site.hop.sessions == number


def reason_of(site: Site) -> str:
    (refused,) = site.gateway.of(Refused)
    return refused.reason


# -- connections that were kept for later


@pytest.mark.parametrize("kept", [1, 5])
def test_connections_that_are_dead_without_a_word_cost_a_client_a_moment(site: Site, kept: int) -> None:
    warm(site, kept)
    site.world.run(2.0)
    forget(site)
    client = site.client()
    assert site.ask(client, "ann@example.org") == []
    with capturedLogs() as logs:
        site.world.run(6.0)
    assert client.received.endswith(b"250 ok\r\n")
    assert [one["error"] for one in logs if "error" in one] == [f"{HOST}[{HOST}]:25 did not answer in time"]
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert site.hop.sessions == kept + 1


@pytest.mark.parametrize("more", ['rcpt_timeout = "4s"\n', 'rcpt_timeout = "30s"\n'])
def test_where_the_host_is_gone_too_there_is_time_for_the_next_host(world: World, tmp_path: Path, more: str) -> None:
    site = Site(world, tmp_path, inline(KEEPS + more, hosts=f'"{HOST}", "{SECOND}"'))
    warm(site)
    world.run(2.0)
    forget(site)
    world.servers[SECOND, 25] = world.servers[HOST, 25]
    world.servers[HOST, 25] = lambda: None
    client = site.client()
    site.ask(client, "ann@example.org")
    world.run(30.0)
    assert client.received.endswith(b"250 ok\r\n")


def test_the_only_connection_that_there_may_be_is_replaced_too(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline(KEEPS + "connections = 1"))
    for _ in range(3):
        client = site.client()
        site.ask(client, "bob@example.org")
        world.run(6.0)
        assert client.received.endswith(b"250 ok\r\n")
        site.content(client)
        world.run(2.0)
        forget(site)
    assert site.hop.sessions == 3


def test_one_that_has_never_served_is_replaced_too(site: Site) -> None:
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test> SMTPUTF8\r\n")
    assert client.say("RCPT TO:<j\u00f6rg@example.org>\r\n".encode())[0].startswith("550 5.6.7 ")
    site.world.run(2.0)
    forget(site)
    client = site.client()
    site.ask(client, "bob@example.org")
    site.world.run(6.0)
    assert client.received.endswith(b"250 ok\r\n")
    assert site.hop.sessions == 2


def test_what_has_just_served_is_not_asked_whether_it_is_there(site: Site) -> None:
    for pause, resets in ((0.0, 0), (0.5, 0), (2.0, 1)):
        warm_client = site.client()
        site.ask(warm_client, "bob@example.org")
        site.content(warm_client)
        site.world.run(pause)
        client = site.client()
        assert site.ask(client, "bob@example.org") == ["250 ok"]
        assert site.hop.commands.count("RSET") == resets
        site.content(client)
    assert site.hop.sessions == 1


@pytest.mark.parametrize("answer", ["421 4.3.2 idle for too long", "500 what?", "nonsense"])
def test_what_does_not_want_to_go_on_is_replaced(site: Site, answer: str) -> None:
    warm(site)
    site.world.run(2.0)
    site.hop.script["RSET"] = answer
    client = site.client()
    assert site.ask(client, "bob@example.org") == ["250 ok"]
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert site.hop.sessions == 2


def test_a_client_that_leaves_meanwhile_leaves_nothing(site: Site) -> None:
    warm(site)
    site.world.run(2.0)
    forget(site)
    client = site.client()
    site.ask(client, "bob@example.org")
    client.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
    site.world.run(60.0)
    assert sum(view.active for view in site.gateway.relay.sites()) == 0
    assert len(site.hop.mails) == 1


def slow_content(site: Site) -> Client:
    """A client that has taken so long with its content that its session with the next hop was given up."""
    client = site.client()
    site.ask(client, "ann@example.org")
    assert client.say(b"DATA\r\n")[0].startswith("354")
    client.say(b"Subject: x\r\n")
    site.world.run(70.0)
    return client


def test_content_that_was_long_in_coming_finds_its_way_past_them_too(site: Site) -> None:
    client = slow_content(site)
    forget(site)
    client.say(b"\r\nhello\r\n.\r\n")
    site.world.run(6.0)
    assert client.received.startswith(b"250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("ann@example.org",)]


# -- the end of the content


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("mode", ["defer", "queue"])
def test_421_to_the_content_is_an_answer(world: World, tmp_path: Path, mode: str, is_late: bool) -> None:
    site = Site(world, tmp_path, inline(f'when_unreachable = "{mode}"\n{KEEPS}'))
    site.hop.script["END"] = "421 4.3.2 shutting down"
    if is_late:
        answers = slow_content(site).say(b"\r\nhello\r\n.\r\n")
    else:
        client = site.client()
        site.ask(client, "bob@example.org", "ann@example.org")
        answers = site.content(client)
    assert answers == ["451 4.3.2 shutting down"]
    assert reason_of(site) == f"the next hop {HOST}[{HOST}]:25 said: 421 4.3.2 shutting down"
    assert site.gateway.queue() == {}
    assert site.hop.mails == []


def test_421_to_one_by_lmtp_leaves_those_unknown_who_have_no_answer(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline(transport="lmtp"), lmtp=True)
    site.hop.script |= {"END bob@example.org": "450 4.2.0 busy", "END ann@example.org": "421 4.3.2 shutting down"}
    site.hop.script["END carl@example.org"] = None
    client = site.client("lmtp")
    site.ask(client, "bob@example.org", "ann@example.org", "carl@example.org")
    assert site.content(client) == [
        "450 4.2.0 busy",
        "451 4.3.2 shutting down",
        "451 4.3.2 The next hop cannot take it now, try again later",
    ]
    reasons = {one.recipients[0]: one.reason for one in site.gateway.of(Refused)}
    assert [UNKNOWN in reasons[f"{name}@example.org"] for name in ("bob", "ann", "carl")] == [False, False, True]


WORDS = ("MAIL", "RCPT", "DATA", "END")


@pytest.mark.parametrize("mode", ["defer", "queue"])
@pytest.mark.parametrize("word", WORDS)
def test_what_is_told_of_a_host_that_falls_silent(world: World, tmp_path: Path, word: str, mode: str) -> None:
    site = Site(world, tmp_path, inline(f'when_unreachable = "{mode}"\ncommand_timeout = "20m"\n{KEEPS}'))
    client = slow_content(site)
    is_unknown = word == "END"
    site.hop.script |= dict.fromkeys(WORDS[WORDS.index(word) :])
    client.say(b"\r\nhello\r\n.\r\n")
    site.world.run(569.0)
    assert client.received == b""
    site.world.run(2.0)
    if mode == "queue" and not is_unknown:
        assert client.received.startswith(b"250 2.0.0 queued as ")
        return
    assert client.received.startswith(b"451 4.4.2 ")
    assert (UNKNOWN in reason_of(site)) is is_unknown
    assert site.gateway.queue() == {}


def test_whoever_has_answered_by_then_has_answered(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline(KEEPS, transport="lmtp"), lmtp=True)
    site.hop.script["END carl@example.org"] = None
    client = site.client()
    site.ask(client, "ann@example.org", "carl@example.org")
    assert client.say(b"DATA\r\n")[0].startswith("354")
    client.say(b"Subject: x\r\n")
    site.world.run(70.0)
    client.say(b"\r\nhello\r\n.\r\n")
    site.world.run(571.0)
    assert client.received.startswith(b"250 2.0.0 taken (")
    assert list(site.gateway.queue()) == ["carl@example.org"]
    site.hop.script.clear()
    site.world.run(3600.0)
    assert [one for mail in site.hop.mails for one in mail.recipients].count("ann@example.org") == 1


@pytest.mark.parametrize("large", [False, True])
def test_a_connection_that_is_reset_between_the_content_and_its_answer(site: Site, large: bool) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    site.hop.script["END"] = None
    site.content(client, CONTENT + (b"x" * 70 + b"\r\n") * (8000 if large else 0))
    site.hop.cut()
    site.world.run()
    assert client.received.startswith(b"451 4.4.2 ")
    assert reason_of(site).endswith(UNKNOWN)
