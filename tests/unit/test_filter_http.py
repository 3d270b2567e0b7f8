"""A service of one's own: what it is told, what it may say, and what happens where it does not work."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Client, Identity, Session, Tls
from mailgate.events import FilterFailed
from mailgate.filters.http import Options, build
from mailgate.filters.weights import parts_of
from mailgate.findings import Points
from mailgate.interfaces import FilterServices, IFilterFactory
from mailgate.message import apply_edits
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session
from mailgate.verdict import Accept, Continue, Defer, Discard, Quarantine, Reject, Verdict
from tests.unit.scanner_stand import HOSTILE, Gate, Scanners, Script, http_answer, silent, split_request

URL = "http://127.0.0.1:8080/judge?key=1"
MAIL = b"Subject: Hello\r\nX-Odd: \xff\r\n\r\nbody\r\n"


def says(verdict: str = "continue", **more: Any) -> Script:
    return http_answer({"verdict": verdict, **more})


def gate(script: Script, on_failure: str = "defer", **options: Any) -> Gate:
    return Gate(build, Options.model_validate({"urls": [URL]} | options), Scanners(script), on_failure)


def judged(script: Script, recipients: Iterable[str] = ("bob@example.org",), **options: Any) -> list[Verdict]:
    return gate(script, **options).judge(MAIL, list(recipients))


@pytest.mark.parametrize(
    ("word", "kind"),
    [("continue", Continue), ("reject", Reject), ("defer", Defer), ("quarantine", Quarantine), ("discard", Discard)],
)
def test_verdicts(word: str, kind: type) -> None:
    (verdict,) = judged(says(word))
    assert type(verdict) is kind


def test_accept_skips_the_rest_of_the_stage() -> None:
    stand = gate(says("accept", reason="known"))
    assert isinstance(stand.judge(MAIL)[0], Continue)
    assert stand.transaction.trace[0].verdict == "accept"
    assert Accept("known").reason == stand.transaction.trace[0].reason


def test_accept_for_some_skips_nothing_of_the_others() -> None:
    both = ["bob@example.org", "eve@example.org"]
    stand = gate(says("accept", recipients=both[:1]))
    assert stand.judge(MAIL, both) == [Continue(), Continue()]
    assert stand.transaction.trace[0].verdict == "continue"


def test_two_spellings_of_a_recipient_share_what_is_said_of_one() -> None:
    three = ["bob@example.org", "BOB@example.org", "eve@example.org"]
    verdicts = judged(says("quarantine", recipients=["bob@example.org"]), three)
    assert [type(one) for one in verdicts] == [Quarantine, Quarantine, Continue]


def test_the_service_is_told_all_fields() -> None:
    fields = b"".join(b"X-%d: x\r\n" % number for number in range(3000))
    _, told = asked_with(mail=fields + MAIL)
    assert ["Subject", "Hello"] in told["headers"]


def test_replies_and_reasons() -> None:
    (refused,) = judged(says("reject", text="No, thank\r\n250 you", reason="on the list"))
    assert isinstance(refused, Reject)
    assert (str(refused.reply), refused.reason) == ("550 5.7.1 No, thank 250 you", "on the list")
    (refused,) = judged(says("reject"))
    assert isinstance(refused, Reject)
    assert (str(refused.reply), refused.reason) == ("550 5.7.1 Refused by policy", "the service says reject")
    (deferred,) = judged(says("defer"))
    assert isinstance(deferred, Defer)
    assert str(deferred.reply) == "451 4.7.1 Try again later"


def test_recipients() -> None:
    both = ["Bob@example.org", "cleo@example.org"]
    verdicts = judged(says("quarantine", recipients=["bob@example.org"]), both)
    assert [type(one) for one in verdicts] == [Quarantine, Continue]
    verdicts = judged(says("quarantine", recipients=both), both)
    assert [type(one) for one in verdicts] == [Quarantine, Quarantine]
    for wrong in (["eve@example.org"], ["bob"], [""]):
        assert [type(one) for one in judged(says("quarantine", recipients=wrong), both)] == [Defer, Defer]


def test_fields_facts_and_points() -> None:
    fields = [{"name": "X-A", "value": "1"}, {"name": "X-B", "value": "2\r\n\t3"}]
    stand = gate(says(add_headers=fields, facts=["campaign.summer"], points=2.5))
    stand.judge(MAIL)
    header = apply_edits(message(MAIL).content.header, stand.transaction.edits)
    assert header.startswith(b"X-A: 1\r\nX-B: 2\r\n\t3\r\nSubject: Hello\r\n")
    weights = {"http.continue": 1.0, "http.fact.campaign": 2.0}
    found = dict(parts_of(stand.transaction.evidence, weights)).items()
    assert found > {"http.continue": 1.0, "http.fact.campaign.summer": 2.0}.items()
    assert stand.transaction.evidence.get(Points) == Points(2.5, "the service says continue")


def asked_with(who: Session | None = None, mail: bytes = MAIL, **options: Any) -> tuple[dict[str, str], Any]:
    stand = gate(says(), **options)
    stand.judge(mail, who=who)
    line, fields, body = split_request(bytes(stand.scanners.wires[0].heard))
    assert line == "POST /judge?key=1 HTTP/1.1"
    return dict(fields), json.loads(body)


def test_what_the_service_is_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    who = session(identity=Identity("ann", "PLAIN"), tls=Tls(version="TLSv1.3", cipher="AES"))
    fields, told = asked_with(who, token_file=tmp_path / "token")
    assert (fields["authorization"], fields["content-type"]) == ("Bearer abc", "application/json")
    assert fields["host"] == "127.0.0.1:8080"
    assert told == {
        "version": 1,
        "gateway": "mx.example.org",
        "session": {
            "id": "01TESTSESSION000",
            "listener": "mx",
            "role": "inbound",
            "protocol": "ESMTP",
            "helo": "client.example",
            "client": {"address": "192.0.2.1", "port": 40000, "name": "client.example"},
            "user": "ann",
            "tls": {"version": "TLSv1.3", "cipher": "AES"},
        },
        "envelope": {
            "id": "01TESTMESSAGE000",
            "sender": "ann@client.example",
            "recipients": ["bob@example.org"],
            "size": len(MAIL),
        },
        "headers": [["Subject", "Hello"], ["X-Odd", "\ufffd"]],
        "facts": [],
        "content": None,
    }
    _, told = asked_with(session(Client(None)))
    assert told["session"]["client"]["address"] is None
    assert told["session"]["user"] is None
    assert told["session"]["tls"] is None


def test_the_content_goes_along_where_it_is_wanted() -> None:
    _, told = asked_with(mail=MAIL + bytes(300_000), max_size="1MiB", content="base64")
    assert b64decode(told["content"]) == MAIL + bytes(300_000)


@pytest.mark.parametrize("word", ["without", "continue", "defer", "quarantine", "reject"])
def test_what_is_too_large_to_go_along(word: str) -> None:
    stand = gate(says(), content="base64", max_size="1KiB", oversize=word)
    (verdict,) = stand.judge(MAIL + bytes(1024))
    kinds = {"defer": Defer, "quarantine": Quarantine, "reject": Reject}
    assert type(verdict) is kinds.get(word, Continue)
    assert bool(stand.scanners.asked) == (word == "without")
    if word == "without":
        assert json.loads(split_request(bytes(stand.scanners.wires[0].heard))[2])["content"] is None


FAULTS: dict[str, Script] = {
    **HOSTILE,
    "is a web server": http_answer(b"<html>Welcome</html>"),
    "says nothing": http_answer(b"", 204),
    "is in trouble": http_answer({"verdict": "continue"}, 500),
    "makes a mistake": says("continue", reasons="x"),
    "says another word": says("maybe"),
    "says half": http_answer(b'{"verdict": "continue"'),
    "says it twice": http_answer(b'{"verdict": "continue"}{"verdict": "continue"}'),
    "adds two fields at once": says(add_headers=[{"name": "X", "value": "1\r\nBcc: eve@example.net"}]),
}


@pytest.mark.parametrize("on_failure", ["defer", "continue"])
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_where_the_service_does_not_work_the_configuration_decides(name: str, on_failure: str) -> None:
    stand = gate(FAULTS[name], on_failure)
    (verdict,) = stand.judge(MAIL)
    assert type(verdict) is (Defer if on_failure == "defer" else Continue)
    assert stand.transaction.edits == []
    (event,) = stand.events.of(FilterFailed)
    assert event.error.startswith("ScannerError: http://127.0.0.1:8080 (number 1): ")
    assert "key=1" not in event.error
    assert stand.scanners.open == 0
    assert not stand.scanners.clock.getDelayedCalls()


def test_the_next_service_answers_where_the_first_does_not() -> None:
    scanners = Scanners(HOSTILE["refuses"], others={"127.0.0.1:8081": says("reject")})
    urls = ["http://127.0.0.1:8080/", "http://127.0.0.1:8081/"]
    stand = Gate(build, Options(urls=urls), scanners)
    assert isinstance(stand.judge(MAIL)[0], Reject)
    assert scanners.asked == ["127.0.0.1:8080", "127.0.0.1:8081"]


def test_https_is_spoken_as_such() -> None:
    stand = gate(silent, urls=["https://127.0.0.1/judge"])
    assert isinstance(stand.judge(MAIL)[0], Defer)
    assert stand.scanners.asked == ["127.0.0.1:443"]
    assert stand.scanners.wires[0].heard.startswith(b"\x16\x03")  # a handshake of TLS, and no secret in clear text


@pytest.mark.parametrize(
    "options", [{}, {"urls": []}, {"urls": ["ftp://x"]}, {"urls": [URL], "content": "raw"}, {"urls": [URL], "more": 1}]
)
def test_mistakes_in_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


def test_a_secret_is_not_sent_in_clear_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    with pytest.raises(ValueError, match="in clear text"):
        build(Options(urls=["http://judge.example/"], token_file=tmp_path / "token"), services())
    build(Options(urls=["https://judge.example/"], token_file=tmp_path / "token"), services())


class TestContract(FilterContract):
    factory: ClassVar[IFilterFactory] = FilterMaker("http", "mailgate.filters.http", "x")  # type: ignore[misc]
    settings: ClassVar[dict[str, object]] = {"urls": [URL], "content": "base64"}  # type: ignore[misc]

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(message=message(MAIL))]

    def make_services(self, clock: Clock, **silent_parts: Any) -> FilterServices:
        script = silent if silent_parts else says("reject", reason="private", points=1.0)
        return services(clock=Scanners(script, clock), **silent_parts)
