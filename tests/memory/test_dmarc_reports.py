"""DMARC aggregate reports through a whole gateway: mail is judged and counted, the day turns, and the report goes out
signed, to those who take it."""

from __future__ import annotations

from email import message_from_bytes
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from mailgate.events import ConfigReloaded, DmarcEvaluated, MessageAccepted
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.mailauth.dmarc.report_read import read_reports
from mailgate.testing import MemoryResolver
from tests.memory.configured import ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

DAY = 86400.0
REPORTS = """
[reports]
enabled = true
from = "dmarc@example.org"
organization = "Example"
[reports.dkim]
domain = "example.org"
selector = "s1"
key = "key.pem"
"""
FILTERS = '["spf", "dkim", "dmarc", "headers"]'
MAIL = b"From: <boss@bank.test>\r\nSubject: x\r\n\r\nhello\r\n"


def zone(key: Path) -> dict[tuple[str, str], Any]:
    return ZONE | {
        ("_dmarc.bank.test", "TXT"): ["v=DMARC1; p=reject; rua=mailto:a@bank.test,mailto:b@far.test,mailto:c@no.test"],
        ("bank.test", "TXT"): ["v=spf1 ip4:192.0.2.9 -all"],
        ("bank.test", "MX"): [(10, "mx.bank.test")],
        ("mx.bank.test", "A"): [ip_address("192.0.2.70")],
        ("bank.test._report._dmarc.far.test", "TXT"): ["v=DMARC1"],
        ("s1._domainkey.example.org", "TXT"): [SigningKey.load(key.read_bytes()).record],
    }


class Site:
    """A gateway that judges, the server behind it, and those who may get reports."""

    def __init__(self, world: World, folder: Path, more: str = REPORTS) -> None:
        self.world, self.folder = world, folder / "gw"
        self.folder.mkdir(exist_ok=True)
        key = self.folder / "key.pem"
        if not key.exists():
            pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            made = Ed25519PrivateKey.generate()
            key.write_bytes(made.private_bytes(pem, kind, serialization.NoEncryption()))
        self.zone = zone(key)
        self.inside = NextHop(world)
        self.bank, self.far = NextHop(world, "192.0.2.70"), NextHop(world, "192.0.2.61")
        self.gateway = self.begin(more)

    def begin(self, more: str = REPORTS) -> MemoryGateway:
        self.gateway = MemoryGateway(self.world, self.folder, self.text(more), self.zone).start()
        return self.gateway

    @staticmethod
    def text(more: str = REPORTS) -> str:
        return configuration(more, filters=FILTERS)

    def mail(self, address: str = "192.0.2.9") -> str:
        client = self.gateway.connect(address=address)
        client.say(b"EHLO client.test\r\nMAIL FROM:<boss@bank.test>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n")
        return client.say(MAIL + b".\r\n")[-1]

    def reload(self, more: str) -> None:
        self.gateway.file.write_text(self.text(more))
        self.gateway.reload()
        self.world.run()

    def counted(self) -> int:
        """How many messages are in the file."""
        gathered = self.gateway.offices.dmarc._aggregates
        assert gathered is not None
        rows = gathered.run(lambda file: file._database.execute("SELECT sum(count) FROM tallies").fetchone()[0] or 0)
        return self.world.wait(cast("Deferred[int]", rows))


@pytest.fixture
def site(world: World, tmp_path: Path) -> Site:
    return Site(world, tmp_path)


def test_what_was_judged_is_reported_the_day_after_to_those_who_take_it(site: Site) -> None:
    assert site.mail().startswith("250")
    assert site.mail().startswith("250")
    assert site.mail("192.0.2.66").startswith("550 5.7.1")
    assert [event.result for event in site.gateway.of(DmarcEvaluated)] == ["pass", "pass", "fail"]
    site.world.until(lambda: site.bank.mails, 12 * 3600.0)
    assert site.bank.mails == []  # the day is not over
    site.world.until(lambda: site.bank.mails and site.far.mails)
    (to_bank,), (to_far,) = site.bank.mails, site.far.mails
    assert (to_bank.sender, to_bank.recipients) == ("dmarc@example.org", ("a@bank.test",))
    assert to_far.recipients == ("b@far.test",)
    (report,) = read_reports(to_bank.octets)
    assert (report.published.domain, report.published.policy) == ("bank.test", "reject")
    assert sorted((row.source, row.count, row.disposition, row.spf) for row in report.rows) == [
        ("192.0.2.66", 1, "reject", "fail"),
        ("192.0.2.9", 2, "pass", "pass"),
    ]
    assert site.gateway.queue() == {}
    ours = [one for one in site.gateway.of(MessageAccepted) if one.sender == "dmarc@example.org"]
    assert sorted(one.recipients for one in ours) == [("a@bank.test",), ("b@far.test",)]
    site.world.until(lambda: len(site.bank.mails) > 1)
    assert len(site.bank.mails) == len(site.far.mails) == 1


def test_the_report_is_signed_by_us(site: Site) -> None:
    site.mail()
    site.world.until(lambda: site.bank.mails)
    octets = site.bank.mails[0].octets
    with pytest.raises(StopIteration) as end:
        verify_dkim(MemoryResolver(site.zone), octets, now=site.world.reactor.seconds()).send(None)
    (result,) = end.value.value
    assert (result.result, result.domain) == ("pass", "example.org")
    assert message_from_bytes(octets)["From"] == "Example <dmarc@example.org>"


def test_what_was_gathered_outlives_a_restart(site: Site) -> None:
    site.mail()
    site.gateway.stop()
    site.begin()
    site.mail()
    assert site.counted() == 2
    site.gateway.stop()
    site.world.run(DAY)
    site.begin()
    site.world.until(lambda: site.bank.mails)
    assert len(site.bank.mails) == 1
    site.gateway.stop()
    assert site.gateway.timers() == []


def test_reports_that_bounce_are_reported_to_nobody(site: Site) -> None:
    site.bank.script["RCPT a@bank.test"] = "550 5.1.1 no such user"
    site.mail()
    site.world.until(lambda: site.far.mails)
    site.world.run(3600)
    assert site.gateway.queue() == {}
    assert [mail.recipients for mail in site.inside.mails] == [("bob@example.org",)]


def test_reports_are_switched_on_and_off_by_a_reload(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path, "")
    site.mail()
    assert not site.gateway.places.reports.exists()
    site.reload(REPORTS)
    assert len(site.gateway.of(ConfigReloaded)) == 1
    site.world.until(lambda: site.gateway.offices.dmarc._reports)
    site.mail()
    assert site.counted() == 1
    site.reload("")
    site.world.until(lambda: site.gateway.offices.dmarc._aggregates is None)
    site.mail()
    site.world.until(lambda: site.bank.mails)
    assert site.bank.mails == []
    site.reload(REPORTS)
    site.world.until(lambda: site.bank.mails)
    (mail,) = site.bank.mails
    assert b"bank.test" in mail.octets


def test_a_reload_that_changes_nothing_loses_nothing(site: Site) -> None:
    site.mail()
    for _ in range(5):
        site.reload(REPORTS)
        site.world.until(lambda: site.gateway.offices.dmarc._changes.called, 60)
        site.mail()
    assert site.counted() == 6
    site.reload(REPORTS.replace("dmarc@", "reports@"))
    site.world.until(lambda: site.bank.mails)
    assert [mail.sender for mail in site.bank.mails] == ["reports@example.org"]


def test_a_key_that_cannot_be_used_refuses_the_reload(site: Site) -> None:
    (site.folder / "key.pem").write_text("nonsense")
    site.reload(REPORTS + "\n")
    site.mail()
    assert site.counted() == 1
    assert len(site.gateway.of(ConfigReloaded)) == 0


def test_a_domain_that_asks_for_no_reports_is_not_counted(site: Site) -> None:
    site.zone["_dmarc.bank.test", "TXT"] = ["v=DMARC1; p=none"]
    site.gateway.stop()
    site.begin()
    site.mail()
    assert len(site.gateway.of(DmarcEvaluated)) == 1
    assert site.counted() == 0
