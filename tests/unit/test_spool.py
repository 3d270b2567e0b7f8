"""The spool in a real SQLite file; the reactor's thread is a queue that the test pumps."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import (
    Envelope,
    EnvelopeRecipient,
    MailParameters,
    new_id,
)
from mailgate.events import EntrySetAside, Event, SpoolFailed, SpoolRecovered
from mailgate.interfaces import IEvents, ISpool, Lease, Outcome, OutcomeKind, Return, Selector, SpoolError
from mailgate.message import Content, ContentWriter
from mailgate.reply import Reply
from mailgate.spool.sqlite import SqliteSpool

T = TypeVar("T")

OK = Reply.of(250, "2.0.0", "ok")
LATER = Reply.of(451, "4.3.0", "later")


@implementer(IEvents)
class Bench:
    """A spool, and the queue that stands for the reactor's thread."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.calls: Queue[tuple[Callable[..., object], tuple[Any, ...]]] = Queue()
        self.events: list[Event] = []
        self.spool = SqliteSpool(
            directory, events=self, call_from_thread=lambda call, *values: self.calls.put((call, values)), **settings
        )

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def wait(self, deferred: Deferred[T]) -> T:
        """The result, once it is there."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        while not results:
            self.pump()
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def pump(self) -> None:
        call, values = self.calls.get(timeout=60)
        call(*values)

    def view(self, **selector: Any) -> list[tuple[str, int, str, int]]:
        found = self.wait(self.spool.view(Selector(**selector), 1000))
        return [(one.queue_id, one.number, one.state, one.attempts) for one in found]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=1000)
    yield bench
    bench.wait(bench.spool.close())


def envelope(recipients: int = 1, size: int = 5, **more: Any) -> Envelope:
    return Envelope(
        queue_id=new_id(),
        sender=Address("ann", "client.test"),
        recipients=tuple(
            EnvelopeRecipient(number, Address(f"user{number}", f"d{number}.test"), "route")
            for number in range(recipients)
        ),
        received=time.time(),
        size=size,
        **more,
    )


def accept(bench: Bench, recipients: int = 1, data: bytes = b"hello", **more: Any) -> Lease:
    one = envelope(recipients, len(data), **more)
    return bench.wait(bench.spool.accept(one, Content(data), time.time() + 60))


def outcomes(lease: Lease, kind: OutcomeKind, next_attempt: float = 0.0) -> list[Outcome]:
    reply = LATER if kind is OutcomeKind.DEFERRED else OK
    return [Outcome(one, kind, reply, "mx", next_attempt) for one in lease.recipients]


def lease_all(bench: Bench) -> list[Lease]:
    return [*bench.wait(bench.spool.lease(100, time.time() + 60))]


def give_back(bench: Bench, *leases: Lease, **how: Any) -> None:
    bench.wait(bench.spool.release_leases([Return(lease, **how) for lease in leases]))


def test_it_provides_the_interface(bench: Bench) -> None:
    assert ISpool.providedBy(bench.spool)
    for path in (bench.spool.directory, bench.spool.incoming):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (bench.spool.directory / "spool.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [5, 5000], ids=["in the database", "in a file"])
def test_a_delivered_message_leaves_nothing(bench: Bench, size: int) -> None:
    lease = accept(bench, 2, b"x" * size)
    assert lease.content.read() == b"x" * size
    assert lease.recipients == lease.envelope.recipients
    assert [one[2] for one in bench.view()] == ["leased", "leased"]
    assert lease_all(bench) == []
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    assert bench.view() == []
    assert list((bench.spool.directory / "content").iterdir()) == []


def test_content_from_a_writer_is_taken_over(bench: Bench) -> None:
    writer = ContentWriter(bench.spool.incoming, 100)
    writer.write(b"y" * 3000)
    lease = bench.wait(bench.spool.accept(envelope(1, 3000), writer.finish(), time.time() + 60))
    assert list(bench.spool.incoming.iterdir()) == []
    assert lease.content.path == bench.spool.directory / "content" / lease.envelope.queue_id
    assert lease.content.read() == b"y" * 3000


@pytest.mark.parametrize("size", [5, 5000])
def test_a_deferred_recipient_comes_back_when_it_is_due(bench: Bench, size: int) -> None:
    lease = accept(bench, 2, b"z" * size)
    first, second = outcomes(lease, OutcomeKind.DEFERRED, time.time() - 1)
    delivered = Outcome(second.recipient, OutcomeKind.DELIVERED, OK)
    bench.wait(bench.spool.record(lease, [first, delivered]))
    assert bench.view() == [(lease.envelope.queue_id, 0, "queued", 1)]
    (again,) = lease_all(bench)
    assert (again.envelope, again.content.read()) == (lease.envelope, b"z" * size)
    assert again.recipients == lease.envelope.recipients[:1]
    assert dict(again.attempts) == {0: 1}
    assert lease_all(bench) == []
    bench.wait(bench.spool.record(again, outcomes(again, OutcomeKind.DEFERRED, time.time() + 1000)))
    assert lease_all(bench) == []
    due = bench.wait(bench.spool.next_due())
    assert due is not None
    assert due > time.time() + 900
    assert bench.wait(bench.spool.retry(Selector(domain="D0.test"))) == 1
    (again,) = lease_all(bench)
    give_back(bench, again)
    (again,) = lease_all(bench)
    assert dict(again.attempts) == {0: 2}
    bench.wait(bench.spool.record(again, outcomes(again, OutcomeKind.FAILED)))
    assert bench.view() == []
    assert bench.wait(bench.spool.next_due()) is None
    assert list((bench.spool.directory / "content").iterdir()) == []


def test_an_expired_lease_is_due_again(bench: Bench) -> None:
    lease = accept(bench)
    give_back(bench, lease)
    bench.wait(bench.spool.lease(10, time.time() - 1))
    assert len(lease_all(bench)) == 1


def test_a_report_enters_with_the_outcome(bench: Bench) -> None:
    lease = accept(bench)
    report = envelope(1, 6)
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.FAILED), [(report, Content(b"report"))]))
    (leased,) = lease_all(bench)
    assert (leased.envelope, leased.content.read()) == (report, b"report")


def test_hold_release_delete(bench: Bench) -> None:
    first, second = accept(bench), accept(bench)
    give_back(bench, first)
    assert bench.wait(bench.spool.hold(Selector(queue_id=first.envelope.queue_id))) == 1
    assert bench.wait(bench.spool.hold(Selector(queue_id=second.envelope.queue_id))) == 0
    assert lease_all(bench) == []
    # What was leased when it was held stops when its attempt has ended.
    bench.wait(bench.spool.record(second, outcomes(second, OutcomeKind.DEFERRED, 0.0)))
    assert [one[2] for one in bench.view()] == ["held", "held"]
    assert bench.wait(bench.spool.release(Selector())) == 2
    leases = lease_all(bench)
    assert len(leases) == 2
    assert bench.wait(bench.spool.delete(Selector())) == []
    give_back(bench, *leases)
    deleted = bench.wait(bench.spool.delete(Selector(sender="ANN@client.test")))
    assert {one.queue_id for one in deleted} == {first.envelope.queue_id, second.envelope.queue_id}
    assert bench.view() == []


def test_quarantined_recipients_wait_for_release(bench: Bench) -> None:
    one = envelope(2)
    bad = EnvelopeRecipient(1, Address("user1", "d1.test"), "route", "a virus")
    one = Envelope(
        queue_id=one.queue_id,
        sender=NULL_PATH,
        recipients=(one.recipients[0], bad),
        received=one.received,
        size=5,
    )
    lease = bench.wait(bench.spool.accept(one, Content(b"hello"), time.time() + 60))
    assert [recipient.number for recipient in lease.recipients] == [0]
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    assert bench.view() == [(one.queue_id, 1, "quarantined", 0)]
    assert bench.wait(bench.spool.release(Selector(state="quarantined"))) == 1
    (lease,) = lease_all(bench)
    assert lease.recipients == (bad,)


def test_selection_and_pages(bench: Bench) -> None:
    for _ in range(5):
        give_back(bench, accept(bench, 3))
    seen, after = [], None
    while page := bench.wait(bench.spool.view(Selector(), 4, after)):
        seen += [(one.queue_id, one.number) for one in page]
        after = seen[-1]
    assert len(seen) == 15
    assert seen == sorted(set(seen))
    assert len(bench.view(domain="d1.test")) == 5
    assert len(bench.view(recipient="User2@d2.test")) == 5
    assert len(bench.view(route="route")) == 15
    assert bench.view(older_than=3600.0) == []
    assert bench.view(sender="nobody@client.test") == []


def test_a_message_can_be_shown(bench: Bench) -> None:
    lease = accept(bench)
    found = bench.wait(bench.spool.content(lease.envelope.queue_id))
    assert found is not None
    assert (found[0], found[1].read()) == (lease.envelope, b"hello")
    give_back(bench, lease)
    found = bench.wait(bench.spool.content(lease.envelope.queue_id))
    assert found is not None
    assert found[1].read() == b"hello"
    assert bench.wait(bench.spool.content("nothing")) is None


def test_what_cannot_be_read_is_set_aside_and_the_rest_delivered(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=1000)
    good = accept(bench)
    no_file, bad_row, bad_size = accept(bench, 1, b"f" * 5000), accept(bench), accept(bench)
    give_back(bench, good, no_file, bad_row, bad_size)
    assert no_file.content.path is not None
    no_file.content.path.unlink()
    with sqlite3.connect(bench.spool.directory / "spool.db") as other:
        other.execute("UPDATE messages SET envelope = '{' WHERE queue_id = ?", (bad_row.envelope.queue_id,))
        other.execute("UPDATE messages SET content = x'00' WHERE queue_id = ?", (bad_size.envelope.queue_id,))
    leases = lease_all(bench)
    assert [one.envelope for one in leases] == [good.envelope]
    aside = {event.queue_id for event in bench.events if isinstance(event, EntrySetAside)}
    assert aside == {one.envelope.queue_id for one in (no_file, bad_row, bad_size)}
    kept = bench.spool.directory / "set-aside"
    assert (kept / f"{bad_row.envelope.queue_id}.eml").read_bytes() == b"hello"
    assert (kept / f"{no_file.envelope.queue_id}.envelope").exists()
    assert [one[0] for one in bench.view()] == [good.envelope.queue_id]
    bench.wait(bench.spool.close())


def test_a_start_ends_leases_and_removes_leftovers(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=1000)
    fresh, large, old = accept(bench), accept(bench, 1, b"l" * 5000), accept(bench)
    bench.wait(bench.spool.record(old, outcomes(old, OutcomeKind.DEFERRED, 0.0)))
    assert len(lease_all(bench)) == 1
    (bench.spool.incoming / "incoming-abc").write_bytes(b"half")
    (bench.spool.directory / "content" / "0000000000000000").write_bytes(b"never acknowledged")
    bench.wait(bench.spool.close())
    bench = Bench(tmp_path / "spool", min_free=0)
    report = bench.wait(bench.spool.sweep())
    assert (report.set_aside, report.leftovers) == ((), 2)
    leases = lease_all(bench)
    assert {one.envelope.queue_id for one in leases} == {one.envelope.queue_id for one in (fresh, large, old)}
    assert {one.content.size for one in leases} == {5, 5000}
    assert [path.name for path in (bench.spool.directory / "content").iterdir()] == [large.envelope.queue_id]
    bench.wait(bench.spool.close())


def test_one_owner_at_a_time_and_no_newer_schema(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool")
    with pytest.raises(SpoolError, match=r"another process \(\d+\)"):
        Bench(tmp_path / "spool")
    bench.wait(bench.spool.close())
    with sqlite3.connect(tmp_path / "spool" / "spool.db") as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(SpoolError, match="newer mailgate"):
        Bench(tmp_path / "spool")


def test_a_file_that_is_no_database_is_kept_and_a_new_spool_begun(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.db").write_bytes(b"this is no database, but somebody may want it" * 100)
    bench = Bench(tmp_path / "spool", min_free=0)
    accept(bench)
    assert len(bench.view()) == 1
    (kept,) = (tmp_path / "spool" / "set-aside").iterdir()
    assert kept.read_bytes().startswith(b"this is no database")
    bench.wait(bench.spool.close())


def test_a_full_disk_takes_nothing_more_but_delivers_and_recovers(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    assert bench.spool.refusal(1000) == ""
    taken = [accept(bench, 1, b"k" * 900) for _ in range(3)]
    store = bench.spool._store
    (pages,) = store.database.execute("PRAGMA page_count").fetchone()
    store.database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SpoolError, match="full"):
        accept(bench, 1, b"m" * 60_000)
    assert any(isinstance(event, SpoolFailed) for event in bench.events)
    assert bench.spool.refusal(1) == "the disk is full"
    with pytest.raises(SpoolError):
        accept(bench)
    bench.wait(bench.spool.record(taken[0], outcomes(taken[0], OutcomeKind.DELIVERED)))
    assert len(bench.view()) == 2
    store.database.execute("PRAGMA max_page_count = 1000000")
    while not any(isinstance(event, SpoolRecovered) for event in bench.events):
        bench.pump()
    assert bench.spool.refusal(1) == ""
    accept(bench)
    assert len(bench.view()) == 3
    bench.wait(bench.spool.close())


def test_too_little_free_space_is_a_reason_to_refuse(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=2**62)
    assert "MiB are free" in bench.spool.refusal(0)
    bench.wait(bench.spool.close())


def test_one_job_at_fault_does_not_harm_its_group(bench: Bench) -> None:
    first = envelope(1)
    done = [bench.spool.accept(first, Content(b"hello"), 0.0)]
    bad = bench.spool._submit(lambda: 1 // 0)
    done += [bench.spool.accept(envelope(1), Content(b"hello"), 0.0) for _ in range(3)]
    with pytest.raises(SpoolError):
        bench.wait(bad)
    assert all(bench.wait(one) for one in done)
    assert len(bench.view()) == 4


# -- for later


def test_a_message_for_later_waits_through_restarts(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    later = time.time() + 1000
    one = envelope(2, parameters=MailParameters(release_at=later))
    plain = bench.spool.accept(envelope(1), Content(b"hello"), time.time() + 60)  # in one group with others
    lease = bench.wait(bench.spool.accept(one, Content(b"hello"), time.time() + 60))
    taken = bench.wait(plain)
    bench.wait(bench.spool.record(taken, outcomes(taken, OutcomeKind.DELIVERED)))
    assert (lease.envelope, lease.recipients) == (one, ())
    for _ in range(2):
        bench.wait(bench.spool.sweep())
        assert bench.view() == [(one.queue_id, 0, "queued", 0), (one.queue_id, 1, "queued", 0)]
        assert lease_all(bench) == []
        assert bench.wait(bench.spool.next_due()) == later
        # Nor does an operator who wants everything to go.
        assert bench.wait(bench.spool.retry(Selector())) == 0
        bench.wait(bench.spool.hold(Selector()))
        assert bench.wait(bench.spool.release(Selector())) == 2
        assert lease_all(bench) == []
        bench.wait(bench.spool.close())
        bench = Bench(tmp_path / "spool", min_free=0)
    bench.spool._store.database.execute("UPDATE recipients SET due = ?, not_before = ?", (time.time(), time.time()))
    (lease,) = lease_all(bench)
    assert (lease.envelope, len(lease.recipients)) == (one, 2)
    bench.wait(bench.spool.close())


def test_a_time_that_is_over_is_no_time(bench: Bench) -> None:
    lease = accept(bench, parameters=MailParameters(release_at=time.time() - 1))
    assert len(lease.recipients) == 1
    bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
    assert bench.view() == []


def test_what_is_for_later_and_quarantined_stays_so(bench: Bench) -> None:
    one = envelope(1, parameters=MailParameters(release_at=time.time() + 1000))
    one = replace(one, recipients=(replace(one.recipients[0], quarantine="a virus"),))
    assert bench.wait(bench.spool.accept(one, Content(b"hello"), time.time() + 60)).recipients == ()
    assert bench.view() == [(one.queue_id, 0, "quarantined", 0)]
    assert bench.wait(bench.spool.release(Selector())) == 1
    assert lease_all(bench) == []
    assert bench.view() == [(one.queue_id, 0, "queued", 0)]


# -- whose sender knows


def test_the_sender_is_told_of_what_goes_on_waiting(bench: Bench) -> None:
    lease = accept(bench, 2)
    first, second = outcomes(lease, OutcomeKind.DEFERRED, time.time())
    told = replace(lease, until=0.0)  # as nobody has leased it
    bench.wait(bench.spool.record(told, [replace(second, warned=True)], [(envelope(1, 6), Content(b"report"))]))
    queue_id = lease.envelope.queue_id
    assert bench.view(queue_id=queue_id) == [(queue_id, 0, "leased", 0), (queue_id, 1, "leased", 0)]
    bench.wait(bench.spool.record(lease, [first, second]))
    again = {one.envelope.queue_id: one for one in lease_all(bench)}
    assert len(again) == 2
    assert again[queue_id].warned == {1}
    assert dict(again[queue_id].attempts) == {0: 1, 1: 1}


def test_that_the_sender_was_told_survives(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", min_free=0)
    lease = accept(bench, 3)
    assert lease.warned == frozenset()
    first, second, third = outcomes(lease, OutcomeKind.DEFERRED, time.time() - 1)
    reports = [(envelope(1, 6), Content(b"report")), (envelope(1, 4), Content(b"note"))]
    bench.wait(bench.spool.record(lease, [first, replace(second, warned=True), third], reports))
    bench.wait(bench.spool.close())
    bench = Bench(tmp_path / "spool", min_free=0)
    leases = {one.envelope.queue_id: one for one in lease_all(bench)}
    again = leases.pop(lease.envelope.queue_id)
    assert again.warned == {1}
    assert {one.content.read() for one in leases.values()} == {b"report", b"note"}
    # It is not forgotten with the next deferral, or when the lease is given back.
    bench.wait(bench.spool.record(again, outcomes(again, OutcomeKind.DEFERRED, time.time() - 1)))
    (again,) = lease_all(bench)
    give_back(bench, again)
    (again,) = lease_all(bench)
    assert again.warned == {1}
    bench.wait(bench.spool.close())


def test_reports_and_outcomes_are_one(bench: Bench) -> None:
    lease = accept(bench)
    good, bad = envelope(1, 4), replace(envelope(1), queue_id="\ud800")
    with pytest.raises(SpoolError):
        bench.wait(
            bench.spool.record(
                lease, outcomes(lease, OutcomeKind.FAILED), [(good, Content(b"note")), (bad, Content(b"hello"))]
            )
        )
    assert bench.view() == [(lease.envelope.queue_id, 0, "leased", 0)]


def test_any_order_of_operations_agrees_with_a_model(tmp_path: Path) -> None:
    """Random walks: the spool and a dictionary must say the same, also across restarts."""
    chance = random.Random(7)
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=50)
    model: dict[str, set[int]] = {}
    leased: list[Lease] = []
    for _ in range(300):
        match chance.choice(["accept", "deliver", "defer", "part", "lease", "back", "restart", "hold", "release"]):
            case "accept":
                lease = accept(bench, chance.randint(1, 3), b"q" * chance.choice([10, 100]))
                model[lease.envelope.queue_id] = {one.number for one in lease.recipients}
                leased.append(lease)
            case "deliver" if leased:
                lease = leased.pop(chance.randrange(len(leased)))
                bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED)))
                model[lease.envelope.queue_id] -= {one.number for one in lease.recipients}
            case "defer" if leased:
                lease = leased.pop(chance.randrange(len(leased)))
                bench.wait(bench.spool.record(lease, outcomes(lease, OutcomeKind.DEFERRED, 0.0)))
            case "part" if leased:
                lease = leased.pop(chance.randrange(len(leased)))
                final, *rest = outcomes(lease, OutcomeKind.FAILED)
                deferred = [Outcome(one.recipient, OutcomeKind.DEFERRED, LATER) for one in rest]
                bench.wait(bench.spool.record(lease, [final, *deferred]))
                model[lease.envelope.queue_id].remove(final.recipient.number)
            case "lease":
                leased += lease_all(bench)
            case "back" if leased:
                give_back(bench, leased.pop())
            case "restart":
                bench.wait(bench.spool.close())
                bench = Bench(tmp_path / "spool", min_free=0, inline_limit=50)
                assert bench.wait(bench.spool.sweep()).leftovers == 0
                leased.clear()
            case "hold":
                bench.wait(bench.spool.hold(Selector(domain="d1.test")))
            case "release":
                bench.wait(bench.spool.release(Selector()))
        model = {queue_id: numbers for queue_id, numbers in model.items() if numbers}
        expected = sorted((queue_id, number) for queue_id, numbers in model.items() for number in numbers)
        assert [one[:2] for one in bench.view()] == expected
    bench.wait(bench.spool.close())


class Gathering(Bench):
    """A spool to which what comes goes at the end of the reactor's turn, which is when `end_turn` is called."""

    def __init__(self, directory: Path) -> None:
        self.ends: list[Callable[[], object]] = []
        super().__init__(directory, min_free=0, soon=self.ends.append)

    def end_turn(self) -> None:
        ends = self.ends.copy()
        self.ends.clear()
        for one in ends:
            one()

    def come(self) -> Deferred[Lease]:
        return self.spool.accept(envelope(), Content(b"hello"), time.time() + 60)


def test_what_comes_in_one_turn_goes_to_the_writer_together(tmp_path: Path) -> None:
    bench = Gathering(tmp_path / "spool")
    done = [bench.come() for _ in range(3)]
    assert bench.spool._jobs.empty()
    assert len(bench.ends) == 1
    bench.end_turn()
    bench.pump()  # one group, one call
    assert all(one.called for one in done)
    more = [bench.come() for _ in range(500)]
    bench.end_turn()
    leases = [bench.wait(one) for one in more]
    for lease in leases:
        finished = bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED))
    bench.end_turn()
    bench.wait(finished)
    bench.wait(bench.spool.close())


@pytest.mark.parametrize("what", ["a question", "the end"])
def test_nothing_overtakes_what_came_before_it(tmp_path: Path, what: str) -> None:
    bench = Gathering(tmp_path / "spool")
    done = bench.come()
    if what == "a question":
        assert bench.wait(bench.spool.next_due()) is not None
        assert done.called
    bench.wait(bench.spool.close())
    assert done.called
    bench.end_turn()  # too late for anything, and no harm


def test_an_end_that_is_told_twice_at_one_time_makes_room_once(tmp_path: Path) -> None:
    bench = Gathering(tmp_path / "spool")
    first = bench.come()
    bench.end_turn()
    lease = bench.wait(first)
    for _ in range(2):
        bench.spool.record(lease, outcomes(lease, OutcomeKind.DELIVERED))
    comes = [bench.come() for _ in range(2)]
    bench.end_turn()
    accepted = {bench.wait(one).envelope.queue_id for one in comes}
    bench.wait(bench.spool.close())
    bench = Gathering(tmp_path / "spool")
    bench.wait(bench.spool.sweep())
    assert {one.envelope.queue_id for one in lease_all(bench)} == accepted
    bench.wait(bench.spool.close())


@pytest.mark.parametrize("size", [200, 900])
def test_content_whose_octets_have_changed_is_set_aside(tmp_path: Path, size: int) -> None:
    """Where a page of the database holds other octets than were written, nothing but the checksum tells."""
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=1000)
    kept, damaged = (accept(bench, data=b"x" * size) for _ in range(2))
    for lease in (kept, damaged):
        give_back(bench, lease)
    bench.wait(bench.spool.close())
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as database, database:
        changed = b"x" * (size - 1) + b"y"
        database.execute("UPDATE messages SET content = ? WHERE queue_id = ?", (changed, damaged.envelope.queue_id))
    bench = Bench(tmp_path / "spool", min_free=0, inline_limit=1000)
    assert [lease.envelope.queue_id for lease in lease_all(bench)] == [kept.envelope.queue_id]
    (aside,) = [event for event in bench.events if isinstance(event, EntrySetAside)]
    assert (aside.queue_id, aside.reason) == (
        damaged.envelope.queue_id,
        "its content is damaged: the checksum is another",
    )
    bench.wait(bench.spool.close())
