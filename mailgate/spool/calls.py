"""The calls of the spool that are one piece of work each: for its writer, or a question to its reader."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred

from mailgate.envelope import Envelope
from mailgate.events import EntrySetAside, Event
from mailgate.interfaces import (
    Destination,
    EntryView,
    Grouping,
    IEvents,
    Lease,
    Return,
    Selector,
    Summary,
    Suspended,
    Suspension,
    SweepReport,
)
from mailgate.interfaces.spool import EVERYTHING
from mailgate.message import Content
from mailgate.spool import leasing, operate
from mailgate.spool.reader import SpoolReader
from mailgate.spool.store import SetAside, Store
from mailgate.spool.sweep import sweep

__all__ = ["SpoolCalls"]

T = TypeVar("T")


class SpoolCalls:
    """Most of ISpool. Whoever inherits it has the writer."""

    _store: Store
    _reader: SpoolReader
    _now: Callable[[], float]
    _events: IEvents

    def _submit(self, run: Callable[[], T], *, alone: bool = False) -> Deferred[T]:
        """Have the writer do it inside a transaction, or in one of its own."""
        raise NotImplementedError

    def _publish(self, event: Event) -> None:
        """Tell of something, from the writer's thread."""
        raise NotImplementedError

    def _tell_aside(self, aside: Sequence[SetAside], publish: Callable[[Event], None] | None = None) -> None:
        """Tell what was set aside, once that is committed: from the writer's thread, or with `publish` from another."""
        for name, where, reason in aside:
            (publish or self._publish)(EntrySetAside(at=self._now(), queue_id=name, where=where, reason=reason))

    # -- leases

    def lease(self, limit: int, until: float, full: Container[Destination] = ()) -> Deferred[Sequence[Lease]]:
        return Deferred.fromCoroutine(self._lease(limit, until, full))

    async def _lease(self, limit: int, until: float, full: Container[Destination]) -> Sequence[Lease]:
        while True:
            look = await self._look(lambda: leasing.lease(self._store, limit, until, full))
            # Where many wait for destinations that are full, others may write between one look and the next.
            if look.leases or look.is_all:
                return look.leases

    def lease_in_turn(
        self, destination: Destination, limit: int, until: float, without: Sequence[str] = ()
    ) -> Deferred[Sequence[Lease]]:
        look = self._look(lambda: leasing.lease_in_turn(self._store, destination, limit, until, without))
        return look.addCallback(lambda found: found.leases)

    def lease_selected(self, selector: Selector, limit: int, until: float) -> Deferred[Sequence[Lease]]:
        look = self._look(lambda: leasing.lease_selected(self._store, selector, limit, until))
        return look.addCallback(lambda found: found.leases)

    def _look(self, look: Callable[[], leasing.Found]) -> Deferred[leasing.Found]:
        def tell(found: leasing.Found) -> leasing.Found:
            self._tell_aside(found.aside, self._events.publish)
            return found

        return self._submit(look).addCallback(tell)

    def waiting(self) -> Deferred[list[Destination]]:
        return self._reader.waiting()

    def release_leases(self, returns: Sequence[Return]) -> Deferred[None]:
        return self._submit(lambda: leasing.give_back(self._store, returns))

    def next_due(self) -> Deferred[float | None]:
        return self._submit(lambda: leasing.next_due(self._store))

    # -- what an operator asks

    def view(self, selector: Selector, limit: int, after: tuple[str, int] | None = None) -> Deferred[list[EntryView]]:
        return self._reader.view(selector, limit, after)

    def summary(self, by: Grouping, limit: int, selector: Selector = EVERYTHING) -> Deferred[list[Summary]]:
        return self._reader.summary(by, limit, selector)

    def content(self, queue_id: str) -> Deferred[tuple[Envelope, Content] | None]:
        return self._reader.content(queue_id)

    def suspensions(self) -> Deferred[list[Suspension]]:
        return self._reader.suspensions()

    # -- what an operator does

    def expand_fresh(self) -> Deferred[None]:
        """Give rows to the messages that we deliver for the first time: what another worker changes must find them."""
        return self._submit(self._store.expand_all)

    def hold(self, selector: Selector) -> Deferred[int]:
        return self._submit(lambda: operate.hold(self._store, selector))

    def release(self, selector: Selector) -> Deferred[int]:
        return self._submit(lambda: operate.release(self._store, selector))

    def quarantine(self, selector: Selector, reason: str) -> Deferred[list[EntryView]]:
        return self._submit(lambda: operate.quarantine(self._store, selector, reason))

    def retry(self, selector: Selector) -> Deferred[int]:
        return self._submit(lambda: operate.retry(self._store, selector))

    def reroute(self, selector: Selector, route: str) -> Deferred[int]:
        return self._submit(lambda: operate.reroute(self._store, selector, route))

    def delete(self, selector: Selector) -> Deferred[list[EntryView]]:
        return self._submit(lambda: operate.delete(self._store, selector))

    def suspend(self, suspension: Suspension) -> Deferred[None]:
        return self._submit(lambda: operate.suspend(self._store, suspension))

    def resume(self, kind: Suspended, name: str) -> Deferred[bool]:
        return self._submit(lambda: operate.resume(self._store, kind, name))

    # -- numbers

    def add_counts(self, amounts: Mapping[str, int]) -> Deferred[None]:
        return self._submit(lambda: operate.add_counts(self._store, amounts))

    def counts(self, prefix: str) -> Deferred[dict[str, int]]:
        return self._reader.counts(prefix)

    # -- the start

    def sweep(self) -> Deferred[SweepReport]:
        def tell(found: tuple[list[SetAside], int]) -> SweepReport:
            aside, leftovers = found
            self._tell_aside(aside, self._events.publish)
            return SweepReport(tuple(name for name, _, _ in aside), leftovers)

        return self._submit(lambda: sweep(self._store), alone=True).addCallback(tell)
