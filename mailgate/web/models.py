"""What goes over the control socket, in both directions: JSON with these shapes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from mailgate.interfaces import EntryView, Selector

__all__ = ["Action", "Changed", "Entry", "Page", "Problem", "Selection", "Shown", "Status"]

Action = Literal["hold", "release", "retry", "delete"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Selection(_Model):
    """Which entries: all conditions that are given must hold.

    None may be given empty: a slip of a script must never widen what is chosen.
    """

    ids: tuple[Annotated[str, AfterValidator(str.upper)], ...] = ()
    """queue ids, of which one is enough"""
    sender: str = ""
    """"<>" for the null sender"""
    recipient: str = ""
    domain: str = ""
    """the recipient's"""
    route: str = ""
    state: Literal["", "queued", "leased", "held", "quarantined", "set-aside"] = ""
    older_than: float = Field(default=0.0, ge=0.0)
    """seconds since arrival"""
    everything: bool = False
    """that no condition is meant; without it a change needs one"""

    # Not asked about what is left out.
    @field_validator("ids", "sender", "recipient", "domain", "route", "state")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or "" in tuple(value):
            raise ValueError("may not be empty")
        return value

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.everything and not self.is_empty:
            raise ValueError("everything is meant only without conditions")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether it has no condition."""
        return not any(getattr(self, name) for name in Selection.model_fields if name != "everything")

    def selectors(self) -> Sequence[Selector]:
        """The same for the spool, in the order of queue ids."""
        common = Selector(
            sender=self.sender,
            recipient=self.recipient,
            domain=self.domain,
            route=self.route,
            state=self.state,
            older_than=self.older_than,
        )
        return [with_id(common, one) for one in sorted(set(self.ids))] if self.ids else [common]


def with_id(selector: Selector, queue_id: str) -> Selector:
    """The part of a selector that concerns one message."""
    return Selector(
        queue_id=queue_id,
        sender=selector.sender,
        recipient=selector.recipient,
        domain=selector.domain,
        route=selector.route,
        state=selector.state,
        older_than=selector.older_than,
    )


class Entry(_Model):
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

    @classmethod
    def of(cls, view: EntryView) -> Entry:
        """As the spool sees it."""
        return cls(**{name: getattr(view, name) for name in cls.model_fields})


class Page(_Model):
    """Entries by queue id and number; `after` asks for those behind them, and is "" where there are none."""

    entries: tuple[Entry, ...]
    after: str = ""


class Recipient(_Model):
    """A recipient of a message, delivered or not."""

    address: str
    route: str
    quarantine: str = ""


class Shown(_Model):
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


class Changed(_Model):
    """What a change came to, in recipients: those chosen, those changed, those under delivery at that moment, and those
    that are not due before a later time, for which their senders have asked."""

    action: Action
    matched: int
    changed: int
    busy: int
    later: int = 0
    others: Mapping[str, int] = {}
    """how many were in which other state that the action is not about"""


class Status(_Model):
    """The daemon."""

    pid: int
    started: float | None
    """seconds since the epoch; null before it accepts"""
    uptime: float
    listeners: tuple[str, ...]
    spool: str
    """"ok", or why it cannot be written"""
    stopping: bool


class Problem(_Model):
    """Why a request was not answered."""

    error: str
