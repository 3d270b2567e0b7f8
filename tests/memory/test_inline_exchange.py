"""A client that is led to an Exchange hears nothing that is not about its mail."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.events import BackEndRefuses, Delivered
from tests.memory.configured import HOST, ZONE
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop
from tests.memory.test_inline import Site, inline

NOT_FOUND = "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"


class _Exchange(NextHop):
    """It refuses the content of every transaction that is for nobody@example.org, too."""

    def reply(self, word: str, recipient: str, otherwise: str) -> str | None:
        if word == "END" and any("nobody@example.org" in one._recipients for one in self.open):
            return NOT_FOUND
        return super().reply(word, recipient, otherwise)


def exchange(world: World, folder: Path, preset: str = "exchange") -> Site:
    one = Site.__new__(Site)
    one.world = world
    one.hop = _Exchange(world, HOST)
    text = inline(f'preset = "{preset}"')
    one.gateway = MemoryGateway(world, folder / "gw", text, ZONE).start()
    return one


def test_one_recipient_refused_after_the_content_is_not_the_answer_for_all(world: World, tmp_path: Path) -> None:
    site = exchange(world, tmp_path)
    client = site.client()
    site.ask(client, "bob@example.org", "nobody@example.org", "ann@example.org")
    (answer,) = site.content(client)
    assert answer.startswith("250 ")
    site.world.run()
    served = [one for mail in site.hop.mails for one in mail.recipients]
    assert sorted(served) == ["ann@example.org", "bob@example.org"]
    assert sorted(one.recipient for one in site.gateway.of(Delivered)) == ["ann@example.org", "bob@example.org"]


def test_one_recipient_alone_hears_it_at_once(world: World, tmp_path: Path) -> None:
    site = exchange(world, tmp_path)
    client = site.client()
    site.ask(client, "nobody@example.org")
    assert site.content(client) == [NOT_FOUND]
    assert site.gateway.queue() == {}


def test_a_refusal_of_the_message_is_the_clients(world: World, tmp_path: Path) -> None:
    site = exchange(world, tmp_path)
    site.hop.script["END"] = "554 5.7.1 spam"
    client = site.client()
    site.ask(client, "bob@example.org", "ann@example.org")
    assert site.content(client) == ["554 5.7.1 spam"]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "END"])
def test_a_connector_that_refuses_us_is_no_answer_for_the_client(world: World, tmp_path: Path, stage: str) -> None:
    site = exchange(world, tmp_path, "exchange-online")
    site.hop.script[stage] = "550 5.7.64 TenantAttribution; Relay Access Denied SMTP"
    client = site.client()
    answers = site.ask(client, "bob@example.org")
    if stage in ("DATA", "END"):
        answers = site.content(client)
    (answer,) = answers
    assert answer.startswith("451 4.7.64 ")
    assert site.hop.mails == []
    client.say(b"QUIT\r\n")
    site.world.run()
    (told,) = site.gateway.of(BackEndRefuses)
    assert (told.route, told.recipient) == ("inside", "bob@example.org")


def test_a_refusal_after_the_content_of_a_slow_client_is_told_too(world: World, tmp_path: Path) -> None:
    site = exchange(world, tmp_path, "exchange-online")
    site.hop.script["END"] = "550 5.7.64 TenantAttribution; Relay Access Denied SMTP"
    client = site.client()
    site.ask(client, "bob@example.org", "ann@example.org")
    site.world.run(120.0)  # the connection serves others meanwhile
    assert "RSET" in site.hop.commands
    (answer,) = site.content(client)
    assert answer.startswith("451 4.7.64 ")
    (told,) = site.gateway.of(BackEndRefuses)
    assert (told.route, told.recipient) == ("inside", "bob@example.org")


def test_without_a_preset_the_words_are_the_clients(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, inline())
    site.hop.script["RCPT"] = "550 5.7.64 TenantAttribution; Relay Access Denied SMTP"
    (answer,) = site.ask(site.client(), "bob@example.org")
    assert answer.startswith("550 5.7.64")
