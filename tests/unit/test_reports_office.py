"""Reports of several processes: each counts what it has judged, and one report tells of all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.defer import Deferred, succeed

from mailgate.address import Address
from mailgate.config.reports import ReportsSection
from mailgate.events import DmarcEvaluated
from mailgate.mailauth.dmarc.report_read import read_reports
from mailgate.observe.hub import EventHub
from mailgate.reporting.office import IOfficeReactor, Reporting, ReportingOffice
from mailgate.testing import MemoryResolver
from tests.unit.reports_stand import Machine

SECTION = ReportsSection.model_validate({"enabled": True, "from": "dmarc@gate.test"})


class Worker:
    """One process."""

    def __init__(self, machine: Machine, path: Path) -> None:
        self.machine = machine
        self.sent: list[tuple[str, bytes]] = []
        self.events = EventHub()
        self.office = ReportingOffice(
            path,
            reactor=cast(IOfficeReactor, machine),
            events=self.events,
            resolver=MemoryResolver({}),
            random=random.Random(3),
            send=self.send,
        )
        self.office.use("mx.gate.test", Reporting(SECTION, None, "rfc9989"))

    def send(self, sender: Address, recipients: Sequence[Address], octets: bytes) -> Deferred[str]:
        self.sent.append((str(recipients[0]), octets))
        return succeed("ID")

    def judge(self, source: str = "192.0.2.1") -> None:
        self.events.publish(
            DmarcEvaluated(
                at=self.machine.seconds(),
                queue_id="Q",
                source=source,
                domain="bank.test",
                policy="none",
                subdomain_policy="none",
                missing_policy="none",
                header_from="bank.test",
                envelope_from="bank.test",
                envelope_to=("gate.test",),
                disposition="none",
                result="fail",
                rua=("mailto:a@bank.test",),
            )
        )

    def end(self) -> None:
        ended = Deferred.fromCoroutine(self.office.close())
        self.machine.until(lambda: ended.called)
        assert ended.called


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    machine = Machine(monkeypatch)
    made = [Worker(machine, tmp_path / "reports.db") for _ in range(2)]
    yield made
    for one in made:
        one.end()
    assert not machine.getDelayedCalls()


def test_what_each_has_counted_is_in_one_report(workers: list[Worker]) -> None:
    first, second = workers
    first.judge()
    first.judge("192.0.2.2")
    second.judge()
    first.machine.until(lambda: first.sent or second.sent)
    first.machine.until(lambda: len(first.sent + second.sent) > 1, days=1)
    ((to, octets),) = first.sent + second.sent
    (report,) = read_reports(octets)
    assert to == "a@bank.test"
    assert sorted((row.source, row.count) for row in report.rows) == [("192.0.2.1", 2), ("192.0.2.2", 1)]


def test_one_that_ends_leaves_its_count_to_the_other(workers: list[Worker]) -> None:
    first, second = workers
    first.judge()
    first.end()
    second.judge()
    second.machine.until(lambda: second.sent)
    (report,) = read_reports(second.sent[0][1])
    assert [row.count for row in report.rows] == [2]
    assert first.sent == []


def test_changes_come_one_after_another(workers: list[Worker]) -> None:
    """Reloads may come faster than a report ends."""
    first = workers[0]
    for _ in range(10):
        first.office.use("mx.gate.test", None)
        first.office.use("mx.gate.test", Reporting(SECTION, None, "rfc9989"))
    first.judge()
    first.end()
    workers[1].machine.until(lambda: workers[1].sent)
    assert len(workers[1].sent) == 1
