"""Counting evaluations of DMARC: by kind, within bounds, across processes and crashes."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace as changed
from zope.interface.verify import verifyObject

from mailgate.events import DmarcEvaluated, Started
from mailgate.interfaces import IEventObserver
from mailgate.stores.aggregate_file import AggregateFile, Batch, Tally
from mailgate.stores.aggregates import DAY, Aggregates, counted

T = TypeVar("T")

TODAY = 20_000
NOON = TODAY * DAY + DAY / 2


def evaluated(at: float = NOON, **more: Any) -> DmarcEvaluated:
    return DmarcEvaluated(
        **{
            "at": at,
            "queue_id": "ID",
            "source": "192.0.2.1",
            "domain": "example.org",
            "policy": "reject",
            "subdomain_policy": "reject",
            "missing_policy": "reject",
            "header_from": "example.org",
            "envelope_from": "bounces.example.org",
            "envelope_to": ("gate.test",),
            "disposition": "none",
            "result": "pass",
            "rua": ("mailto:d@example.org",),
            "aligned": ("spf",),
            "dkim": (("example.org", "s1", "fail"),),
            "spf": ("bounces.example.org", "mfrom", "pass"),
            **more,
        }
    )


def add(file: AggregateFile, *events: DmarcEvaluated) -> None:
    for event in events:
        file.add({counted(event): 1}, {})


def claim(file: AggregateFile, now: float = 0.0, until: float = 900.0, before: int = TODAY + 1) -> Batch:
    batch = file.claim(before, now, until)
    assert batch is not None
    return batch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dmarc.db"


@pytest.fixture
def file(path: Path) -> Iterator[AggregateFile]:
    file = AggregateFile(path, policies=2, domain_rows=5, day_rows=8)
    yield file
    file.close()


# -- what is counted as one


def test_an_evaluation_is_of_its_day_and_of_its_kind() -> None:
    day, policy, tally = counted(evaluated())
    assert day == TODAY
    assert counted(evaluated(at=TODAY * DAY))[0] == TODAY
    assert counted(evaluated(at=TODAY * DAY - 0.001))[0] == TODAY - 1
    assert counted(evaluated(queue_id="OTHER", at=NOON + 5)) == (day, policy, tally)
    kinds: list[tuple[str, Any]] = [
        ("source", "192.0.2.2"),
        ("header_from", "sub.example.org"),
        ("envelope_from", ""),
        ("disposition", "reject"),
        ("result", "fail"),
        ("override", "mailing_list"),
        ("comment", "x"),
        ("aligned", ("dkim", "spf")),
        ("dkim", (("example.org", "s2", "fail"),)),
        ("spf", ("example.org", "mfrom", "pass")),
    ]
    for key, value in kinds:
        assert counted(evaluated(**{key: value}))[1] == policy
        assert counted(evaluated(**{key: value}))[2] != tally
    records: list[tuple[str, Any]] = [("policy", "none"), ("strict_spf", True), ("rua", ("mailto:e@x.test",))]
    for key, value in records:
        assert counted(evaluated(**{key: value}))[1] != policy
        assert counted(evaluated(**{key: value}))[2] == tally


def test_names_are_compared_as_domains() -> None:
    odd = evaluated(domain="Example.ORG.", header_from="EXAMPLE.org", envelope_from="ann@Bounces.Example.org")
    assert counted(odd) == counted(evaluated())
    assert counted(evaluated(envelope_to=("a.test", "b.test")))[2].envelope_to == ""
    assert counted(evaluated(envelope_to=()))[2].envelope_to == ""
    assert counted(evaluated(aligned=("spf", "dkim"))) == counted(evaluated(aligned=("dkim", "spf")))


def test_what_peers_choose_is_bounded() -> None:
    long = "\udcff" * 10_000
    _, policy, tally = counted(
        evaluated(
            domain=long,
            header_from=long,
            envelope_from=long,
            source=long,
            comment=long,
            rua=(long,) * 100,
            dkim=((long, long, "fail"),) * 1000,
            spf=(long, "mfrom", "pass"),
        )
    )
    assert len(str(policy)) + len(str(tally)) < 30_000
    assert "\udcff" not in str(policy) + str(tally)


def test_the_signatures_that_say_most_come_first() -> None:
    results = [
        ("other.test", "a", "fail"),
        ("other.test", "b", "pass"),
        ("mail.example.org", "c", "pass"),
        ("example.org", "d", "fail"),
        ("example.org", "e", "pass"),
    ]
    many = tuple(results[:1] * 50 + results[1:])
    found = counted(evaluated(dkim=many))[2].dkim
    assert [selector for _, selector, _ in found[:4]] == ["e", "c", "b", "a"]
    assert len(found) == 20


# -- the file


def test_equal_messages_are_one_row(file: AggregateFile, path: Path) -> None:
    add(file, evaluated(), evaluated(source="192.0.2.2"), evaluated(), evaluated())
    batch = claim(file)
    assert (batch.day, batch.policy.domain, batch.missed, batch.attempts) == (TODAY, "example.org", 0, 0)
    assert [(tally.source, count) for tally, count in file.tallies(batch)] == [("192.0.2.1", 3), ("192.0.2.2", 1)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_days_domains_and_records_are_apart(file: AggregateFile) -> None:
    add(
        file,
        evaluated(),
        evaluated(at=NOON - DAY),
        evaluated(domain="example.net"),
        evaluated(policy="none"),
    )
    batches = [claim(file) for _ in range(4)]
    assert file.claim(TODAY + 1, 0.0, 900.0) is None
    assert [(one.day, one.policy.domain, one.policy.policy) for one in batches] == [
        (TODAY - 1, "example.org", "reject"),
        (TODAY, "example.org", "reject"),
        (TODAY, "example.net", "reject"),
        (TODAY, "example.org", "none"),
    ]


def test_kinds_of_a_domain_are_bounded_and_the_rest_is_counted(file: AggregateFile) -> None:
    add(file, *(evaluated(source=f"192.0.2.{number}") for number in range(9)), evaluated(source="192.0.2.1"))
    batch = claim(file)
    assert len(file.tallies(batch)) == 5
    assert sum(count for _, count in file.tallies(batch)) == 6
    assert batch.missed == 4


def test_records_of_a_domain_are_bounded(file: AggregateFile) -> None:
    add(file, *(evaluated(policy=policy) for policy in ("none", "quarantine", "reject", "reject")))
    assert [claim(file).policy.policy for _ in range(2)] == ["none", "quarantine"]
    assert file.claim(TODAY + 1, 0.0, 900.0) is None
    assert file.missed(TODAY) == 2


def test_kinds_of_a_day_are_bounded_over_all_domains(file: AggregateFile) -> None:
    add(file, *(evaluated(domain=f"{number}.test") for number in range(20)))
    batches = []
    while batch := file.claim(TODAY + 1, 0.0, 900.0):
        batches.append(batch)
    assert len(batches) == 8
    assert file.missed(TODAY) == 12
    add(file, evaluated(at=NOON + DAY, domain="next.test"))
    assert file.missed(TODAY + 1) == 0


def test_only_days_before_are_claimed(file: AggregateFile) -> None:
    add(file, evaluated())
    assert file.claim(TODAY, 0.0, 900.0) is None
    assert file.next_due(TODAY) is None
    assert file.next_due(TODAY + 1) == 0.0


def test_a_claim_is_for_one_and_for_a_time(file: AggregateFile, path: Path) -> None:
    add(file, evaluated())
    other = AggregateFile(path)
    first = claim(file, now=0.0, until=900.0)
    assert other.claim(TODAY + 1, 899.0, 2000.0) is None
    assert other.next_due(TODAY + 1) == 900.0
    second = claim(other, now=900.0, until=1800.0)
    # Who was too slow decides nothing any more.
    file.finish(first, "sent")
    file.put_off(first, 5000.0)
    assert other.tallies(second) != []
    other.finish(second, "sent")
    assert other.claim(TODAY + 1, 9000.0, 9900.0) is None
    other.close()


def test_what_is_put_off_comes_again(file: AggregateFile) -> None:
    add(file, evaluated())
    file.put_off(claim(file), 5000.0)
    assert file.claim(TODAY + 1, 4999.0, 9000.0) is None
    assert file.next_due(TODAY + 1) == 5000.0
    batch = claim(file, now=5000.0, until=9000.0)
    assert batch.attempts == 1
    file.put_off(batch, 5000.0, counts=False)
    assert claim(file, now=5000.0, until=9000.0).attempts == 1


def test_what_is_finished_is_over_and_what_comes_late_is_missed(file: AggregateFile) -> None:
    add(file, evaluated())
    batch = claim(file)
    file.note_sent(batch, "d@example.org", "ID")
    assert file.sent(batch) == {"d@example.org"}
    file.finish(batch, "sent")
    assert file.tallies(batch) == []
    add(file, evaluated(), evaluated())
    assert file.claim(TODAY + 1, 9000.0, 9900.0) is None
    assert file.missed(TODAY) == 2


def test_old_days_go_and_what_was_not_reported_is_told(file: AggregateFile, path: Path) -> None:
    add(file, evaluated(at=NOON - DAY), evaluated(), evaluated(at=NOON - DAY, domain="done.test"))
    done = claim(file, before=TODAY)
    while done.policy.domain != "done.test":
        done = claim(file, before=TODAY)
    file.note_sent(done, "d@done.test", "ID")
    file.finish(done, "sent")
    (left,) = file.tidy(TODAY)
    assert (left.day, left.policy.domain) == (TODAY - 1, "example.org")
    assert file.tidy(TODAY) == []
    rows = sqlite3.connect(path)
    for table, count in (("days", 1), ("batches", 1), ("tallies", 1), ("sent", 0)):
        assert rows.execute(f"SELECT count(*) FROM {table}").fetchone() == (count,)  # noqa: S608  constants
    rows.close()


def test_a_transaction_that_fails_leaves_nothing(file: AggregateFile) -> None:
    good = counted(evaluated())
    bad = (good[0], changed(good[1], policy=object()), good[2])
    with pytest.raises(TypeError):
        file.add({good: 1, bad: 1}, {})
    assert file.claim(TODAY + 1, 0.0, 900.0) is None
    add(file, evaluated())
    assert file.tallies(claim(file))[0][1] == 1


# -- the thread


class Stand:
    """Aggregates whose answers are waited for; every evaluation is wanted but those of unwanted.test."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.aggregates = Aggregates(
            path,
            wants=lambda event: event.domain != "unwanted.test",
            call_from_thread=lambda call, *values: call(*values),
            **{"delay": 0.0, **more},
        )

    def run(self, work: Callable[[AggregateFile], T]) -> T:
        got: list[T] = []
        failed: list[Any] = []
        event = threading.Event()
        self.aggregates.run(work).addCallbacks(got.append, failed.append).addBoth(lambda _: event.set())
        assert event.wait(60)
        if failed:
            failed[0].raiseException()
        return got[0]

    def counts(self) -> dict[str, int]:
        return {tally.source: count for tally, count in self.run(lambda file: file.tallies(claim(file, until=0.0)))}


@pytest.fixture
def stand(path: Path) -> Iterator[Stand]:
    stand = Stand(path)
    yield stand
    stand.aggregates.close()


def test_events_are_counted_in_a_thread(stand: Stand) -> None:
    assert verifyObject(IEventObserver, stand.aggregates)
    for _ in range(1000):
        stand.aggregates.observe(evaluated())
    stand.aggregates.observe(evaluated(source="192.0.2.2"))
    assert stand.counts() == {"192.0.2.1": 1000, "192.0.2.2": 1}


def test_other_events_and_unwanted_ones_are_not(stand: Stand) -> None:
    stand.aggregates.observe(Started(at=NOON, listeners=()))
    stand.aggregates.observe(evaluated(domain="unwanted.test"))
    stand.aggregates.observe(evaluated(rua=()))
    assert stand.run(lambda file: file.claim(TODAY + 1, 0.0, 0.0)) is None


def test_what_fails_in_the_thread_fails_for_whoever_asked(stand: Stand) -> None:
    def work(file: AggregateFile) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stand.run(work)
    assert stand.run(lambda file: 5) == 5


def test_the_end_writes_what_waits(path: Path) -> None:
    stand = Stand(path, delay=60.0)
    stand.aggregates.observe(evaluated())
    stand.aggregates.close()
    file = AggregateFile(path)
    assert len(file.tallies(claim(file))) == 1
    file.close()
    with pytest.raises(RuntimeError):
        stand.run(lambda _: None)


def test_several_processes_count_in_one_file(path: Path) -> None:
    stands = [Stand(path) for _ in range(3)]
    for _ in range(200):
        for stand in stands:
            stand.aggregates.observe(evaluated())
    for stand in stands:
        stand.run(lambda _: None)
    assert stands[0].counts() == {"192.0.2.1": 600}
    for stand in stands:
        stand.aggregates.close()


class Failing(AggregateFile):
    """A file on a disk that can be full, or damaged."""

    error: sqlite3.Error | None = None

    def add(self, counts: Any, missed: Any) -> None:
        if Failing.error:
            raise Failing.error
        super().add(counts, missed)


@pytest.fixture
def _well() -> Iterator[None]:
    yield
    Failing.error = None


@pytest.mark.usefixtures("_well")
def test_what_a_full_disk_did_not_take_is_written_later(path: Path) -> None:
    stand = Stand(path, open_file=Failing)
    Failing.error = sqlite3.OperationalError("database or disk is full")
    stand.aggregates.observe(evaluated())
    stand.run(lambda _: None)
    stand.aggregates.observe(evaluated())
    Failing.error = None
    assert stand.counts() == {"192.0.2.1": 2}
    stand.aggregates.close()


@pytest.mark.usefixtures("_well")
def test_what_waits_for_the_disk_is_bounded_and_the_rest_is_missed(path: Path) -> None:
    stand = Stand(path, open_file=Failing, limit=10)
    Failing.error = sqlite3.OperationalError("database or disk is full")
    for number in range(50):
        stand.aggregates.observe(evaluated(source=f"192.0.2.{number}"))
        stand.run(lambda _: None)
    Failing.error = None
    assert len(stand.counts()) == 10
    assert stand.run(lambda file: file.missed(TODAY)) == 40
    stand.aggregates.close()


def test_what_comes_faster_than_it_is_counted_is_missed(path: Path) -> None:
    stand = Stand(path, limit=10)
    begun, go_on = threading.Event(), threading.Event()

    def work(_: AggregateFile) -> None:
        begun.set()
        go_on.wait(60)

    stand.aggregates.run(work)
    assert begun.wait(60)
    for _ in range(25):
        stand.aggregates.observe(evaluated())
    go_on.set()
    assert stand.counts() == {"192.0.2.1": 10}
    assert stand.run(lambda file: file.missed(TODAY)) == 15
    stand.aggregates.close()


def test_a_file_that_is_no_database_is_set_aside(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    stand = Stand(path)
    stand.aggregates.observe(evaluated())
    for _ in range(3):
        try:
            stand.run(lambda _: None)
        except sqlite3.DatabaseError:
            continue
    assert stand.counts() == {"192.0.2.1": 1}
    assert path.with_name("dmarc.db.unreadable").read_bytes().startswith(b"no database")
    stand.aggregates.close()


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "missing" / "dmarc.db")
    with pytest.raises(sqlite3.OperationalError):
        stand.run(lambda _: None)
    (tmp_path / "missing").mkdir()
    stand.aggregates.observe(evaluated())
    assert stand.counts() == {"192.0.2.1": 1}
    stand.aggregates.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_dmarc_aggregates import Stand, evaluated
stand = Stand(Path(sys.argv[1]))
for _ in range(100):
    stand.aggregates.observe(evaluated())
stand.run(lambda _: None)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_written_survives_kill_9(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False, env=os.environ)  # noqa: S603  ours
    assert ended.returncode == -signal.SIGKILL
    stand = Stand(path)
    stand.aggregates.observe(evaluated())
    assert stand.counts() == {"192.0.2.1": 101}
    stand.aggregates.close()


def test_batches_and_tallies_are_values(file: AggregateFile) -> None:
    add(file, evaluated())
    batch = claim(file)
    assert replace(batch, claim="") == replace(batch, claim="")
    ((tally, _),) = file.tallies(batch)
    assert isinstance(tally, Tally)
    assert tally == counted(evaluated())[2]
    assert batch.policy == counted(evaluated())[1]
