"""A spool's life as a script, with a ledger of what was promised."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters, new_id
from mailgate.events import EntrySetAside, Event
from mailgate.interfaces import (
    Destination,
    IEvents,
    Lease,
    Outcome,
    OutcomeKind,
    Return,
    Selector,
    SpoolError,
    Suspension,
)
from mailgate.message import Content, ContentWriter
from mailgate.reply import Reply
from mailgate.spool.sqlite import SqliteSpool
from tests.crash.disk import Disk

__all__ = ["INLINE", "Bench", "Ledger", "Life", "StoppedError", "check", "live"]

T = TypeVar("T")
Key = tuple[str, int]
"""A recipient: queue id and number."""

#: Content above this size has a file.
INLINE = 1000

OK = Reply.of(250, "2.0.0", "ok")
NO = Reply.of(550, "5.1.1", "no")
LATER = Reply.of(451, "4.3.0", "later")


class StoppedError(Exception):
    """The disk has been stopped."""


@implementer(IEvents)
class Bench:
    """An open spool, and the queue that stands for the reactor's thread."""

    def __init__(self, folder: Path, disk: Disk | None = None, *, worker: int = 0, workers: int = 1) -> None:
        self.calls: Queue[tuple[Callable[..., object], tuple[Any, ...]]] = Queue()
        self.events: list[Event] = []
        self.disk = disk
        self.spool = SqliteSpool(
            folder,
            events=self,
            call_from_thread=lambda call, *values: self.calls.put((call, values)),
            inline_limit=INLINE,
            min_free=0,
            worker=worker,
            workers=workers,
        )

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def wait(self, deferred: Deferred[T]) -> T:
        """The result, once it is there; StoppedError where it will never be."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        while not results:
            try:
                call, values = self.calls.get(timeout=0.005)
            except Empty:
                if not self.spool._thread.is_alive():
                    raise StoppedError from None
                continue
            call(*values)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def pump(self, seconds: float) -> None:
        """Let the spool's thread have its way for so long."""
        with suppress(Empty):
            call, values = self.calls.get(timeout=seconds)
            call(*values)

    def close(self) -> None:
        """As at an orderly end."""
        done: list[None] = []
        self.spool.close().addCallback(done.append)
        while not done:
            call, values = self.calls.get(timeout=60)
            call(*values)

    def drop(self) -> None:
        """What the system does for a dead process."""
        spool = self.spool
        if spool._thread.is_alive():
            spool._jobs.put(None)
            spool._thread.join(60)
        spool._reader.close()
        spool._store.database.close()
        spool._unlock()
        if spool._store._turn is not None:
            spool._store._turn.close()


class Ledger:
    """What the spool was given, what it has acknowledged, and what it was asked to end."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.accepted: set[Key] = set()  # acknowledged
        self.ending: set[Key] = set()  # an end was asked for
        self.ended: set[Key] = set()  # and acknowledged
        self.reports: dict[Key, str] = {}  # the report that enters with the end of a recipient
        self.held: set[Key] = set()
        self.refused: set[str] = set()  # not taken, and the client was told so
        self.later: set[str] = set()  # for nobody yet
        self.together: list[set[Key]] = []  # what was to be taken as a whole, or not at all


class Life:
    """The steps of a life. Each does as a client, a relay or an operator does, and keeps the ledger.

    What fails is done again, as they would: with another queue id where it is a message.
    """

    def __init__(self, bench: Bench, ledger: Ledger) -> None:
        self.bench = bench
        self.spool = bench.spool
        self.ledger = ledger

    def surely(self, do: Callable[[], Deferred[T]]) -> T:
        """Do it until it is done."""
        for _ in range(400):
            try:
                return self.bench.wait(do())
            except SpoolError:
                self.bench.pump(0.005)
        raise AssertionError("the spool does not recover")

    def envelope(self, recipients: int, size: int, *, quarantined: bool = False, **more: Any) -> Envelope:
        values: dict[str, Any] = {"sender": Address("ann", "client.test"), **more}
        return Envelope(
            queue_id=new_id(),
            recipients=tuple(
                EnvelopeRecipient(
                    number, Address(f"u{number}", "d.test"), "out", "a virus" if quarantined and not number else ""
                )
                for number in range(recipients)
            ),
            received=time.time(),
            size=size,
            **values,
        )

    def together(self, *steps: Callable[[], Deferred[Any]]) -> None:
        """Do all of it in one commit, if it can be done."""
        go_on = threading.Event()
        self.spool._submit(go_on.wait)
        waiting = [(step, step()) for step in steps]
        go_on.set()
        for step, waited in waiting:
            try:
                self.bench.wait(waited)
            except SpoolError:
                self.surely(step)

    def offer(
        self, recipients: int, size: int, *, in_file: bool = False, quarantined: bool = False, later: bool = False
    ) -> Deferred[Lease]:
        envelope = self.envelope(recipients, size, quarantined=quarantined)
        if later:
            envelope = replace(envelope, parameters=MailParameters(release_at=envelope.received + 3600))
            self.ledger.later.add(envelope.queue_id)
        data = os.urandom(size)
        content = Content(data)
        if in_file:
            writer = ContentWriter(self.spool.incoming, 10)
            writer.write(data)
            content = writer.finish()
        self.ledger.contents[envelope.queue_id] = data

        def taken(lease: Lease) -> Lease:
            self.ledger.accepted |= {(envelope.queue_id, one.number) for one in envelope.recipients}
            return lease

        def refused(failure: Failure) -> Failure:
            self.ledger.refused.add(envelope.queue_id)
            return failure

        return self.spool.accept(envelope, content, time.time() + 3600).addCallbacks(taken, refused)

    def accept(self, recipients: int = 1, size: int = 50, **how: bool) -> Lease:
        return self.surely(lambda: self.offer(recipients, size, **how))

    def offer_all(self, *messages: tuple[int, int, bool]) -> Deferred[Sequence[Lease]]:
        """Messages in one piece: recipients, octets, and whether the first recipient's is kept back; the large ones lie
        in files."""
        drafts = []
        for recipients, size, quarantined in messages:
            envelope, data = self.envelope(recipients, size, quarantined=quarantined), os.urandom(size)
            writer = ContentWriter(self.spool.incoming, INLINE)
            writer.write(data)
            drafts.append((envelope, writer.finish()))
            self.ledger.contents[envelope.queue_id] = data
        keys = {(envelope.queue_id, one.number) for envelope, _ in drafts for one in envelope.recipients}
        self.ledger.together.append(keys)

        def taken(leases: Sequence[Lease]) -> Sequence[Lease]:
            self.ledger.accepted |= keys
            return leases

        def refused(failure: Failure) -> Failure:
            self.ledger.refused |= {envelope.queue_id for envelope, _ in drafts}
            return failure

        return self.spool.accept_all(drafts, time.time() + 3600).addCallbacks(taken, refused)

    def record(self, lease: Lease, kinds: str, report: int = 0) -> Callable[[], Deferred[None]]:
        """Writes outcomes, a letter for each recipient: d(elivered), f(ailed), l(ater); a report of so many octets."""
        queue_id = lease.envelope.queue_id
        outcomes, ends = [], set()
        for one, letter in zip(lease.recipients, kinds, strict=True):
            kind = {"d": OutcomeKind.DELIVERED, "f": OutcomeKind.FAILED, "l": OutcomeKind.DEFERRED}[letter]
            outcomes.append(Outcome(one, kind, {"d": OK, "f": NO, "l": LATER}[letter], next_attempt=time.time() - 1))
            if letter != "l":
                ends.add((queue_id, one.number))
        reports = []
        if report:
            data = os.urandom(report)
            envelope = self.envelope(1, report, sender=NULL_PATH)
            reports.append((envelope, Content(data)))
            self.ledger.contents[envelope.queue_id] = data
            self.ledger.reports |= dict.fromkeys(ends, envelope.queue_id)
        self.ledger.ending |= ends

        def written(_: None) -> None:
            self.ledger.ended |= ends
            self.ledger.accepted |= {(made.queue_id, 0) for made, _ in reports}

        return lambda: self.spool.record(lease, outcomes, reports).addCallback(written)

    def write(self, lease: Lease, kinds: str, report: int = 0) -> None:
        self.surely(self.record(lease, kinds, report))

    def lease(self) -> list[Lease]:
        return [*self.surely(lambda: self.spool.lease(1000, time.time() + 3600))]

    def give_back(self, *leases: Lease) -> None:
        self.surely(lambda: self.spool.release_leases([Return(one) for one in leases]))

    def hold(self, queue_id: str) -> None:
        self.surely(lambda: self.spool.hold(Selector(queue_id=queue_id)))
        self.ledger.held |= {key for key in self.ledger.accepted if key[0] == queue_id}

    def release(self, queue_id: str) -> None:
        self.ledger.held = {key for key in self.ledger.held if key[0] != queue_id}
        self.surely(lambda: self.spool.release(Selector(queue_id=queue_id)))

    def take_turns(self) -> None:
        """A message for more than are leased in one piece waits for its turn, and some of it has it."""
        here = Destination("out", "d.test")
        until = time.time() + 3600
        assert self.accept(120).recipients == ()
        self.give_back(*self.surely(lambda: self.spool.lease(1000, until, {here})))
        for lease in self.surely(lambda: self.spool.lease_in_turn(here, 10, until)):
            self.write(lease, "d" * len(lease.recipients))
        for lease in self.surely(lambda: self.spool.lease_in_turn(here, 10, until)):
            back = Return(lease, time.time() + 5, in_turn=True)
            self.surely(lambda back=back: self.spool.release_leases([back]))  # type: ignore[misc]

    def steer(self) -> None:
        """What an operator does that changes no message, and what is counted."""
        day = time.strftime("%Y-%m-%d", time.gmtime())
        self.surely(lambda: self.spool.suspend(Suspension(kind="route", name="out", since=time.time())))
        lease = self.accept(1, 2000)
        back = Return(lease, time.time() + 3600, "suspended: route out")
        self.surely(lambda: self.spool.release_leases([back]))
        self.surely(lambda: self.spool.reroute(Selector(queue_id=lease.envelope.queue_id), "other"))
        self.surely(lambda: self.spool.resume("route", "out"))
        self.surely(lambda: self.spool.add_counts({f"{day}/bounced/policy": 2}))

    def delete(self, queue_id: str) -> None:
        keys = {key for key in self.ledger.accepted if key[0] == queue_id}
        self.ledger.ending |= keys
        self.ledger.held -= keys
        self.surely(lambda: self.spool.delete(Selector(queue_id=queue_id)))
        self.ledger.ended |= keys


def live(disk: Disk, ledger: Ledger, benches: list[Bench]) -> None:
    """Two runs of a gateway, in which a spool is used in all its ways. StoppedError, CrashError: it was stopped."""

    def begin() -> Life:
        benches.append(Bench(disk.folder, disk))
        life = Life(benches[-1], ledger)
        life.surely(life.spool.sweep)
        return life

    life = begin()
    small, large, file = life.accept(2), life.accept(1, 3000), life.accept(2, 4000, in_file=True)
    life.write(small, "dd")
    life.write(large, "l")
    life.write(file, "dl")
    life.write(life.accept(1, 2000, in_file=True), "d")
    life.write(life.accept(), "f", report=100)
    life.write(life.accept(2, 2500), "fl", report=5000)
    life.accept(2, 3000, in_file=True, quarantined=True)
    life.accept(2, 1000, later=True)
    life.accept(1, 3000, in_file=True, later=True)
    life.surely(lambda: life.offer_all((1, 40, False), (2, 4000, False), (2, 50, True)))
    for lease in life.surely(lambda: life.offer_all((1, 2500, False), (1, 2500, False))):
        life.write(lease, "d")
    # What waits together is committed together.
    fresh = [life.accept(), life.accept(1, 1500)]
    steps: list[Callable[[], Deferred[Any]]] = [
        lambda: life.offer(1, 60),
        life.record(fresh[0], "d"),
        lambda: life.offer(1, 5000, in_file=True),
        lambda: life.offer_all((1, 40, False), (1, 3000, False)),
        life.record(fresh[1], "f", report=3000),
        lambda: life.offer(3, 70),
    ]
    life.together(*steps)
    for lease in life.lease():
        life.write(lease, "l" * len(lease.recipients))
    held, deleted = life.accept(1, 2000), life.accept(2, 2000, in_file=True)
    life.give_back(held, deleted)
    life.hold(held.envelope.queue_id)
    life.hold(deleted.envelope.queue_id)
    life.release(deleted.envelope.queue_id)
    life.delete(deleted.envelope.queue_id)
    life.accept(1, 2200)
    life.take_turns()
    life.steer()
    life.bench.close()
    # A process that died left things behind.
    (disk.folder / "incoming" / "incoming-abc").write_bytes(b"half a message")
    (disk.folder / "content" / "0000000000000000").write_bytes(b"never acknowledged")
    life = begin()
    for number, lease in enumerate(life.lease()):
        life.write(lease, "dl"[number % 2] * len(lease.recipients))
    for lease in life.lease():
        life.write(lease, "f" * len(lease.recipients), report=90 if lease.envelope.sender else 0)
    life.bench.close()


def check(folder: Path, ledger: Ledger) -> None:
    """Open what is left, sweep, and hold it against the ledger."""
    bench = Bench(folder)
    try:
        report = bench.wait(bench.spool.sweep())
        assert report.set_aside == ()
        found = bench.wait(bench.spool.view(Selector(), 10_000))
        states = {(one.queue_id, one.number): one.state for one in found}
        # Everything acknowledged is there, or has had an end; and what has ended stays ended.
        assert ledger.accepted - ledger.ending <= states.keys()
        assert not ledger.ended & states.keys()
        assert not ledger.refused & {queue_id for queue_id, _ in states}
        for keys in ledger.together:
            assert keys & ledger.ending or keys <= states.keys() or not keys & states.keys()
        # A report is there if, and only if, what it tells of has ended.
        for key, report_id in ledger.reports.items():
            if key in states:
                assert (report_id, 0) not in states, "a report, and its message goes on"
            elif (report_id, 0) not in ledger.ending:
                assert (report_id, 0) in states, "an end without its report"
        for key in ledger.held & ledger.accepted:
            assert states[key] == "held"
        # Whatever is there is whole.
        in_files = set()
        for queue_id in {key[0] for key in states}:
            message = bench.wait(bench.spool.content(queue_id))
            assert message is not None
            assert message[1].read() == ledger.contents[queue_id]
            if message[1].path is not None:
                in_files.add(queue_id)
        # Nothing else is.
        assert {path.name for path in (folder / "content").iterdir()} == in_files
        assert list((folder / "incoming").iterdir()) == []
        assert list((folder / "set-aside").iterdir()) == []
        assert bench.wait(bench.spool.sweep()).leftovers == 0
        # What is for later knows its time, and no lease has it now; what has been released was to be from then on.
        rows = bench.spool._store.database.execute(
            "SELECT DISTINCT queue_id FROM recipients WHERE not_before > ?", (time.time(),)
        )
        assert {row[0] for row in rows} == ledger.later & {queue_id for queue_id, _ in states}
        # All that is not kept back can be leased, once, also what waits for its turn.
        bench.wait(bench.spool.retry(Selector()))
        leases = bench.wait(bench.spool.lease(10_000, time.time() + 3600))
        leased = [(lease.envelope.queue_id, one.number) for lease in leases for one in lease.recipients]
        due = (key for key, state in states.items() if state == "queued" and key[0] not in ledger.later)
        assert sorted(leased) == sorted(due)
        assert not [event for event in bench.events if isinstance(event, EntrySetAside)]
    finally:
        bench.close()
