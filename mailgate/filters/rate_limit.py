"""Limits how much comes from one client, network, sender or user in a time, and how much of it may go wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from pydantic import Field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.awaiting import as_deferred, run
from mailgate.config.schema import Network, Section
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import Event, Refused
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.filters.open_sessions import OpenSessions
from mailgate.filters.rate_limit_rules import COUNTED_EVENTS, Limit, Rule, counted_event
from mailgate.filters.steps import Steps, ready
from mailgate.findings import Finding
from mailgate.interfaces import (
    Answered,
    FilterServices,
    IConnectFilter,
    IEventObserver,
    IMailFilter,
    IMessageFilter,
    IRecipientFilter,
)
from mailgate.message import Message
from mailgate.verdict import Continue, Verdict

__all__ = ["Options", "RateLimit", "Rule", "SlowedResult", "build"]

_Due = Sequence[tuple[Limit, str]]

_log = Logger()

_DEFAULT_RULES = tuple(
    Rule.model_validate({"count": count, "limit": limit, "window": "1m"})
    for count, limit in (("connections", 300), ("messages", 600), ("recipients", 3000))
)


class Options(Section):
    """`[filters.rate-limit]`: what is over a limit gets 450 (before the banner 421) and may come again later.

    What goes wrong (refusals, unknown-recipients, auth-failures) is counted in sessions of the listeners whose
    pipelines name this filter, whichever filter, or mailgate itself, said no.
    """

    rules: list[Rule] = Field(default=list(_DEFAULT_RULES))
    """the limits; all that apply must have room. Rules of your own take the place of the default ones, which only a
    flood reaches: 300 connections, 600 messages and 3000 recipients per client in 1m. What was refused does not
    count: whoever keeps trying is let in at the limit's pace"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients that are never limited; if not given, those of loopback and private networks"""


@dataclass(frozen=True, slots=True)
class SlowedResult(Finding):
    """An answer waited for so many `seconds`, because of the rule that `reason` tells of."""

    seconds: float
    reason: str

    def summary(self) -> str:
        return f"held back for {self.seconds:g} s: {self.reason}"

    def facts(self) -> Sequence[str]:
        return ("rate-limit.slow",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; it provides only the stages at which its rules count or limit."""
    return RateLimit(options, services)


class RateLimit:
    """Counts what it lets through: a refusal does not count, so whoever keeps trying is let in at the limit's pace.

    What a later filter refuses has been counted, and so has a message that never gets past MAIL; octets count when they
    have come. With counters that answer later, several may ask before any has counted: of these the ones too many have
    counted when they are refused.
    """

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._clock = services.clock
        self._counters = services.counters
        self._exempt = NetworkSet(options.exempt)
        limits = [Limit(rule) for rule in options.rules]
        self._events = [one for one in limits if one.rule.count in COUNTED_EVENTS]
        self._connections = [one for one in limits if one.rule.count == "connections"]
        self._messages = [one for one in limits if one.rule.count == "messages"]
        self._recipients = [one for one in limits if one.rule.count == "recipients"]
        self._octets = [one for one in limits if one.rule.count == "bytes"]
        self._bad_clients = [one for one in self._events if one.is_at_connect]
        self._bad_senders = [one for one in self._events if not one.is_at_connect]
        self._full = [one for one in self._octets if not one.is_bucket and not one.is_slow]
        self._own = tuple(f"{one.title}: " for one in limits)
        self._sessions = OpenSessions()
        stages: list[InterfaceClass] = [
            stage
            for stage, found in (
                (IConnectFilter, self._connections or self._events),
                (IMailFilter, self._messages or self._bad_senders or self._full),
                (IRecipientFilter, self._recipients),
                (IMessageFilter, self._octets),
                (IEventObserver, self._events),
            )
            if found
        ]
        directlyProvides(self, *(stages or [IConnectFilter]))

    def on_connect(self, session: Session) -> Answered:
        """Disconnect with 421 a client that connects too often, or with which too much went wrong."""
        if session.client.address in self._exempt:
            return None
        if self._events:
            self._sessions.note(session)
        return self._ask(_due(self._connections, session), _due(self._bad_clients, session))

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Defer a message too many, and any where there is no room for its octets."""
        if session.client.address in self._exempt:
            return None
        peeked = _due(self._bad_senders, session, transaction)
        size = transaction.declared_size or 0
        return self._ask(
            _due(self._messages, session, transaction), peeked, _due(self._full, session, transaction), size
        )

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Defer a recipient too many."""
        if session.client.address in self._exempt:
            return None
        return self._ask(_due(self._recipients, session, transaction, recipient))

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Defer a message whose octets are too many; one alone may be as large as it likes."""
        if session.client.address in self._exempt:
            return None
        due = _due(self._octets, session, transaction)
        return run(self._judge(due, (), (), message.content.size)) if due else None

    def observe(self, event: Event) -> None:
        """Count what went wrong."""
        known = self._sessions.find(event)
        if known is None or not isinstance(event, Refused) or event.reason.startswith(self._own):
            return
        words = counted_event(event)
        limits = [one for one in self._events if one.rule.count in words]
        due = _due(limits, known.session, _transaction_of(event)) if limits else ()
        for key, window in dict.fromkeys((key, limit.window) for limit, key in due):
            counted = self._counters.hit(key, window)
            if isinstance(counted, Awaitable):
                as_deferred(counted).addErrback(_uncounted)

    def _ask(self, counted: _Due, peeked: _Due = (), full: _Due = (), size: int = 0) -> Answered:
        return run(self._judge(counted, peeked, full, 1, size)) if counted or peeked or full else None

    def _judge(self, counted: _Due, peeked: _Due, full: _Due, amount: int, size: int = 0) -> Steps[Verdict | None]:
        """All must have room before any counts `amount`; `full` must have room for `size` octets."""
        waits: list[tuple[float, str]] = []
        buckets = [one for one in counted if one[0].is_bucket]
        windows = [one for one in counted if not one[0].is_bucket]
        for due, more in ((windows, amount), (peeked, 1), (full, size)):
            for limit, key in due:
                count = yield from ready(self._counters.peek(key, limit.window))
                # Whatever is larger than the limit passes alone, or it would never.
                if count < limit.limit and (not count or count + more <= limit.limit):
                    continue
                if not limit.is_slow:
                    return limit.refuse(key, count)
                waits.append((limit.rule.delay, limit.reason(key, count)))
        for limit, key in buckets:
            wait = yield from ready(self._counters.take(key, limit.rate, limit.burst, min(float(amount), limit.burst)))
            if wait and not limit.is_slow:
                return limit.refuse(key, None)
            if wait:
                waits.append((min(wait, limit.rule.delay), limit.reason(key, None)))
        # Rules that share a count add to it once.
        places = dict.fromkeys((key, limit.window) for limit, key in windows)
        hits = [self._counters.hit(key, window, amount) for key, window in places]
        counts: dict[tuple[str, float], int] = {}
        for place, hit in zip(places, hits, strict=True):
            counts[place] = yield from ready(hit)
        for limit, key in windows:
            count = counts[key, limit.window]
            if limit.limit < count != amount and not limit.is_slow:  # others have asked at the same time
                return limit.refuse(key, count - amount)
        if not waits:
            return None
        seconds, reason = max(waits)
        pause: Deferred[None] = deferLater(self._clock, seconds)
        yield pause
        return Continue((SlowedResult(seconds, reason),))


def _due(
    limits: Sequence[Limit],
    session: Session,
    transaction: Transaction | None = None,
    recipient: Recipient | None = None,
) -> _Due:
    """The limits that are about this, each with its key."""
    return [(limit, key) for limit in limits if (key := limit.key(session, transaction, recipient))]


def _transaction_of(event: Refused) -> Transaction:
    """A transaction with the sender that a refusal tells of; without one where that is no address."""
    try:
        sender = Address.parse(event.sender) if event.sender else NULL_PATH
    except AddressError:
        sender = NULL_PATH
    return Transaction(id=event.queue_id, sender=sender)


def _uncounted(failure: Failure) -> None:
    _log.warn("a refusal cannot be counted: {error}", error=failure.getErrorMessage())
