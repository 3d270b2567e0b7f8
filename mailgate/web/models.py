"""What the control socket answers: JSON with these shapes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from mailgate.interfaces import EntryView, Grouping, Suspended, Suspension
from mailgate.web.selection import Action, Model
from mailgate.web.waits import next_attempt

__all__ = [
    "Changed",
    "Entry",
    "Group",
    "Groups",
    "Page",
    "Problem",
    "Recipient",
    "Resumed",
    "Seen",
    "Shown",
    "SiteNow",
    "Sites",
    "Status",
    "SuspensionNow",
    "Suspensions",
]


class Seen(Model):
    """Something of the gateway as it is at this moment."""

    @classmethod
    def of(cls, value: object) -> Self:
        """Made of a value of ours that has the same fields."""
        return cls.model_validate(value, from_attributes=True)


class Entry(Model):
    """One recipient of one message in the queue. Times are seconds since the epoch."""

    queue_id: str
    number: int
    sender: str
    recipient: str
    route: str
    state: str
    size: int
    received: float
    attempts: int
    next_attempt: float
    last_reply: str
    not_before: float = 0.0
    """the time that its sender has asked for (FUTURERELEASE); 0 where none"""
    site: str = ""
    """where the last attempt went; so `source`, and `category` says what kind of failure it was"""
    source: str = ""
    category: str = ""
    waits: str = ""
    """why it is still here"""
    suspended_until: float | None = None
    """null where it is not suspended, 0 where until it is resumed; so is `next_attempt` then"""

    @classmethod
    def of(cls, view: EntryView, waits: str, suspension: Suspension | None = None) -> Entry:
        """As the spool sees it, with the reason why it waits."""
        given: dict[str, Any] = {
            "waits": waits,
            "next_attempt": next_attempt(view, suspension),
            "suspended_until": suspension and suspension.until,
        }
        return cls(**{name: getattr(view, name) for name in cls.model_fields if name not in given}, **given)


class Page(Model):
    """Entries by queue id and number; `after` asks for those behind them, and is "" where there are none."""

    entries: tuple[Entry, ...]
    after: str = ""


class Recipient(Model):
    """A recipient of a message, delivered or not."""

    address: str
    route: str
    quarantine: str = ""


class Shown(Model):
    """One message: its envelope, its header section as received, and the beginning of what follows."""

    queue_id: str
    sender: str
    recipients: tuple[Recipient, ...]
    received: float
    size: int
    body: str
    asked: tuple[str, ...] = ()
    """what the sender asked for with the envelope, in words"""
    client: str
    edits: tuple[str, ...]
    header: str
    text: str
    is_whole: bool
    """whether `text` is all of it"""
    entries: tuple[Entry, ...]
    """the recipients that are still in the queue"""


class Changed(Model):
    """What a change came to, in recipients: those chosen, those changed, those under delivery at that moment, and those
    that are not due before a later time, for which their senders have asked."""

    action: Action
    matched: int
    changed: int
    busy: int
    later: int = 0
    others: Mapping[str, int] = {}
    """how many were in which other state that the action is not about"""
    suspended: Mapping[str, int] = {}
    """retry: how many are not due for all that, and because of which suspension ("route internet")"""
    there: int = 0
    """reroute: how many take that route already"""


class Group(Seen):
    """Entries that have something in common: how many recipients, of them due and held, and since when the oldest."""

    key: str
    recipients: int
    due: int
    held: int
    oldest: float


class Groups(Model):
    """The largest groups, by what they have in common."""

    by: Grouping
    groups: tuple[Group, ...]


class SiteNow(Seen):
    """One destination from one source, as the relay has it at this moment; the fields are those of SiteView."""

    site: str
    route: str
    source: str
    waiting: int
    active: int
    connections: int
    most: int
    backlog: bool
    rests_until: float
    state: str


class Sites(Model):
    """Every site that the relay has anything for, the busiest first."""

    sites: tuple[SiteNow, ...]


class SuspensionNow(Model):
    """A suspension; `until` 0: until it is resumed. Both times are seconds since the epoch."""

    kind: Suspended
    name: str
    since: float
    until: float = 0.0
    reason: str = ""
    recipients: int = 0
    """that it is for: neither held, nor quarantined; of a site, only those that have been tried there"""

    @classmethod
    def of(cls, one: Suspension, recipients: int) -> SuspensionNow:
        """As the spool keeps it."""
        given = {name: getattr(one, name) for name in cls.model_fields if name != "recipients"}
        return cls(**given, recipients=recipients)


class Suspensions(Model):
    """Those that are in force."""

    suspensions: tuple[SuspensionNow, ...]


class Resumed(Model):
    """Whether there was anything to resume."""

    was_suspended: bool


class Status(Model):
    """The daemon."""

    pid: int
    started: float | None
    """seconds since the epoch; null before it accepts"""
    uptime: float
    listeners: tuple[str, ...]
    spool: str
    """"ok", or why it cannot be written"""
    stopping: bool
    stopping_for: float = 0.0
    """seconds since it began to"""


class Problem(Model):
    """Why a request was not answered."""

    error: str
