"""Policies about TLS, and reports on it, through a whole gateway: what is sent, what waits, and what is told of it."""

from __future__ import annotations

import gzip
import json
from email import message_from_bytes
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mailgate.events import MessageAccepted
from tests.memory.configured import ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

DAY = 86400.0
REPORTS = '\n[tls_reports]\nenabled = true\nfrom = "tls@example.org"\norganization = "Example"\n'
REQUIRED = '\n[tls_policies."far.test"]\nlevel = "required"\n'
FAR_ONLY: dict[tuple[str, str], Any] = ZONE | {
    ("far.test", "MX"): [(10, "mx1.far.test")],
    ("mx1.far.test", "A"): [ip_address("192.0.2.61")],
    ("_smtp._tls.far.test", "TXT"): ["v=TLSRPTv1; rua=mailto:reports@far.test"],
}


class Site:
    """A gateway that sends to far.test, whose host has no TLS."""

    def __init__(self, world: World, folder: Path, more: str, security: str = "mta-sts") -> None:
        self.world = world
        self.far = NextHop(world, "192.0.2.61")
        text = configuration(more).replace(
            '[routes.internet]\ntransport = "smtp"', f'[routes.internet]\ntransport = "smtp"\nsecurity = "{security}"'
        )
        self.gateway = MemoryGateway(world, folder / "gw", text, FAR_ONLY).start()

    def send(self) -> None:
        client = self.gateway.connect("out", "10.0.0.1")
        client.say(b"EHLO client.test\r\nMAIL FROM:<ann@client.test>\r\nRCPT TO:<bob@far.test>\r\nDATA\r\n")
        assert client.say(b"From: <ann@client.test>\r\n\r\nhello\r\n.\r\n")[-1].startswith("250")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gw").mkdir()
    return tmp_path


def test_a_policy_of_ours_keeps_mail_from_going_in_clear_text(world: World, folder: Path) -> None:
    site = Site(world, folder, REQUIRED, "none")
    site.send()
    site.world.run(10.0)
    assert site.far.mails == []
    assert not any(line.startswith("MAIL") for line in site.far.commands)
    assert list(site.gateway.queue().values()) == ["queued"]
    (entry,) = site.gateway.entries()
    assert "it does not offer STARTTLS" in str(entry)
    site.gateway.file.write_text(configuration())
    site.gateway.reload()
    site.world.until(lambda: site.far.mails)
    assert site.far.mails[0].recipients == ("bob@far.test",)


def test_what_came_of_tls_is_reported_the_day_after(world: World, folder: Path) -> None:
    site = Site(world, folder, REPORTS)
    site.send()
    site.world.until(lambda: site.far.mails, 3600.0, 1.0)
    site.world.until(lambda: len(site.far.mails) > 1)
    report = site.far.mails[1]
    assert (report.sender, report.recipients) == ("tls@example.org", ("reports@far.test",))
    *_, attached = message_from_bytes(report.octets).walk()
    payload = attached.get_payload(decode=True)
    assert isinstance(payload, bytes)
    (policy,) = json.loads(gzip.decompress(payload))["policies"]
    assert policy["policy"] == {"policy-type": "no-policy-found", "policy-domain": "far.test"}
    assert policy["summary"] == {"total-successful-session-count": 0, "total-failure-session-count": 1}
    assert policy["failure-details"] == [
        {
            "result-type": "starttls-not-supported",
            "sending-mta-ip": "192.0.2.2",
            "receiving-mx-hostname": "mx1.far.test",
            "receiving-ip": "192.0.2.61",
            "failed-session-count": 1,
        }
    ]
    ours = [one for one in site.gateway.of(MessageAccepted) if one.sender == "tls@example.org"]
    assert len(ours) == 1
