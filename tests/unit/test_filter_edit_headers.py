"""The filter edit-headers: conditions, edits, and the tag before the subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.header import decode_header, make_header
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from mailgate.envelope import Identity, Session, Transaction
from mailgate.filters.edit_headers import EditHeaders, Options, build
from mailgate.mailauth import sign_dkim, verify_dkim
from mailgate.mailauth.results import DkimResult, SpfResult
from mailgate.message import AddHeader, Content, Edit, HeaderField, Message, RemoveHeader, apply_edits
from mailgate.mime.subject import decoded, prefixed
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from tests.unit.arc_mail import MESSAGE, NOW, key_of, resolver

TAG: dict[str, object] = {"tag": "[EXT]"}


def asked(
    *rules: Mapping[str, object],
    mail: Transaction | None = None,
    found: Message | None = None,
    client: Session | None = None,
) -> Sequence[Any]:
    built = build(Options.model_validate({"rules": list(rules)}), services())
    assert isinstance(built, EditHeaders)
    return built.modify(client or session(), mail or transaction(), found or message())


def subject_of(edits: Sequence[Edit], found: Message | None = None) -> list[str]:
    header = apply_edits((found or message()).content.header, edits)
    return Message(Content(header + b"\r\n")).values("Subject")


def test_what_a_rule_does() -> None:
    rule: dict[str, object] = {
        "remove": ["X-Old"],
        "replace": {"X-Class": "a"},
        "add": {"X-One": "1", "X-Two": "2"},
        "tag": "[EXT]",
    }
    found = message("From: a@b.test\nX-Old: x\nX-Class: z\nX-Class: y\nSubject: hi\n\nbody\n")
    assert apply_edits(found.content.header, asked(rule, found=found)).decode().splitlines() == [
        "Subject: [EXT] hi",
        "X-One: 1",
        "X-Two: 2",
        "X-Class: a",
        "From: a@b.test",
    ]


def test_what_was_found_for_some_counts_for_those() -> None:
    mail = transaction(recipients=["a@one.test", "b@two.test", "c@one.test"])
    mail.evidence.add(SpfResult("pass", identity="mailfrom", domain="client.example"))
    failed = SpfResult("fail", identity="mailfrom", domain="client.example")
    mail.evidence.add_for(failed, lambda address: address.domain == "one.test")
    rules: list[dict[str, object]] = [
        {"facts": ["spf.fail"], "add": {"X-Fail": "1"}},
        {"facts": ["spf.pass"], "recipients": ["one.test"], "add": {"X-One": "1"}},
        {"without_facts": ["spf.fail"], "add": {"X-Well": "1"}},
    ]
    found = asked(*rules, mail=mail)
    assert [(list(map(str, one.recipients)), [edit.name for edit in one.edits]) for one in found] == [
        (["a@one.test", "c@one.test"], ["X-Fail", "X-One"]),
        (["b@two.test"], ["X-Well"]),
    ]


def evidence(*found: object) -> Transaction:
    mail = transaction()
    for one in found:
        mail.evidence.add(one)
    return mail


SPF = SpfResult("fail", identity="mailfrom", domain="client.example")


@pytest.mark.parametrize(
    ("condition", "applies"),
    [
        ({}, True),
        ({"external": True}, True),
        ({"external": False}, False),
        ({"facts": ["spf.fail", "dkim.pass"]}, True),
        ({"facts": ["spf"]}, True),
        ({"facts": ["dkim"]}, False),
        ({"facts": ["spf.f"]}, False),
        ({"facts": ["spf"], "without_facts": ["dkim.pass"]}, True),
        ({"without_facts": ["spf"]}, False),
        ({"senders": ["client.example"]}, True),
        ({"senders": ["Ann@client.example", "x.test"]}, True),
        ({"senders": ["*.client.example"]}, False),
        ({"recipients": ["example.org"]}, True),
        ({"recipients": ["alice@example.org"]}, False),
        ({"fields": {"subject": "HELL*"}}, True),
        ({"fields": {"Subject": "hello", "To": "*bob@*"}}, True),
        ({"fields": {"Subject": "hello", "Cc": "*"}}, False),
        ({"fields": {"Subject": "ello"}}, False),
        ({"facts": ["spf"], "senders": ["x.test"]}, False),
    ],
)
def test_conditions(condition: dict[str, object], applies: bool) -> None:
    assert bool(asked(condition | {"add": {"X": "y"}}, mail=evidence(SPF))) is applies


def test_all_recipients() -> None:
    mail = transaction(recipients=["a@example.org", "b@other.test"])
    assert asked({"recipients": ["example.org"]} | TAG, mail=mail) == []
    assert asked({"recipients": ["example.org", "other.test"]} | TAG, mail=mail)


def test_who_is_external() -> None:
    known = session(identity=Identity("192.0.2.1", "network"))
    assert asked({"external": True} | TAG, client=known) == []
    assert asked({"external": False} | TAG, client=known)
    known.evidence.add(SPF)
    assert asked({"facts": ["spf"]} | TAG, client=known)


def test_rules_see_what_came_before() -> None:
    edits = asked(TAG, {"fields": {"Subject": "[EXT]*"}, "tag": "[AGAIN]"}, TAG)
    assert subject_of(edits) == ["[AGAIN] [EXT] Hello"]
    mail = transaction(edits=[RemoveHeader("Subject"), AddHeader("Subject", "[EXT] other")])
    assert asked(TAG, mail=mail) == []


@pytest.mark.parametrize(
    ("value", "tag", "expected"),
    [
        (b"hi", "[EXT]", "[EXT] hi"),
        (b"[EXT] hi", "[EXT]", None),
        (b"Re: [ext] hi", "[EXT]", None),
        (b"=?utf-8?q?=5BEXT=5D?= hi", "[EXT]", None),
        (b"=?utf-8?q?gr=C3=BC=C3=9Fe?=", "[EXT]", "[EXT] =?utf-8?q?gr=C3=BC=C3=9Fe?="),
        ("grüße".encode(), "[EXT]", "[EXT] grüße"),
        (b"gr\xfc\xdfe", "[EXT]", "[EXT] grüße"),
        (b"", "[EXT]", "[EXT]"),
        (b" \r\n  folded", "[EXT]", "[EXT] folded"),
        (b"a" * 70, "[EXT]", "[EXT]\r\n " + "a" * 70),
        (b"one\r\n two", "[EXT]", "[EXT] one\r\n two"),
        (b"bad\rline\0", "[EXT]", "[EXT] bad line"),
    ],
)
def test_the_tag(value: bytes, tag: str, expected: str | None) -> None:
    assert prefixed(HeaderField(b"Subject: " + value + b"\r\n"), tag) == expected


@pytest.mark.parametrize("value", ["hi", "=?utf-8?q?gr=C3=BC=C3=9Fe?=", "grüße"])
def test_a_tag_beyond_ascii(value: str) -> None:
    text = prefixed(HeaderField(f"Subject: {value}\r\n".encode()), "[Außen]")
    assert text is not None
    assert text.startswith("=?utf-8?")
    assert text.endswith(value)
    assert decoded(text) == f"[Außen] {decoded(value)}"
    if value.isascii():
        assert str(make_header(decode_header(text))) == decoded(text)  # another reader
    assert prefixed(HeaderField(f"Subject: {text}\r\n".encode()), "[Außen]") is None


def test_no_subject() -> None:
    assert subject_of(asked(TAG, found=message("From: a@b.test\n\nbody\n")), message("From: a@b.test\n\nbody\n")) == [
        "[EXT]"
    ]


@given(st.binary(max_size=200), st.sampled_from(["[EXT]", "Außen"]))
@example(b"=?utf-8?q?=FF?= =?x?b?!?=", "[EXT]")
@example(b"=?utf-8?b?AAA?=", "[EXT]")
def test_any_subject_gives_one_field_and_is_tagged_once(value: bytes, tag: str) -> None:
    header = b"Subject: " + value.replace(b"\n", b"").replace(b"\r", b"") + b"\r\n"
    (field,) = Message(Content(header + b"\r\n")).fields
    text = prefixed(field, tag)
    if text is not None:
        again = HeaderField.of("Subject", text)
        assert prefixed(again, tag) is None


def test_long_values_are_decoded_in_part_only() -> None:
    words = "=?utf-8?q?a?= " * 100_000
    assert len(decoded(words)) < 20_000


def test_hostile_patterns_take_linear_time() -> None:
    found = message("Subject: " + "a" * 60_000 + "\n\nbody\n")
    assert asked({"fields": {"Subject": "*a*a*a*a*a*a*a*a*b"}} | TAG, found=found) == []


def test_a_signature_survives_fields_on_top() -> None:
    data = sign_dkim(MESSAGE, key_of("one.example"), domain="one.example", selector="s", now=NOW) + MESSAGE
    note: dict[str, object] = {"add": {"X-Note": "seen"}}
    for rule, result in ((note, "pass"), (TAG, "fail")):
        edits = asked(rule, found=message(data))
        header, _, body = data.partition(b"\r\n\r\n")
        new = apply_edits(header + b"\r\n", edits) + b"\r\n" + body
        assert [one.result for one in wait_for(verify_dkim(resolver(), new, now=NOW))] == [result]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"external": True},
        {"remove": ["X Y"]},
        {"remove": ["X-*"]},
        {"facts": ["Spf Fail"], "tag": "x"},
        {"tag": "a\nb"},
        {"tag": "x" * 101},
        {"senders": ["@"], "tag": "x"},
    ],
)
def test_mistakes_in_rules(rule: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        asked(rule)


def test_mistakes_that_show_when_it_is_built() -> None:
    with pytest.raises(ValueError, match="no rules"):
        asked()
    with pytest.raises(ValueError, match="not one header field"):
        asked({"add": {"X": "a\r\nY: b"}})


class TestContract(FilterContract):
    factory = FilterMaker("edit-headers", "mailgate.filters.edit_headers", "adds, replaces and removes header fields")
    settings: Mapping[str, object] = {
        "rules": [{"external": True, "tag": "[EXT]"}, {"facts": ["dkim.pass"], "add": {"X-Signed": "yes"}}]
    }

    def occasions(self) -> list[Occasion]:
        return [
            Occasion(),
            Occasion(transaction=evidence(DkimResult("pass", "client.example"))),
            Occasion(message=message(b"Subject: \xff\xfe\r\n\r\n\r\n")),
        ]
