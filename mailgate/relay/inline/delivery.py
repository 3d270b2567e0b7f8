"""Inline delivery: a route's next hop answers in the client's own session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.awaiting import answered
from mailgate.config.routes import ServerRoute
from mailgate.config.schema import Route
from mailgate.envelope import Envelope, EnvelopeRecipient, Recipient, Session, Transaction, origin_of
from mailgate.interfaces import Answered, Asked, AttemptContext, IInline, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import Result
from mailgate.relay.inline.answers import public, spoken
from mailgate.relay.inline.back_end import preset_of, understood
from mailgate.relay.inline.ending import Ending
from mailgate.relay.inline.hop import HopTransaction
from mailgate.relay.inline.results import is_unreached
from mailgate.relay.parts import original_of
from mailgate.relay.ready.job import LedJob
from mailgate.reply import Reply
from mailgate.verdict import Defer, Discard, Reject, Verdict

__all__ = ["IInlineRelay", "InlineDelivery"]

_ELSEWHERE = Reply.of(452, "4.5.3", "This recipient needs a transaction of its own")
_TOO_SLOW = Reply.of(451, "4.4.2", "The next hop did not answer in time")


class IInlineRelay(Protocol):
    """What is asked of the relay."""

    def lead(self, job: LedJob) -> None:
        """Put a job into the queue of its destination, by the limits and rules that hold there."""

    def judge_attempt(self, attempt: AttemptContext) -> Answered:
        """What the delivery filters say."""


@implementer(IInline)
class InlineDelivery:
    """IInline by the relay's own ready queues and connections. `ending` is told what became of the content."""

    def __init__(self, relay: IInlineRelay, ending: Ending, clock: IReactorTime) -> None:
        self._relay = relay
        self._ending = ending
        self._clock = clock
        self._routes: Mapping[str, ServerRoute] = {}
        self._open: dict[str, HopTransaction] = {}  # by the ids of transactions
        self._sending = 0
        self._idle: list[Deferred[None]] = []

    def use(self, routes: Mapping[str, Route]) -> None:
        """From now on these are the routes."""
        self._routes = {
            name: route for name, route in routes.items() if isinstance(route, ServerRoute) and not route.queue
        }

    def __bool__(self) -> bool:
        """Whether any route is inline."""
        return bool(self._routes)

    def when_idle(self) -> Deferred[None]:
        """Fires when no message is on its way to a next hop, whether its client still waits or not."""
        if not self._sending:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle

    # -- IInline

    def place(self, recipient: Recipient) -> str:
        name = recipient.route
        if not name and len(recipient.targets) == 1:
            name = recipient.targets[0].route
        return name if name in self._routes and len(recipient.targets) < 2 else ""

    async def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Asked:
        name = self.place(recipient)
        route = self._routes.get(name)
        if route is None or transaction.parameters.release_at:  # no route of this kind any more; not to go out yet
            return None
        one = _envelope_recipient(recipient, name, len(transaction.recipients))
        hop = self._open.get(transaction.id)
        if hop is not None and hop.refusal is not None:
            return _told(replace(hop.refusal, recipient=one), route, utf8=transaction.parameters.smtputf8)
        if hop is not None and hop.accepted and (one.return_path or transaction.sender) != hop.reverse_path:
            return Defer(_ELSEWHERE, f"its reverse-path is {one.return_path}, and that of the others is not")
        envelope = _envelope(session, transaction, one, self._clock.seconds())
        verdict = await answered(self._relay.judge_attempt(AttemptContext(envelope, (one,), name, 1)))
        if isinstance(verdict, Reject | Defer):
            return verdict
        if isinstance(verdict, Discard):  # which is carried out by those who deliver from the spool
            return Defer(_ELSEWHERE, verdict.reason) if transaction.recipients else None
        if hop is None or not (hop.is_open or hop.accepted):
            hop = HopTransaction(
                envelope,
                transaction.declared_size,
                name,
                lead=self._relay.lead,
                clock=self._clock,
                hold=route.hold_timeout,
            )
            self._open[transaction.id] = hop
            asking = hop.begin()
        else:
            asking = Deferred.fromCoroutine(hop.rcpt(one))
        try:
            result = await asking.addTimeout(route.rcpt_timeout, self._clock)
        except DeferredTimeout:
            reason = f"route {name} had no answer for it within {route.rcpt_timeout:g} s"
            result = Result(one, OutcomeKind.DEFERRED, _TOO_SLOW, next_host=True, reason=reason)
        if not (hop.is_open or hop.accepted or hop.refusal):
            self._open.pop(transaction.id, None)
        return _told(result, route, utf8=transaction.parameters.smtputf8)

    async def send(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        verdicts: Sequence[Verdict],
        *,
        may_report: bool,
        since: float,
    ) -> Sequence[Reply]:
        hop = self._open.pop(transaction.id, None)
        route = None if hop is None else self._routes.get(hop.route)
        is_kept = route is not None and route.when_unreachable == "queue"
        self._sending += 1
        try:
            replies = await self._ending.end(
                session,
                transaction,
                content,
                verdicts,
                hop=hop,
                may_report=may_report,
                since=since,
                may_queue=is_kept,
                preset=preset_of(route),
            )
            return [spoken(one, utf8=transaction.parameters.smtputf8) for one in replies]
        finally:
            self._sending -= 1
            if not self._sending:
                idle, self._idle = self._idle, []
                for one in idle:
                    one.callback(None)

    def abandon(self, transaction: Transaction) -> None:
        hop = self._open.pop(transaction.id, None)
        if hop is not None:
            hop.abandon()


def _told(result: Result, route: ServerRoute, *, utf8: bool) -> Asked:
    """What the client is told; None where the recipient is one for the spool."""
    result = understood(preset_of(route), result)
    if result.kind is OutcomeKind.DELIVERED:
        return spoken(result.reply, utf8=utf8)
    if is_unreached(result) and route.when_unreachable == "queue":
        return None
    reply = spoken(public(result), utf8=utf8)
    reason = result.reason or f"the next hop {result.host} said: {result.reply}"
    return Reject(reply, reason) if reply.is_permanent else Defer(reply, reason)


def _envelope_recipient(recipient: Recipient, route: str, number: int) -> EnvelopeRecipient:
    address, orcpt, path = recipient.address, recipient.orcpt, None
    for target in recipient.targets:
        address, orcpt, path = target.address, orcpt or original_of(recipient.address), target.return_path
    return EnvelopeRecipient(number, address, route, notify=recipient.notify, orcpt=orcpt, return_path=path)


def _envelope(session: Session, transaction: Transaction, recipient: EnvelopeRecipient, now: float) -> Envelope:
    """What is known of it at its first recipient."""
    return Envelope(
        queue_id=transaction.id,
        sender=transaction.sender,
        recipients=(recipient,),
        received=now,
        size=transaction.declared_size or 0,
        parameters=transaction.parameters,
        client=str(session.client),
        origin=transaction.origin or origin_of(session),
        listener=session.listener,
    )
