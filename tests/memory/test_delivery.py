"""Mail through a whole gateway: session, filters, spool, relay, next hop."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.envelope import Session, Transaction
from mailgate.events import Bounced, Deferred, Delivered, MessageAccepted
from mailgate.interfaces import FilterServices, IFilterFactory, IMessageFilter, Selector
from mailgate.message import Message
from mailgate.pipeline.registry import Registry
from mailgate.reply import Reply
from mailgate.verdict import Quarantine, Reject, Verdict
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop

_chance = random.Random(7)

CONTENTS = {
    "plain": b"Subject: x\r\n\r\nhello\r\n",
    "empty": b"",
    "no header": b"\r\nbody\r\n",
    "only a header": b"Subject: x\r\n",
    "dots": b"Subject: dots\r\n\r\n..\r\n.. two\r\n ..\r\n....\r\n..x\r\n",
    "empty lines": b"Subject: x\r\n\r\n\r\n\r\n\r\n",
    "a long line": b"Subject: x\r\n\r\n" + b"y" * 998 + b"\r\n",
    "eight bits": b"Subject: \xc3\xbc\r\n\r\n\xff\xfe\x80\r\n",
    "folded": b"Subject: x\r\n\ty\r\nX-Empty:\r\n\r\nz\r\n",
    "in memory, then a file": b"Subject: x\r\n\r\n" + b"z" * 70 + b"\r\n" + 40_000 * b"a\r\n",
    "large": b"Subject: x\r\n\r\n"
    + b"".join(
        (b".." if number % 50 == 0 else b"") + _chance.randbytes(60).hex().encode() + b"\r\n" for number in range(6000)
    ),
}


def bare(octets: bytes) -> bytes:
    """What a message was before our Received field was put on top."""
    assert octets.startswith(b"Received: from client.test ")
    head = 0
    while True:
        head = octets.index(b"\r\n", head) + 2
        if octets[head : head + 1] != b"\t":
            return octets[head:]


def unstuffed(content: bytes) -> bytes:
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:]


@pytest.mark.parametrize("piece", [1 << 20, 1021, 3])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_message_arrives_octet_for_octet(world: World, tmp_path: Path, content: bytes, piece: int) -> None:
    if piece == 3 and len(content) > 10_000:
        content = content[:20] + content[-5000:]
    world.piece = piece
    hop = NextHop(world)
    gateway = MemoryGateway(world, tmp_path / "gw", configuration()).start()
    (reply,) = gateway.connect().mail("ann@client.test", "bob@example.org", content=content)
    (accepted,) = gateway.of(MessageAccepted)
    assert reply == f"250 2.0.0 queued as {accepted.queue_id}"
    (mail,) = hop.mails
    assert (mail.sender, mail.recipients) == ("ann@client.test", ("bob@example.org",))
    assert bare(mail.octets) == unstuffed(content)
    assert gateway.queue() == {}
    assert list((tmp_path / "gw" / "state" / "spool" / "content").iterdir()) == []
    assert list((tmp_path / "gw" / "state" / "spool" / "incoming").iterdir()) == []


@pytest.mark.parametrize("name", ["dots", "large", "empty"])
def test_two_gateways_in_a_row(world: World, tmp_path: Path, name: str) -> None:
    world.piece = 1400
    hop = NextHop(world)
    inner = MemoryGateway(world, tmp_path / "inner", configuration(hostname="in.example.org")).start()
    outside = configuration(inside='transport = "smtp"\nhosts = ["192.0.2.2"]')
    outer = MemoryGateway(world, tmp_path / "outer", outside).start()
    world.servers["192.0.2.2", 25] = lambda: inner.listeners["mx"].buildProtocol(None)
    outer.connect().mail("ann@client.test", "bob@example.org", content=CONTENTS[name])
    (mail,) = hop.mails
    assert mail.octets.startswith(b"Received: from gw.example.org ")
    assert unstuffed(CONTENTS[name]) == bare(mail.octets[mail.octets.index(b"Received: from client.test") :])
    assert (outer.queue(), inner.queue()) == ({}, {})


def test_mail_waits_for_a_next_hop_that_is_down(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    hop.down()
    gateway = MemoryGateway(world, tmp_path / "gw", configuration()).start()
    (reply,) = gateway.connect().mail("ann@client.test", "bob@example.org", content=CONTENTS["large"])
    assert reply.startswith("250 ")
    assert gateway.queue() == {"bob@example.org": "queued"}
    world.run(3600)
    assert [event.attempt for event in gateway.of(Deferred)] == [1, 2, 3, 4]
    hop.up()
    world.run(4 * 3600)
    assert [bare(mail.octets) for mail in hop.mails] == [unstuffed(CONTENTS["large"])]
    assert gateway.queue() == {}
    (delivered,) = gateway.of(Delivered)
    assert delivered.delay > 3600


def test_a_deferral_survives_a_restart(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    hop.script["RCPT"] = "451 4.2.1 later"
    gateway = MemoryGateway(world, tmp_path / "gw", configuration()).start()
    gateway.connect().mail("ann@client.test", "bob@example.org", "eve@example.org")
    due = {one.recipient: one.next_attempt for one in gateway.entries()}
    gateway.stop()
    world.run(10)
    again = MemoryGateway(world, tmp_path / "gw", configuration()).start()
    assert {one.recipient: one.next_attempt for one in again.entries()} == due
    assert [one.attempts for one in again.entries()] == [1, 1]
    assert "451 4.2.1 later" in again.entries()[0].last_reply
    hop.script.clear()
    world.run(400)
    assert sorted(one for mail in hop.mails for one in mail.recipients) == ["bob@example.org", "eve@example.org"]
    assert {event.attempt for event in again.of(Delivered)} == {2}


def test_recipients_fare_as_the_next_hop_says(world: World, tmp_path: Path) -> None:
    hop, home = NextHop(world), NextHop(world, "192.0.2.50")
    hop.script |= {"RCPT no@example.org": "550 5.1.1 who?", "RCPT later@example.org": "450 4.2.0 busy"}
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(default=""), ZONE).start()
    recipients = ("yes@example.org", "no@example.org", "later@example.org")
    gateway.connect().mail("ann@client.test", *recipients, content=b"Message-ID: <1@client.test>\r\n\r\nx\r\n")
    assert [mail.recipients for mail in hop.mails] == [("yes@example.org",)]
    assert gateway.queue() == {"later@example.org": "queued"}
    # The report has left by the sender's MX: no route of the configuration is for it.
    (report,) = home.mails
    assert (report.sender, report.recipients) == ("", ("ann@client.test",))
    for text in (
        b"Final-Recipient: rfc822; no@example.org",
        b"who?",
        b"In-Reply-To: <1@client.test>",
        b"Status: 5.1.1",
    ):
        assert text in report.octets
    for text in (b"yes@example.org", b"later@example.org"):
        assert text not in report.octets
    (bounced,) = gateway.of(Bounced)
    assert bounced.report in report.octets.decode()
    hop.script.clear()
    world.run(400)
    assert [mail.recipients for mail in hop.mails] == [("yes@example.org",), ("later@example.org",)]
    assert gateway.queue() == {}


def test_reports_to_our_own_users_go_inside(world: World, tmp_path: Path) -> None:
    hop, far = NextHop(world), NextHop(world, "192.0.2.61")
    far.script["RCPT"] = "550 5.1.1 who?"
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(), ZONE).start()
    gateway.connect("out", "10.0.0.1").mail("bob@example.org", "someone@far.test")
    (report,) = hop.mails
    assert report.recipients == ("bob@example.org",)
    assert gateway.queue() == {}


def test_mail_that_expires_is_returned_with_its_last_answer(world: World, tmp_path: Path) -> None:
    hop, home = NextHop(world), NextHop(world, "192.0.2.50")
    hop.script["END"] = "451 4.3.0 disk full"
    inside = f'transport = "smtp"\nhosts = ["{HOST}"]\nretry = {{ expire = "2h" }}'
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(inside=inside), ZONE).start()
    gateway.connect().mail("ann@client.test", "bob@example.org", content=CONTENTS["in memory, then a file"])
    world.run(7000)
    assert home.mails == []
    world.run(300)
    (report,) = home.mails
    assert b"Status: 4.4.7" in report.octets
    assert b"disk full" in report.octets
    assert hop.mails == []
    assert gateway.queue() == {}
    assert list((tmp_path / "gw" / "state" / "spool" / "content").iterdir()) == []


def test_the_next_mx_is_asked_where_the_first_is_down(world: World, tmp_path: Path) -> None:
    second = NextHop(world, "192.0.2.62")
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(), ZONE).start()
    gateway.connect("out", "10.0.0.1").mail("bob@example.org", "x@far.test")
    assert [mail.recipients for mail in second.mails] == [("x@far.test",)]
    first = NextHop(world, "192.0.2.61")
    world.run(60)
    first.script["EHLO"] = "421 4.3.2 not now"
    gateway.connect("out", "10.0.0.1").mail("bob@example.org", "y@far.test")
    assert first.sessions == 1
    assert [mail.recipients for mail in second.mails] == [("x@far.test",), ("y@far.test",)]


def test_a_domain_that_does_not_exist_is_returned_at_once(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(), ZONE).start()
    gateway.connect("out", "10.0.0.1").mail("bob@example.org", "x@nowhere.test")
    (report,) = hop.mails
    assert b"5.1.2" in report.octets
    assert gateway.queue() == {}


def test_out_by_lmtp_each_recipient_has_its_own_fate(world: World, tmp_path: Path) -> None:
    box, home = NextHop(world, "/run/lmtp", 0, lmtp=True), NextHop(world, "192.0.2.50")
    box.script |= {"END full@example.org": "452 4.2.2 over quota", "END gone@example.org": "550 5.2.1 disabled"}
    inside = 'transport = "lmtp"\nhosts = ["unix:/run/lmtp"]'
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(inside=inside), ZONE).start()
    recipients = [f"{name}@example.org" for name in ("a", "full", "gone", "b")]
    gateway.connect().mail("ann@client.test", *recipients, content=CONTENTS["dots"])
    (mail,) = box.mails
    assert mail.recipients == ("a@example.org", "b@example.org")
    assert bare(mail.octets) == unstuffed(CONTENTS["dots"])
    assert gateway.queue() == {"full@example.org": "queued"}
    assert b"disabled" in home.mails[0].octets
    box.script.clear()
    world.run(400)
    assert box.mails[1].recipients == ("full@example.org",)


def test_in_by_lmtp_each_recipient_is_answered(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    gateway = MemoryGateway(world, tmp_path / "gw", configuration()).start()
    recipients = [f"{name}@example.org" for name in "abc"]
    replies = gateway.connect("lmtp").mail("ann@client.test", *recipients, hello=b"LHLO client.test")
    assert [reply[:3] for reply in replies] == 3 * ["250"]
    assert hop.mails[0].recipients == tuple(recipients)


def test_into_maildirs(world: World, tmp_path: Path) -> None:
    inside = 'transport = "maildir"\npath = "mail/{local_part}"'
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(inside=inside)).start()
    client = gateway.connect()
    for _ in range(5):  # within one moment, by this clock
        client.mail("ann@client.test", "bob@example.org", "eve@example.org")
    for name in ("bob", "eve"):
        found = list((tmp_path / "gw" / "mail" / name / "new").iterdir())
        assert len(found) == 5
        text = found[0].read_bytes()
        assert text.startswith(b"Return-Path: <ann@client.test>\n")
        assert f"Delivered-To: {name}@example.org\n".encode() in text
    assert gateway.queue() == {}


def test_many_messages_go_over_few_connections(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    inside = f'transport = "smtp"\nhosts = ["{HOST}"]\nmessages_per_connection = 50'
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(inside=inside)).start()
    client = gateway.connect()
    for number in range(200):
        client.mail("ann@client.test", "bob@example.org", content=b"Subject: %d\r\n\r\n" % number)
    subjects = [bare(mail.octets) for mail in hop.mails]
    assert subjects == [b"Subject: %d\r\n\r\n" % number for number in range(200)]
    assert hop.sessions == 4
    world.run(20)
    assert hop.commands.count("QUIT") == 4


@pytest.mark.parametrize(
    "script",
    [
        {"EHLO": "what?"},
        {"MAIL": "250-endless\r\n251 mixed"},
        {"RCPT": "999 no such code"},
        {"DATA": "250 strange"},
        {"END": "\x00\x01"},
        {"END": "354 again?"},
        {"END": None},
        {"MAIL": None},
        {"EHLO": None},
        {"RCPT": "421 4.3.2 closing"},
        {"END": "421 4.3.2 closing"},
    ],
    ids=str,
)
def test_a_next_hop_that_misbehaves_never_costs_a_message(
    world: World, tmp_path: Path, script: dict[str, str | None]
) -> None:
    hop = NextHop(world)
    hop.script |= script
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(), ZONE).start()
    gateway.connect().mail("ann@client.test", "bob@example.org")
    world.run(1200)
    assert gateway.queue() == {"bob@example.org": "queued"} or gateway.entries()[0].state == "leased"
    assert gateway.of(Bounced) == []
    hop.script.clear()
    world.run(5 * 3600)
    assert gateway.queue() == {}
    assert len(gateway.of(Delivered)) == 1
    assert hop.mails[-1].recipients == ("bob@example.org",)


@implementer(IMessageFilter)
class Picky:
    """Refuses for recipients called no, and keeps back from those called virus."""

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        named = {one.address.local_part: (one.address,) for one in transaction.recipients}
        if "virus" in named:
            return Quarantine("a virus", named["virus"])
        if "no" in named:
            return Reject(Reply.of(550, "5.7.1", "none of that"), "picky", named["no"])
        return None


@implementer(IFilterFactory)
class PickyFactory:
    name = "picky"
    summary = "for tests"
    options = Section

    def build(self, options: object, services: FilterServices) -> object:
        return Picky()


class WithPicky(Registry):
    def find(self, kind: str) -> IFilterFactory:
        return PickyFactory() if kind == "picky" else super().find(kind)


def test_refused_for_one_and_taken_for_another_means_a_report(world: World, tmp_path: Path) -> None:
    hop, home = NextHop(world), NextHop(world, "192.0.2.50")
    text = configuration(filters='["picky"]')
    gateway = MemoryGateway(world, tmp_path / "gw", text, ZONE, WithPicky()).start()
    known = gateway.connect("out", "10.0.0.1")
    (reply,) = known.mail("ann@client.test", "yes@example.org", "no@example.org")
    assert reply.startswith("250 ")
    assert [mail.recipients for mail in hop.mails] == [("yes@example.org",)]
    assert b"none of that" in home.mails[0].octets
    assert b"no@example.org" in home.mails[0].octets
    assert gateway.queue() == {}
    # Alone, it is refused where it comes from.
    (reply,) = gateway.connect().mail("ann@client.test", "no@example.org")
    assert reply == "550 5.7.1 none of that"
    assert len(home.mails) == 1
    # By LMTP the client is told, and nobody else.
    replies = gateway.connect("lmtp").mail("ann@x.test", "no@example.org", "yes@example.org", hello=b"LHLO x.test")
    assert [reply[:3] for reply in replies] == ["550", "250"]
    assert (len(hop.mails), len(home.mails)) == (2, 1)
    # A stranger has likely forged the sender: it is kept, and nobody is told.
    (reply,) = gateway.connect().mail("ann@client.test", "yes@example.org", "no@example.org")
    assert reply.startswith("250 ")
    assert (len(hop.mails), len(home.mails)) == (3, 1)
    (kept,) = gateway.entries()
    assert (kept.recipient, kept.state) == ("no@example.org", "quarantined")
    assert kept.waits.startswith("refused: 550 5.7.1 none of that (")


def test_quarantine_keeps_a_message_until_it_is_released(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    text = configuration(filters='["picky"]')
    gateway = MemoryGateway(world, tmp_path / "gw", text, ZONE, WithPicky()).start()
    gateway.connect().mail("ann@client.test", "yes@example.org", "virus@example.org")
    assert [mail.recipients for mail in hop.mails] == [("yes@example.org",)]
    gateway.stop()
    gateway = MemoryGateway(world, tmp_path / "gw", text, ZONE, WithPicky()).start()
    world.run(10 * 86400)
    assert gateway.queue() == {"virus@example.org": "quarantined"}
    assert world.wait(gateway.spool.release(Selector(state="quarantined"))) == 1
    gateway.relay.kick()
    world.run()
    assert hop.mails[1].recipients == ("virus@example.org",)


def test_an_operator_holds_releases_and_deletes(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    hop.down()
    gateway = MemoryGateway(world, tmp_path / "gw", configuration()).start()
    client = gateway.connect()
    client.mail("ann@client.test", "bob@example.org")
    client.mail("ann@client.test", "eve@example.org")
    assert world.wait(gateway.spool.hold(Selector(recipient="bob@example.org"))) == 1
    deleted = world.wait(gateway.spool.delete(Selector(recipient="eve@example.org")))
    assert [one.recipient for one in deleted] == ["eve@example.org"]
    hop.up()
    world.run(86400)
    assert hop.mails == []
    world.wait(gateway.spool.release(Selector()))
    gateway.relay.kick()
    world.run()
    assert [mail.recipients for mail in hop.mails] == [("bob@example.org",)]
    assert gateway.queue() == {}


def test_a_full_disk_takes_nothing_more_but_delivers(world: World, tmp_path: Path) -> None:
    hop = NextHop(world)
    hop.down()
    gateway = MemoryGateway(world, tmp_path / "gw", configuration()).start()
    client = gateway.connect()
    for _ in range(3):
        client.mail("ann@client.test", "bob@example.org", content=b"Subject: x\r\n\r\n" + 500 * b"y\r\n")
    database = gateway.spool._store.database
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    (reply,) = client.mail("ann@client.test", "bob@example.org", content=b"Subject: x\r\n\r\n" + 9000 * b"y\r\n")
    assert reply == "452 4.3.1 Insufficient system storage"
    assert client.say(b"MAIL FROM:<ann@client.test>\r\n") == ["452 4.3.1 Insufficient system storage"]
    hop.up()
    world.run(400)
    assert len(hop.mails) == 3
    assert gateway.queue() == {}


def test_the_listener_is_no_open_relay(world: World, tmp_path: Path) -> None:
    gateway = MemoryGateway(world, tmp_path / "gw", configuration(), ZONE).start()
    for listener, address in (("mx", "192.0.2.9"), ("mx", "10.0.0.1"), ("out", "192.0.2.9"), ("lmtp", "192.0.2.9")):
        client = gateway.connect(listener, address)
        client.say((b"LHLO" if listener == "lmtp" else b"EHLO") + b" client.test\r\n")
        client.say(b"MAIL FROM:<bob@example.org>\r\n")
        for recipient in (b"x@far.test", b"x@[192.0.2.1]", b"@example.org:x@far.test"):
            (reply,) = client.say(b"RCPT TO:<" + recipient + b">\r\n")
            assert reply.startswith("550 5.7.1 ")
    assert gateway.queue() == {}
