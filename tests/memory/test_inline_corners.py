"""Inline delivery where two rules meet: what was given up and is asked anew, limits of the next hop, odd replies."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.protocol import Protocol

from mailgate.events import Refused
from tests.memory.configured import HOST
from tests.memory.gateway import World
from tests.memory.test_inline import CONTENT, SECOND, Site, inline


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path, inline())


def offers(site: Site, *keywords: str) -> None:
    site.hop.script["EHLO"] = "\r\n".join(f"250-{one}" for one in ("hop.test", *keywords)) + "\r\n250 HELP"


def test_a_late_recipient_that_cannot_be_asked_about_spoils_nothing_for_the_others(site: Site) -> None:
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test> SMTPUTF8\r\nRCPT TO:<bob@example.org>\r\n")
    site.world.run(120.0)
    assert client.say("RCPT TO:<jörg@example.org>\r\n".encode())[0].startswith("550 5.6.7 ")
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org",)]


def test_a_sender_that_is_refused_to_a_late_recipient_is_asked_about_again(site: Site) -> None:
    client = site.client()
    site.ask(client, "bob@example.org")
    site.world.run(120.0)
    site.hop.script["MAIL"] = "451 4.7.1 not this minute"
    assert client.say(b"RCPT TO:<ann@example.org>\r\n") == ["451 4.7.1 not this minute"]
    del site.hop.script["MAIL"]
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org",)]


@pytest.mark.parametrize(("mode", "told"), [("defer", "451 4.4."), ("queue", "250 2.1.5")])
def test_a_hop_that_is_down_for_a_late_recipient(world: World, tmp_path: Path, mode: str, told: str) -> None:
    site = Site(world, tmp_path, inline(f'when_unreachable = "{mode}"'))
    client = site.client()
    site.ask(client, "bob@example.org")
    site.world.run(120.0)
    site.hop.cut()
    site.hop.down()
    site.world.run()
    assert client.say(b"RCPT TO:<ann@example.org>\r\n")[0].startswith(told)
    answer = site.content(client)[0]
    assert answer.startswith("250 2.0.0 queued as " if mode == "queue" else "451 ")
    assert set(site.gateway.queue()) == ({"bob@example.org", "ann@example.org"} if mode == "queue" else set())


def test_a_session_for_one_message_only_is_not_asked_for_a_second(site: Site) -> None:
    offers(site, "PIPELINING", "LIMITS MAILMAX=1")
    client = site.client()
    site.ask(client, "bob@example.org")
    site.world.run(120.0)
    assert client.say(b"RCPT TO:<ann@example.org>\r\n") == ["250 ok"]
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org", "ann@example.org")]


def test_more_recipients_than_a_message_may_have_get_a_transaction_of_their_own(world: World, tmp_path: Path) -> None:
    few = '\n[shaping.few]\nroutes = ["inside"]\nrecipients_per_message = 2\n'
    site = Site(world, tmp_path, inline() + few)
    client = site.client()
    answers = site.ask(client, *(f"{name}@example.org" for name in ("ann", "bob", "carl")))
    assert [one[:9] for one in answers] == ["250 ok", "250 ok", "452 4.5.3"]
    (refused,) = site.gateway.of(Refused)
    assert "takes no more recipients in one transaction" in refused.reason
    site.world.run(120.0)
    assert client.say(b"RCPT TO:<carl@example.org>\r\n")[0].startswith("452 4.5.3 ")
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert [one.recipients for one in site.hop.mails] == [("ann@example.org", "bob@example.org")]


def test_a_recipient_named_twice_has_what_either_asks_for(site: Site) -> None:
    offers(site, "PIPELINING", "DSN")
    client = site.client()
    client.say(b"MAIL FROM:<eve@client.test>\r\nRCPT TO:<bob@example.org>\r\n")
    client.say(b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS\r\n")
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert [one for one in site.hop.commands if one.startswith("RCPT")][-1].count("SUCCESS") == 1


@pytest.mark.parametrize(
    "odd", ["550 5.1.1 a\r250 b", "550 5.1.1 a\0\x1b[31mb", "550 4.1.1 \u202ea", "550-5.1.1 a\r\n550 b"]
)
def test_no_reply_carries_another(site: Site, odd: str) -> None:
    site.hop.script["RCPT bob@example.org"] = odd
    client = site.client()
    answers = site.ask(client, "bob@example.org", "ann@example.org")
    assert len([one for one in answers if one[3:4] != "-"]) == 2
    assert all(line.isprintable() for one in answers for line in one.splitlines())
    assert answers[-1] in ("250 ok", "451 4.4.2 The next hop cannot take it now, try again later"), answers
    assert answers[0][:3] in ("550", "451")


def test_an_error_of_ours_keeps_nothing_open(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mailgate.relay.inline.talk.prepare", broken)
    client = site.client()
    site.ask(client, "bob@example.org")
    assert site.content(client, CONTENT + (b"x" * 998 + b"\r\n") * 1000)[0].startswith("451 4.3.0 ")
    assert site.gateway._budget.used == 0
    assert [one for one in site.gateway.spool.incoming.iterdir() if one.is_file()] == []
    assert sum(view.active for view in site.gateway.relay.sites()) == 0


@pytest.mark.parametrize("mute", [1, 2])
def test_a_host_that_says_nothing_leaves_time_for_the_next(world: World, tmp_path: Path, mute: int) -> None:
    site = Site(world, tmp_path, inline('rcpt_timeout = "30s"', hosts=f'"{SECOND}", "{HOST}"'))
    world.servers[SECOND, 25] = Protocol
    if mute == 2:
        world.servers[HOST, 25] = Protocol
    client = site.client()
    assert site.ask(client, "bob@example.org") == []
    world.run(29.0)
    if mute == 1:
        assert client.received.splitlines()[-1] == b"250 ok"
        return
    assert client.received.splitlines()[-1].startswith(b"451 4.4.")
    before = len(world.attempts)  # and it rests now
    assert site.ask(site.client(), "bob@example.org")[0].startswith("451 4.4.")
    assert len(world.attempts) == before


def test_a_reload_turns_no_client_away_that_waits_for_its_turn(world: World, tmp_path: Path) -> None:
    slow = '\n[shaping.slow]\nroutes = ["inside"]\nmessage_rate = "6/m"\n'
    site = Site(world, tmp_path, inline() + slow)
    first, second, gone = (site.client() for _ in range(3))
    assert site.ask(first, "bob@example.org") == ["250 ok"]
    assert site.ask(second, "ann@example.org") == site.ask(gone, "carl@example.org") == []
    site.gateway.reload()
    gone.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
    world.run(59.0)
    assert second.received.splitlines()[-1] == b"250 ok"
    assert not any("carl" in one for one in site.hop.commands)
    assert site.content(second)[0].startswith("250 ")


def test_clients_hear_utf8_only_where_they_ask_for_it(site: Site) -> None:
    offers(site, "PIPELINING", "SMTPUTF8")
    site.hop.script |= {
        "RCPT nobody@example.org": "550 5.1.1 unbekannter Empfänger",
        "RCPT bob@example.org": "250 2.1.5 Grüße",
        "END": "250 2.0.0 schönen Tag",
    }
    for smtputf8, heard in ((b"", "Empf?nger Gr??e sch?nen"), (b" SMTPUTF8", "Empfänger Grüße schönen")):
        client = site.client()
        client.say(b"MAIL FROM:<eve@client.test>" + smtputf8 + b"\r\n")
        client.say(b"RCPT TO:<nobody@example.org>\r\nRCPT TO:<bob@example.org>\r\n")
        said = client.received
        client.say(b"DATA\r\n")
        client.say(CONTENT + b".\r\n")
        words = (said + client.received).decode().split()
        assert " ".join(one for one in words if one[:3] in ("Emp", "Gr?", "Grü", "sch")) == heard
