"""SpamAssassin: scores by the preferences of recipients, what becomes of the header, and what happens without spamd."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Client, Identity
from mailgate.events import FilterFailed
from mailgate.filters.spamassassin import Options, SpamResult, build
from mailgate.filters.weights import parts_of
from mailgate.findings import Points
from mailgate.interfaces import FilterServices, IFilterFactory
from mailgate.message import AddHeader, Message, RemoveHeader, apply_edits, body_edits, edited_body, is_of_header
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Quarantine, Reject
from tests.unit.scanner_stand import HOSTILE, Gate, Scanners, Script, Wire, silent

_LENGTH = re.compile(rb"Content-length: (\d+)\r\n")
_USER = re.compile(rb"User: (.*)\r\n")
MAIL = b"Subject: Hello\r\nX-Spam-Flag: NO\r\nX-Old: 1\r\n\r\nbody\r\n"


def is_whole(octets: bytes) -> bool:
    head, end, body = octets.partition(b"\r\n\r\n")
    match = _LENGTH.search(head + b"\r\n")
    return bool(end) and match is not None and len(body) == int(match[1])


@pytest.mark.parametrize("take", ["score", "headers", "message"])
def test_content_that_ends_within_a_line_is_checked(take: str) -> None:
    scanners = Scanners(Spamd({"": 20.0}))
    (verdict,) = Gate(build, Options.model_validate({"take": take}), scanners).judge(b"Subject: x\r\n\r\nspam")
    assert isinstance(verdict, Reject)


class Spamd:
    """Gives each user a score, and everybody else that of "". `rewrite` is what becomes of a message."""

    def __init__(self, scores: dict[str, float], tests: bytes = b"A_TEST,B_TEST") -> None:
        self.scores = scores
        self.tests = tests
        self.users: list[str] = []
        self.commands: list[str] = []
        self.heard = b""

    def rewrite(self, octets: bytes) -> bytes:
        return octets

    def __call__(self, wire: Wire, octets: bytes) -> None:
        if not is_whole(octets) or not (octets.endswith(b"\n") or wire.is_told_the_end):  # it reads lines
            return
        head, _, self.heard = octets.partition(b"\r\n\r\n")
        match = _USER.search(head + b"\r\n")
        user = match[1].decode() if match else ""
        self.users.append(user)
        command = head.split()[0].decode()
        self.commands.append(command)
        score = self.scores.get(user, self.scores[""])
        body = self.tests
        if command != "SYMBOLS":
            body = self.rewrite(self.heard)
            if command == "HEADERS":
                body = body.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        spam = f"{score >= 5} ; {score:g} / 5.0"
        wire.say(f"SPAMD/1.1 0 EX_OK\r\nContent-length: {len(body)}\r\nSpam: {spam}\r\n\r\n".encode() + body)
        wire.close()


def gate(script: Script, on_failure: str = "defer", **options: Any) -> Gate:
    return Gate(build, Options.model_validate(options), Scanners(script), on_failure)


def header_of(stand: Gate, content: bytes) -> str:
    """The header section that goes on."""
    edits = [edit for edit in stand.transaction.edits if is_of_header(edit)]
    return apply_edits(message(content).content.header, edits).decode()


@pytest.mark.parametrize(
    ("score", "kind"), [(-1.0, Continue), (7.0, Continue), (9.9, Continue), (10.0, Quarantine), (15.0, Reject)]
)
def test_the_score_decides(score: float, kind: type) -> None:
    stand = gate(Spamd({"": score}), quarantine=10.0)
    (verdict,) = stand.judge(MAIL)
    assert isinstance(verdict, kind)
    if isinstance(verdict, Reject):
        assert str(verdict.reply) == "550 5.7.1 Refused: this message looks like spam"
        assert verdict.reason == "SpamAssassin: score 15 reaches 15"


def test_fields_tell_of_the_score_and_those_that_came_along_are_gone() -> None:
    stand = gate(Spamd({"": 7.3}))
    stand.judge(MAIL)
    assert header_of(stand, MAIL) == (
        "X-Spam-Flag: YES\r\nX-Spam-Level: *******\r\n"
        "X-Spam-Status: Yes, score=7.3 required=5 tests=A_TEST,B_TEST\r\nSubject: Hello\r\nX-Old: 1\r\n"
    )
    stand = gate(Spamd({"": -1.0}, b""))
    stand.judge(MAIL)
    assert (
        header_of(stand, MAIL) == "X-Spam-Status: No, score=-1 required=5 tests=none\r\nSubject: Hello\r\nX-Old: 1\r\n"
    )
    stand = gate(Spamd({"": 7.3}), fields=False)
    stand.judge(MAIL)
    assert stand.transaction.edits == []


def test_long_lists_of_tests_are_folded() -> None:
    tests = ",".join(f"A_TEST_WITH_A_NAME_{number}" for number in range(300))
    stand = gate(Spamd({"": 7.3}, tests.encode()))
    stand.judge(MAIL)
    lines = header_of(stand, MAIL).split("\r\n")
    assert max(map(len, lines)) < 100
    assert "A_TEST_WITH_A_NAME_199" in "".join(lines)
    assert "A_TEST_WITH_A_NAME_200" not in "".join(lines)


def test_facts_and_points_are_there_for_the_score() -> None:
    stand = gate(Spamd({"": 7.5}), points=0.5)
    stand.judge(MAIL)
    weights = {"spamassassin.spam": 1.0, "spamassassin.test.a_test": 2.0, "spamassassin.test.b_test": -1.0}
    assert dict(parts_of(stand.transaction.evidence, weights)).items() > weights.items()
    assert stand.transaction.evidence.get(Points) == Points(3.75, "SpamAssassin")
    stand = gate(Spamd({"": 7.5}))
    stand.judge(MAIL)
    assert dict(parts_of(stand.transaction.evidence, weights)) == weights


def test_spamd_is_told_of_the_client_and_the_sender() -> None:
    spamd = Spamd({"": 0.0})
    stand = gate(spamd)
    stand.judge(MAIL)
    assert spamd.heard.startswith(
        b"Return-Path: <ann@client.example>\r\n"
        b"Received: from client.example (client.example [192.0.2.1])\r\n\tby mx.example.org (mailgate) with ESMTP id "
    )
    assert spamd.heard.endswith(MAIL)
    client = Client(None, 0, "evil\r\nX: y")
    stand.judge(MAIL, who=session(client, helo="a b", identity=Identity("ann", "PLAIN")))
    assert b"Received: from unknown (unknown [127.0.0.1]) (authenticated)\r\n" in spamd.heard
    assert spamd.commands == ["SYMBOLS", "SYMBOLS"]


# -- users


@pytest.mark.parametrize(
    ("by", "users"),
    [
        ("none", ["site"]),
        ("address", ["bob@example.org", "cleo@example.org"]),
        ("local-part", ["bob", "cleo"]),
        ("domain", ["example.org"]),
    ],
)
def test_whose_preferences_count(by: str, users: list[str]) -> None:
    spamd = Spamd({"": 0.0})
    gate(spamd, user="site", user_by=by, max_users=2).judge(MAIL, ["Bob@example.org", "cleo@example.org"])
    assert sorted(spamd.users) == users


def test_more_users_than_there_may_be_are_none() -> None:
    spamd = Spamd({"": 0.0})
    stand = gate(spamd, user="site", user_by="address", max_users=2)
    stand.judge(MAIL, [f"user{number}@example.org" for number in range(3)])
    assert spamd.users == ["site"]
    stand.judge(MAIL, ["one@example.org"])
    assert spamd.users == ["site", "one@example.org"]


def test_each_recipient_has_a_verdict_of_its_own() -> None:
    options: dict[str, Any] = {"user_by": "local-part", "max_users": 5, "quarantine": 6.0}
    everybody = ["ann@example.org", "bob@example.org", "cleo@example.org"]
    stand = gate(Spamd({"ann": 20.0, "bob": 7.0, "": 0.0}), **options)
    verdicts = stand.judge(MAIL, everybody)
    assert [type(one) for one in verdicts] == [Reject, Quarantine, Continue]
    result = stand.transaction.evidence.get(SpamResult)
    assert result is not None
    assert result.user == "ann"
    told = {
        str(to): apply_edits(b"", [edit for edit in some.edits if isinstance(edit, AddHeader)]).partition(b" required")[
            0
        ]
        for some in stand.transaction.edits_for
        for to in some.recipients
    }
    assert told == {
        "bob@example.org": b"X-Spam-Flag: YES\r\nX-Spam-Level: *******\r\nX-Spam-Status: Yes, score=7",
        "cleo@example.org": b"X-Spam-Status: No, score=0",
        "ann@example.org": b"X-Spam-Flag: YES\r\nX-Spam-Level: " + b"*" * 20 + b"\r\nX-Spam-Status: Yes, score=20",
    }
    stand = gate(Spamd({"": 20.0}), **options)
    assert [type(one) for one in stand.judge(MAIL, everybody)] == [Reject] * 3
    stand = gate(Spamd({"ann": 20.0, "": 7.0}), **options)
    assert [type(one) for one in stand.judge(MAIL, everybody)] == [Reject, Quarantine, Quarantine]


def test_where_one_user_cannot_be_asked_about_nothing_is_decided() -> None:
    def script(wire: Wire, octets: bytes) -> None:
        if b"User: bob" in octets:
            wire.close()
        else:
            spamd(wire, octets)

    spamd = Spamd({"": 0.0})
    stand = gate(script, user_by="local-part", max_users=5)
    verdicts = stand.judge(MAIL, ["ann@example.org", "bob@example.org"])
    assert [type(one) for one in verdicts] == [Defer, Defer]
    assert stand.scanners.open == 0


def test_of_whom_nothing_was_found_nobody_says_it_either() -> None:
    stand = gate(Spamd({"ann": 7.0, "": 0.0}), user_by="local-part", max_users=5)
    stand.judge(MAIL, ["ann@example.org", "bob@example.org"])
    mail = transaction(recipients=["ann@example.org", "cleo@example.org"])  # whom another filter has accepted before
    mail.evidence.extend(stand.transaction.evidence)
    edits = wait_for(stand.filter.modify(session(), mail, message(b"X-Spam-Flag: NO\r\n" + MAIL)))
    assert [list(map(str, one.recipients)) for one in edits] == [["ann@example.org"], ["cleo@example.org"]]
    assert edits[-1].edits == (RemoveHeader("X-Spam-Flag"),)


# -- what SpamAssassin writes


class Rewriter(Spamd):
    """Adds fields below those that it was shown first, changes the subject, and ends lines as unix does."""

    body = b""

    def rewrite(self, octets: bytes) -> bytes:
        header, _, body = octets.partition(b"\r\n\r\n")
        header = header.replace(b"Subject: Hello", b"Subject: [SPAM] Hello").replace(b"X-Spam-Flag: NO\r\n", b"")
        fields = b"X-Spam-Status: Yes,\n\tscore=7\nX-Spam-Checker: x\n"
        return fields + header.replace(b"\r\n", b"\n") + b"\r\n\r\n" + (self.body or body.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("take", ["headers", "message"])
def test_the_header_that_spamassassin_writes(take: str) -> None:
    spamd = Rewriter({"": 7.0})
    stand = gate(spamd, take=take)
    (verdict,) = stand.judge(MAIL)
    assert isinstance(verdict, Continue)
    assert spamd.commands == ["HEADERS" if take == "headers" else "PROCESS"]
    assert header_of(stand, MAIL) == (
        "X-Spam-Status: Yes,\r\n\tscore=7\r\nX-Spam-Checker: x\r\nSubject: [SPAM] Hello\r\nX-Old: 1\r\n"
    )
    assert body_edits(stand.transaction.edits) == []


def test_the_body_that_spamassassin_writes() -> None:
    spamd = Rewriter({"": 7.0})
    spamd.body = b"This is spam:\n\nbody\n"
    stand = gate(spamd, take="message")
    stand.judge(MAIL)
    content = Message(message(MAIL).content).content
    assert b"".join(edited_body(content, stand.transaction.edits)) == b"This is spam:\r\n\r\nbody\r\n"


def test_a_body_that_no_mail_can_carry_is_not_taken_and_the_score_is_told() -> None:
    spamd = Rewriter({"": 7.0})
    spamd.body = b"x" * 2000
    stand = gate(spamd, take="message")
    (verdict,) = stand.judge(MAIL)
    assert isinstance(verdict, Continue)
    assert body_edits(stand.transaction.edits) == []
    assert "X-Spam-Flag: YES\r\n" in header_of(stand, MAIL)


# -- when it does not work


@pytest.mark.parametrize("on_failure", ["defer", "continue"])
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_where_spamd_does_not_work_the_configuration_decides(name: str, on_failure: str) -> None:
    stand = gate(HOSTILE[name], on_failure)
    (verdict,) = stand.judge(MAIL)
    assert type(verdict) is (Defer if on_failure == "defer" else Continue)
    (event,) = stand.events.of(FilterFailed)
    assert event.error.startswith("ScannerError: 127.0.0.1:783: ")
    assert stand.scanners.open == 0
    assert not stand.scanners.clock.getDelayedCalls()


@pytest.mark.parametrize("word", ["continue", "defer", "quarantine", "reject"])
def test_what_is_too_large_is_not_checked(word: str) -> None:
    spamd = Spamd({"": 0.0})
    stand = gate(spamd, max_size="1KiB", oversize=word)
    (verdict,) = stand.judge(MAIL + bytes(1024))
    kinds = {"continue": Continue, "defer": Defer, "quarantine": Quarantine, "reject": Reject}
    assert type(verdict) is kinds[word]
    assert spamd.commands == []
    if word in ("continue", "quarantine"):
        assert "X-Spam" not in header_of(stand, MAIL)


@pytest.mark.parametrize(
    "options",
    [{"servers": []}, {"reject": True}, {"reject": "5"}, {"take": "all"}, {"max_users": 0}, {"max_users": 21}],
)
def test_mistakes_in_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


def test_thresholds_in_no_order() -> None:
    with pytest.raises(ValueError, match="reject must not be lower than quarantine"):
        build(Options(reject=5.0, quarantine=6.0), services())
    build(Options(reject=False, quarantine=6.0), services())


def test_a_user_that_is_none() -> None:
    with pytest.raises(ValueError, match="user: "):
        build(Options(user="a\r\nb"), services())
    spamd = Spamd({"": 0.0})
    stand = gate(spamd, user="site", user_by="local-part", max_users=5)
    stand.judge(MAIL, ['"../etc"@example.org', '"a b"@example.org', "bob@example.org"])
    assert sorted(spamd.users) == ["bob", "site"]


class TestContract(FilterContract):
    factory: ClassVar[IFilterFactory] = FilterMaker("spamassassin", "mailgate.filters.spamassassin", "x")  # type: ignore[misc]
    settings: ClassVar[dict[str, object]] = {"points": 1.0}  # type: ignore[misc]

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(message=message(MAIL))]

    def make_services(self, clock: Clock, **silent_parts: Any) -> FilterServices:
        return services(clock=Scanners(silent if silent_parts else Spamd({"": 20.0}), clock), **silent_parts)
