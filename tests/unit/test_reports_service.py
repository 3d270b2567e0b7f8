"""Sending DMARC reports, by the clock: every day, over restarts, with DNS and spools that fail."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from email import message_from_bytes
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.interfaces import Answer
from mailgate.mailauth.dmarc.report_read import read_reports
from mailgate.reporting.gathering import wanted
from mailgate.reporting.service import DmarcReports
from mailgate.stores.aggregate_file import AggregateFile
from mailgate.stores.aggregates import DAY, counted
from mailgate.testing import MemoryResolver
from tests.unit.test_dmarc_aggregates import NOON, TODAY, evaluated
from tests.unit.test_reports_gathering import section

T = TypeVar("T")

HOUR = 3600.0
MIDNIGHT = (TODAY + 1) * DAY
ZONE = {
    "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject; rua=mailto:d@example.org"]},
    "example.org._report._dmarc.taker.test": {"TXT": ["v=DMARC1"]},
}


class Gathered:
    """The file, at once and in this thread."""

    def __init__(self, file: AggregateFile) -> None:
        self.file = file
        self.error: Exception | None = None

    def run(self, work: Callable[[AggregateFile], T]) -> Deferred[T]:
        if self.error is not None:
            return fail(self.error)
        try:
            return succeed(work(self.file))
        except sqlite3.Error as error:
            return fail(error)


class Resolver(MemoryResolver):
    """Whose answers can be kept back."""

    def __init__(self, zone: dict[str, Any]) -> None:
        super().__init__(zone)
        self.held: list[tuple[Deferred[Answer], Answer]] | None = None

    def resolve(self, name: str, rdtype: str) -> Any:
        answer = super().resolve(name, rdtype)
        if self.held is None:
            return answer
        waiting: Deferred[Answer] = Deferred()
        self.held.append((waiting, answer))
        return waiting


class Stand:
    """One gateway that reports, with its own clock; its file may be another's as well."""

    def __init__(
        self, path: Path, clock: Clock | None = None, zone: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.section = section(**options)
        self.file = AggregateFile(path)
        self.gathered = Gathered(self.file)
        self.clock = clock or Clock()
        if clock is None:
            self.clock.rightNow = NOON
        self.resolver = Resolver({**ZONE, **(zone or {})})
        self.sent: list[tuple[float, str, bytes]] = []
        self.answer: Callable[[], Any] | None = None
        self.reports = DmarcReports(
            self.gathered,
            self.section,
            hostname="mx.gate.test",
            resolver=self.resolver,
            clock=self.clock,
            random=random.Random(7),
            send=self.send,
        )
        self.reports.start()

    def send(self, sender: Address, recipients: Sequence[Address], content: bytes) -> Deferred[str]:
        assert str(sender) == "dmarc-reports@gate.test"
        (to,) = recipients
        if self.answer is not None:
            answer = self.answer()
            if isinstance(answer, Exception):
                return fail(answer)
            self.sent.append((self.clock.seconds(), str(to), content))
            assert isinstance(answer, Deferred)
            return answer
        self.sent.append((self.clock.seconds(), str(to), content))
        return succeed(f"ID{len(self.sent)}")

    def happens(self, **more: Any) -> None:
        event = evaluated(at=self.clock.seconds(), **more)
        if wanted(self.section)(event):
            self.file.add({counted(event): 1}, {})

    def pass_time(self, seconds: float, step: float = 60.0) -> None:
        self.clock.pump([step] * int(seconds / step))

    def pass_until(self, condition: Callable[[], object]) -> None:
        for _ in range(int(2 * DAY / 10)):
            if condition():
                return
            self.clock.advance(10)
        raise AssertionError("it never came")

    def stop(self) -> None:
        stopped = Deferred.fromCoroutine(self.reports.stop())
        assert stopped.called

    def close(self) -> None:
        with suppress(AssertionError):
            self.stop()
        self.file.close()

    def told(self) -> list[tuple[str, str, int]]:
        """Of each mail: to whom, on which domain, and messages in it."""
        found = []
        for _, to, content in self.sent:
            (report,) = read_reports(content)
            found.append((to, report.published.domain, sum(row.count for row in report.rows)))
        return found


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    with ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> Stand:
            stand = Stand(tmp_path / "dmarc.db", *arguments, **options)
            stack.callback(stand.close)
            return stand

        yield make


Make = Callable[..., Stand]


# -- when


def test_the_reports_of_a_day_are_sent_some_time_after_its_end(make: Make) -> None:
    stand = make()
    stand.happens()
    stand.happens()
    stand.pass_time(MIDNIGHT - NOON)
    assert stand.sent == []
    stand.pass_time(4 * HOUR)
    ((at, _, content),) = stand.sent
    assert stand.told() == [("d@example.org", "example.org", 2)]
    assert MIDNIGHT + 600 <= at <= MIDNIGHT + 600 + 3 * HOUR
    (report,) = read_reports(content)
    assert (report.begin, report.end) == (TODAY * DAY, MIDNIGHT - 1)


def test_each_day_has_its_own_report(make: Make) -> None:
    stand = make()
    stand.happens()
    stand.pass_time(DAY)
    stand.happens(source="192.0.2.2")
    stand.pass_time(2 * DAY)
    assert stand.told() == [("d@example.org", "example.org", 1), ("d@example.org", "example.org", 1)]
    days = [read_reports(content)[0].begin // DAY for _, _, content in stand.sent]
    assert days == [TODAY, TODAY + 1]
    times = [at % DAY for at, _, _ in stand.sent]
    assert times[0] != times[1]


def test_each_domain_has_its_own_report(make: Make) -> None:
    stand = make()
    for number in range(5):
        stand.happens(domain=f"d{number}.test", rua=(f"mailto:d@d{number}.test",))
    stand.pass_time(DAY)
    assert sorted(stand.told()) == [(f"d@d{number}.test", f"d{number}.test", 1) for number in range(5)]


def test_domains_that_are_not_wanted_any_more_have_none(make: Make) -> None:
    stand = make()
    stand.happens()
    stand.stop()
    stand = make(stand.clock, never=["example.org"])
    stand.pass_time(DAY)
    assert stand.sent == []
    assert stand.file.next_due(TODAY + 5) is None


# -- restarts


def test_what_an_earlier_process_has_left_is_sent_soon(make: Make) -> None:
    stand = make()
    stand.happens()
    stand.stop()
    stand.clock.advance(DAY)
    stand = make(stand.clock)
    stand.pass_time(120)
    assert stand.told() == [("d@example.org", "example.org", 1)]


def test_a_restart_in_the_middle_sends_nothing_twice_and_forgets_nothing(make: Make) -> None:
    stand = make()
    for number in range(20):
        stand.happens(domain=f"d{number}.test", rua=(f"mailto:d@d{number}.test",))
    everything: list[tuple[str, str, int]] = []
    stand.pass_time(DAY / 2)
    for _ in range(200):
        stand.pass_time(60, step=1.0)
        if stand.sent:
            everything += stand.told()
            stand.stop()
            stand = make(stand.clock)
    assert len(everything) == 20
    assert sorted(everything) == sorted((f"d@d{number}.test", f"d{number}.test", 1) for number in range(20))


def test_a_stop_waits_for_the_mail_that_is_being_handed_over(make: Make) -> None:
    stand = make()
    handed: Deferred[str] = Deferred()
    stand.answer = lambda: handed
    stand.happens()
    stand.happens(domain="second.test", rua=("mailto:d@second.test",))
    stand.pass_until(lambda: stand.sent)
    stopped = Deferred.fromCoroutine(stand.reports.stop())
    assert not stopped.called
    handed.callback("ID")
    assert stopped.called
    again = make(stand.clock)
    again.pass_time(HOUR)
    assert sorted(stand.told() + again.told()) == [
        ("d@example.org", "example.org", 1),
        ("d@second.test", "second.test", 1),
    ]


def test_a_stop_leaves_other_destinations_to_the_next_start(make: Make) -> None:
    stand = make()
    handed: Deferred[str] = Deferred()
    stand.answer = lambda: handed
    stand.happens(rua=("mailto:d@example.org", "mailto:e@example.org"))
    stand.pass_until(lambda: stand.sent)
    stopped = Deferred.fromCoroutine(stand.reports.stop())
    handed.callback("ID")
    assert stopped.called
    again = make(stand.clock)
    again.pass_time(120)
    assert [to for to, *_ in stand.told() + again.told()] == ["d@example.org", "e@example.org"]


def test_a_stop_does_not_wait_for_dns(make: Make) -> None:
    stand = make()
    stand.resolver.held = []
    stand.happens(rua=("mailto:d@taker.test",))
    stand.pass_until(lambda: stand.resolver.held)
    stand.stop()
    again = make(stand.clock)
    again.pass_time(120)
    assert again.told() == [("d@taker.test", "example.org", 1)]


def test_a_process_that_was_killed_leaves_its_work_to_others(make: Make) -> None:
    stand = make()
    stand.answer = lambda: Deferred()
    stand.happens(rua=("mailto:d@example.org", "mailto:e@example.org"))
    stand.pass_until(lambda: stand.sent)  # and nobody will ever hear what became of it
    other = make(stand.clock)
    other.pass_time(600)
    assert other.sent == []
    other.pass_time(HOUR)
    assert [to for to, *_ in other.told()] == ["d@example.org", "e@example.org"]
    first, second = (message_from_bytes(one.sent[0][2]) for one in (stand, other))
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Subject"] == second["Subject"]


def test_of_several_workers_one_sends_it(make: Make) -> None:
    first = make()
    second = make(first.clock)
    for number in range(10):
        first.happens(domain=f"d{number}.test", rua=(f"mailto:d@d{number}.test",))
    first.pass_time(2 * DAY)
    both = first.told() + second.told()
    assert sorted(both) == sorted((f"d@d{number}.test", f"d{number}.test", 1) for number in range(10))


# -- to whom


def test_all_who_agree_get_it(make: Make) -> None:
    stand = make()
    rua = ("mailto:d@example.org", "mailto:d@taker.test", "mailto:d@stranger.test", "https://example.org/")
    stand.happens(rua=rua)
    stand.pass_time(2 * DAY)
    assert [to for to, *_ in stand.told()] == ["d@example.org", "d@taker.test"]


def test_where_nobody_is_to_get_it_that_is_all(make: Make) -> None:
    stand = make()
    stand.happens(rua=("mailto:d@stranger.test",))
    stand.pass_time(2 * DAY)
    assert stand.sent == []
    assert stand.file.next_due(TODAY + 5) is None


def test_sizes_that_a_destination_names_are_kept_to(make: Make) -> None:
    stand = make()
    stand.happens(rua=("mailto:small@example.org!1k", "mailto:large@example.org!1m"))
    stand.pass_time(DAY)
    assert [to for to, *_ in stand.told()] == ["large@example.org"]


def test_a_mail_that_is_larger_than_ours_may_be_is_not_sent(make: Make) -> None:
    stand = make(max_size="64KiB")
    names = random.Random(7)
    for number in range(3000):
        stand.happens(source=f"2001:db8::{number:x}", header_from=f"{names.getrandbits(160):x}.example.org")
    stand.pass_time(DAY, step=600.0)
    assert stand.sent == []
    assert stand.file.next_due(TODAY + 5) is None


# -- what fails


@pytest.mark.parametrize("status", ["SERVFAIL", "TIMEOUT"])
def test_dns_that_cannot_say_is_asked_again(make: Make, status: str) -> None:
    stand = make(zone={"example.org._report._dmarc.taker.test": status})
    stand.happens(rua=("mailto:d@example.org", "mailto:d@taker.test"))
    stand.pass_time(DAY / 2 + 5 * HOUR)
    assert [to for to, *_ in stand.told()] == ["d@example.org"]
    asked = len(stand.resolver.asked)
    stand.stop()
    again = make(stand.clock)  # whose DNS answers
    again.pass_time(5 * HOUR)
    assert [to for to, *_ in again.told()] == ["d@taker.test"]
    assert asked > 0


def test_it_is_asked_less_and_less_and_given_up_after_days(make: Make) -> None:
    stand = make(zone={"example.org._report._dmarc.taker.test": "SERVFAIL"})
    stand.happens(rua=("mailto:d@taker.test",))
    stand.pass_time(6 * DAY, step=300.0)
    attempts = sum(name.startswith("example.org._report") for name, _ in stand.resolver.asked)
    assert 10 <= attempts <= 30
    assert stand.file.next_due(TODAY + 9) is None
    assert stand.sent == []


def test_dns_that_never_answers_has_a_deadline(make: Make) -> None:
    stand = make()
    stand.resolver.held = []
    stand.happens(rua=("mailto:d@taker.test",))
    stand.happens(domain="second.test", rua=("mailto:d@second.test",))
    stand.pass_time(DAY)
    assert stand.told() == [("d@second.test", "second.test", 1)]
    stand.resolver.held = None
    stand.pass_time(DAY)
    assert len(stand.sent) == 2


def test_a_spool_that_takes_nothing_is_tried_again(make: Make) -> None:
    stand = make()
    stand.answer = lambda: OSError("no space left")
    stand.happens()
    stand.pass_time(DAY)
    assert stand.sent == []
    stand.answer = None
    stand.pass_time(6 * HOUR)
    assert stand.told() == [("d@example.org", "example.org", 1)]


def test_a_file_that_fails_is_tried_again_and_nothing_is_sent_twice(make: Make) -> None:
    stand = make()
    stand.happens()
    stand.gathered.error = sqlite3.OperationalError("disk I/O error")
    stand.pass_time(DAY)
    stand.gathered.error = None

    def fails_behind() -> Deferred[str]:
        stand.gathered.error = sqlite3.OperationalError("disk I/O error")
        return succeed("ID")

    stand.answer = fails_behind
    stand.pass_time(HOUR)
    assert len(stand.sent) == 1
    stand.answer = None
    stand.gathered.error = None
    stand.pass_time(HOUR)
    assert len(stand.sent) == 1
    assert stand.file.next_due(TODAY + 5) is None
