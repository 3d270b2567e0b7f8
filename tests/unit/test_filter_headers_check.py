"""Header fields that are not as they should be, and names and domains that are made to look like others'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mailgate.envelope import Identity
from mailgate.filters.forged_names import (
    LookAlikes,
    display_name,
    domains_in,
    has_mixed_scripts,
    plain_name,
    skeleton,
)
from mailgate.filters.headers_check import HeaderResult, HeadersCheck, Options, build
from mailgate.message import Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction
from mailgate.verdict import Continue, Quarantine, Reject, Verdict

FACTORY = FilterMaker("headers-check", "mailgate.filters.headers_check", "header fields that are wrong or forged")
NOW = 1_790_000_000.0
DATE = f"Date: {formatdate(NOW)}"
OURS = {"protected_domains": ["example.org", "mycompany.com"]}


def mail(*fields: str, date: bool = True) -> Message:
    lines = [*([DATE] if date else []), *fields]
    return message("".join(f"{line}\r\n" for line in lines).encode() + b"\r\nHello\r\n")


def judged(*fields: str, **options: Any) -> Any:
    """What the filter says; `date`, `sender` and `login` are about the mail, the rest are options."""
    date, login = options.pop("date", True), options.pop("login", False)
    sender = options.pop("sender", "a@client.example")
    clock = Clock()
    clock.advance(NOW)
    built = build(Options.model_validate(options), services(clock=clock))
    assert isinstance(built, HeadersCheck)
    identity = Identity("ann", "PLAIN") if login else None
    return built.on_message(session(identity=identity), transaction(sender), mail(*fields, date=date))


def facts(verdict: Verdict | None) -> set[str]:
    return {one.facts()[-1].removeprefix("headers-check.") for one in getattr(verdict, "evidence", ())}


FROM = "From: Ann <ann@client.example>"


def test_a_good_header_is_no_opinion() -> None:
    assert judged(FROM, "Subject: x", "Reply-To: bob@lists.client.example", **OURS) is None


@pytest.mark.parametrize(
    ("fields", "fact", "option"),
    [
        ((), "missing.from", "missing"),
        ((FROM, FROM), "duplicate.from", "duplicate"),
        ((FROM, "Subject: a", "SUBJECT: b"), "duplicate.subject", "duplicate"),
        ((FROM, "this is no field"), "malformed", "malformed"),
        ((FROM, "X: a\0b"), "malformed", "malformed"),
        ((FROM, "X: " + "a" * 1000), "long-line", "long_line"),
        ((FROM, *["X-Filler: " + "a" * 900] * 300), "malformed", "malformed"),
        (('From: "ceo@example.org" <x@evil.example>',), "other-address", "other_address"),
        (('From: "x@evil.example ceo@example.org" <x@evil.example>',), "other-address", "other_address"),
    ],
)
def test_each_fault_is_evidence_and_has_its_action(fields: tuple[str, ...], fact: str, option: str) -> None:
    verdict = judged(*fields)
    assert isinstance(verdict, Continue)
    assert fact in facts(verdict)
    rejected = judged(*fields, **{option: "reject"})
    assert isinstance(rejected, Reject)
    assert rejected.reply.status in ("5.6.0", "5.7.1")
    assert isinstance(judged(*fields, **{option: "quarantine"}), Quarantine)


@pytest.mark.parametrize(
    ("date", "fact"),
    [
        (formatdate(NOW - 86400), ""),
        (formatdate(NOW - 30 * 86400), "date"),
        (formatdate(NOW + 3 * 86400), "date"),
        ("nonsense", "date"),
        ("Thu, 99 Jan 99999 12:00:00 +9999", "date"),
        ("9" * 100_000, "date"),
    ],
)
def test_dates(date: str, fact: str) -> None:
    assert facts(judged(f"Date: {date}", FROM, date=False)) - {"long-line"} == ({fact} if fact else set())


def test_a_missing_date_is_missing_only() -> None:
    assert facts(judged(FROM, date=False)) == {"missing.date"}


@pytest.mark.parametrize(
    "shown",
    [
        "Jane Doe",
        "jane doe",
        "Doe, Jane",
        "J\u00e1ne D\u00f6e",
        "J\u0430ne D\u043ee",
        "=?utf-8?B?SmFuZSBEb2U=?=",
        "Jane  (Doe)",
        '"Jane Doe"',
        "Jan\u200be Doe",
    ],
)
def test_protected_names(shown: str) -> None:
    options = {"protected_names": ["Jane Doe"]}
    assert isinstance(judged(f"From: {shown} <x@evil.example>", **options), Quarantine)
    assert judged(f"From: {shown} <jane@example.org>", **options) is None
    assert judged(f"From: {shown} <x@evil.example>", login=True, **options) is None
    assert judged("From: Jane Done <x@evil.example>", **options) is None


@pytest.mark.parametrize(
    ("domain", "how"),
    [
        ("examp1e.org", "letters"),
        ("exarnple.org", "letters"),
        ("xn--exmple-4nf.org", "letters"),
        ("exmaple.org", "spelling"),
        ("exampl.org", "spelling"),
        ("exxample.org", "spelling"),
        ("example.net", "suffix"),
        ("mail.mycompany.co", "suffix"),
        ("mycornpany.com", "letters"),
        ("mail.example.org", ""),
        ("sample.org", ""),
        ("unrelated.example", ""),
    ],
)
def test_look_alikes(domain: str, how: str) -> None:
    verdict = judged(f"From: <x@{domain}>", **OURS)
    found = {one.field for one in getattr(verdict, "evidence", ()) if one.kind == "lookalike"}
    assert found == ({how} if how else set())
    assert isinstance(verdict, Quarantine) is bool(how)


def test_look_alikes_are_seen_in_other_places_and_can_be_in_order() -> None:
    assert isinstance(judged(FROM, "Reply-To: x@examp1e.org", **OURS), Quarantine)
    assert isinstance(judged(FROM, sender="x@examp1e.org", **OURS), Quarantine)
    assert facts(judged("From: <x@example.net>", not_lookalikes=["example.net"], **OURS)) == set()
    assert facts(judged("From: <x@examp1e.org>", login=True, **OURS)) == set()


def test_facts_without_an_option() -> None:
    assert facts(judged(FROM, "Reply-To: x@other.example")) == {"reply-to"}
    assert facts(judged("From: <x@xn--pple-43d.example>")) == {"mixed-scripts"}


def test_exempt_clients_are_left_alone() -> None:
    assert judged(exempt=["192.0.2.0/24"], missing="reject") is None


@given(st.text(max_size=300))
def test_nothing_makes_it_fail(text: str) -> None:
    alike = LookAlikes(["example.org"], [])
    for function in (display_name, domains_in, plain_name, skeleton, has_mixed_scripts, alike.find):
        function(text)


@given(st.binary(max_size=300))
def test_no_header_makes_it_fail(header: bytes) -> None:
    built = build(Options.model_validate(OURS), services())
    assert isinstance(built, HeadersCheck)
    built.on_message(session(), transaction(), message(b"From: " + header + b"\r\n\r\n"))


def test_a_flood_of_names_is_bounded() -> None:
    verdict = judged("From: " + "=?utf-8?Q?a?= " * 5000 + "<x@client.example>")
    assert facts(verdict) <= {"long-line"}


def test_the_summary_says_what() -> None:
    assert HeaderResult("duplicate", "from", "2 times").summary() == "headers-check: duplicate from 2 times"


class TestContract(FilterContract):
    factory = FACTORY
    settings: Mapping[str, object] = {"missing": "reject", **OURS}

    def occasions(self) -> Iterable[Occasion]:
        return [
            Occasion(),
            Occasion(message=message("Subject: x\n\n")),
            Occasion(message=mail("From: <a@examp1e.org>")),
        ]


def test_a_name_in_a_comment_is_a_name() -> None:
    options = {"protected_names": ["Jane Doe"], "protected_domains": ["example.org"]}
    assert isinstance(judged("From: x@evil.example (Jane Doe)", **options), Quarantine)
