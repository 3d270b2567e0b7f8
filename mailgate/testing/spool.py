"""A spool in memory, with the contract of the real ones except that nothing survives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import (
    EntryView,
    ISpool,
    Lease,
    Outcome,
    OutcomeKind,
    Selector,
    SpoolError,
    SweepReport,
)
from mailgate.message import Content

__all__ = ["MemorySpool"]


@dataclass(slots=True)
class _Entry:
    recipient: EnvelopeRecipient
    state: str
    due: float
    attempts: int = 0
    last_reply: str = ""
    hold: bool = False
    warned: bool = False
    not_before: float = 0.0


@dataclass(slots=True)
class _Stored:
    envelope: Envelope
    content: Content
    entries: dict[int, _Entry] = field(default_factory=dict)


@implementer(ISpool)
class MemorySpool:
    """Keeps messages as long as it lives; every answer is there at once. The clock's seconds are the time.

    While `error` is not "" every method fails with SpoolError, as a spool does whose disk is full.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._stored: dict[str, _Stored] = {}
        self.error = ""
        self.closed = False

    def accept(self, envelope: Envelope, content: Content, until: float) -> Deferred[Lease]:
        if self._cannot():
            content.discard()
            return fail(SpoolError(self._cannot()))
        if envelope.parameters.release_at > envelope.received:
            kept = self._keep(envelope, content, "queued", envelope.parameters.release_at)
        else:
            kept = self._keep(envelope, content, "leased", until)
        free = tuple(one for one in envelope.recipients if kept.entries[one.number].state == "leased")
        return succeed(Lease(envelope, free, kept.content, until, {}))

    def lease(self, limit: int, until: float) -> Deferred[Sequence[Lease]]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        now = self._clock.seconds()
        due = sorted(
            (
                (entry.due, stored.envelope.queue_id, number)
                for stored, number, entry in self._entries()
                if entry.state in ("queued", "leased") and entry.due <= now
            ),
        )[:limit]
        wanted: dict[str, list[int]] = {}
        for _, queue_id, number in due:
            wanted.setdefault(queue_id, []).append(number)
        return succeed([self._lease(self._stored[queue_id], numbers, until) for queue_id, numbers in wanted.items()])

    def record(
        self, lease: Lease, outcomes: Sequence[Outcome], reports: Sequence[tuple[Envelope, Content]] = ()
    ) -> Deferred[None]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        stored = self._stored[lease.envelope.queue_id]
        for outcome in outcomes:
            entry = stored.entries[outcome.recipient.number]
            if outcome.kind is OutcomeKind.DEFERRED:
                entry.attempts += 1
                entry.warned = entry.warned or outcome.warned
                entry.last_reply = f"{outcome.host}: {outcome.reply}" if outcome.host else str(outcome.reply)
                self._end_lease(entry, outcome.next_attempt)
            else:
                del stored.entries[outcome.recipient.number]
        self._forget_finished()
        for report in reports:
            self._keep(*report, "queued", self._clock.seconds())
        return succeed(None)

    def release_leases(self, leases: Sequence[Lease]) -> Deferred[None]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        for lease in leases:
            stored = self._stored.get(lease.envelope.queue_id)
            for recipient in lease.recipients:
                entry = stored.entries.get(recipient.number) if stored else None
                if entry is not None and entry.state == "leased":
                    self._end_lease(entry, self._clock.seconds())
        return succeed(None)

    def next_due(self) -> Deferred[float | None]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        found = (entry.due for _, _, entry in self._entries() if entry.state in ("queued", "leased"))
        return succeed(min(found, default=None))

    def view(
        self, selector: Selector, limit: int, after: tuple[str, int] | None = None
    ) -> Deferred[Sequence[EntryView]]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        views = sorted((_view(*one) for one in self._selected(selector)), key=lambda one: (one.queue_id, one.number))
        return succeed([one for one in views if after is None or (one.queue_id, one.number) > after][:limit])

    def content(self, queue_id: str) -> Deferred[tuple[Envelope, Content] | None]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        stored = self._stored.get(queue_id)
        return succeed((stored.envelope, stored.content) if stored else None)

    def hold(self, selector: Selector) -> Deferred[int]:
        def change(entry: _Entry) -> bool:
            entry.hold = entry.hold or entry.state == "leased"
            if entry.state != "queued":
                return False
            entry.state = "held"
            return True

        return self._change(selector, change)

    def release(self, selector: Selector) -> Deferred[int]:
        def change(entry: _Entry) -> bool:
            entry.hold = False
            if entry.state not in ("held", "quarantined"):
                return False
            entry.state, entry.due = "queued", max(self._clock.seconds(), entry.not_before)
            return True

        return self._change(selector, change)

    def retry(self, selector: Selector) -> Deferred[int]:
        def change(entry: _Entry) -> bool:
            if entry.state != "queued" or entry.not_before > self._clock.seconds():
                return False
            entry.due = self._clock.seconds()
            return True

        return self._change(selector, change)

    def delete(self, selector: Selector) -> Deferred[Sequence[EntryView]]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        chosen = [one for one in self._selected(selector) if one[2].state != "leased"]
        views = [_view(*one) for one in chosen]
        for stored, number, _ in chosen:
            del stored.entries[number]
        self._forget_finished()
        return succeed(views)

    def sweep(self) -> Deferred[SweepReport]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        for _, _, entry in self._entries():
            if entry.state == "leased":
                entry.state, entry.due = "queued", self._clock.seconds()
        return succeed(SweepReport((), 0))

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)

    def _cannot(self) -> str:
        return "the spool is closed" if self.closed else self.error

    def _keep(self, envelope: Envelope, content: Content, state: str, due: float) -> _Stored:
        # What is kept must not change when the file goes, so the octets are kept, and the file is removed.
        data = content.read()
        content.discard()
        stored = _Stored(envelope, Content(data))
        for one in envelope.recipients:
            kept = "quarantined" if one.quarantine else state
            stored.entries[one.number] = _Entry(one, kept, due, not_before=envelope.parameters.release_at)
        self._stored[envelope.queue_id] = stored
        return stored

    def _lease(self, stored: _Stored, numbers: Sequence[int], until: float) -> Lease:
        for number in numbers:
            stored.entries[number].state, stored.entries[number].due = "leased", until
        recipients = tuple(one for one in stored.envelope.recipients if one.number in numbers)
        attempts = {number: stored.entries[number].attempts for number in numbers}
        warned = frozenset(number for number in numbers if stored.entries[number].warned)
        return Lease(stored.envelope, recipients, stored.content, until, attempts, warned)

    def _end_lease(self, entry: _Entry, due: float) -> None:
        entry.state, entry.hold, entry.due = ("held" if entry.hold else "queued"), False, due

    def _entries(self) -> Iterator[tuple[_Stored, int, _Entry]]:
        for stored in self._stored.values():
            for number, entry in stored.entries.items():
                yield stored, number, entry

    def _selected(self, selector: Selector) -> list[tuple[_Stored, int, _Entry]]:
        wanted = replace(
            selector,
            sender=selector.sender.lower(),
            recipient=selector.recipient.lower(),
            domain=selector.domain.lower(),
        )
        return [one for one in self._entries() if self._matches(wanted, *one)]

    def _matches(self, selector: Selector, stored: _Stored, number: int, entry: _Entry) -> bool:
        view = _view(stored, number, entry)
        facts = {
            "queue_id": view.queue_id,
            "sender": view.sender or "<>",
            "recipient": view.recipient,
            "domain": entry.recipient.address.domain,
            "route": view.route,
            "state": view.state,
        }
        if selector.older_than and view.received > self._clock.seconds() - selector.older_than:
            return False
        return all(getattr(selector, key) in ("", fact) for key, fact in facts.items())

    def _change(self, selector: Selector, change: Callable[[_Entry], bool]) -> Deferred[int]:
        if self._cannot():
            return fail(SpoolError(self._cannot()))
        return succeed(sum(change(entry) for _, _, entry in self._selected(selector)))

    def _forget_finished(self) -> None:
        self._stored = {queue_id: stored for queue_id, stored in self._stored.items() if stored.entries}


def _view(stored: _Stored, number: int, entry: _Entry) -> EntryView:
    envelope = stored.envelope
    return EntryView(
        queue_id=envelope.queue_id,
        number=number,
        sender=str(envelope.sender).lower(),
        recipient=str(entry.recipient.address).lower(),
        route=entry.recipient.route,
        state=entry.state,
        size=envelope.size,
        received=envelope.received,
        attempts=entry.attempts,
        next_attempt=entry.due,
        last_reply=entry.last_reply,
        not_before=entry.not_before,
    )
