"""A message for which the client waits, delivered in one piece: the session in which its recipients were asked about is
over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Lease, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import IConnection, Result
from mailgate.relay.client.exchange import BrokenOffError
from mailgate.relay.client.session import LOST
from mailgate.relay.inline.results import NO_ANSWER, TURNED_AWAY, broken, lost, unreached
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import LEASE_TIME

__all__ = ["WholeJob", "send_whole", "whole_of", "withdraw"]


class WholeJob(LedJob, kw_only=True):
    """`done` has a result for each recipient, once it is over."""

    done: Deferred[Sequence[Result]]
    is_begun: bool = False

    def over(self, connection: IConnection) -> Awaitable[Sequence[Result]]:
        if self.is_withdrawn:
            return succeed([])
        self.is_begun = True
        return super().over(connection)

    def ended(self) -> None:
        if not self.done.called:
            # Before it was begun whatever is wrong is about the way, and the next hop has had nothing.
            self.done.callback(self.results if self.is_begun else [unreached(one) for one in self.results])

    def turned_away(self, why: str) -> None:
        self.results = [Result(one, OutcomeKind.DEFERRED, TURNED_AWAY, reason=why) for one in self.recipients]
        self.ended()


def whole_of(
    envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content, route: str, clock: IReactorTime
) -> WholeJob:
    """The job."""
    people = tuple(recipients)
    lease = Lease(envelope, people, content, clock.seconds() + LEASE_TIME, {})
    done: Deferred[Sequence[Result]] = Deferred(lambda _: withdraw(job))
    job = WholeJob(lease, people, route, domain=people[0].address.domain, done=done)
    return job


async def send_whole(job: WholeJob, lead: Callable[[LedJob], None]) -> Sequence[Result]:
    """Have it delivered: a result for each recipient, in order. Cancelling ends it, with results of what is known."""
    lead(job)
    try:
        results = {one.recipient.number: one for one in await job.done}
    except CancelledError:
        cut = BrokenOffError(NO_ANSWER, "the client could not be kept waiting any longer")
        cut.end_sent = job.is_begun  # or may have been
        return broken(job.recipients, cut, "")
    missing = BrokenOffError(LOST, "the next hop was not asked about this recipient")
    return [results.get(one.number) or lost(one, missing) for one in job.recipients]


def withdraw(job: LedJob) -> None:
    """Nobody waits for it any more."""
    job.is_withdrawn = True
    if job.queue is not None:
        job.queue.withdraw(job)
