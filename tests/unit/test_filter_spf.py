"""The filter spf: whom it asks about, what it leaves, and what it does about each result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.envelope import Client, Identity, Session, Transaction
from mailgate.filters.spf import Options, Spf, build
from mailgate.interfaces import FilterServices, IHeloFilter, IMailFilter, IMessageModifier, IResolver
from mailgate.mailauth.results import SpfResult
from mailgate.message import AddHeader
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import (
    FilterContract,
    MemoryResolver,
    Occasion,
    message,
    services,
    session,
    transaction,
    verdict_of,
    wait_for,
)
from mailgate.testing.fakes import Silent
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

ZONE: dict[str, Any] = {
    "pass.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "fail.example": {"TXT": ["v=spf1 -all exp=why.example"]},
    "softfail.example": {"TXT": ["v=spf1 ~all"]},
    "neutral.example": {"TXT": ["v=spf1 ?all"]},
    "permerror.example": {"TXT": ["v=spf1 bogus"]},
    "temperror.example": "SERVFAIL",
    "why.example": {"TXT": ["Ask %{s}, not %{c}; see http://why.example/"]},
}
RESULTS = ("pass", "fail", "softfail", "neutral", "none", "permerror", "temperror")


def made(resolver: object = None, clock: Clock | None = None, /, **options: Any) -> Spf:
    given = services(clock=clock or Clock(), resolver=resolver or MemoryResolver(ZONE))
    built = build(Options(**options), given)
    assert isinstance(built, Spf)
    return built


def at_mail(built: Spf, sender: str, **more: Any) -> Verdict:
    return verdict_of(built.on_mail(session(**more), transaction(sender)))


def found(verdict: Verdict) -> SpfResult:
    (result,) = verdict.evidence
    assert isinstance(result, SpfResult)
    return result


@pytest.mark.parametrize("result", RESULTS)
def test_by_itself_it_only_leaves_its_result(result: str) -> None:
    verdict = at_mail(made(), f"ann@{result}.example")
    assert isinstance(verdict, Continue)
    assert (found(verdict).result, found(verdict).identity) == (result, "mailfrom")


@pytest.mark.parametrize(
    ("result", "reply"),
    [
        ("fail", "7.23 SPF: 192.0.2.1 may not send mail for fail.example"),
        ("softfail", "7.23 SPF: 192.0.2.1 should not send mail for softfail.example"),
        ("neutral", "7.23 SPF: neutral.example does not say that 192.0.2.1 may send its mail"),
        ("none", "7.23 SPF: none.example does not say who may send its mail"),
        ("permerror", "7.24 SPF: the record of permerror.example has an error"),
    ],
)
def test_each_result_has_an_action(result: str, reply: str) -> None:
    sender = f"ann@{result}.example"
    verdict = at_mail(made(**{result: "reject"}), sender)
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == f"550 5.{reply}"
    assert verdict.reason == found(verdict).summary()
    verdict = at_mail(made(**{result: "defer"}), sender)
    assert isinstance(verdict, Defer)
    assert str(verdict.reply) == f"451 4.{reply}"
    verdict = at_mail(made(**{result: "quarantine"}), sender)
    assert isinstance(verdict, Quarantine)
    assert verdict.reason == found(verdict).summary()
    others = [one for one in RESULTS if one != result]
    assert all(isinstance(at_mail(made(**{result: "reject"}), f"ann@{one}.example"), Continue) for one in others)


def test_a_temporary_error_may_defer() -> None:
    verdict = at_mail(made(temperror="defer"), "ann@temperror.example")
    assert isinstance(verdict, Defer)
    text = "SPF: the record of temperror.example cannot be looked up now, try again later"
    assert str(verdict.reply) == f"451 4.7.24 {text}"
    assert verdict.reason == "spf=temperror smtp.mailfrom=temperror.example: TXT of temperror.example: servfail"


def test_the_null_sender_is_checked_by_helo() -> None:
    verdict = at_mail(made(fail="reject"), "", helo="fail.example")
    assert isinstance(verdict, Reject)
    assert (found(verdict).identity, found(verdict).domain) == ("helo", "fail.example")
    verdict = at_mail(made(none="reject"), "", helo="[192.0.2.1]")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.7.23 SPF: your name does not say who may send its mail"
    assert isinstance(at_mail(made(none="reject"), "ann@[192.0.2.1]"), Reject)


@pytest.mark.parametrize(
    ("client", "identity"),
    [
        ("10.1.2.3", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:10.1.2.3", None),
        (Client(None), None),
        ("203.0.113.9", Identity("ann", "PLAIN")),
        ("203.0.113.9", Identity("203.0.113.9", "network")),
    ],
)
def test_our_own_are_not_checked(client: Client | str, identity: Identity | None) -> None:
    resolver = MemoryResolver(ZONE)
    built = made(resolver, fail="reject", helo=True)
    ours = session(client, identity=identity, helo="fail.example")
    assert built.on_mail(ours, transaction("ann@fail.example")) is None
    assert built.on_helo(ours) is None
    assert not resolver.asked


def test_who_is_exempt_is_an_option() -> None:
    built = made(fail="reject", exempt=["203.0.113.0/24"])
    assert built.on_mail(session("203.0.113.9"), transaction("ann@fail.example")) is None
    assert isinstance(at_mail(built, "ann@fail.example", client="10.1.2.3"), Reject)


def test_the_explanation_is_told_where_that_is_wanted() -> None:
    verdict = at_mail(made(fail="reject", tell_explanation=True), "ann@fail.example")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == (
        "550 5.7.23 SPF: 192.0.2.1 may not send mail for fail.example."
        " fail.example says: Ask ann@fail.example, not 192.0.2.1; see http://why.example/"
    )
    verdict = at_mail(made(fail="reject"), "ann@fail.example")
    assert isinstance(verdict, Reject)
    assert "Ask" not in verdict.reply.text


def test_an_explanation_is_bounded_and_ascii() -> None:
    zone = {"fail.example": ZONE["fail.example"], "why.example": {"TXT": ["%{s} " + "x" * 1000]}}
    verdict = at_mail(made(MemoryResolver(zone), fail="reject", tell_explanation=True), "bücher@fail.example")
    assert isinstance(verdict, Reject)
    _, _, told = verdict.reply.text.partition("says: ")
    assert told == "b?cher@fail.example " + "x" * 180
    assert len(verdict.reply.to_bytes()) < 512


# --- HELO


def test_helo_is_checked_where_that_is_wanted() -> None:
    built = made(helo=True, fail="reject", none="reject", softfail="reject", temperror="defer")
    verdict = verdict_of(built.on_helo(session(helo="fail.example")))
    assert isinstance(verdict, Reject)
    assert verdict.reply.to_bytes() == b"550 SPF: 192.0.2.1 may not send mail for fail.example\r\n"
    assert found(verdict).facts() == ("spf.helo.fail",)
    for name in ("pass.example", "none.example", "softfail.example", "temperror.example", "[192.0.2.1]", "a b"):
        verdict = verdict_of(built.on_helo(session(helo=name)))
        assert isinstance(verdict, Continue)
        assert found(verdict).identity == "helo"


@pytest.mark.parametrize("action", ["continue", "quarantine"])
def test_at_helo_nothing_can_be_kept_back(action: str) -> None:
    assert isinstance(verdict_of(made(helo=True, fail=action).on_helo(session(helo="fail.example"))), Continue)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, {IMailFilter}),
        ({"helo": True}, {IMailFilter, IHeloFilter}),
        ({"received_spf": True}, {IMailFilter, IMessageModifier}),
    ],
)
def test_only_the_stages_that_are_wanted_are_provided(options: dict[str, Any], stages: set[object]) -> None:
    built = made(**options)
    every = (IMailFilter, IHeloFilter, IMessageModifier)
    assert {stage for stage in every if stage.providedBy(built)} == stages
    for stage in every:
        assert verifyObject(stage, built, tentative=True)


# --- Time


@pytest.mark.parametrize(
    ("sender", "identity", "domain"), [("a@b.example", "mailfrom", "b.example"), ("", "helo", "h.example")]
)
def test_a_check_that_takes_too_long_is_a_temporary_error(sender: str, identity: str, domain: str) -> None:
    clock, silent = Clock(), Silent()
    built = made(silent, clock, temperror="defer", timeout="3s")
    verdict = wait_for(built.on_mail(session(helo="H.example"), transaction(sender)), clock, 4.0)
    assert isinstance(verdict, Defer)
    assert found(verdict) == SpfResult("temperror", domain, identity, reason="no result within 3s")
    assert clock.seconds() == pytest.approx(3.0, abs=0.2)
    assert silent.open == 0
    assert not clock.getDelayedCalls()


def test_by_default_the_result_is_there_before_the_deadline() -> None:
    clock = Clock()
    verdict = wait_for(made(Silent(), clock).on_mail(session(), transaction()), clock, 9.5)
    assert isinstance(verdict, Continue)
    assert found(verdict).result == "temperror"


# --- Received-SPF


def field(built: Spf, client: Session, mail: Transaction) -> str:
    for evidence in verdict_of(built.on_mail(client, mail)).evidence:
        mail.evidence.add(evidence)
    (edit,) = built.modify(client, mail, message())
    assert isinstance(edit, AddHeader)
    assert edit.name == "Received-SPF"
    return edit.value


def test_the_received_spf_field() -> None:
    built = made(received_spf=True)
    assert field(built, session(), transaction("ann@pass.example")) == (
        "Pass (mx.example.org: domain of pass.example designates 192.0.2.1 as permitted sender)\r\n"
        "\tclient-ip=192.0.2.1;\r\n"
        '\tenvelope-from="ann@pass.example";\r\n'
        "\thelo=client.example;\r\n"
        "\treceiver=mx.example.org;\r\n"
        "\tidentity=mailfrom;\r\n"
        '\tmechanism="ip4:192.0.2.1"'
    )
    assert field(built, session("2001:db8::1"), transaction("ann@permerror.example")).endswith(
        'client-ip="2001:db8::1";\r\n'
        '\tenvelope-from="ann@permerror.example";\r\n'
        "\thelo=client.example;\r\n"
        "\treceiver=mx.example.org;\r\n"
        "\tidentity=mailfrom;\r\n"
        '\tproblem="Unknown mechanism found: bogus"'
    )


@pytest.mark.parametrize("result", RESULTS)
def test_every_result_has_its_word(result: str) -> None:
    text = field(made(received_spf=True), session(), transaction(f"ann@{result}.example"))
    assert text.partition(" ")[0].lower() == result


@pytest.mark.parametrize(
    ("helo", "sender", "written"),
    [
        ('a"b\\c.example', "", 'helo="a\\"b\\\\c.example"'),
        ("a\r\nBcc: x@y", "", 'helo="a??Bcc: x@y"'),
        ("client.example", "bücher@pass.example", 'envelope-from="b?cher@pass.example"'),
        ("x" * 600, "", f"helo={'x' * 200};"),
    ],
)
def test_what_a_client_says_stays_within_its_quotes(helo: str, sender: str, written: str) -> None:
    text = field(made(received_spf=True), session(helo=helo), transaction(sender))
    assert f"\t{written}" in text
    assert all(line.startswith("\t") and len(line) < 500 for line in text.split("\r\n")[1:])


def test_without_a_result_there_is_no_field() -> None:
    built = made(received_spf=True)
    assert built.modify(session("10.1.2.3"), transaction(), message()) == []


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fail": "discard"}, "fail"),
        ({"temperror": "reject"}, "temperror"),
        ({"pass": "reject"}, "pass"),
        ({"exempt": ["10.0.0.1/8"]}, "exempt"),
        ({"timeout": "0s"}, "timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Mapping[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate(options)


class TestContract(FilterContract):
    factory = FilterMaker(
        "spf", "mailgate.filters.spf", "asks whether the client may send mail for the sender's domain"
    )
    settings: Mapping[str, object] = {
        "fail": "reject",
        "softfail": "quarantine",
        "temperror": "defer",
        "helo": True,
        "received_spf": True,
        "tell_explanation": True,
    }

    def occasions(self) -> Iterable[Occasion]:
        mails = [Occasion(transaction=transaction(f"ann@{result}.example")) for result in RESULTS]
        return [*mails, Occasion(session=session(helo="fail.example"), transaction=transaction(""))]

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        resolver: IResolver = silent.pop("resolver", None) or MemoryResolver(ZONE)
        return services(clock=clock, resolver=resolver, **silent)
