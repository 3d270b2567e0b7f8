"""Lets those wait whom other filters have found something about, or who are refused again and again."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from cachetools import LRUCache
from pydantic import AfterValidator, Field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass

from mailgate.config.schema import Network, Section
from mailgate.config.units import Duration, Form, Timeout, format_duration
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import Event, Refused, SessionClosed
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.findings import Finding
from mailgate.interfaces import (
    Answered,
    FilterServices,
    IConnectFilter,
    IEventObserver,
    IHeloFilter,
    IMailFilter,
    IRecipientFilter,
)
from mailgate.verdict import Continue, Verdict

__all__ = ["DelayedResult", "Options", "Tarpit", "build"]

#: A filter's deadline is 10 seconds, unless it is configured.
_LONGEST = 9.0
#: The word that stands for refusals in `when`.
_REFUSED = "refused"
_FACT = re.compile(r"[a-z0-9._*-]+")
#: Sessions of which something is remembered; most have nothing.
_MOST_SESSIONS = 10_000

_STAGES: dict[str, InterfaceClass] = {
    "connect": IConnectFilter,
    "helo": IHeloFilter,
    "mail": IMailFilter,
    "rcpt": IRecipientFilter,
}


def _delay(seconds: float) -> float:
    if seconds > _LONGEST:
        raise ValueError(f"must be at most {format_duration(_LONGEST)}: the filter must answer within its deadline")
    return seconds


def _fact(text: str) -> str:
    if not _FACT.fullmatch(text):
        raise ValueError(f'"{text}" is no fact like "dnsbl.*" or "helo.literal", and not "{_REFUSED}"')
    return text


class Options(Section):
    """`[filters.tarpit]`: who waits, for how long, and where.

    Stands in the pipeline behind the filters whose findings it waits for. Whoever has logged in, or is in
    trusted_networks, never waits.
    """

    when: list[Annotated[str, AfterValidator(_fact), Form("fact")]] = Field(
        default=["dnsbl.*", "helo.own_*", "fcrdns.dynamic", _REFUSED]
    )
    """the facts that make a client wait, where * stands for anything (in "fcrdns.*" for what is good, too), and
    "refused" for a session that was refused something for good (5yz) before"""
    delay: Annotated[Timeout, AfterValidator(_delay)] = 2.0
    """how long each answer is held back. After each refusal of the session it grows by as much again, up to 9s: keep
    it, and those, shorter than the filter's deadline"""
    max_total: Duration = 60.0
    """how long one session waits in all; then its answers come at once"""
    max_sessions: Annotated[int, Field(strict=True, ge=1)] = 100
    """sessions that wait at one time; the others are answered at once, so that waiting cannot use up the listener's
    max_connections: keep it well below"""
    stages: list[Literal["connect", "helo", "mail", "rcpt"]] = Field(default=["connect", "helo", "rcpt"], min_length=1)
    """what is held back: the banner (connect), and the answers to HELO, MAIL and RCPT"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients that never wait; if not given, those of loopback and private networks"""


@dataclass(frozen=True, slots=True)
class DelayedResult(Finding):
    """An answer was held back for so many `seconds`, because of the fact `why`; `total` is what the session waited."""

    seconds: float
    total: float
    why: str

    def summary(self) -> str:
        return f"held back for {self.seconds:g} s because of {self.why}, {self.total:g} s in all"

    def facts(self) -> Sequence[str]:
        return ("tarpit",)


def build(options: Options, services: FilterServices) -> object:
    """The filter, which observes events, too."""
    return Tarpit(options, services)


@dataclass(slots=True)
class _Account:
    """What a session has earned, and what it has served."""

    refusals: int = 0
    waited: float = 0.0


class Tarpit:
    """Keeps an account of each session that was refused something for good or has waited, until the session ends.

    The accounts are bounded: those that are forgotten begin anew. A session waits for one answer at a time, and no
    longer than its client does: the answer is cancelled with the session.
    """

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._clock = services.clock
        self._exempt = NetworkSet(options.exempt)
        self._delay = options.delay
        self._max_total = options.max_total
        self._max_sessions = options.max_sessions
        self._counts_refusals = _REFUSED in options.when
        patterns = [fnmatch.translate(fact) for fact in options.when if fact != _REFUSED]
        self._facts = re.compile("|".join(patterns)) if patterns else None
        self._accounts: LRUCache[str, _Account] = LRUCache(_MOST_SESSIONS)
        self._waiting = 0
        directlyProvides(self, IEventObserver, *(_STAGES[stage] for stage in dict.fromkeys(options.stages)))

    def on_connect(self, session: Session) -> Answered:
        """Hold the banner back."""
        return self._answer(session)

    def on_helo(self, session: Session) -> Answered:
        """Hold the answer to the greeting back."""
        return self._answer(session)

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Hold the answer to MAIL back."""
        return self._answer(session, transaction)

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Hold the answer to RCPT back."""
        return self._answer(session, transaction)

    def observe(self, event: Event) -> None:
        """Count what a session is refused, and forget a session that is over."""
        if isinstance(event, Refused):
            if not event.reply.startswith("5"):  # who may come again, as one that is greylisted, has done nothing wrong
                return
            self._account(event.session).refusals += 1
        elif isinstance(event, SessionClosed):
            self._accounts.pop(event.session, None)

    def _answer(self, session: Session, transaction: Transaction | None = None) -> Answered:
        if session.identity is not None or session.client.address is None or session.client.address in self._exempt:
            return None
        account = self._accounts.get(session.id)
        refusals = account.refusals if account is not None else 0
        why = self._reason(session, transaction, refusals)
        if not why:
            return None
        waited = account.waited if account is not None else 0.0
        seconds = min(self._delay * (1 + refusals), _LONGEST, self._max_total - waited)
        if seconds <= 0:
            return None
        return self._wait(session, seconds, why)

    def _reason(self, session: Session, transaction: Transaction | None, refusals: int) -> str:
        """The first fact that makes this session wait; "" for none."""
        if refusals and self._counts_refusals:
            return _REFUSED
        if self._facts is None:
            return ""
        evidence = [*session.evidence, *(transaction.evidence if transaction is not None else ())]
        facts = (fact for one in evidence if isinstance(one, Finding) for fact in one.facts())
        return next((fact for fact in facts if self._facts.fullmatch(fact)), "")

    async def _wait(self, session: Session, seconds: float, why: str) -> Verdict | None:
        if self._waiting >= self._max_sessions:
            return None
        account = self._account(session.id)
        started = self._clock.seconds()
        pause: Deferred[None] = deferLater(self._clock, seconds)
        self._waiting += 1
        try:
            await pause
        finally:
            self._waiting -= 1
            account.waited += self._clock.seconds() - started
        return Continue(evidence=(DelayedResult(seconds, round(account.waited, 3), why),))

    def _account(self, session: str) -> _Account:
        account = self._accounts.get(session)
        if account is None:
            account = self._accounts[session] = _Account()
        return account
