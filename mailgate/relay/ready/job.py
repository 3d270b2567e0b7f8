"""What is attempted at one time: a message for some of its recipients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import Lease, OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.reply import Reply

if TYPE_CHECKING:
    from mailgate.relay.ready.jobs import JobQueue

__all__ = ["Job"]


class Job(Struct, eq=False):
    """One message to some of its recipients at one destination, by the route of this name.

    `started` is when its attempt began, or before that, when it began to wait; `remaining` are the recipients that have
    no result yet. `domain` is that of all recipients where the route goes by it; `site` and `source` name where it goes
    and from which of our addresses, once that is known. `in_turn`: it has waited for its turn in the spool. `postponed`
    counts how often it was put back into its queue, because its site bears no more connections. `queue` is the last
    that it was put into. `is_untried`: what became of it is so without an attempt.
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

    @property
    def tries_tls(self) -> bool:
        """Whether TLS is to be tried even where it has failed: such mail goes without it, if at all, only then."""
        return self.lease.envelope.parameters.require_tls

    def settle(self, kind: OutcomeKind, reply: Reply, host: str, reason: str) -> None:
        """Give every remaining recipient this result."""
        self.results += [Result(one, kind, reply, host, reason=reason) for one in self.remaining]
        self.remaining = ()
