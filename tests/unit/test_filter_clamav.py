"""ClamAV's clamd: what is found, what is too large, and what happens when clamd does not work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.events import BreakerChanged, FilterFailed
from mailgate.filters.clamav import Options, VirusResult, build
from mailgate.interfaces import FilterServices, IFilterFactory
from mailgate.message import Content, Message, apply_edits
from mailgate.pipeline.breaker import FAILURES, PAUSE
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Discard, Quarantine, Reject, Verdict
from tests.unit.scanner_stand import HOSTILE, Gate, Scanners, Script, Wire, nobody, silent

VIRUS = b"Subject: Hello\r\n\r\nvirus\r\n"
SUSPECT = b"Subject: Hello\r\n\r\nsuspect\r\n"


def says(answer: bytes) -> Script:
    """Answers a whole stream with this, and closes."""

    def script(wire: Wire, octets: bytes) -> None:
        if octets.endswith(bytes(4)):
            wire.say(answer)
            wire.close()

    return script


def clamd(wire: Wire, octets: bytes) -> None:
    """Finds what has "virus" in it, and suspects "suspect"; one stream after another."""
    begin, _, stream = octets.rpartition(b"zINSTREAM\0")
    if octets.startswith(b"zIDSESSION\0") and stream.endswith(bytes(4)):
        name = b"Win.Test-1 FOUND" if b"virus" in stream else b"OK"
        found = b"Heuristics.Test FOUND" if b"suspect" in stream else name
        wire.say(b"%d: stream: %s\0" % (begin.count(b"zINSTREAM\0") + 1, found))


def gate(script: Script = clamd, on_failure: str = "defer", **options: Any) -> Gate:
    return Gate(build, Options.model_validate(options), Scanners(script), on_failure)


def judged(script: Script = clamd, content: bytes | None = None, **options: Any) -> Verdict:
    (verdict,) = gate(script, **options).judge(content)
    return verdict


def test_a_virus_is_refused_and_the_rest_goes_on() -> None:
    verdict = judged(content=VIRUS)
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.7.1 Refused: this message contains a virus: Win.Test-1"
    assert verdict.reason == "ClamAV has found Win.Test-1"
    assert verdict.evidence == (VirusResult("Win.Test-1"),)
    assert verdict.evidence[0].facts() == ("clamav.found", "clamav.found.win-test-1")
    assert isinstance(judged(), Continue)


@pytest.mark.parametrize(
    ("word", "kind"), [("reject", Reject), ("defer", Defer), ("quarantine", Quarantine), ("discard", Discard)]
)
def test_what_is_done_with_a_virus(word: str, kind: type) -> None:
    assert isinstance(judged(content=VIRUS, found=word), kind)


def test_a_suspicion_is_told_and_a_field_that_came_along_is_removed() -> None:
    stand = gate()
    content = SUSPECT.replace(b"Subject", b"X-Virus-Status: Clean\r\nSubject")
    (verdict,) = stand.judge(content)
    assert isinstance(verdict, Continue)
    header = apply_edits(Message(Content(content)).content.header, stand.transaction.edits)
    assert header == b"X-Virus-Status: Suspected (Heuristics.Test)\r\nSubject: Hello\r\n"
    assert isinstance(judged(content=SUSPECT, suspected="reject"), Reject)
    assert isinstance(judged(content=SUSPECT, suspicions=[]), Reject)
    assert gate().judge(b"Subject: x\r\n\r\n") == [Continue()]


@pytest.mark.parametrize("found_as_body", [True, False])
@pytest.mark.parametrize("otherwise", [b"OK", b"Heuristics.Test FOUND"])
def test_what_begins_with_no_field_is_looked_at_as_header_and_as_body(found_as_body: bool, otherwise: bytes) -> None:
    def script(wire: Wire, octets: bytes) -> None:
        begin, _, stream = octets.rpartition(b"zINSTREAM\0")
        if stream.endswith(bytes(4)):
            number = begin.count(b"zINSTREAM\0") + 1
            is_found = (b"by mailgate\r\n\r\n" in stream) is found_as_body
            wire.say(b"%d: stream: %s\0" % (number, b"Win.Test-1 FOUND" if is_found else otherwise))

    assert isinstance(judged(script, b"no field\r\nSubject: x\r\n\r\nhello"), Reject)


def test_where_all_see_the_same_clamd_is_asked_once() -> None:
    stand = gate()
    for content in (b"\r\nno header", b"Subject : one\r\n\r\nhello"):
        stand.judge(content)
    assert bytes(stand.scanners.wires[0].heard).count(b"zINSTREAM\0") == 2


def test_several_scanners_in_one_pipeline_do_not_take_each_others_results() -> None:
    first, second = gate(), gate()
    evidence = first.filter, second.filter
    one = transaction()
    for built in evidence[:1]:
        verdict = wait_for(built.on_message(session(), one, message(SUSPECT)), first.scanners.clock)
        for found in verdict.evidence:
            one.evidence.add(found)
    assert len(first.filter.modify(session(), one, message(SUSPECT))) == 1
    assert list(second.filter.modify(session(), one, message(SUSPECT))) == []


@pytest.mark.parametrize("word", ["continue", "defer", "quarantine", "reject"])
@pytest.mark.parametrize("who", ["we", "clamd"])
def test_what_is_too_large(word: str, who: str) -> None:
    script = says(b"1: INSTREAM size limit exceeded. ERROR\0")
    options = {"max_size": "1KiB" if who == "we" else "1MiB", "oversize": word}
    stand = gate(script, **options)
    (verdict,) = stand.judge(b"x" * 1025)
    kinds = {"continue": Continue, "defer": Defer, "quarantine": Quarantine, "reject": Reject}
    assert type(verdict) is kinds[word]
    assert bool(stand.scanners.wires) == (who == "clamd")
    assert stand.transaction.evidence.get(VirusResult) == VirusResult(is_scanned=False)
    if isinstance(verdict, Reject):
        assert str(verdict.reply) == "552 5.3.4 This message is too large to be checked"


def test_clamd_may_say_so_before_it_has_everything(tmp_path: Path) -> None:
    def script(wire: Wire, octets: bytes) -> None:
        if octets:
            wire.say(b"1: INSTREAM size limit exceeded. ERROR\0")
            wire.lose()

    scanners = Scanners(script, room=100)
    (verdict,) = Gate(build, Options(), scanners).judge(bytes(10_000_000))
    assert isinstance(verdict, Reject)
    assert verdict.reply.code == 552


@pytest.mark.parametrize("on_failure", ["defer", "continue", "reject", "quarantine"])
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_where_clamd_does_not_work_the_configuration_decides(name: str, on_failure: str) -> None:
    stand = gate(HOSTILE[name], on_failure)
    (verdict,) = stand.judge(VIRUS)
    kinds = {"continue": Continue, "defer": Defer, "quarantine": Quarantine, "reject": Reject}
    assert type(verdict) is kinds[on_failure]
    (event,) = stand.events.of(FilterFailed)
    assert event.error.startswith("ScannerError: 127.0.0.1:3310: ")
    assert stand.scanners.open == 0
    assert not stand.scanners.clock.getDelayedCalls()


@pytest.mark.parametrize(
    "answer",
    [
        *(
            b"",
            b"1: stream: OK",
            b"1: stream: OK\0002: stream: OK\0",
            b"1: stream: lstat() failed: No such file. ERROR\0",
        ),
        *(b"1: OK\0", b"1: stream: OK\nstream: X FOUND\0", b"stream: OK\0", b"2: stream: OK\0", b"0: stream: OK\0"),
    ],
)
def test_half_answers_and_double_ones_let_nothing_through(answer: bytes) -> None:
    (verdict,) = gate(says(answer)).judge(VIRUS)
    assert isinstance(verdict, Defer)


def test_an_answer_by_the_octet_is_one() -> None:
    def script(wire: Wire, octets: bytes) -> None:
        if octets.endswith(bytes(4)):
            for number, octet in enumerate(b"1: stream: Win.Test-1 FOUND\0"):
                wire.later(0.1 * number, lambda octet=octet: wire.say(bytes([octet])))  # type: ignore[misc]
            wire.later(3, wire.close)

    assert isinstance(judged(script, VIRUS), Reject)


def test_an_ok_before_everything_was_sent_is_none() -> None:
    def script(wire: Wire, octets: bytes) -> None:
        if octets:
            wire.say(b"1: stream: OK\0")
            wire.close()

    scanners = Scanners(script, room=100)
    (verdict,) = Gate(build, Options(), scanners).judge(bytes(10_000_000))
    assert isinstance(verdict, Defer)
    assert len(scanners.wires[0].heard) < 1_000_000


@pytest.mark.parametrize("bad", [nobody, silent])
def test_the_next_server_answers_where_the_first_does_not(bad: Script) -> None:
    scanners = Scanners(bad, others={"/run/clamd": clamd})
    stand = Gate(build, Options(servers=["127.0.0.1", "unix:/run/clamd"], timeout="8s"), scanners)  # type: ignore[arg-type]
    assert isinstance(stand.judge(VIRUS)[0], Reject)
    assert isinstance(stand.judge(VIRUS)[0], Reject)
    assert scanners.asked == ["127.0.0.1:3310", "/run/clamd"]
    scanners.clock.advance(30)
    scanners.script = clamd
    assert isinstance(stand.judge(VIRUS)[0], Reject)
    assert scanners.asked[2:] == ["127.0.0.1:3310"]


def test_the_breaker_opens_and_closes_and_nothing_slips_through() -> None:
    stand = gate(nobody)
    for _ in range(FAILURES + 3):
        assert isinstance(stand.judge(VIRUS)[0], Defer)
    assert len(stand.scanners.asked) == FAILURES
    stand.scanners.script = clamd
    stand.scanners.clock.advance(PAUSE)
    assert isinstance(stand.judge(VIRUS)[0], Reject)
    assert isinstance(stand.judge()[0], Continue)
    assert [event.is_open for event in stand.events.of(BreakerChanged)] == [True, False]


@pytest.mark.parametrize("on_failure", ["continue", "quarantine"])
def test_the_breaker_opens_where_mail_goes_on_too(on_failure: str) -> None:
    stand = gate(silent, on_failure)
    for _ in range(FAILURES + 3):
        stand.judge(b"X-Virus-Status: Clean\r\n\r\nhello")
    assert len(stand.scanners.asked) == FAILURES  # nobody waits for it any more
    stand.scanners.clock.advance(PAUSE)
    stand.judge()  # the trial fails
    stand.judge()
    assert len(stand.scanners.asked) == FAILURES + 1
    stand.scanners.script = clamd
    stand.scanners.clock.advance(2 * PAUSE)
    assert isinstance(stand.judge(VIRUS)[0], Reject)
    assert [event.is_open for event in stand.events.of(BreakerChanged)] == [True, False]


def test_a_file_that_cannot_be_read_fails_and_no_server_rests(tmp_path: Path) -> None:
    stand = Gate(build, Options(servers=["a.example", "b.example"]), Scanners(clamd))
    content = Content(None, tmp_path / "gone", 100)
    pending = stand.filter.on_message(session(), transaction(), Message(content))
    with pytest.raises(OSError, match="gone"):
        wait_for(pending, stand.scanners.clock)
    assert len(stand.scanners.asked) == 1
    assert stand.scanners.open == 0


def test_a_large_message_is_sent_as_it_is(tmp_path: Path) -> None:
    data = b"Subject: x\r\n\r\n" + bytes(range(256)) * 4000
    (tmp_path / "content").write_bytes(data)
    stand = gate()
    pending = stand.filter.on_message(session(), transaction(), Message(Content.in_file(tmp_path / "content")))
    assert isinstance(wait_for(pending, stand.scanners.clock), Continue)
    heard = bytes(stand.scanners.wires[0].heard)
    assert len(heard) == 21 + 4 + 23 + len(data) + 4 * -(-len(data) // (256 * 1024)) + 4
    assert heard[52:1052] == data[:1000]


@pytest.mark.parametrize(
    "options",
    [
        *({"servers": []}, {"servers": ["http://x"]}, {"servers": ["x:y"]}, {"found": "drop"}, {"max_size": "10B"}),
        *({"timeout": "0s"}, {"connections": 0}, {"suspicions": [""]}),
    ],
)
def test_mistakes_in_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


@pytest.mark.parametrize("text", ["{}", "{virus}", "{name", "{0}"])
def test_a_mistake_in_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="text: "):
        build(Options(text=text), services())


class TestContract(FilterContract):
    factory: ClassVar[IFilterFactory] = FilterMaker("clamav", "mailgate.filters.clamav", "x")  # type: ignore[misc]

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), *(Occasion(message=message(one)) for one in (VIRUS, SUSPECT))]

    def make_services(self, clock: Clock, **silent_parts: Any) -> FilterServices:
        return services(clock=Scanners(silent if silent_parts else clamd, clock), **silent_parts)
