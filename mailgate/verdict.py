"""What a filter answers: a closed union of values, and the two exceptions that may cross a stage."""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.address import Address
from mailgate.reply import Reply

__all__ = [
    "Accept",
    "Continue",
    "Defer",
    "Discard",
    "Disconnect",
    "PermanentFailure",
    "Quarantine",
    "Reject",
    "TemporaryFailure",
    "Verdict",
]


@dataclass(frozen=True, slots=True)
class Continue:
    """No objection: the next filter is asked. The same as answering None, but with evidence."""

    evidence: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Accept:
    """No objection, and the rest of this stage is skipped."""

    reason: str = ""
    evidence: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """Refused for good. `reply` (5yz) goes to the peer, `reason` into the trace only.

    At the message stage `recipients` may name those that it is about; empty means all.
    """

    reply: Reply
    reason: str
    recipients: tuple[Address, ...] = ()
    evidence: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        _require(self.reply, 5)


@dataclass(frozen=True, slots=True)
class Defer:
    """Refused for now (4yz); otherwise as Reject."""

    reply: Reply
    reason: str
    recipients: tuple[Address, ...] = ()
    evidence: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        _require(self.reply, 4)


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The reply is sent (421 or 5yz) and the connection closed."""

    reply: Reply
    reason: str
    evidence: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        _require(self.reply, 4, 5)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Taken from the peer (250) and kept back from the recipients."""

    reason: str
    recipients: tuple[Address, ...] = ()
    evidence: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Discard:
    """Taken from the peer (250) and dropped, with an event that names the reason."""

    reason: str
    recipients: tuple[Address, ...] = ()
    evidence: tuple[object, ...] = ()


Verdict = Continue | Accept | Reject | Defer | Disconnect | Quarantine | Discard


class TemporaryFailure(Exception):  # noqa: N818  RFC 5321's own word
    """A filter cannot tell now: answered as a Defer with this reply; the message is the private reason."""

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply or Reply.of(451, "4.3.0", "Temporary failure, try again later")
        _require(self.reply, 4)


class PermanentFailure(Exception):  # noqa: N818  RFC 5321's own word
    """Answered as a Reject with this reply; the message is the private reason."""

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply or Reply.of(550, "5.7.1", "Refused by policy")
        _require(self.reply, 5)


def _require(reply: Reply, *classes: int) -> None:
    if reply.code // 100 not in classes:
        raise ValueError(f"reply {reply.code} does not fit the verdict")
