"""Taking responsibility: nothing is promised before it is durable, and each verdict has its consequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.address import Address
from mailgate.envelope import (
    EIGHT_BIT_MAIL,
    PLAIN_MAIL,
    Client,
    Envelope,
    Identity,
    MailParameters,
    Origin,
    Recipient,
    Target,
    Tls,
    Transaction,
    origin_of,
)
from mailgate.events import Discarded, MessageAccepted, Quarantined
from mailgate.findings import Stream
from mailgate.interfaces import IIntake, Lease
from mailgate.message import AddHeader, Content, ContentWriter, MemoryBudget
from mailgate.relay.client.carriage import recipient_parameters
from mailgate.relay.editing import ContentEditor
from mailgate.relay.intake import Intake, message_id_of
from mailgate.relay.ready.jobs import LEASE_TIME
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, MemoryOriginals, MemorySpool, session, transaction, wait_for
from mailgate.verdict import Accept, Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from tests.unit.proportion import is_linear
from tests.unit.relaying import failures_logged

NO = Reply.of(550, "5.7.1", "no, thank you")
LATER = Reply.of(451, "4.7.1", "another day")
BYE = Reply.of(554, "5.7.0", "good bye")
DATA = b"Subject: x\r\nMessage-ID: <1@client.test>\r\n\r\nhello\r\n"


class Spool(MemorySpool):
    """Answers when the test says so, if it does."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.waits: list[tuple[Deferred[Lease], Deferred[Lease]]] | None = None
        self.until = 0.0

    def accept(self, envelope: Envelope, content: Content, until: float) -> Deferred[Lease]:
        self.until = until
        answer = super().accept(envelope, content, until)
        if self.waits is None:
            return answer
        self.waits.append((Deferred(), answer))
        return self.waits[-1][0]

    def tell(self) -> None:
        assert self.waits
        waited, answer = self.waits.pop()
        answer.chainDeferred(waited)


class Bench:
    def __init__(self, directory: Path = Path()) -> None:
        self.routes = {"d.test": "in"}
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.spool = Spool(self.clock)
        self.events = EventRecorder()
        self.delivered: list[Lease] = []
        self.full = ""
        self.intake = Intake(
            self.spool,
            refusal=lambda size: self.full,
            deliver=self.delivered.append,
            events=self.events,
            clock=self.clock,
            editor=ContentEditor(directory, self.clock),
            next_hop=lambda recipient, sender: self.routes.get(recipient.domain),
            originals=MemoryOriginals(),
        )

    def take(self, *verdicts: Verdict, protocol: str = "ESMTP", content: Content | None = None) -> list[Reply]:
        return list(wait_for(self.start(*verdicts, protocol=protocol, content=content)))

    def start(
        self, *verdicts: Verdict, protocol: str = "ESMTP", content: Content | None = None
    ) -> Deferred[Sequence[Reply]]:
        verdicts = verdicts or (Continue(),)
        found = self.transaction(len(verdicts))
        return self.intake.take(session(protocol=protocol), found, content or Content(DATA), verdicts)

    def transaction(self, recipients: int) -> Transaction:
        addresses = [Recipient(address=Address(f"u{number}", "d.test"), route="in") for number in range(recipients)]
        edits: list[Any] = [AddHeader("X", "y")]
        return transaction(recipients=addresses, id="0Q", parameters=EIGHT_BIT_MAIL, edits=edits)

    @property
    def numbers(self) -> list[int]:
        (lease,) = self.delivered
        return [one.number for one in lease.recipients]


def test_it_provides_the_interface() -> None:
    assert verifyObject(IIntake, Bench().intake)


def test_nothing_is_said_before_it_is_durable() -> None:
    bench = Bench()
    bench.spool.waits = []
    answer = bench.start()
    bench.clock.advance(100)
    assert not answer.called
    assert bench.delivered == []
    assert bench.events.events == []
    bench.spool.tell()
    (reply,) = wait_for(answer)
    assert str(reply) == "250 2.0.0 queued as 0Q"
    (lease,) = bench.delivered
    assert lease.until == bench.spool.until == 1000.0 + LEASE_TIME
    assert lease.content.read() == DATA


def test_the_envelope_says_what_the_transaction_did() -> None:
    bench = Bench()
    bench.take(Continue(), Accept())
    (lease,) = bench.delivered
    found = lease.envelope
    assert (found.queue_id, str(found.sender), found.received, found.size) == ("0Q", "ann@client.example", 1000.0, 50)
    assert (found.parameters, found.client, found.edits) == (
        EIGHT_BIT_MAIL,
        "client.example[192.0.2.1]",
        (AddHeader("X", "y"),),
    )
    assert [(one.number, str(one.address), one.route) for one in found.recipients] == [
        (0, "u0@d.test", "in"),
        (1, "u1@d.test", "in"),
    ]
    (event,) = bench.events.of(MessageAccepted)
    assert (event.recipients, event.message_id, event.size) == (("u0@d.test", "u1@d.test"), "<1@client.test>", 50)


def test_the_first_stream_that_was_found_goes_with_it() -> None:
    bench = Bench()
    mail = bench.transaction(1)
    for name in ("news", "other"):
        mail.evidence.add(Stream(name))
    wait_for(bench.intake.take(session(), mail, Content(DATA), [Continue()]))
    assert bench.delivered[0].envelope.stream == "news"
    assert [one.stream for one in bench.events.of(MessageAccepted)] == ["news"]


def test_what_rcpt_and_mail_asked_is_kept() -> None:
    bench = Bench()
    asked = MailParameters(ret="HDRS", envid="QQ+2B1", deliver_by=2000.0, by_mode="R", priority=3)
    bob = Recipient(address=Address("bob", "d.test"), notify=("SUCCESS", "DELAY"), orcpt="rfc822;b+2Bx@d.test")
    forwarded = Origin(
        address="198.51.100.7", name="first.test", helo="f.test", ident="4XYZ", protocol="SMTP", source="LOCAL"
    )
    found = transaction(recipients=[bob], parameters=asked, origin=forwarded)
    wait_for(bench.intake.take(session(), found, Content(DATA), [Continue()]))
    (lease,) = bench.delivered
    assert (lease.envelope.parameters, lease.envelope.origin) == (asked, forwarded)
    assert [(one.ident, one.origin, one.origin_helo) for one in bench.events.of(MessageAccepted)] == [
        ("4XYZ", "first.test[198.51.100.7]", "f.test")
    ]
    assert (lease.recipients[0].notify, lease.recipients[0].orcpt) == (bob.notify, bob.orcpt)


def of(address: str, *targets: str, **more: Any) -> Recipient:
    """A recipient; targets are written "ADDRESS" or "ADDRESS from RETURN_PATH"."""
    made = []
    for one in targets:
        target, _, path = one.partition(" from ")
        made.append(Target(Address.parse(target), "in", Address.parse(path) if path else None))
    return Recipient(address=Address.parse(address), route="" if made else "in", targets=tuple(made), **more)


def taken_with(bench: Bench, *recipients: Recipient, verdicts: Sequence[Verdict] = (), protocol: str = "ESMTP") -> Any:
    found = transaction(recipients=list(recipients), id="0Q")
    verdicts = verdicts or [Continue()] * len(recipients)
    return list(wait_for(bench.intake.take(session(protocol=protocol), found, Content(DATA), verdicts)))


def test_a_recipient_for_each_target_and_the_sender_stays() -> None:
    bench = Bench()
    info = of("info@d.test", "ann@d.test", "bob@far.test from SRS0=x@d.test", notify=("FAILURE",))
    taken_with(bench, of("u@d.test"), info, of("both@d.test", "c@d.test", "ann@d.test"))
    (lease,) = bench.delivered
    assert str(lease.envelope.sender) == "ann@client.example"
    assert [(str(one.address), str(one.return_path or ""), one.orcpt, one.notify) for one in lease.recipients] == [
        ("u@d.test", "", "", ()),
        ("ann@d.test", "", "rfc822;info@d.test", ("FAILURE",)),
        ("bob@far.test", "SRS0=x@d.test", "rfc822;info@d.test", ("FAILURE",)),
        ("c@d.test", "", "rfc822;both@d.test", ()),
    ]
    numbers = [one.number for one in lease.recipients]
    assert len(set(numbers)) == 4
    (event,) = bench.events.of(MessageAccepted)
    assert event.recipients == ("u@d.test", "info@d.test", "both@d.test")
    assert event.aliases == (
        "info@d.test: ann@d.test, bob@far.test from SRS0=x@d.test",
        "both@d.test: c@d.test, ann@d.test",
    )


@pytest.mark.parametrize(
    ("address", "asked", "orcpt"),
    [
        ("a+b=c@d.test", "", "rfc822;a+2Bb+3Dc@d.test"),
        ('"a b"@d.test', "", 'rfc822;"a+20b"@d.test'),
        ("jürgen+x@d.test", "", r"utf-8;j\x{FC}rgen\x{2B}x@d.test"),
        ("info@d.test", "rfc822;first@e.test", "rfc822;first@e.test"),
    ],
)
def test_reports_name_what_the_sender_wrote(address: str, asked: str, orcpt: str) -> None:
    bench = Bench()
    taken_with(bench, of(address, "ann@d.test", orcpt=asked))
    (lease,) = bench.delivered
    assert lease.recipients[0].orcpt == orcpt
    assert recipient_parameters(lease.recipients[0], utf8=False) == f" ORCPT={orcpt}"
    assert recipient_parameters(lease.recipients[0], utf8=True) == f" ORCPT={orcpt}"


def test_a_route_that_a_filter_names_is_for_all_targets() -> None:
    bench = Bench()
    info = of("info@d.test", "ann@d.test", "bob@far.test")
    info.route = "archive"
    taken_with(bench, info)
    (lease,) = bench.delivered
    assert [one.route for one in lease.recipients] == ["archive", "archive"]


def test_verdicts_are_about_all_that_an_address_stands_for() -> None:
    bench = Bench()
    recipients = [
        of("kept@d.test", "a@d.test", "b@d.test"),
        of("gone@d.test", "c@d.test"),
        of("no@d.test", "b@d.test", "d@d.test"),
        of("yes@d.test", "a@d.test", "e@d.test"),
    ]
    verdicts: list[Verdict] = [Quarantine("odd"), Discard("junk"), Reject(NO, "no"), Continue()]
    replies = taken_with(bench, *recipients, verdicts=verdicts)
    assert [reply.code for reply in replies] == [250] * 4
    (lease,) = bench.delivered
    fates = {str(one.address): (one.quarantine, one.refusal) for one in lease.envelope.recipients}
    assert fates == {
        "a@d.test": ("", ""),  # one of those that stand for it lets it through
        "b@d.test": ("odd", ""),
        "d@d.test": ("", str(NO)),
        "e@d.test": ("", ""),
    }
    (event,) = bench.events.of(MessageAccepted)
    assert event.recipients == ("kept@d.test", "no@d.test", "yes@d.test")
    assert [one.recipients for one in bench.events.of(Discarded)] == [("gone@d.test",)]
    assert [one.recipients for one in bench.events.of(Quarantined)] == [("kept@d.test",)]


def test_by_lmtp_each_address_that_was_named_has_its_answer() -> None:
    bench = Bench()
    recipients = [of("a@d.test", "x@d.test", "y@d.test"), of("b@d.test", "x@d.test"), of("c@d.test", "z@d.test")]
    replies = taken_with(bench, *recipients, verdicts=[Continue(), Reject(NO, "no"), Continue()], protocol="LMTP")
    assert [reply.code for reply in replies] == [250, 550, 250]
    (lease,) = bench.delivered
    assert [str(one.address) for one in lease.recipients] == ["x@d.test", "y@d.test", "z@d.test"]


@pytest.mark.parametrize(
    ("protocol", "told"),
    [("SMTP", "SMTP"), ("ESMTP", "ESMTP"), ("ESMTPSA", "ESMTP"), ("UTF8SMTPS", "ESMTP"), ("LMTPA", "LMTP")],
)
def test_the_origin_is_that_of_the_session(protocol: str, told: str) -> None:
    user = session(protocol=protocol, identity=Identity("ann", "PLAIN"))
    assert origin_of(user) == Origin(
        address="192.0.2.1",
        port=40000,
        name="client.example",
        helo="client.example",
        protocol=told,
        login="ann",
        source="LOCAL",
    )
    network = origin_of(session(identity=Identity("192.0.2.0/24", "network")))
    assert (network.login, network.source) == ("", "LOCAL")
    assert origin_of(session(Client(None), helo="")) == Origin(protocol="ESMTP", source="REMOTE")


def test_a_message_for_later_is_durable_and_for_nobody_yet() -> None:
    bench = Bench()
    found = transaction(parameters=MailParameters(release_at=5000.0))
    (reply,) = wait_for(bench.intake.take(session(), found, Content(DATA), [Continue()]))
    assert reply.code == 250
    assert bench.numbers == []
    assert wait_for(bench.spool.next_due()) == 5000.0


def test_by_lmtp_with_tls_each_is_told_its_own_too() -> None:
    bench = Bench()
    assert [one.code for one in bench.take(Reject(NO, "x"), Continue(), protocol="LMTPS")] == [550, 250]


# -- verdicts


def test_by_smtp_a_refusal_beside_others_is_kept_for_a_report() -> None:
    bench = Bench()
    replies = bench.take(Continue(), Reject(NO, "private"), Disconnect(BYE, "private"))
    assert {str(one) for one in replies} == {"250 2.0.0 queued as 0Q"}
    (lease,) = bench.delivered
    assert [one.refusal for one in lease.recipients] == ["", str(NO), str(BYE)]
    assert "private" not in str(lease.envelope)


def test_by_lmtp_each_is_told_its_own() -> None:
    bench = Bench()
    verdicts = (Reject(NO, "x"), Continue(), Defer(LATER, "x"), Disconnect(BYE, "x"), Discard("y"), Quarantine("z"))
    replies = bench.take(*verdicts, protocol="LMTP")
    taken = "250 2.0.0 queued as 0Q"
    assert [str(one) for one in replies] == [str(NO), taken, str(LATER), str(BYE), taken, taken]
    (lease,) = bench.delivered
    assert [(one.number, one.refusal, one.quarantine) for one in lease.envelope.recipients] == [
        (1, "", ""),
        (5, "", "z"),
    ]
    assert bench.numbers == [1]


def test_quarantined_recipients_are_kept_and_not_delivered() -> None:
    bench = Bench()
    replies = bench.take(Quarantine("a virus"), Continue(), Quarantine("a virus"))
    assert {one.code for one in replies} == {250}
    assert bench.numbers == [1]
    (event,) = bench.events.of(Quarantined)
    assert (event.recipients, event.reason) == (("u0@d.test", "u2@d.test"), "a virus")
    (accepted,) = bench.events.of(MessageAccepted)
    assert len(accepted.recipients) == 3


def test_a_message_that_is_all_quarantined_is_durable_all_the_same() -> None:
    bench = Bench()
    bench.take(Quarantine("a virus"))
    assert bench.numbers == []
    assert len(bench.spool._stored) == 1


def test_discarded_recipients_get_250_and_nothing_more() -> None:
    bench = Bench()
    replies = bench.take(Discard("spam"), Continue(), Discard("more spam"))
    assert {one.code for one in replies} == {250}
    assert bench.numbers == [1]
    assert [(event.recipients, event.reason) for event in bench.events.of(Discarded)] == [
        (("u0@d.test",), "spam"),
        (("u2@d.test",), "more spam"),
    ]


def test_where_all_are_discarded_nothing_is_kept(tmp_path: Path) -> None:
    bench = Bench()
    writer = ContentWriter(tmp_path, 10)
    writer.write(DATA)
    content = writer.finish()
    replies = bench.take(Discard("spam"), content=content)
    assert [one.code for one in replies] == [250]
    assert (bench.delivered, bench.spool._stored) == ([], {})
    assert list(tmp_path.iterdir()) == []
    assert len(bench.events.of(Discarded)) == 1
    assert bench.events.of(MessageAccepted) == []


def test_where_all_are_refused_by_lmtp_nothing_is_kept() -> None:
    bench = Bench()
    replies = bench.take(Reject(NO, "x"), Defer(LATER, "x"), protocol="LMTP")
    assert replies == [NO, LATER]
    assert bench.spool._stored == {}


# -- the spool


@pytest.mark.parametrize("protocol", ["ESMTP", "LMTP"])
def test_a_spool_that_fails_takes_nothing(protocol: str) -> None:
    bench = Bench()
    bench.spool.error = "no space left, and where"
    replies = bench.take(Continue(), Discard("spam"), protocol=protocol)
    assert [str(one) for one in replies] == 2 * ["452 4.3.1 Insufficient system storage"]
    assert bench.delivered == []
    assert bench.events.events == []


def test_by_lmtp_a_refusal_is_told_even_where_the_spool_fails() -> None:
    bench = Bench()
    bench.spool.error = "no"
    assert bench.take(Reject(NO, "x"), Continue(), protocol="LMTP")[0] == NO


def test_a_bug_is_no_promise_either(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(bench.spool, "accept", lambda *values: fail(ZeroDivisionError("a bug")))
    with failures_logged() as logged:
        (reply,) = bench.take()
    assert (reply.code, logged) == (451, ["a bug"])
    assert "bug" not in reply.text


def test_before_the_content_a_full_spool_says_so() -> None:
    bench = Bench()
    assert bench.intake.refuse_before_data(None) is None
    bench.full = "only 3 MiB are free"
    for size in (None, 10):
        reply = bench.intake.refuse_before_data(size)
        assert reply is not None
        assert reply.code == 452
        assert "3 MiB" not in reply.text


@pytest.mark.parametrize(
    ("header", "asked", "is_optional"),
    [
        (b"TLS-Required: No\r\n", EIGHT_BIT_MAIL, True),
        (b"tls-required:  no \r\n", EIGHT_BIT_MAIL, True),
        (b"TLS-Required: yes\r\n", EIGHT_BIT_MAIL, False),
        (b"TLS-Required: no\r\nTLS-Required: no\r\n", EIGHT_BIT_MAIL, False),
        (b"X-Note: tls-required: no\r\n", EIGHT_BIT_MAIL, False),
        (b"TLS-Required: no\r\n", MailParameters(require_tls=True), False),
    ],
)
def test_the_header_may_say_that_tls_is_not_required(header: bytes, asked: MailParameters, is_optional: bool) -> None:
    bench = Bench()
    found = transaction(recipients=["u0@d.test"], parameters=asked)
    wait_for(bench.intake.take(session(), found, Content(header + b"\r\n"), [Continue()]))
    (lease,) = bench.delivered
    assert lease.envelope.parameters.tls_optional is is_optional
    assert lease.envelope.parameters.require_tls is asked.require_tls


def test_memory_is_given_back_when_the_message_is_durable_or_is_not(tmp_path: Path) -> None:
    budget = MemoryBudget(1000)

    def content() -> Content:
        writer = ContentWriter(tmp_path, 500, budget)
        writer.write(DATA)
        return writer.finish()

    bench = Bench()
    bench.spool.waits = []
    answer = bench.start(content=content())
    assert budget.used == len(DATA)
    bench.spool.tell()
    wait_for(answer)
    assert budget.used == 0
    bench.take(Discard("gone"), content=content())
    assert budget.used == 0
    bench = Bench()
    bench.spool.error = "full"
    bench.take(content=content())
    assert budget.used == 0


def test_the_event_tells_how_the_message_came() -> None:
    bench = Bench()
    sess = session(
        protocol="ESMTPSA",
        identity=Identity("ann", "PLAIN"),
        tls=Tls(version="TLSv1.3", cipher="X"),
        proxy=Client(ip_address("10.0.0.1")),
    )
    wait_for(bench.intake.take(sess, transaction(recipients=["u0@d.test"]), Content(DATA), [Continue()]))
    (event,) = bench.events.of(MessageAccepted)
    assert (event.protocol, event.identity, event.tls, event.proxy) == (
        "ESMTPSA",
        "ann by PLAIN",
        "TLSv1.3 X",
        "unknown[10.0.0.1]",
    )


def test_the_event_tells_what_the_sender_asked_for() -> None:
    bench = Bench()
    for parameters in (PLAIN_MAIL, EIGHT_BIT_MAIL, MailParameters(priority=3, require_tls=True)):
        found = transaction(recipients=["u0@d.test"], parameters=parameters)
        wait_for(bench.intake.take(session(), found, Content(DATA), [Continue()]))
    assert [event.asked for event in bench.events.of(MessageAccepted)] == [
        (),
        (),
        ("priority 3 (MT-PRIORITY)", "to go over verified TLS only (REQUIRETLS)"),
    ]


def test_the_message_id_of_content_that_moves_is_known(tmp_path: Path) -> None:
    """The spool takes the file over: it is no more where it was."""
    bench = Bench()
    path = tmp_path / "incoming"
    path.write_bytes(DATA)
    (reply,) = bench.take(content=Content.in_file(path))
    assert reply.code == 250
    assert not path.exists()
    (event,) = bench.events.of(MessageAccepted)
    assert event.message_id == "<1@client.test>"


# -- the Message-ID


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Message-ID: <1@x>\r\n", "<1@x>"),
        (b"From: a\r\nMESSAGE-id:<1@x>\r\n", "<1@x>"),
        (b"Message-ID :\t<1@x> \t\r\n", "<1@x>"),
        (b"Message-ID:\r\n <1@x>\r\nX: y\r\n", "<1@x>"),
        (b"Message-ID:   two words  \r\n", "two words"),
        (b"Message-ID: <\xc3\xa9\xff@x>\r\n", "<é\ufffd@x>"),
        (b"X-Message-ID: <1@x>\r\n", ""),
        (b"Subject: x\r\n Message-ID: <1@x>\r\n", ""),
        (b"Message-ID:\r\nX: y\r\n", ""),
        (b"Message-ID:  \t \r\nX: y\r\n", ""),
        (b"Message-ID: <1@x>\r\nMessage-ID: <2@x>\r\n", "<1@x>"),
        (b"", ""),
    ],
)
def test_the_message_id_as_it_stands(header: bytes, found: str) -> None:
    assert message_id_of(Content(header + b"\r\nMessage-ID: <body@x>\r\n")) == found


def test_a_message_id_is_cut() -> None:
    assert len(message_id_of(Content(b"Message-ID: " + 5000 * b"x" + b"\r\n\r\n"))) == 998


@pytest.mark.parametrize("lines", [1, 10])
def test_a_hostile_header_costs_in_proportion_to_its_size(lines: int) -> None:
    def work(size: int) -> Callable[[], object]:
        content = Content(lines * (b"Message-ID:" + size * b" " + b"\r\n") + b"\r\n")
        assert message_id_of(content) == ""
        return lambda: message_id_of(content)

    assert is_linear(work, 2_000)


def test_content_that_is_gone_has_no_message_id(tmp_path: Path) -> None:
    assert message_id_of(Content(None, tmp_path / "gone", 5)) == ""
