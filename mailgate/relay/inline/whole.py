"""A message for which the client waits, delivered in one piece: the session in which its recipients were asked about is
over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from msgspec import field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Lease, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import IConnection, Result
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.exchange import BrokenOffError
from mailgate.relay.client.session import LOST
from mailgate.relay.inline.results import NO_ANSWER, TURNED_AWAY, asleep, broken, lost, unreached
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import LEASE_TIME

__all__ = ["WholeJob", "send_whole", "whole_of", "withdraw"]


class WholeJob(LedJob, kw_only=True):
    """`done` has a result for each recipient, once it is over. `left` is what was known of each, by its number, when an
    attempt was cut."""

    done: Deferred[Sequence[Result]]
    is_begun: bool = False
    left: dict[int, Result] = field(default_factory=dict)

    def over(self, connection: IConnection) -> Awaitable[Sequence[Result]]:
        if self.is_withdrawn:
            return succeed([])
        # a connector of a route opens no others
        return Deferred.fromCoroutine(self._over(cast(SmtpConnection, connection)))

    async def _over(self, connection: SmtpConnection) -> Sequence[Result]:
        if not await connection.wake():
            return [asleep(one, str(connection.target)) for one in self.remaining]
        self.is_begun = True
        try:
            return await super().over(connection)
        except CancelledError:
            self.left = {one.recipient.number: one for one in connection.left}
            raise

    def ended(self) -> None:
        if not self.done.called:
            # Before it was begun whatever is wrong is about the way, and the next hop has had nothing.
            results = self.results if self.is_begun else map(unreached, self.results)
            self.done.callback([self.left.get(one.recipient.number, one) for one in results])

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
