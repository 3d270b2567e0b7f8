"""What is attempted at one time: a message for some of its recipients."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import Lease, OutcomeKind
from mailgate.relay.attempt import IConnection, Result
from mailgate.reply import Reply

if TYPE_CHECKING:
    from mailgate.relay.ready.jobs import JobQueue

__all__ = ["Job", "LedJob"]


class Job(Struct, eq=False):
    """One message to some of its recipients at one destination, by the route of this name.

    `started` is when its attempt began, or before that, when it began to wait; `remaining` are the recipients that have
    no result yet. `domain` is that of all recipients where the route goes by it; `site` and `source` name where it goes
    and from which of our addresses, once that is known. `in_turn`: it has waited for its turn in the spool. `postponed`
    counts how often it was put back into its queue, because its site bears no more connections. `queue` is the last
    that it was put into. `is_untried`: what became of it is so without an attempt. `is_apart`: the next hop has refused
    it for all because of one recipient, so that each is asked for alone.
    """

    lease: Lease
    recipients: tuple[EnvelopeRecipient, ...]
    route: str
    started: float = 0.0
    remaining: tuple[EnvelopeRecipient, ...] = ()
    results: list[Result] = field(default_factory=list)
    domain: str = ""
    site: str = ""
    source: str = ""
    in_turn: bool = False
    postponed: int = 0
    queue: JobQueue | None = None
    is_untried: bool = False
    is_apart: bool = False

    @property
    def tries_tls(self) -> bool:
        """Whether TLS is to be tried even where it has failed: such mail goes without it, if at all, only then."""
        return self.lease.envelope.parameters.require_tls

    @property
    def priority(self) -> int:
        """Higher ones begin before all others."""
        return self.lease.envelope.parameters.priority or 0

    def over(self, connection: IConnection) -> Awaitable[Sequence[Result]]:
        """Deliver to the remaining recipients over this connection, as IConnection.deliver."""
        return connection.deliver(self.lease.envelope, self.remaining, self.lease.content)

    def settle(self, kind: OutcomeKind, reply: Reply, host: str, reason: str) -> None:
        """Give every remaining recipient this result."""
        self.results += [Result(one, kind, reply, host, reason=reason) for one in self.remaining]
        self.remaining = ()


class LedJob(Job):
    """A job that is led by a session with a client, who waits: it holds a connection from its first recipient to its
    end. Nothing of it is in the spool. `is_withdrawn`: nobody waits any more, and no host is to hear of it."""

    is_withdrawn: bool = False

    @property
    def priority(self) -> int:
        return 10  # above all that mail may ask for (RFC 6710)

    def ended(self) -> None:
        """It is over: `results` says how."""
        raise NotImplementedError

    def turned_away(self, why: str) -> None:
        """It was not begun, and will not be."""
        raise NotImplementedError
