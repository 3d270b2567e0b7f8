"""Limits how many connections, messages and recipients come from one client, sender or user in a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass

from mailgate.config.schema import Network, Section
from mailgate.config.units import Duration, at_least, format_duration
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet, block_of, client_of
from mailgate.interfaces import FilterServices, IConnectFilter, ICounters, IMailFilter, IRecipientFilter
from mailgate.reply import Reply
from mailgate.verdict import Defer, Disconnect, Verdict

__all__ = ["Options", "RateLimit", "Rule", "build"]

Counted = Literal["connections", "messages", "recipients"]
Subject = Literal[
    "client", "network", "listener", "identity", "sender", "sender-domain", "recipient", "recipient-domain"
]
Answered = Verdict | None | Awaitable[Verdict | None]

_OF_CONNECTION = frozenset({"client", "network", "listener"})
_OF_RECIPIENT = frozenset({"recipient", "recipient-domain"})


class Rule(Section):
    """One limit, such as `{ count = "messages", per = "client", limit = 100, window = "1m" }`."""

    count: Counted
    """what is counted: connections, messages (at MAIL) or recipients (at RCPT)"""
    per: Subject = "client"
    """whose count it is. client: an IPv4 address or an IPv6 /64; network: a /24 or a /48; listener: all its clients
    together; identity: who the client has proved to be, which in trusted_networks is its address; sender and
    sender-domain (not the null sender); recipient and recipient-domain (count = "recipients" only)"""
    limit: Annotated[int, Field(strict=True, ge=1)]
    """how many are let through in any `window`"""
    window: Annotated[Duration, at_least(1.0, format_duration)]
    """the time that is looked back on"""
    only: list[Network] = Field(default=[])
    """clients that the rule is for; all, if not given"""
    exempt: list[Network] = Field(default=[])
    """clients that the rule is not for, beside the filter's own `exempt`"""
    text: str = ""
    """what is replied to what is over the limit; "Too many messages, try again later" or the like, if not given"""
    name: str = ""
    """how traces call the rule; "messages per client" or the like, if not given. Rules that count the same over the
    same window share their counts, unless they have different names"""

    @model_validator(mode="after")
    def _countable(self) -> Rule:
        if self.count == "connections" and self.per not in _OF_CONNECTION:
            raise ValueError(
                f'connections are not counted per {self.per} (valid values are: "client", "network", "listener")'
            )
        if self.count == "messages" and self.per in _OF_RECIPIENT:
            raise ValueError(f'messages are not counted per {self.per}: write count = "recipients"')
        return self


_DEFAULT_RULES = tuple(
    Rule.model_validate({"count": count, "limit": limit, "window": "1m"})
    for count, limit in (("connections", 300), ("messages", 600), ("recipients", 3000))
)


class Options(Section):
    """`[filters.rate-limit]`: what is over a limit gets 450 (before the banner 421) and may come again later."""

    rules: list[Rule] = Field(default=list(_DEFAULT_RULES))
    """the limits; all that apply must have room. Rules of your own take the place of the default ones, which only a
    flood reaches: 300 connections, 600 messages and 3000 recipients per client in 1m. What was refused does not
    count: whoever keeps trying is let in at the limit's pace"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients that are never limited; if not given, those of loopback and private networks"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; it provides only the stages at which its rules count."""
    return RateLimit(options, services.counters)


class RateLimit:
    """Counts what it lets through: a refusal does not count, so whoever keeps trying is let in at the limit's pace.

    What a later filter refuses has been counted, and so has a message that never gets past MAIL.
    """

    def __init__(self, options: Options, counters: ICounters) -> None:
        self._exempt = NetworkSet(options.exempt)
        self._connections = _limits(options.rules, "connections", counters)
        self._messages = _limits(options.rules, "messages", counters)
        self._recipients = _limits(options.rules, "recipients", counters)
        stages: list[InterfaceClass] = [
            stage
            for stage, limits in (
                (IConnectFilter, self._connections),
                (IMailFilter, self._messages),
                (IRecipientFilter, self._recipients),
            )
            if limits
        ]
        directlyProvides(self, *(stages or [IConnectFilter]))

    def on_connect(self, session: Session) -> Answered:
        """Disconnect with 421 a client that connects too often."""
        if not self._connections or session.client.address in self._exempt:
            return None
        return self._connections.ask(session)

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Defer a message too many."""
        if not self._messages or session.client.address in self._exempt:
            return None
        return self._messages.ask(session, transaction)

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Defer a recipient too many."""
        if not self._recipients or session.client.address in self._exempt:
            return None
        return self._recipients.ask(session, transaction, recipient)


class _Limit:
    """One rule made ready: whom it is for, under which key it counts, and how it refuses."""

    def __init__(self, rule: Rule) -> None:
        title = rule.name or f"{rule.count} per {rule.per}"
        only = f" only {','.join(map(str, rule.only))}" if rule.only else ""
        self.limit = rule.limit
        self.window = rule.window
        self._only = NetworkSet(rule.only)
        self._exempt = NetworkSet(rule.exempt)
        self._prefix = f"rate-limit {title}{only} {rule.window:g} "
        self._subject = _SUBJECTS[rule.per]
        self._title = title
        self._limit = f"in {format_duration(rule.window)}, the limit is {rule.limit}"
        text = rule.text or f"Too many {rule.count}, try again later"
        # A greeting carries no enhanced status code (RFC 2034 section 3).
        connecting = rule.count == "connections"
        self._refusal = Reply.of(421, "", text) if connecting else Reply.of(450, "4.7.1", text)
        self._verdict = Disconnect if connecting else Defer

    def key(self, session: Session, transaction: Transaction | None, recipient: Recipient | None) -> str:
        """Where this is counted; "" where the rule is not about it."""
        address = session.client.address
        if (self._only and address not in self._only) or (self._exempt and address in self._exempt):
            return ""
        subject = self._subject(session, transaction, recipient)
        return self._prefix + subject if subject else ""

    def refuse(self, key: str, count: int) -> Verdict:
        """The verdict at a count that leaves no room."""
        subject = key.removeprefix(self._prefix)
        return self._verdict(self._refusal, f"{self._title}: {subject} has had {count} {self._limit}")


class _Limits:
    """The limits of one stage: all must have room before any of them counts."""

    def __init__(self, limits: Sequence[_Limit], counters: ICounters) -> None:
        self._limits = limits
        self._counters = counters

    def __bool__(self) -> bool:
        return bool(self._limits)

    def ask(
        self, session: Session, transaction: Transaction | None = None, recipient: Recipient | None = None
    ) -> Answered:
        """Count, or refuse. With counters that answer later, a few that ask at the same time may pass together."""
        due = [(limit, key) for limit in self._limits if (key := limit.key(session, transaction, recipient))]
        counts: list[int] = []
        for limit, key in due:
            count = self._counters.peek(key, limit.window)
            if not isinstance(count, int):
                return self._ask_later(due, counts, count)
            counts.append(count)
        return self._decide(due, counts)

    async def _ask_later(
        self, due: Sequence[tuple[_Limit, str]], counts: list[int], pending: Awaitable[int]
    ) -> Verdict | None:
        counts.append(await pending)
        for limit, key in due[len(counts) :]:
            count = self._counters.peek(key, limit.window)
            counts.append(count if isinstance(count, int) else await count)
        decision = self._decide(due, counts)
        return await decision if isinstance(decision, Awaitable) else decision

    def _decide(self, due: Sequence[tuple[_Limit, str]], counts: Sequence[int]) -> Answered:
        for (limit, key), count in zip(due, counts, strict=True):
            if count >= limit.limit:
                return limit.refuse(key, count)
        # Rules that share a count add to it once.
        places = dict.fromkeys((key, limit.window) for limit, key in due)
        counted = [self._counters.hit(key, window) for key, window in places]
        pending = [count for count in counted if not isinstance(count, int)]
        return self._settle(pending) if pending else None

    async def _settle(self, pending: Sequence[Awaitable[int]]) -> None:
        for count in pending:
            await count


def _limits(rules: Sequence[Rule], counted: Counted, counters: ICounters) -> _Limits:
    return _Limits([_Limit(rule) for rule in rules if rule.count == counted], counters)


def _client(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return client_of(session.client.address) if session.client.address is not None else ""


def _network(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return block_of(session.client.address) if session.client.address is not None else ""


def _listener(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return session.listener


def _identity(session: Session, _transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return session.identity.name if session.identity is not None else ""


def _sender(_session: Session, transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return str(transaction.sender).lower() if transaction is not None else ""


def _sender_domain(_session: Session, transaction: Transaction | None, _recipient: Recipient | None) -> str:
    return transaction.sender.domain if transaction is not None else ""


def _recipient(_session: Session, _transaction: Transaction | None, recipient: Recipient | None) -> str:
    return str(recipient.address).lower() if recipient is not None else ""


def _recipient_domain(_session: Session, _transaction: Transaction | None, recipient: Recipient | None) -> str:
    return recipient.address.domain if recipient is not None else ""


_SUBJECTS: dict[Subject, Callable[[Session, Transaction | None, Recipient | None], str]] = {
    "client": _client,
    "network": _network,
    "listener": _listener,
    "identity": _identity,
    "sender": _sender,
    "sender-domain": _sender_domain,
    "recipient": _recipient,
    "recipient-domain": _recipient_domain,
}
