"""rspamd: its actions and header fields, what it is told, and what happens where it does not work."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Client, Identity, Tls
from mailgate.events import BreakerChanged, FilterFailed
from mailgate.filters.rspamd import Options, RspamdResult, build
from mailgate.filters.weights import parts_of
from mailgate.findings import Points
from mailgate.interfaces import FilterServices, IFilterFactory
from mailgate.message import apply_edits
from mailgate.pipeline.breaker import FAILURES, PAUSE
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session
from mailgate.verdict import Continue, Defer, Discard, Quarantine, Reject, Verdict
from tests.unit.scanner_stand import HOSTILE, Gate, Scanners, Script, Wire, http_answer, nobody, silent, split_request

MAIL = b"Received: a\r\nReceived: b\r\nX-Spam: Yes\r\nSubject: Hello\r\nX-Old: 1\r\n\r\nbody\r\n"


def says(action: str = "no action", score: float = 1.0, **more: Any) -> Script:
    return http_answer({"action": action, "score": score, "required_score": 15.0, **more})


def gate(script: Script, on_failure: str = "defer", **options: Any) -> Gate:
    return Gate(build, Options.model_validate(options), Scanners(script), on_failure)


def judged(script: Script, **options: Any) -> Verdict:
    (verdict,) = gate(script, **options).judge(MAIL)
    return verdict


def header_after(script: Script, **options: Any) -> str:
    stand = gate(script, **options)
    stand.judge(MAIL)
    return apply_edits(message(MAIL).content.header, stand.transaction.edits).decode()


@pytest.mark.parametrize(
    ("action", "options", "kind"),
    [
        ("no action", {}, Continue),
        ("greylist", {}, Continue),
        ("greylist", {"greylist": "defer"}, Defer),
        ("add header", {}, Continue),
        ("rewrite subject", {}, Continue),
        ("soft reject", {}, Defer),
        ("soft reject", {"soft_reject": "continue"}, Continue),
        ("reject", {}, Reject),
        ("reject", {"reject": "quarantine"}, Quarantine),
        ("reject", {"reject": "discard"}, Discard),
        ("reject", {"reject": "continue"}, Continue),
        ("quarantine", {}, Quarantine),
        ("discard", {}, Discard),
        ("an action of the future", {}, Continue),
    ],
)
def test_actions(action: str, options: dict[str, Any], kind: type) -> None:
    assert type(judged(says(action), **options)) is kind


def test_replies() -> None:
    refused = judged(says("reject", 20.0))
    assert isinstance(refused, Reject)
    assert str(refused.reply) == "550 5.7.1 Refused: this message looks like spam"
    assert refused.reason == "rspamd says reject: score 20 of 15"
    refused = judged(says("reject", messages={"smtp_message": "Go\r\n250 OK " + "away " * 100}))
    assert isinstance(refused, Reject)
    assert refused.reply.to_bytes().startswith(b"550 5.7.1 Go 250 OK away ")
    assert len(refused.reply.to_bytes()) < 250
    deferred = judged(says("soft reject"))
    assert isinstance(deferred, Defer)
    assert str(deferred.reply) == "451 4.7.1 Try again later"


def test_header_fields() -> None:
    answer = {
        "add_headers": {
            "X-A": "first\nsecond",
            "X-B": {"value": "b", "order": -1},
            "Bad Name": "x",
            "X-Empty": " \n ",
            "X-C": "c\x00\r\nY: z",
        },
        "remove_headers": {"X-Old": 0, "Received": -1, "X-Not-There": 0},
    }
    assert header_after(says("add header", milter=answer)) == (
        "X-Spam: Yes\r\nX-A: first\r\n\tsecond\r\nX-C: c?\r\n\tY: z\r\nReceived: a\r\nSubject: Hello\r\nX-B: b\r\n"
    )
    assert header_after(says("no action", milter=answer), headers=False, spam_field="") == MAIL.decode().partition(
        "\r\n\r\n"
    )[0] + ("\r\n")
    assert "X-Spam" not in header_after(says("no action"))


@pytest.mark.parametrize(
    ("number", "left"), [(0, ""), (1, "Received: b\r\n"), (2, "Received: a\r\n"), (3, "Received: a\r\nReceived: b\r\n")]
)
def test_which_field_is_removed(number: int, left: str) -> None:
    header = header_after(says(milter={"remove_headers": {"received": number}}))
    assert header == f"{left}Subject: Hello\r\nX-Old: 1\r\n"


@pytest.mark.parametrize(
    ("subject", "field"),
    [
        ("[spam] Hello", "[spam] Hello"),
        ("a\r\nX: y", "a X: y"),
        ("[spam] Grüße", "=?utf-8?q?=5Bspam=5D_Gr=C3=BC=C3=9Fe?="),
    ],
)
def test_the_subject_is_rewritten(subject: str, field: str) -> None:
    header = header_after(says("rewrite subject", subject=subject))
    assert f"Subject: {field}\r\n" in header
    assert header.lower().count("subject:") == 1
    assert "Subject: Hello\r\n" in header_after(says("no action", subject=subject))


def test_signatures_for_our_own_mail_are_added() -> None:
    assert header_after(says("no action", 1.0, **{"dkim-signature": "v=1; a=rsa-sha256;\r\n\tb=x"})).startswith(
        "DKIM-Signature: v=1; a=rsa-sha256;\r\n\tb=x\r\nReceived: a\r\n"
    )


def test_facts_and_points_are_there_for_the_score() -> None:
    symbols = {
        "BAYES_SPAM": {"score": 3.0},
        "R.ODD NAME": {"score": 1.0},
        **{f"S{n}": {"score": 0.1} for n in range(99)},
    }
    stand = gate(says("add header", 10.0, symbols=symbols), points=0.5)
    stand.judge(MAIL)
    weights = {"rspamd.add-header": 1.0, "rspamd.symbol.bayes_spam": 2.0, "rspamd.symbol.r-odd-name": 0.5}
    assert dict(parts_of(stand.transaction.evidence, weights)).items() > weights.items()
    assert stand.transaction.evidence.get(Points) == Points(5.0, "rspamd")
    assert len(stand.transaction.evidence) == 52
    result = stand.transaction.evidence.get(RspamdResult)
    assert result is not None
    assert result.summary().startswith("rspamd=add header 10/15 BAYES_SPAM(3),R.ODD NAME(1),S0(0.1)")
    assert len(result.summary()) < 300


# -- what it is told


def asked_with(
    who: Any = None, recipients: Iterable[str] = ("bob@example.org",), **options: Any
) -> list[tuple[str, str]]:
    stand = gate(says(), **options)
    stand.judge(MAIL, list(recipients), who)
    line, fields, body = split_request(bytes(stand.scanners.wires[0].heard))
    assert line == "POST /checkv2 HTTP/1.1"
    assert body == MAIL
    return fields


def test_what_rspamd_is_told(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    who = session(identity=Identity("ann", "PLAIN"), tls=Tls(version="TLSv1.3", cipher="AES"))
    fields = asked_with(who, settings_id="strict", password_file=tmp_path / "password")
    told = dict(fields)
    assert told["ip"] == "192.0.2.1"
    assert told["helo"] == told["hostname"] == "client.example"
    assert told["from"] == "ann@client.example"
    assert told["rcpt"] == told["deliver-to"] == "bob@example.org"
    assert (told["user"], told["tls-version"], told["tls-cipher"]) == ("ann", "TLSv1.3", "AES")
    assert (told["settings-id"], told["password"]) == ("strict", "secret")
    assert (told["mta-name"], told["queue-id"]) == ("mx.example.org", "01TESTMESSAGE000")


def test_no_client_can_add_to_what_it_is_told() -> None:
    who = session(Client(None, 0, "a\r\nIP: 127.0.0.1"), helo="x\r\nUser: root\r\n\r\n")
    fields = asked_with(who)
    assert {name for name, _ in fields} >= {"helo", "hostname"}
    assert not {"user", "ip"} & {name for name, _ in fields}
    fields = asked_with(recipients=["bob@example.org", "cleo@example.org"])
    assert [value for name, value in fields if name == "rcpt"] == ["bob@example.org", "cleo@example.org"]
    assert "deliver-to" not in dict(fields)


def by_recipient(wire: Wire, octets: bytes) -> None:
    """Refuses mail for strict.example, defers that for slow.example, takes the rest."""
    actions = {b"@strict.example": ("reject", 20.0), b"@slow.example": ("soft reject", 5.0)}
    action, score = next((one for mark, one in actions.items() if mark in octets), ("no action", 0.0))
    says(action, score)(wire, octets)


@pytest.mark.parametrize(
    ("domains", "kinds"),
    [
        (["example.org", "strict.example"], [Continue, Reject]),
        (["strict.example", "strict.example"], [Reject, Reject]),
        (["example.org", "slow.example"], [Continue, Defer]),
        (["strict.example", "slow.example"], [Reject, Defer]),
    ],
)
def test_each_domain_has_a_verdict_of_its_own(domains: list[str], kinds: list[type]) -> None:
    stand = gate(by_recipient, per_recipient=True)
    recipients = [f"user{number}@{domain}" for number, domain in enumerate(domains)]
    assert [type(one) for one in stand.judge(MAIL, recipients)] == kinds
    assert len(stand.scanners.wires) == len(set(domains))


def test_each_domain_has_fields_of_its_own() -> None:
    def script(wire: Wire, octets: bytes) -> None:
        marked = {"action": "add header", "score": 9.0, "milter": {"add_headers": {"X-Score": "9"}}}
        plain = {"action": "no action", "score": 1.0, "milter": {"add_headers": {"X-Score": "1"}}}
        http_answer(marked if b"@strict.example" in octets else plain)(wire, octets)

    stand = gate(script, per_recipient=True)
    stand.judge(b"X-Spam: No\r\n" + MAIL, ["a@example.org", "b@strict.example", "c@example.org"])
    assert stand.transaction.edits == []
    header = message(b"X-Spam: No\r\nTo: x\r\n\r\n").content.header
    left = {
        str(one): apply_edits(header, some.edits) for some in stand.transaction.edits_for for one in some.recipients
    }
    plain = b"X-Score: 1\r\nTo: x\r\n"
    assert left == {
        "a@example.org": plain,
        "b@strict.example": b"X-Spam: Yes\r\nX-Score: 9\r\nTo: x\r\n",
        "c@example.org": plain,
    }


def test_more_domains_than_there_may_be_are_asked_about_together() -> None:
    stand = gate(by_recipient, per_recipient=True, max_domains=2)
    recipients = ["a@one.example", "a@two.example", "a@strict.example"]
    assert [type(one) for one in stand.judge(MAIL, recipients)] == [Reject] * 3
    assert len(stand.scanners.wires) == 1


# -- when it does not work


def chunked(wire: Wire, octets: bytes) -> None:
    """Half of an answer in chunks."""
    if b"\r\n\r\n" in octets:
        wire.say(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"action": "no action", "score": 1')
        wire.close()


def too_early(wire: Wire, octets: bytes) -> None:
    """A whole answer as soon as something came."""
    if octets:
        body = json.dumps({"action": "no action", "score": 0.0}).encode()
        wire.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


FAULTS: dict[str, Script] = {
    **HOSTILE,
    "is a web server": http_answer(b"<html>Welcome</html>"),
    "refuses us": http_answer({"error": "Unauthorized"}, 403),
    "is in trouble": http_answer(b"", 500),
    "says too much": http_answer(b" " * (1024 * 1024 + 1)),
    "says half": chunked,
    "redirects": http_answer(b"", 302),
}


@pytest.mark.parametrize("on_failure", ["defer", "continue", "quarantine"])
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_where_rspamd_does_not_work_the_configuration_decides(name: str, on_failure: str) -> None:
    stand = gate(FAULTS[name], on_failure)
    (verdict,) = stand.judge(MAIL)
    assert type(verdict) is {"defer": Defer, "continue": Continue, "quarantine": Quarantine}[on_failure]
    (event,) = stand.events.of(FilterFailed)
    assert event.error.startswith("ScannerError: 127.0.0.1:11333: ")
    assert stand.scanners.open == 0
    assert not stand.scanners.clock.getDelayedCalls()


def test_an_answer_by_the_octet_is_one() -> None:
    def script(wire: Wire, octets: bytes) -> None:
        body = json.dumps({"action": "reject", "score": 20.0}).encode()
        if octets.endswith(b"body\r\n"):
            for octet in b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body:
                wire.say(bytes([octet]))

    assert isinstance(judged(script), Reject)


def test_an_answer_before_everything_was_sent_is_none() -> None:
    scanners = Scanners(too_early, room=1000)
    stand = Gate(build, Options(), scanners)
    (verdict,) = stand.judge(MAIL + bytes(5_000_000))
    assert isinstance(verdict, Defer)
    assert scanners.open == 0
    assert len(scanners.wires[0].heard) < 1_000_000


def test_the_breaker_opens_and_closes() -> None:
    stand = gate(nobody)
    for _ in range(FAILURES + 3):
        assert isinstance(stand.judge(MAIL)[0], Defer)
    assert len(stand.scanners.asked) == FAILURES
    stand.scanners.script = says("reject")
    stand.scanners.clock.advance(PAUSE)
    assert isinstance(stand.judge(MAIL)[0], Reject)
    assert [event.is_open for event in stand.events.of(BreakerChanged)] == [True, False]


def test_the_next_server_answers_where_the_first_does_not() -> None:
    scanners = Scanners(HOSTILE["is killed"], others={"/run/rspamd": says("reject")})
    stand = Gate(build, Options(servers=["127.0.0.1", "unix:/run/rspamd"]), scanners)
    assert isinstance(stand.judge(MAIL)[0], Reject)
    assert scanners.asked == ["127.0.0.1:11333", "/run/rspamd"]


@pytest.mark.parametrize("word", ["continue", "defer", "quarantine", "reject"])
def test_what_is_too_large_is_not_checked(word: str) -> None:
    stand = gate(says(), max_size="1KiB", oversize=word)
    (verdict,) = stand.judge(MAIL + bytes(1024))
    kinds = {"continue": Continue, "defer": Defer, "quarantine": Quarantine, "reject": Reject}
    assert type(verdict) is kinds[word]
    assert stand.scanners.asked == []


@pytest.mark.parametrize(
    "options", [{"servers": []}, {"reject": "drop"}, {"spam_field": "X Spam"}, {"max_domains": 0}, {"points": "x"}]
)
def test_mistakes_in_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


def test_a_password_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        build(Options(password_file=tmp_path / "gone"), services())


class TestContract(FilterContract):
    factory: ClassVar[IFilterFactory] = FilterMaker("rspamd", "mailgate.filters.rspamd", "x")  # type: ignore[misc]
    settings: ClassVar[dict[str, object]] = {"points": 1.0}  # type: ignore[misc]

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(message=message(MAIL))]

    def make_services(self, clock: Clock, **silent_parts: Any) -> FilterServices:
        return services(clock=Scanners(silent if silent_parts else says("reject"), clock), **silent_parts)
