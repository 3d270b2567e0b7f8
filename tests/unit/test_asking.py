"""Work that is begun anew with each answer: what is asked, how often, and what its bounds are."""

from __future__ import annotations

import gc
from ipaddress import IPv4Address, IPv6Address

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from mailgate.interfaces import Answer, DnsStatus, IResolver
from mailgate.mailauth.asking import Known, TooManyQuestionsError, work_with_answers
from mailgate.testing import MemoryResolver, wait_for

ZONE = {f"{letter}.test": {"TXT": [letter]} for letter in "abcd"}


@implementer(IResolver)
class Slow:
    """Answers when told to; `open` are the questions that are waited for."""

    def __init__(self) -> None:
        self.zone = MemoryResolver(ZONE)
        self.open: dict[str, Deferred[Answer]] = {}

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:
        def close(_: object) -> None:
            self.open.pop(name, None)

        self.open[name] = Deferred(close)
        return self.open[name]

    def reverse(self, address: IPv4Address | IPv6Address) -> Deferred[Answer]:
        raise NotImplementedError

    def answer(self) -> list[str]:
        names, waiting = list(self.open), self.open
        self.open = {}
        for name, pending in waiting.items():
            pending.callback(self.zone.resolve(name, "TXT"))
        return names


def text(known: Known, name: str) -> bytes:
    (record,) = known(f"{name}.test", "TXT").records
    assert isinstance(record, bytes)
    return record


def start(resolver: Slow, work: object, **bounds: int) -> tuple[Deferred[object], list[object]]:
    done: list[object] = []
    answer: Deferred[object] = Deferred.fromCoroutine(work_with_answers(resolver, work, **bounds))  # type: ignore[arg-type]
    answer.addBoth(done.append)
    return answer, done


def test_with_answers_at_hand_no_reactor_is_needed() -> None:
    resolver = MemoryResolver(ZONE)
    working = work_with_answers(resolver, lambda known: text(known, "a") + text(known, "b") + text(known, "a"))
    with pytest.raises(StopIteration) as end:
        working.send(None)
    assert end.value.value == b"aba"
    assert resolver.asked == [("a.test", "TXT"), ("b.test", "TXT")]


def test_each_question_is_asked_once_however_it_is_written() -> None:
    resolver = MemoryResolver(ZONE)
    assert wait_for(work_with_answers(resolver, lambda known: known("A.Test.", "TXT") == known("a.test", "TXT")))
    assert resolver.asked == [("a.test", "TXT")]


def test_what_is_expected_is_asked_together_with_what_is_missing() -> None:
    def work(known: Known) -> bytes:
        text(known, "a")
        for name in "bcd":
            known.expect(f"{name}.test", "TXT")
        return text(known, "b") + text(known, "c") + text(known, "d")

    resolver = Slow()
    _, done = start(resolver, work)
    assert resolver.answer() == ["a.test"]
    assert sorted(resolver.answer()) == ["b.test", "c.test", "d.test"]
    assert done == [b"bcd"]


def test_what_is_expected_alone_is_not_waited_for() -> None:
    resolver = Slow()
    _, done = start(resolver, lambda known: known.expect("a.test", "TXT"))
    assert done == [None]
    assert not resolver.open


@pytest.mark.parametrize("end", ["returns", "raises"])
def test_a_library_that_swallows_the_question_is_asked_again(end: str) -> None:
    def work(known: Known) -> bytes:
        try:
            return text(known, "a")
        except BaseException:
            if end == "raises":
                raise ValueError("no answer, it thinks") from None
            return b"wrong"

    assert wait_for(work_with_answers(MemoryResolver(ZONE), work)) == b"a"


def test_what_the_work_raises_by_itself_is_raised() -> None:
    def work(known: Known) -> None:
        raise ValueError(text(known, "a"))

    with pytest.raises(ValueError, match="b'a'"):
        wait_for(work_with_answers(MemoryResolver(ZONE), work))


def test_work_that_asks_for_ever_is_stopped() -> None:
    def work(known: Known) -> None:
        for number in range(1000):
            known(f"{number}.test", "A")

    resolver = MemoryResolver({})
    with pytest.raises(TooManyQuestionsError, match="more than 7 questions"):
        wait_for(work_with_answers(resolver, work, most_questions=7))
    assert len(resolver.asked) == 7
    with pytest.raises(TooManyQuestionsError, match="more than 5 rounds"):
        wait_for(work_with_answers(resolver, work, most_rounds=5))
    assert len(resolver.asked) == 12


def test_all_that_is_expected_counts() -> None:
    def work(known: Known) -> None:
        for number in range(1000):
            known.expect(f"{number}.test", "A")
        known("last.test", "A")

    resolver = MemoryResolver({})
    with pytest.raises(TooManyQuestionsError):
        wait_for(work_with_answers(resolver, work))
    assert not resolver.asked


def test_failures_of_dns_are_answers() -> None:
    answer = wait_for(work_with_answers(MemoryResolver({"a.test": "TIMEOUT"}), lambda known: known("a.test", "A")))
    assert answer == Answer(DnsStatus.TIMEOUT)


def test_two_that_wait_do_not_meet() -> None:
    first, second = Slow(), Slow()
    _, one = start(first, lambda known: text(known, "a") + text(known, "b"))
    _, other = start(second, lambda known: text(known, "c") + text(known, "d"))
    for resolver in (first, second, second, first):
        resolver.answer()
    assert (one, other) == ([b"ab"], [b"cd"])


def errors_while(act: object) -> list[str]:
    """Errors that are logged meanwhile, such as those that nobody has handled."""
    found: list[str] = []

    @implementer(ILogObserver)
    class Watch:
        def __call__(self, event: LogEvent) -> None:
            if "log_failure" in event:
                found.append(event["log_failure"].getErrorMessage())

    watch = Watch()
    globalLogPublisher.addObserver(watch)
    try:
        act()  # type: ignore[operator]
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(watch)
    return found


def both(known: Known) -> bytes:
    known.expect("b.test", "TXT")
    return text(known, "a") + text(known, "b")


def test_cancelling_cancels_every_question() -> None:
    resolver = Slow()

    def act() -> None:
        answer, done = start(resolver, both)
        assert len(resolver.open) == 2
        answer.cancel()
        (failure,) = done
        assert failure.check(CancelledError)  # type: ignore[attr-defined]
        assert not resolver.open

    assert errors_while(act) == []


def test_a_resolver_that_breaks_ends_the_work_and_the_other_questions() -> None:
    resolver = Slow()

    def act() -> None:
        _, done = start(resolver, both)
        broken = resolver.open.pop("a.test")
        broken.errback(RuntimeError("broken"))
        (failure,) = done
        assert failure.check(RuntimeError)  # type: ignore[attr-defined]
        assert not resolver.open

    assert errors_while(act) == []
