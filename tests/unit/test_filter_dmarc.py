"""The filter dmarc: what is done about each result, who is not refused, and what is told to those who report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.envelope import Client, Identity, Session
from mailgate.events import DmarcEvaluated
from mailgate.filters.dmarc import Dmarc, DmarcDisposition, Options, build
from mailgate.interfaces import FilterServices, IMessageFilter
from mailgate.mailauth.results import ArcResult, ArcSet, DkimResult, DmarcResult, SpfResult
from mailgate.message import Content, Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import (
    EventRecorder,
    FilterContract,
    MemoryResolver,
    Occasion,
    message,
    services,
    session,
    transaction,
    verdict_of,
)
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

CLIENT = "203.0.113.9"
ZONE: dict[str, Any] = {
    "_dmarc.bank.example": {"TXT": "v=DMARC1; p=reject; sp=quarantine; rua=mailto:d@bank.example"},
    "_dmarc.shop.example": {"TXT": "v=DMARC1; p=quarantine"},
    "_dmarc.calm.example": {"TXT": "v=DMARC1; p=none"},
    "_dmarc.test.example": {"TXT": "v=DMARC1; p=reject; t=y"},
    "_dmarc.part.example": {"TXT": "v=DMARC1; p=reject; pct=0"},
    "_dmarc.twice.example": {"TXT": "v=DMARC1; p=none; p=none"},
    "_dmarc.lame.bank.example": "SERVFAIL",
    "_dmarc.lame.example": "SERVFAIL",
    "_dmarc.lame.calm.example": "SERVFAIL",
}
FAILED = SpfResult("fail", "elsewhere.example")
CHAIN = ArcResult("pass", sets=(ArcSet(1, "lists.example", "s", "lists.example; dmarc=pass header.from=bank.example"),))


class Gate:
    """The filter with its events."""

    def __init__(self, **options: object) -> None:
        self.events = EventRecorder()
        self.resolver = MemoryResolver(ZONE)
        clock = Clock()
        clock.advance(1_700_000_000)
        built = build(
            Options.model_validate(options), services(resolver=self.resolver, events=self.events, clock=clock)
        )
        assert isinstance(built, Dmarc)
        self.filter = built

    def ask(
        self,
        author: str | None = "Boss <boss@bank.example>",
        *found: object,
        sender: str = "x@elsewhere.example",
        client: Session | None = None,
        header: str = "",
    ) -> Verdict:
        """The verdict on a message; without SpfResult among what was found, SPF has failed."""
        mail = transaction(sender, ["bob@example.org", "eve@example.net", "al@example.org"])
        if not any(isinstance(one, SpfResult) for one in found):
            mail.evidence.add(FAILED)
        for one in found:
            if one is not None:
                mail.evidence.add(one)
        lines = [f"From: {author}"] if author is not None else []
        text = "\n".join([*lines, *filter(None, [header]), "Subject: Hello", "", "Hello."])
        return verdict_of(self.filter.on_message(client or session(CLIENT), mail, message(text)))

    @property
    def told(self) -> list[DmarcEvaluated]:
        return self.events.of(DmarcEvaluated)


def result_of(verdict: Verdict) -> DmarcResult:
    return next(one for one in verdict.evidence if isinstance(one, DmarcResult))


def done(verdict: Verdict) -> DmarcDisposition:
    return next(one for one in verdict.evidence if isinstance(one, DmarcDisposition))


def test_it_is_a_message_filter() -> None:
    verifyObject(IMessageFilter, Gate().filter)


def test_mail_that_passes_goes_on() -> None:
    gate = Gate()
    verdict = gate.ask("boss@bank.example", DkimResult("pass", "bank.example", "s1"))
    assert isinstance(verdict, Continue)
    assert result_of(verdict).summary() == "dmarc=pass header.from=bank.example"
    assert done(verdict).summary() == ""
    assert done(verdict).facts() == ()


def test_what_the_owner_asks_to_reject() -> None:
    gate = Gate()
    verdict = gate.ask()
    assert isinstance(verdict, Reject)
    assert verdict.reply.to_bytes() == b"550 5.7.1 DMARC policy of bank.example does not allow this message\r\n"
    assert verdict.reason == (
        "dmarc=fail policy=reject header.from=bank.example: "
        "p=reject of bank.example; spf=fail for elsewhere.example; no signature was checked"
    )
    assert (done(verdict).disposition, done(verdict).override) == ("reject", "")


def test_what_the_owner_asks_to_quarantine() -> None:
    verdict = Gate().ask("a@shop.example")
    assert isinstance(verdict, Quarantine)
    assert "policy=quarantine header.from=shop.example" in verdict.reason
    assert isinstance(Gate().ask("a@calm.example"), Continue)
    assert isinstance(Gate().ask("a@none.example"), Continue)
    assert isinstance(Gate().ask("a@twice.example"), Continue)


@pytest.mark.parametrize(
    ("options", "author", "kind", "disposition"),
    [
        ({"reject": "quarantine"}, "a@bank.example", Quarantine, "quarantine"),
        ({"reject": "continue"}, "a@bank.example", Continue, "none"),
        ({"quarantine": "reject"}, "a@shop.example", Reject, "reject"),
        ({"quarantine": "continue"}, "a@shop.example", Continue, "none"),
    ],
)
def test_what_is_done_is_configured(
    options: dict[str, object], author: str, kind: type[Verdict], disposition: str
) -> None:
    gate = Gate(**options)
    verdict = gate.ask(author)
    assert isinstance(verdict, kind)
    assert (done(verdict).disposition, done(verdict).override) == (disposition, "local_policy")
    assert done(verdict).facts() == ("dmarc.override", "dmarc.override.local_policy")
    (key, value), *_ = options.items()
    assert done(verdict).comment == f"{key} is asked for, {value} is configured"
    (event,) = gate.told
    assert (event.disposition, event.override, event.comment) == (disposition, "local_policy", done(verdict).comment)


def test_an_owner_who_tests() -> None:
    verdict = Gate().ask("a@test.example")
    assert isinstance(verdict, Quarantine)
    assert done(verdict).override == "policy_test_mode"
    verdict = Gate(standard="rfc7489").ask("a@part.example")
    assert isinstance(verdict, Quarantine)
    assert done(verdict).override == "sampled_out"


def test_authenticated_clients_and_exempt_networks_are_not_evaluated() -> None:
    gate = Gate(exempt=["198.51.100.0/24"])
    for client in (
        session(CLIENT, identity=Identity("ann", "PLAIN")),
        session("198.51.100.7"),
        session(Client(None)),
    ):
        assert gate.ask(client=client) == Continue()
    assert gate.resolver.asked == []
    assert isinstance(gate.ask(client=session("10.1.2.3")), Reject)
    assert Gate().ask(client=session("10.1.2.3")) == Continue()


def test_what_reports_are_made_of() -> None:
    gate = Gate()
    gate.ask("a@mail.bank.example", SpfResult("pass", "elsewhere.example"), DkimResult("fail", "bank.example", "s1"))
    (event,) = gate.told
    assert event == DmarcEvaluated(
        at=1_700_000_000.0,
        queue_id="01TESTMESSAGE000",
        source=CLIENT,
        domain="bank.example",
        policy="reject",
        subdomain_policy="quarantine",
        missing_policy="quarantine",
        header_from="mail.bank.example",
        envelope_from="elsewhere.example",
        envelope_to=("example.net", "example.org"),
        disposition="quarantine",
        result="fail",
        rua=("mailto:d@bank.example",),
        dkim=(("bank.example", "s1", "fail"),),
        spf=("elsewhere.example", "mfrom", "pass"),
    )
    gate.ask("a@bank.example", SpfResult("pass", "bank.example", "helo"), sender="")
    event = gate.told[-1]
    assert (event.result, event.disposition, event.aligned) == ("pass", "none", ("spf",))
    assert (event.spf, event.envelope_from) == (("bank.example", "helo", "pass"), "")


def test_nothing_is_told_without_a_policy_or_a_result() -> None:
    gate = Gate(temperror="continue", no_author="continue")
    for author in ("a@none.example", "a@twice.example", "a@lame.bank.example", "<a@calm.example>, b@[192.0.2.1]"):
        assert isinstance(gate.ask(author, SpfResult("pass", "calm.example")), Continue)
    assert gate.told == []


def test_mail_of_a_trusted_sealer_is_not_refused() -> None:
    gate = Gate(trusted_sealers=["lists.example", "*.forward.example"])
    verdict = gate.ask("a@bank.example", CHAIN)
    assert isinstance(verdict, Continue)
    assert (done(verdict).disposition, done(verdict).override) == ("none", "trusted_forwarder")
    assert done(verdict).summary() == (
        "dmarc disposition=none override=trusted_forwarder: it passed when it came to lists.example"
    )
    (event,) = gate.told
    assert (event.result, event.disposition, event.override) == ("fail", "none", "trusted_forwarder")


def test_a_seal_is_no_pass_by_itself() -> None:
    assert isinstance(Gate().ask("a@bank.example", CHAIN), Reject)
    assert isinstance(Gate(trusted_sealers=["other.example"]).ask("a@bank.example", CHAIN), Reject)
    gate = Gate(trusted_sealers=["lists.example"])
    assert isinstance(gate.ask("a@shop.example", CHAIN), Quarantine)
    broken = ArcResult("fail", sets=CHAIN.sets)
    assert isinstance(gate.ask("a@bank.example", broken), Reject)


@pytest.mark.parametrize(
    ("found", "is_list"),
    [
        (DkimResult("pass", "lists.example", "s"), True),
        (DkimResult("pass", "one.groups.example", "s"), True),
        (SpfResult("pass", "lists.example"), True),
        (DkimResult("fail", "lists.example", "s"), False),
        (DkimResult("pass", "evil-lists.example", "s"), False),
        (DkimResult("pass", "groups.example", "s"), False),
        (SpfResult("softfail", "lists.example"), False),
        (None, False),
    ],
)
def test_mailing_lists_that_prove_who_they_are(found: object, is_list: bool) -> None:
    gate = Gate(mailing_lists=["lists.example", "*.groups.example"])
    verdict = gate.ask("a@bank.example", found, header="List-Id: <dev.lists.example>")
    assert isinstance(verdict, Continue) is is_list
    if is_list:
        assert done(verdict).override == "mailing_list"
        assert done(verdict).comment.startswith("it comes by the mailing list ")


def test_networks_of_mailing_lists() -> None:
    gate = Gate(mailing_list_networks=["203.0.113.0/24"])
    verdict = gate.ask()
    assert (done(verdict).disposition, done(verdict).override) == ("none", "mailing_list")
    assert isinstance(gate.ask(client=session("198.51.100.1")), Reject)


def test_mail_that_would_not_be_refused_is_not_put_off() -> None:
    gate = Gate(mailing_list_networks=["203.0.113.0/24"])
    assert isinstance(gate.ask("a@lame.bank.example"), Continue)
    assert isinstance(Unchecked.ask("a@bank.example", mailing_list_networks=["203.0.113.0/24"]), Continue)
    assert isinstance(Unchecked.ask("a@bank.example", reject="continue"), Continue)
    assert isinstance(Unchecked.ask("a@calm.example"), Continue)


NO_AUTHOR = [
    None,
    "",
    "boss",
    "<boss@bank.example> <x@evil.example>",
    '"boss@bank.example"',
    ", ".join(f"a@d{number}.example" for number in range(9)),
]


@pytest.mark.parametrize("author", NO_AUTHOR)
def test_a_from_field_without_an_author(author: str | None) -> None:
    gate = Gate()
    verdict = gate.ask(author, DkimResult("pass", "evil.example"))
    assert isinstance(verdict, Reject)
    assert (verdict.reply.code, verdict.reply.status) == (550, "5.7.1")
    assert "From" in verdict.reason
    assert result_of(verdict).result == "permerror"
    assert gate.resolver.asked == []


def test_from_fields_without_an_author_may_be_let_through() -> None:
    gate = Gate(no_author="continue")
    assert isinstance(gate.ask(None), Continue)
    assert isinstance(gate.ask("<a@calm.example> <x@evil.example>"), Continue)
    # What is forged is refused all the same.
    assert isinstance(gate.ask("<boss@bank.example> <x@evil.example>"), Reject)
    two = gate.ask("x@evil.example", DkimResult("pass", "evil.example"), header="From: boss@bank.example")
    assert isinstance(two, Reject)
    assert result_of(two).domain == "bank.example"


def test_two_from_fields() -> None:
    verdict = Gate().ask("a@calm.example", DkimResult("pass", "calm.example"), header="from : b@calm.example")
    assert isinstance(verdict, Reject)
    assert verdict.reason == "there are 2 From fields"


_LARGE = b"X-Large: " + b"a" * 900 + b"\r\n"


@pytest.mark.parametrize(
    "header",
    [
        b"X: 1\nFrom: boss@bank.example\r\nFrom: x@evil.example\r\n",
        b"X: 1\rFrom: boss@bank.example\r\nFrom: x@evil.example\r\n",
        b"From: x@evil.example\r\n\nFrom: boss@bank.example\r\n",
        b"From: x@evil.example\0\r\n",
        b"From: x@evil.example\r\n" + _LARGE * 300 + b"From: boss@bank.example\r\n",
        _LARGE * 300 + b"From: boss@bank.example\r\n",
    ],
)
@pytest.mark.parametrize("is_file", [False, True])
def test_a_header_section_that_others_read_differently(header: bytes, is_file: bool, tmp_path: Path) -> None:
    octets = header + b"\r\nHello\n.\r\n"
    (tmp_path / "content").write_bytes(octets)
    content = Content.in_file(tmp_path / "content") if is_file else Content(octets)
    for sender in ("x@evil.example", ""):
        mail = transaction(sender, ["bob@example.org"])
        mail.evidence.add(SpfResult("pass", "evil.example"))
        verdict = verdict_of(Gate().filter.on_message(session(CLIENT), mail, Message(content)))
        assert isinstance(verdict, Reject)
        assert (verdict.reply.code, verdict.reply.status) == (550, "5.6.0")
        assert "header section" in verdict.reason
        lenient = verdict_of(Gate(no_author="continue").filter.on_message(session(CLIENT), mail, Message(content)))
        assert result_of(lenient).result != "pass"


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\nHello\n\0\r", b"\r\n" + b"a" * 300_000])
def test_a_body_may_hold_any_octets(body: bytes) -> None:
    mail = transaction("x@evil.example", ["bob@example.org"])
    mail.evidence.add(SpfResult("pass", "evil.example"))
    octets = b"From: x@evil.example\r\n" + body
    verdict = verdict_of(Gate().filter.on_message(session(CLIENT), mail, Message(Content(octets))))
    assert isinstance(verdict, Continue)


def test_one_field_with_two_authors_is_lawful() -> None:
    gate = Gate()
    assert isinstance(gate.ask("a@calm.example, b@none.example"), Continue)
    assert isinstance(gate.ask("a@calm.example, boss@bank.example", DkimResult("pass", "calm.example")), Reject)
    both = gate.ask(
        "a@calm.example, boss@bank.example", DkimResult("pass", "calm.example"), DkimResult("pass", "bank.example")
    )
    assert result_of(both).result == "pass"


@pytest.mark.parametrize("author", [None, "MAILER-DAEMON", "Mail Delivery System <>"])
def test_reports_may_have_no_author(author: str | None) -> None:
    gate = Gate()
    assert isinstance(gate.ask(author, sender=""), Continue)
    assert isinstance(gate.ask(author, sender="a@elsewhere.example"), Reject)


def test_reports_that_show_an_author_are_no_exception() -> None:
    assert isinstance(Gate().ask("boss@bank.example <>", sender=""), Reject)
    assert isinstance(Gate().ask("boss@bank.example", sender=""), Reject)


@pytest.mark.parametrize(
    ("author", "found", "is_deferred"),
    [
        ("a@bank.example", DkimResult("temperror", "lame.bank.example"), True),
        ("a@lame.bank.example", None, True),
        ("a@calm.example", DkimResult("temperror", "lame.calm.example"), False),
        ("a@lame.calm.example", None, False),
        ("a@lame.example", None, False),
    ],
)
def test_where_dns_cannot_say(author: str, found: object, is_deferred: bool) -> None:
    verdict = Gate().ask(author, found)
    assert result_of(verdict).result == "temperror"
    assert isinstance(verdict, Defer) is is_deferred
    if isinstance(verdict, Defer):
        assert (verdict.reply.code, verdict.reply.status) == (451, "4.7.1")
        assert "DMARC" in verdict.reply.text
        assert verdict.reason.startswith("dmarc=temperror header.from=")
    assert isinstance(Gate(temperror="continue").ask(author, found), Continue)


class Unchecked:
    """Mail of which nobody has looked at a part: it cannot be told that it is forged."""

    @staticmethod
    def ask(author: str, *found: object, header: str = "", **options: object) -> Verdict:
        gate = Gate(**options)
        mail = transaction("x@elsewhere.example")
        for one in found:
            mail.evidence.add(one)
        text = f"From: {author}\n{header}\nSubject: Hello\n\nHello." if header else f"From: {author}\n\nHello."
        verdict = verdict_of(gate.filter.on_message(session(CLIENT), mail, message(text)))
        assert gate.told == []
        return verdict


def test_without_spf_nothing_is_refused_for_good() -> None:
    verdict = Unchecked.ask("a@bank.example")
    assert isinstance(verdict, Defer)
    assert verdict.reason.startswith("SPF was not checked (is the filter spf in front of dmarc?); dmarc=fail")
    assert isinstance(Unchecked.ask("a@bank.example", temperror="continue"), Continue)


def test_without_the_signatures_nothing_is_refused_for_good() -> None:
    verdict = Unchecked.ask("a@bank.example", FAILED, header="DKIM-Signature: v=1")
    assert isinstance(verdict, Defer)
    assert verdict.reason.startswith("its signatures were not checked")


def test_rfc_7489_by_option() -> None:
    assert isinstance(Gate(standard="rfc7489").ask("a@mail.bank.example"), Quarantine)
    verdict = Gate(standard="rfc7489").ask("a@one.bank.example", DkimResult("pass", "two.bank.example"))
    assert result_of(verdict).organization == "bank.example"
    assert result_of(verdict).result == "pass"


def test_what_stands_in_the_trace() -> None:
    disposition = DmarcDisposition(DmarcResult("fail", "reject", "a.example"), "none", "mailing_list")
    assert disposition.summary() == "dmarc disposition=none override=mailing_list"
    assert disposition.facts() == ("dmarc.override", "dmarc.override.mailing_list")


@pytest.mark.parametrize(
    "options",
    [
        {"standard": "rfc1"},
        {"reject": "none"},
        {"temperror": "reject"},
        {"trusted_sealers": ["*"]},
        {"mailing_lists": ["not a domain"]},
        {"exempt": ["10.0.0.1/8"]},
    ],
)
def test_mistakes_in_the_options(options: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


class TestContract(FilterContract):
    factory = FilterMaker("dmarc", "mailgate.filters.dmarc", "asks the owners of authors' domains")
    settings: Mapping[str, object] = {"mailing_lists": ["lists.example"], "trusted_sealers": ["lists.example"]}

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        return services(clock=clock, **({"resolver": MemoryResolver(ZONE)} | silent))

    def occasions(self) -> Iterable[Occasion]:
        for author in ("a@bank.example", "a@shop.example", "a@lame.bank.example", "a@none.example", "nobody", ""):
            for found in ((), (FAILED,), (FAILED, DkimResult("pass", "lists.example")), (FAILED, CHAIN)):
                occasion = Occasion(
                    session=session(Client(ip_address(CLIENT))), message=message(f"From: {author}\n\nHi")
                )
                for one in found:
                    occasion.transaction.evidence.add(one)
                yield occasion


class TestContractOfRfc7489(TestContract):
    settings: Mapping[str, object] = {"standard": "rfc7489"}
