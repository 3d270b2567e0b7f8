"""What a spool in memory keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Destination, EntryView, Grouping, Lease, Selector, Suspended, Suspension
from mailgate.message import Content

__all__ = ["Entry", "Found", "Kept", "Stored", "group_of", "is_in_force", "lease_of", "matches", "spelt", "view_of"]


@dataclass(slots=True)
class Entry:
    """One recipient of a message in a MemorySpool."""

    recipient: EnvelopeRecipient
    state: str
    due: float
    attempts: int = 0
    last_reply: str = ""
    hold: str = ""  # leased: the state that the end of the lease brings, where it is not queued
    warned: bool = False
    not_before: float = 0.0
    turn: float = 0.0
    site: str = ""
    source: str = ""
    category: str = ""
    waits: str = ""

    @property
    def destination(self) -> Destination:
        """Where it goes."""
        return Destination(self.recipient.route, self.recipient.address.domain)

    def end_lease(self, due: float, queued: str = "queued") -> None:
        """As it was asked for meanwhile, or else queued."""
        self.state, self.hold, self.due = self.hold or queued, "", max(due, self.not_before)


@dataclass(slots=True)
class Stored:
    """A message in a MemorySpool."""

    envelope: Envelope
    content: Content
    entries: dict[int, Entry] = field(default_factory=dict)


Found = tuple[Stored, int, Entry]


class Kept:
    """All messages by their queue ids; one without an entry is finished. `now` is the time of selectors."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.stored: dict[str, Stored] = {}
        self._now = now

    def entries(self) -> Iterator[Found]:
        """All, in the order of their coming."""
        for stored in self.stored.values():
            for number, entry in stored.entries.items():
                yield stored, number, entry

    def selected(self, selector: Selector) -> list[Found]:
        """Those that are meant, by queue id and number."""
        now = self._now()
        found = [one for one in self.entries() if matches(selector, *one, now)]
        return sorted(found, key=lambda one: (one[0].envelope.queue_id, one[1]))

    def forget_finished(self) -> None:
        """Drop the messages that have no entry left."""
        for queue_id in [queue_id for queue_id, stored in self.stored.items() if not stored.entries]:
            del self.stored[queue_id]


def lease_of(stored: Stored, entries: Sequence[Entry], until: float) -> Lease:
    """The lease of some entries of one message."""
    entries = sorted(entries, key=lambda entry: entry.recipient.number)
    return Lease(
        stored.envelope,
        tuple(entry.recipient for entry in entries),
        stored.content,
        until,
        {entry.recipient.number: entry.attempts for entry in entries},
        frozenset(entry.recipient.number for entry in entries if entry.warned),
        {entry.recipient.number: entry.source for entry in entries if entry.source},
        max((entry.not_before for entry in entries), default=0.0),
    )


def matches(selector: Selector, stored: Stored, number: int, entry: Entry, now: float) -> bool:
    """Whether a selector means the entry."""
    view = view_of(stored, number, entry)
    reason = selector.reason.lower()
    return (
        selector.queue_id in ("", view.queue_id)
        and selector.sender.lower() in ("", view.sender or "<>")
        and selector.recipient.lower() in ("", view.recipient)
        and selector.domain.lower() in ("", entry.recipient.address.domain)
        and selector.route in ("", view.route)
        and selector.source.lower() in ("", view.source.lower())
        and selector.state in ("", view.state)
        and selector.site.lower() in view.site
        and (reason == view.category or any(reason in text.lower() for text in (view.last_reply, view.waits)))
        and (not selector.older_than or view.received <= now - selector.older_than)
    )


def view_of(stored: Stored, number: int, entry: Entry) -> EntryView:
    """The entry as an administrator sees it."""
    envelope = stored.envelope
    in_turn = entry.state == "turn"
    return EntryView(
        queue_id=envelope.queue_id,
        number=number,
        sender=str(envelope.sender).lower(),
        recipient=str(entry.recipient.address).lower(),
        route=entry.recipient.route,
        state="queued" if in_turn else entry.state,
        size=envelope.size,
        received=envelope.received,
        attempts=entry.attempts,
        next_attempt=entry.turn if in_turn else entry.due,
        last_reply=entry.last_reply,
        not_before=entry.not_before,
        site=entry.site,
        source=entry.source,
        category=entry.category,
        waits=f"waits for its turn at {entry.recipient.address.domain}" if in_turn and not entry.waits else entry.waits,
    )


def is_in_force(suspension: Suspension, now: float) -> bool:
    """Whether it has not ended yet."""
    return suspension.until == 0.0 or suspension.until > now


def spelt(kind: Suspended, name: str) -> str:
    """The name of a suspension as it is kept."""
    return name if kind == "route" else name.lower()


def group_of(stored: Stored, number: int, entry: Entry, by: Grouping) -> str:
    """What it has in common with others."""
    if by == "domain":
        return entry.recipient.address.domain
    if by == "stream":
        return stored.envelope.stream
    key: str = getattr(view_of(stored, number, entry), by)
    return key
