"""Mail of ours on its way out, through a whole gateway: signatures, links, return paths, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mailgate.events import Bounced, Refused
from mailgate.interfaces import IFilterFactory
from mailgate.mailauth import verify_arc, verify_dkim
from mailgate.message import Content, Message
from mailgate.pipeline.registry import FilterMaker, Registry
from mailgate.testing import MemoryResolver, wait_for
from tests.memory.gateway import World
from tests.memory.hop import Mail
from tests.memory.test_forwarding import SECRET, Site, text
from tests.unit.dkim_parts import pem, rsa

_KINDS = ("arc-seal", "batv", "dkim-sign", "list-unsubscribe", "verp")
MAIL = b"From: Bob <bob@example.org>\r\nSubject: Hello\r\n\r\nHello.\r\n"
NEWS = MAIL.replace(b"bob@", b"news@")

FILTERS = '["arc", "verp", "batv", "list-unsubscribe", "headers", "dkim-sign", "arc-seal"]'
MORE = """
[aliases.names]
kind = "map"
path = "names"

[forwarding]
srs_domain = "example.org"
srs_secrets = "secrets"

[filters.batv]
senders = ["example.org"]
secrets = "secrets"
untagged = "reject"

[filters.verp]
senders = ["news@example.org"]
secrets = "secrets"

[filters.list-unsubscribe]
senders = ["news@example.org"]
secrets = "secrets"
link = "https://example.org/u/{token}"

[filters.dkim-sign.domains."example.org"]
keys = [{ selector = "s", path = "key.pem" }]

[filters.arc-seal]
domain = "example.org"
selector = "s"
key = "key.pem"
"""
PUBLISHED = MemoryResolver({"s._domainkey.example.org": {"TXT": [rsa().record]}})


class WithSigning(Registry):
    def find(self, name: str) -> IFilterFactory:
        if name in _KINDS:
            return FilterMaker(name, f"mailgate.filters.{name.replace('-', '_')}", "under test")
        return super().find(name)


class Signing(Site):
    def __init__(self, world: World, folder: Path, more: str = MORE, filters: str = FILTERS) -> None:
        (folder / "gw").mkdir()
        (folder / "gw" / "key.pem").write_bytes(pem())
        super().__init__(world, folder, text(more, filters=filters), WithSigning())

    def send(self, sender: str, *recipients: str, content: bytes = MAIL) -> Sequence[str]:
        return self.gateway.connect("out", "10.0.0.1").mail(sender, *recipients, content=content)

    def results(self, mail: Mail) -> list[str]:
        found = wait_for(verify_dkim(PUBLISHED, mail.octets, now=self.world.reactor.seconds()))
        return [one.result for one in found]


@pytest.fixture
def site(world: World, tmp_path: Path) -> Signing:
    return Signing(world, tmp_path)


def test_out_and_back(site: Signing) -> None:
    site.send("bob@example.org", "eve@far.test", "carl@example.org")
    (far,), (inside,) = site.far.mails, site.inside.mails
    assert far.sender.startswith("prvs=")
    assert far.sender.endswith("=bob@example.org")
    assert inside.sender == "bob@example.org"
    assert [site.results(far), site.results(inside)] == [["pass"], ["pass"]]
    site.mail(far.sender, sender="")
    report = site.inside.mails[-1]
    assert (report.sender, report.recipients) == ("", ("bob@example.org",))
    assert site.rcpt("bob@example.org", "").startswith("550 5.7.1")
    assert site.rcpt(far.sender.replace("=bob", "=ann"), "").startswith("550 5.7.1")
    assert site.rcpt("bob@example.org").startswith("250")


def test_reports_to_an_alias_reach_whom_it_stands_for(site: Signing) -> None:
    site.send("info@example.org", "eve@far.test")
    site.send("ann@example.org", "eve@far.test")
    of_info, of_ann = site.far.mails
    assert of_info.sender.endswith("=info@example.org")
    site.mail(of_info.sender, sender="")
    assert site.inside.mails[-1].recipients == ("bob@example.org", "carl@example.org")
    site.mail(of_ann.sender, sender="")
    report = site.far.mails[-1]
    assert (report.sender, report.recipients) == ("", ("ann@far.test",))


@pytest.mark.parametrize("convert", [True, False])
def test_signed_content_arrives_at_hosts_without_8bitmime(world: World, tmp_path: Path, convert: bool) -> None:
    more = MORE + ("" if convert else "\n[filters.dkim-sign]\nconvert = false\n")
    site = Signing(world, tmp_path, more)
    site.far.script["EHLO"] = "250 far.test"
    octets = MAIL + "Grüße\r\n".encode()
    client = site.gateway.connect("out", "10.0.0.1")
    client.say(b"EHLO client.test\r\nMAIL FROM:<bob@example.org> BODY=8BITMIME\r\nRCPT TO:<eve@far.test>\r\nDATA\r\n")
    client.say(octets + b".\r\n")
    (far,) = site.far.mails
    assert far.octets.isascii()
    assert site.results(far) == (["pass"] if convert else ["fail"])


def test_new_content_lies_where_content_comes_in(site: Signing) -> None:
    octets = MAIL + "Grüße aus Köln\r\n".encode() * 30_000
    assert site.send("bob@example.org", "eve@far.test", content=octets)[0].startswith("250")
    (far,) = site.far.mails
    assert far.octets.isascii()
    assert site.results(far) == ["pass"]
    assert list((site.gateway.places.spool / "incoming").iterdir()) == []


def test_reports_of_ours_go_to_the_plain_sender(site: Signing) -> None:
    site.far.script["RCPT eve@far.test"] = "550 5.1.1 no such user"
    site.send("bob@example.org", "eve@far.test")
    (bounced,) = site.gateway.of(Bounced)
    assert bounced.sender == "bob@example.org"
    (report,) = site.inside.mails
    assert (report.sender, report.recipients) == ("", ("bob@example.org",))


def test_each_recipient_of_news_has_a_path_and_a_link_of_its_own(site: Signing) -> None:
    site.send("news@example.org", "eve@far.test", "mal@far.test", content=NEWS)
    senders = {one.recipients: one.sender for one in site.far.mails}
    assert len(set(senders.values())) == 2
    assert senders["eve@far.test",].endswith("=eve=far.test@example.org")
    links = [Message(Content(one.octets)).values("List-Unsubscribe") for one in site.far.mails]
    assert links[0] != links[1]
    assert [site.results(one) for one in site.far.mails] == [["pass"], ["pass"]]
    assert site.gateway.queue() == {}
    path = senders["eve@far.test",]
    site.mail(path, sender="")  # which proves itself
    report = site.inside.mails[-1]
    assert (report.sender, report.recipients) == ("", (path,))
    assert site.rcpt(path.replace("=eve", "=mal"), "").startswith("550 5.7.1")


def test_mail_from_outside_is_not_signed_but_sealed_where_it_is_forwarded(site: Signing) -> None:
    site.gateway.connect("mx").mail("eve@client.test", "both@example.org", content=MAIL)
    (far,) = site.far.mails
    assert far.sender.startswith("SRS0=")
    assert site.results(far) == []  # From says bob@example.org, and anybody may write that
    assert site.rcpt(far.sender, "").startswith("250")  # a rewritten sender proves itself
    assert site.rcpt("postmaster@example.org", "").startswith("250")
    chain = wait_for(verify_arc(PUBLISHED, far.octets, now=site.world.reactor.seconds()))
    assert (chain.result, [one.domain for one in chain.sets]) == ("pass", ["example.org"])


def test_what_cannot_be_signed_stays_with_the_client(site: Signing) -> None:
    two = b"From: eve@far.test\r\n" + MAIL
    assert site.send("bob@example.org", "eve@far.test", content=two)[0].startswith("550 5.6.0")
    assert site.gateway.of(Refused)[-1].filter == "dkim-sign"
    assert site.far.mails == []


def test_a_new_key_while_mail_goes_on(site: Signing) -> None:
    for number in range(6):
        if number == 3:
            site.write("key.pem", "half a key")
        site.world.run(2.0)
        site.send("bob@example.org", "eve@far.test")
    assert [site.results(one) for one in site.far.mails] == [["pass"]] * 6
    assert SECRET not in "".join(one.octets.decode() for one in site.far.mails)


def test_what_is_kept_from_one_does_not_come_by_its_tag(world: World, tmp_path: Path) -> None:
    filters = '["batv", "null-sender", "headers", "dkim-sign"]'
    kept = '\n[filters.null-sender]\nunlike = "quarantine"\nexcept_for = ["carl@example.org"]\nmax_recipients = 0\n'
    site = Signing(world, tmp_path, MORE.replace('untagged = "reject"', "") + kept, filters)
    site.send("bob@example.org", "eve@far.test")
    (far,) = site.far.mails
    said = site.mail("carl@example.org", far.sender, sender="")
    assert said[-1].startswith("250")
    assert [one.recipients for one in site.inside.mails] == [("carl@example.org",)]
    assert site.gateway.queue() == {"bob@example.org": "quarantined"}
