"""A spool in memory, with the contract of the real ones except that nothing survives."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.envelope import Envelope
from mailgate.interfaces import (
    Destination,
    EntryView,
    Grouping,
    ISpool,
    Lease,
    Outcome,
    OutcomeKind,
    Return,
    Selector,
    SpoolError,
    Summary,
    Suspended,
    Suspension,
    SweepReport,
)
from mailgate.interfaces.spool import EVERYTHING, LEASED_AT_ONCE, TURN_LIFE
from mailgate.message import Content
from mailgate.spool.query import told
from mailgate.testing.entries import Entry, Found, Kept, Stored, group_of, lease_of, view_of
from mailgate.testing.operate import Operator

__all__ = ["MemorySpool"]

T = TypeVar("T")

#: Seconds between the recipients of one message in the line of a destination.
_SPACING = 0.05
_LEASED = ("queued", "turn", "leased")


@implementer(ISpool)
class MemorySpool:
    """Keeps messages as long as it lives; every answer is there at once. The clock's seconds are the time.

    While `error` is not "" every method fails with SpoolError, as a spool does whose disk is full.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._kept = Kept(clock.seconds)
        self._stored = self._kept.stored
        self._counts: Counter[str] = Counter()
        self._operator = Operator(self._kept, self._counts, clock.seconds)
        self.error = ""
        self.closed = False

    # -- accepting and leasing

    def accept(self, envelope: Envelope, content: Content, until: float) -> Deferred[Lease]:
        if self._cannot():
            content.discard()
        return self._do(lambda: self._accept(envelope, content, until))

    def accept_all(self, messages: Sequence[tuple[Envelope, Content]], until: float) -> Deferred[Sequence[Lease]]:
        if self._cannot():
            for _, content in messages:
                content.discard()
        return self._do(lambda: [self._accept(*message, until) for message in messages])

    def _accept(self, envelope: Envelope, content: Content, until: float) -> Lease:
        release_at = envelope.parameters.release_at
        if envelope.mark:
            self._counts[envelope.mark] = 1
        if release_at > envelope.received or len(envelope.recipients) > LEASED_AT_ONCE:
            kept = self._keep(envelope, content, "queued", max(release_at, self._now()))
        else:
            kept = self._keep(envelope, content, "leased", until)
        free = tuple(one for one in envelope.recipients if kept.entries[one.number].state == "leased")
        return Lease(envelope, free, kept.content, until, {})

    def lease(self, limit: int, until: float, full: Container[Destination] = ()) -> Deferred[Sequence[Lease]]:
        def run() -> Sequence[Lease]:
            now = self._now()
            taken: list[Found] = []
            due = (one for one in self._kept.entries() if one[2].state in _LEASED and one[2].due <= now)
            for stored, number, entry in sorted(due, key=lambda one: one[2].due):
                if entry.state == "leased" and entry.hold:
                    entry.end_lease(entry.due)
                elif entry.destination in full:
                    entry.turn = entry.turn if entry.state == "turn" else now + number * _SPACING
                    entry.state, entry.due, entry.waits = "turn", now + TURN_LIFE, ""
                elif len(taken) < limit:
                    taken.append((stored, number, entry))
            return self._lease(taken, until)

        return self._do(run)

    def lease_in_turn(
        self, destination: Destination, limit: int, until: float, without: Sequence[str] = ()
    ) -> Deferred[Sequence[Lease]]:
        def is_meant(entry: Entry) -> bool:
            return (
                entry.state == "turn"
                and entry.recipient.route == destination.route
                and destination.domain in ("", entry.recipient.address.domain)
                and entry.source not in without
            )

        def run() -> Sequence[Lease]:
            waiting = [one for one in self._kept.entries() if is_meant(one[2])]
            waiting.sort(key=lambda one: (-(one[0].envelope.parameters.priority or 0), one[2].turn))
            return self._lease(waiting[:limit], until)

        return self._do(run)

    def lease_selected(self, selector: Selector, limit: int, until: float) -> Deferred[Sequence[Lease]]:
        def run() -> Sequence[Lease]:
            chosen = [one for one in self._kept.selected(selector) if one[2].state != "leased"]
            return self._lease(chosen[:limit], until)

        return self._do(run)

    def waiting(self) -> Deferred[Sequence[Destination]]:
        return self._do(
            lambda: sorted({entry.destination for _, _, entry in self._kept.entries() if entry.state == "turn"})
        )

    # -- ending

    def record(
        self, lease: Lease, outcomes: Sequence[Outcome], reports: Sequence[tuple[Envelope, Content]] = ()
    ) -> Deferred[None]:
        def run() -> None:
            stored = self._stored.get(lease.envelope.queue_id)
            entries = stored.entries if stored is not None else {}
            for outcome in outcomes:
                self._record(entries, lease, outcome)
            self._kept.forget_finished()
            for report in reports:
                self._keep(*report, "queued", self._now())

        return self._do(run)

    def _record(self, entries: dict[int, Entry], lease: Lease, outcome: Outcome) -> None:
        entry = entries.get(outcome.recipient.number)
        if entry is None:
            return
        if outcome.kind is not OutcomeKind.DEFERRED:
            del entries[outcome.recipient.number]
            return
        entry.warned = entry.warned or outcome.warned
        if entry.state == "leased" and entry.due == lease.until:
            entry.attempts += 1
            entry.last_reply = told(outcome)
            entry.site, entry.source, entry.category, entry.waits = outcome.site, outcome.source, outcome.category, ""
            entry.end_lease(outcome.next_attempt)

    def release_leases(self, returns: Sequence[Return]) -> Deferred[None]:
        def run() -> None:
            now = self._now()
            for one in returns:
                stored = self._stored.get(one.lease.envelope.queue_id)
                for recipient in one.lease.recipients:
                    entry = stored.entries.get(recipient.number) if stored else None
                    if entry is None or entry.state != "leased" or entry.due != one.lease.until:
                        continue
                    entry.waits = entry.waits if entry.hold == "quarantined" else one.waits
                    if one.in_turn:
                        entry.turn = max(one.due, now)
                        entry.end_lease(entry.turn + TURN_LIFE, "turn")
                    else:
                        entry.end_lease(one.due or now)

        return self._do(run)

    def next_due(self) -> Deferred[float | None]:
        return self._do(
            lambda: min((one.due for _, _, one in self._kept.entries() if one.state in _LEASED), default=None)
        )

    # -- looking

    def view(
        self, selector: Selector, limit: int, after: tuple[str, int] | None = None
    ) -> Deferred[Sequence[EntryView]]:
        def run() -> Sequence[EntryView]:
            views = (view_of(*one) for one in self._kept.selected(selector))
            return [one for one in views if after is None or (one.queue_id, one.number) > after][:limit]

        return self._do(run)

    def summary(self, by: Grouping, limit: int, selector: Selector = EVERYTHING) -> Deferred[Sequence[Summary]]:
        def run() -> Sequence[Summary]:
            now = self._now()
            groups: dict[str, list[Found]] = {}
            for found in self._kept.selected(selector):
                groups.setdefault(group_of(*found, by), []).append(found)
            made = [
                Summary(
                    key=key,
                    recipients=len(members),
                    due=sum(one.state == "turn" or (one.state == "queued" and one.due <= now) for _, _, one in members),
                    held=sum(one.state in ("held", "quarantined") for _, _, one in members),
                    oldest=min(stored.envelope.received for stored, _, _ in members),
                )
                for key, members in groups.items()
            ]
            return sorted(made, key=lambda one: (-one.recipients, one.key))[:limit]

        return self._do(run)

    def content(self, queue_id: str) -> Deferred[tuple[Envelope, Content] | None]:
        def run() -> tuple[Envelope, Content] | None:
            stored = self._stored.get(queue_id)
            if stored is None:
                return None
            entries = stored.entries
            recipients = (
                entries[one.number].recipient if one.number in entries else one for one in stored.envelope.recipients
            )
            return replace(stored.envelope, recipients=tuple(recipients)), stored.content

        return self._do(run)

    # -- an operator

    def hold(self, selector: Selector) -> Deferred[int]:
        return self._do(lambda: self._operator.hold(selector))

    def release(self, selector: Selector) -> Deferred[int]:
        return self._do(lambda: self._operator.release(selector))

    def quarantine(self, selector: Selector, reason: str) -> Deferred[Sequence[EntryView]]:
        return self._do(lambda: self._operator.quarantine(selector, reason))

    def retry(self, selector: Selector) -> Deferred[int]:
        return self._do(lambda: self._operator.retry(selector))

    def reroute(self, selector: Selector, route: str) -> Deferred[int]:
        return self._do(lambda: self._operator.reroute(selector, route))

    def delete(self, selector: Selector) -> Deferred[Sequence[EntryView]]:
        return self._do(lambda: self._operator.delete(selector))

    def suspend(self, suspension: Suspension) -> Deferred[None]:
        return self._do(lambda: self._operator.suspend(suspension))

    def resume(self, kind: Suspended, name: str) -> Deferred[bool]:
        return self._do(lambda: self._operator.resume(kind, name))

    def suspensions(self) -> Deferred[Sequence[Suspension]]:
        return self._do(self._operator.suspensions)

    # -- numbers, and life

    def add_counts(self, amounts: Mapping[str, int]) -> Deferred[None]:
        def run() -> None:
            day = datetime.datetime.fromtimestamp(self._now(), datetime.UTC) - datetime.timedelta(days=40)
            self._counts.update(amounts)
            for key in [key for key, amount in amounts.items() if amount < 0 and self._counts[key] <= 0]:
                del self._counts[key]
            for key in [key for key in self._counts if key < day.date().isoformat()]:
                del self._counts[key]

        return self._do(run)

    def counts(self, prefix: str) -> Deferred[Mapping[str, int]]:
        return self._do(lambda: {key: count for key, count in self._counts.items() if key.startswith(prefix)})

    def sweep(self) -> Deferred[SweepReport]:
        def run() -> SweepReport:
            for _, _, entry in self._kept.entries():
                if entry.state == "leased":
                    entry.end_lease(self._now())
            return SweepReport((), 0)

        return self._do(run)

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)

    # -- how

    def _now(self) -> float:
        return self._clock.seconds()

    def _cannot(self) -> str:
        return "the spool is closed" if self.closed else self.error

    def _do(self, run: Callable[[], T]) -> Deferred[T]:
        return fail(SpoolError(self._cannot())) if self._cannot() else succeed(run())

    def _keep(self, envelope: Envelope, content: Content, state: str, due: float) -> Stored:
        # What is kept must not change when the file goes, so the octets are kept, and the file is removed.
        data = content.read()
        content.discard()
        stored = Stored(envelope, Content(data))
        for one in envelope.recipients:
            kept, since = ("quarantined", envelope.received) if one.quarantine else (state, due)
            stored.entries[one.number] = Entry(
                one, kept, since, not_before=envelope.parameters.release_at, waits=one.quarantine
            )
        self._stored[envelope.queue_id] = stored
        return stored

    def _lease(self, taken: Iterable[Found], until: float) -> list[Lease]:
        """A lease for each message."""
        wanted: dict[str, list[Entry]] = {}
        for stored, _, entry in taken:
            entry.hold = entry.state if entry.state in ("held", "quarantined") else entry.hold
            entry.waits = entry.waits if entry.state == "quarantined" else ""
            entry.state, entry.due = "leased", until
            wanted.setdefault(stored.envelope.queue_id, []).append(entry)
        return [lease_of(self._stored[queue_id], entries, until) for queue_id, entries in wanted.items()]
