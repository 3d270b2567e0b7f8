"""The measurement itself works, and what must not grow with the queue does not: the plans go by indexes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mailgate.interfaces import Destination, Outcome, OutcomeKind, Return, Selector
from mailgate.reply import Reply
from mailgate.spool.query import selected
from mailgate.testing import EventRecorder, wait_for
from mailgate.testing.simulated import SimulatedSpool
from tests.scale.queue import SELECTORS, START, a_clock, fill, measure, to_version_2

RECIPIENTS = 6000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scale") / "spool"
    fill(directory, RECIPIENTS, 600)
    return directory


@pytest.mark.parametrize("name", ["domain", "recipient", "sender", "site", "state held", "state leased (none)"])
def test_what_few_entries_have_is_looked_up(directory: Path, name: str) -> None:
    with closing(sqlite3.connect(directory / "spool.db")) as database:
        select, values = selected(database, Selector(**SELECTORS[name]), 0.0)
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {select}", values)]
    assert not [step for step in plan if step.startswith("SCAN") and "json_each" not in step]


def test_a_page_of_what_many_entries_have_is_not_sorted(directory: Path) -> None:
    for name in ("all", "domain", "sender", "state queued", "part of every site", "reason, rare"):
        with closing(sqlite3.connect(directory / "spool.db")) as database:
            select, values = selected(database, Selector(**SELECTORS[name]), 0.0)
            plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {select}", values)]
        assert not [step for step in plan if step == "USE TEMP B-TREE FOR ORDER BY"], name


def test_no_work_goes_through_the_queue(directory: Path) -> None:
    """Every statement finds the rows that it is about by an index; what is due is found in the order of time."""
    spool = SimulatedSpool(directory, a_clock(), events=EventRecorder())
    statements: set[str] = set()
    spool._store.database.set_trace_callback(statements.add)
    until = START + 60
    wait_for(spool.lease(10, until, {Destination("out", "d0.example")}))
    first, second, third, fourth = wait_for(spool.lease(4, until))
    wait_for(spool.release_leases([Return(first), Return(second, in_turn=True), Return(third, waits="suspended: x y")]))
    (recipient,) = fourth.recipients
    deferred = Outcome(recipient, OutcomeKind.DEFERRED, Reply.of(451, "4.3.0", "later"), warned=True)
    wait_for(spool.record(fourth, [deferred]))
    wait_for(spool.record(fourth, [Outcome(recipient, OutcomeKind.DELIVERED, Reply.of(250, "2.0.0", "ok"))]))
    wait_for(spool.lease_in_turn(Destination("out", "d0.example"), 10, until))
    wait_for(spool.next_due())
    for operate in (spool.hold, spool.release, spool.retry, spool.delete):
        wait_for(operate(Selector(queue_id=first.envelope.queue_id)))
    wait_for(spool.reroute(Selector(queue_id=third.envelope.queue_id), "other"))
    wait_for(spool.resume("route", "out"))
    wait_for(spool.add_counts({"2027-01-01/x": 1}))
    spool._store.database.set_trace_callback(None)
    by_time = 0
    for statement in statements:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            plan = [row[3] for row in spool._store.database.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [step for step in plan if step.split()[:2] in (["SCAN", "recipients"], ["SCAN", "messages"])], (
                plan
            )
            by_time += any("recipients_due" in step for step in plan)
    assert by_time == 6  # two looks for leases, with the ends of holds; the three states of next_due
    wait_for(spool.close())


def test_it_is_measured(directory: Path) -> None:
    took = measure(directory)
    assert {f"view: {name}" for name in SELECTORS} <= took.keys()
    to_version_2(directory)
    assert measure(directory).keys() == took.keys()
    assert (directory / "spool.db.v2").exists()
