"""In front of Exchange Online: what strangers may not say is gone, a banner and a tag are there, and the ARC seal holds
for what arrives."""

from __future__ import annotations

from pathlib import Path

from mailgate.mailauth import verify_arc
from mailgate.testing import MemoryResolver, wait_for
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop
from tests.unit.dkim_parts import pem, rsa

MORE = """
[filters.banner]
text = "This mail comes from outside."
position = "top"
external_only = true

[filters.edit-headers]
rules = [{ external = true, tag = "[EXT]" }]

[filters.arc-seal]
domain = "example.org"
selector = "s"
key = "key.pem"
when = "changed"
"""
FORGED = b"X-MS-Exchange-Organization-SCL: -1\r\nX-Forefront-Antispam-Report: SFV:SKN\r\nX-Mailgate-Verdict: clean\r\n"
PUBLISHED = MemoryResolver({"s._domainkey.example.org": {"TXT": [rsa().record]}})


def test_what_is_sealed_is_what_arrives(world: World, tmp_path: Path) -> None:
    (tmp_path / "gw").mkdir()
    (tmp_path / "gw" / "key.pem").write_bytes(pem())
    filters = '["arc", "header-firewall", "banner", "edit-headers", "authentication-results", "headers", "arc-seal"]'
    hop = NextHop(world, HOST)
    text = configuration(filters=filters) + MORE
    gateway = MemoryGateway(world, tmp_path / "gw", text, ZONE).start()
    content = FORGED + b"From: Eve <eve@client.test>\r\nThread-Index: Ad\r\nSubject: Hello\r\n\r\nHello Bob.\r\n"
    gateway.connect().mail("eve@client.test", "bob@example.org", content=content)
    (mail,) = hop.mails
    header, _, body = mail.octets.partition(b"\r\n\r\n")
    assert b"Exchange-Organization" not in header
    assert b"Forefront" not in header
    assert b"X-Mailgate" not in header
    assert b"Subject: [EXT] Hello" in header
    assert b"Thread-Index: Ad" in header
    assert b"comes from outside" in body
    assert header.count(b"ARC-Seal:") == 1
    found = wait_for(verify_arc(PUBLISHED, mail.octets, now=world.reactor.seconds()))
    assert (found.result, [one.domain for one in found.sets]) == ("pass", ["example.org"])
