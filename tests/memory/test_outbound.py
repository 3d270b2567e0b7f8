"""Mail of users through a whole gateway: who may send as whom, how much, what is added, and who is told."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path

import pytest

from mailgate.events import AccountSuspected, LimitNear, Quarantined
from mailgate.pipeline.registry import FilterMaker
from mailgate.plugins import builtin
from tests.memory.configured import configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

KINDS = ("sender-login", "submission", "quota", "compromised", "null-sender")
FILTERS = '["compromised", "sender-login", "null-sender", "quota", "submission", "headers"]'
SECTIONS = """
[filters.sender-login]
allow = { "10.0.0.0/24" = ["fax@example.org"] }

[filters.quota]
rules = [{ count = "messages", limit = 4, window = "1h", notify = ["boss@example.org"] }]

[filters.submission]
hide_client = true

[filters.headers]
hide_users = true

[filters.compromised]
networks_too = true
unknown_recipients = 2
bounces = 2
"""


class Site:
    def __init__(self, world: World, folder: Path) -> None:
        folder.mkdir()
        self.inside = NextHop(world)
        self.gateway = MemoryGateway(world, folder, configuration(SECTIONS, filters=FILTERS)).start()
        self.world = world

    def send(self, sender: str, to: str = "bob@example.org", author: str = "", address: str = "10.0.0.7") -> str:
        """The last reply to a message of a device."""
        client = self.gateway.connect("out", address)
        client.say(b"EHLO fax.example.org\r\n")
        for line in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{to}>", "DATA"):
            said = client.say(f"{line}\r\n".encode())[-1]
            if said[0] in "45":
                return said
        text = f"From: {author or sender}\r\nBcc: eve@example.org\r\nX-Mailer: fax\r\nSubject: x\r\n\r\nhello\r\n.\r\n"
        said = client.say(text.encode())[-1]
        self.world.run()
        return said


@pytest.fixture
def site(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for kind in KINDS:
        module = kind.replace("-", "_")
        monkeypatch.setattr(builtin, module, FilterMaker(kind, f"mailgate.filters.{module}", "x"), raising=False)
    return Site(world, tmp_path / "gw")


def test_what_a_device_sends_and_may_not_send(site: Site) -> None:
    assert site.send("fax@example.org").startswith("250")
    assert site.send("boss@example.org").startswith("553 5.7.1 ")
    assert site.send("fax@example.org", author="boss@example.org").startswith("550 5.7.1 ")
    assert site.send("other@example.org", address="10.9.9.9").startswith("250")
    (first, *_) = site.inside.mails
    mail = message_from_bytes(first.octets)
    assert (mail["Bcc"], mail["X-Mailer"]) == (None, None)
    assert mail["Message-ID"].endswith("@gw.example.org>")
    assert mail["Date"]
    assert mail["Received"].startswith("from submission")


def test_the_limit_is_told_before_it_is_reached(site: Site) -> None:
    assert all(site.send("fax@example.org").startswith("250") for _ in range(4))
    assert site.send("fax@example.org").startswith("450 4.7.1 No more than 4 messages in 1h; try again in ")
    site.world.run()
    assert [one.is_reached for one in site.gateway.of(LimitNear)] == [False, True]
    told = [message_from_bytes(one.octets)["Subject"] for one in site.inside.mails]
    assert "The limit for mail of 10.0.0.7 is near" in told
    assert "The limit for mail of 10.0.0.7 is reached" in told


def test_an_account_whose_mail_comes_back_is_stopped(site: Site) -> None:
    site.inside.script["RCPT nobody@example.org"] = "550 5.1.1 no such user"
    for _ in range(2):
        assert site.send("fax@example.org", "nobody@example.org").startswith("250")
    assert site.send("fax@example.org").startswith("250")
    (event,) = site.gateway.of(AccountSuspected)
    assert event.user == "10.0.0.7"
    assert any("unknown-recipients 2" in one for one in event.signals)
    assert len(site.gateway.of(Quarantined)) == 1
