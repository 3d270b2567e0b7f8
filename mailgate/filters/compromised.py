"""Whether somebody else has the password of an account: its mail is watched, and slowed down, kept back or refused."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.awaiting import as_deferred, run
from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath, Duration, at_least, format_duration
from mailgate.config.values import Flag, Hostname, OneMailbox
from mailgate.envelope import Identity, Recipient, Session, Transaction
from mailgate.events import AccountSuspected, Bounced, Event, Refused
from mailgate.filters.compromised_signals import Signal, Signals, points
from mailgate.filters.compromised_state import Suspicion, Suspicions, counted_name
from mailgate.filters.geo import GeoResult
from mailgate.filters.networks import is_known
from mailgate.filters.open_sessions import OpenSessions, is_unknown_recipient
from mailgate.filters.steps import Steps
from mailgate.filters.who import NETWORK, IdentitySet, told
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
from mailgate.reply import Reply
from mailgate.stores.lists import WatchedFile
from mailgate.verdict import Continue, Quarantine, Reject, Verdict

__all__ = ["Compromised", "CompromisedResult", "Options", "build"]

_log = Logger()

#: The longest that one answer is held back: a filter's deadline is 10 seconds, unless it is configured.
_LONGEST_DELAY = 9.0
#: Kinds of failures that say nothing about whom one writes to.
_NO_SIGN = frozenset({"expired", "operator", "local"})

_Count = Annotated[int, Field(strict=True, ge=0)]


def _delay(seconds: float) -> float:
    if seconds > _LONGEST_DELAY:
        raise ValueError(f"must be at most {format_duration(_LONGEST_DELAY)}: the filter must answer in its deadline")
    return seconds


class Options(Section):
    """`[filters.compromised]`: for listeners of role outbound or hybrid, about those who have logged in or shown a
    certificate. Where countries are to count, the filter geo stands before it.

    Strong signals are enough by themselves: more recipients than the account ever has, many that bounce, many that do
    not exist. Weak ones count where there are two: many networks, many countries, a login from where the password was
    guessed. What is found is published as the event account_suspected, with the numbers.

    `action` then holds for `lock`. To end it earlier, see to the account (a new password), and then
    `mailgate accounts release NAME`; `mailgate accounts list` shows who is suspected. An account that is written into
    `exempt_files`, or `exempt` and reload, is not suspected any more with its next message.
    """

    action: Literal["notify", "slow", "quarantine", "refuse"] = "quarantine"
    """what becomes of mail of a suspected account. notify: nothing, but for the event; slow: each sender and recipient
    waits for `delay`; quarantine: it is taken, and kept back until somebody releases it; refuse: 550"""
    lock: Annotated[Duration, at_least(60.0, format_duration)] = 86400.0
    """how long an account stays suspected"""
    delay: Annotated[Duration, AfterValidator(_delay)] = 5.0
    """how long an answer waits with action slow, at most 9s and shorter than the filter's deadline"""
    text: str = Field(default="This account is suspended for unusual mail; ask your administrator", min_length=1)
    """what the client is told with action refuse"""
    notify: list[Literal["user"] | OneMailbox] = Field(default=[])
    """who is told by mail: addresses, and "user" for the account's own (see `domain`), whose thief may read it too"""
    domain: Hostname | None = None
    """where identities that are no addresses have theirs, for `notify`: "ann" is told at ann@ this domain"""
    window: Annotated[Duration, at_least(60.0, format_duration)] = 3600.0
    """the time in which recipients, bounces and wrong passwords are counted"""
    volume_least: _Count = 100
    """up to so many recipients in `window` are never too many; 0: volume does not count"""
    volume_factor: Annotated[float, Field(ge=1, le=1000)] = 10.0
    """above that, so many times what the account usually has in a `window` in which it sends are too many"""
    history: Annotated[Duration, at_least(86400.0, format_duration)] = 30 * 86400.0
    """how long it is remembered what an account usually sends, after its last mail"""
    bounces: _Count = 30
    """so many recipients in `window` that could not be reached for good are too many; 0: they do not count"""
    unknown_recipients: _Count = 15
    """so many of them that do not exist, or are refused here because they do not, are too many; 0: do not count"""
    places_window: Annotated[Duration, at_least(60.0, format_duration)] = 86400.0
    """the time in which networks and countries are counted"""
    networks: _Count = 12
    """mail from more networks (/24 or /48) than so many is a weak signal; 0: they do not count"""
    countries: _Count = 2
    """mail from more countries than so many is a weak signal; 0: they do not count"""
    wrong_passwords: _Count = 10
    """a login from a network from where so many wrong passwords came for it in `window` is a weak signal; 0: they do
    not count"""
    networks_too: Flag = False
    """whether clients of trusted_networks that have not logged in are watched, too, each by its address"""
    exempt: list[str] = Field(default=[])
    """identities that are never suspected: names, patterns of names with *, networks"""
    exempt_files: list[ConfigPath] = Field(default=[])
    """files of the same, one a line, and # for comments; read again when they change, without a reload"""


@dataclass(frozen=True, slots=True)
class CompromisedResult(Finding):
    """The account is suspected because of these signals, and `action` is what is done with this message."""

    identity: str
    signals: tuple[str, ...]
    action: str

    def summary(self) -> str:
        return f"compromised={self.action} {self.identity}: {'; '.join(self.signals)}"

    def facts(self) -> Sequence[str]:
        names = (one.partition(" ")[0] for one in self.signals)
        return ("compromised", *(f"compromised.{name}" for name in names))


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where a file cannot be used."""
    return Compromised(options, services)


@implementer(IConnectFilter, IMailFilter, IRecipientFilter, IMessageFilter, IEventObserver)
class Compromised:
    """Judges at MAIL by where the client is and what became of earlier mail, and at each RCPT by how many there are."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._clock = services.clock
        self._counters = services.counters
        self._events = services.events
        self._signals = Signals(options, services.counters, services.clock.seconds)
        self._suspicions = Suspicions(services.counters, services.clock.seconds)
        self._windows = max(options.window, options.places_window)
        self._exempt = IdentitySet(options.exempt)
        self._files = [_watched(path, services.clock) for path in options.exempt_files]
        self._sessions = OpenSessions()

    def on_connect(self, session: Session) -> None:
        """Wrong passwords of this session will count."""
        self._sessions.note(session)

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Do what is to be done with mail of a suspected account, or find out whether it is to be suspected."""
        identity = self._watched_identity(session)
        if identity is None:
            return None
        who = counted_name(identity.name)
        if self._is_exempt(identity):
            return run(self._forget(session, transaction, who))
        self._sessions.note(session, transaction)
        return run(self._at_mail(session, transaction, who))

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Count a recipient; the account is suspected from the one on that is too many."""
        identity = self._watched_identity(session)
        if identity is None or self._is_exempt(identity):
            return None
        return run(self._at_rcpt(session, transaction, counted_name(identity.name)))

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Keep back what is to be kept back."""
        result = transaction.evidence.get(CompromisedResult)
        if result is None or result.action != "quarantine":
            return None
        return Quarantine(f"{result.identity} is suspected: {'; '.join(result.signals)}")

    def observe(self, event: Event) -> None:
        """Count what went wrong."""
        if isinstance(event, Bounced):
            if event.category not in _NO_SIGN and self._counts(event.identity):
                who = counted_name(event.identity)
                _later(self._bounced(who, is_unknown=event.category == "no-such-user"))
            return
        known = self._sessions.find(event)
        if known is None or not isinstance(event, Refused):
            return
        address = known.session.client.address
        if event.stage == "auth" and event.user and event.reply[:3] in ("535", "") and is_known(address):
            _later(self._guessed(counted_name(event.user), address))
        identity = self._watched_identity(known.session)
        if identity is None or self._is_exempt(identity):
            return
        if event.stage == "rcpt" and is_unknown_recipient(event):
            _later(self._refused(counted_name(identity.name)))

    def _counts(self, name: str) -> bool:
        """Whether bounces count for this name: that of a client known by its address only where such are watched."""
        if not name or self._options.networks_too:
            return bool(name)
        try:
            ip_address(name)
        except ValueError:
            return True
        return False

    def _bounced(self, who: str, *, is_unknown: bool) -> Steps[None]:
        _, counted = yield from self._suspicions.read(who)
        yield from self._signals.bounced(counted, is_unknown=is_unknown)

    def _guessed(self, who: str, address: IPv4Address | IPv6Address) -> Steps[None]:
        _, counted = yield from self._suspicions.read(who)
        yield from self._signals.guessed(counted, address)

    def _refused(self, who: str) -> Steps[None]:
        _, counted = yield from self._suspicions.read(who)
        yield from self._signals.refused(counted)

    def _watched_identity(self, session: Session) -> Identity | None:
        identity = session.identity
        if identity is None or (identity.mechanism == NETWORK and not self._options.networks_too):
            return None
        return identity

    def _is_exempt(self, identity: Identity) -> bool:
        return self._exempt.has(identity) or any(one.value.has(identity) for one in self._files)

    def _forget(self, session: Session, transaction: Transaction, who: str) -> Steps[None]:
        """End the suspicion of who is exempt now."""
        ended = yield from self._suspicions.end(who, self._windows)
        if ended is None:
            return
        self._events.publish(
            AccountSuspected(
                at=self._clock.seconds(),
                user=who if session.identity is None else session.identity.name,
                signals=(),
                action="release",
                session=session.id,
                queue_id=transaction.id,
            )
        )

    def _at_mail(self, session: Session, transaction: Transaction, who: str) -> Steps[Verdict | None]:
        address, geo = session.client.address, session.evidence.get(GeoResult)
        state, counted = yield from self._suspicions.read(who)
        found = yield from self._signals.seen(
            counted, address if is_known(address) else None, geo.country if geo is not None else ""
        )
        if state is None:
            found += yield from self._signals.failed(counted)
            state = yield from self._suspect(session, transaction, who, found)
        return (yield from self._act(session, transaction, state))

    def _at_rcpt(self, session: Session, transaction: Transaction, who: str) -> Steps[Verdict | None]:
        state, counted = yield from self._suspicions.read(who)
        if state is None:
            flood = yield from self._signals.sent(who, counted)
            if flood is None:
                return None
            state = yield from self._suspect(session, transaction, who, [flood])
        return (yield from self._act(session, transaction, state))

    def _suspect(
        self, session: Session, transaction: Transaction, who: str, found: Sequence[Signal]
    ) -> Steps[Suspicion | None]:
        """Suspect the account where there is enough; whoever is the first of several says so."""
        if points(found) < 1.0:
            return None
        identity = session.identity.name if session.identity is not None else who
        now, action = self._clock.seconds(), self._options.action
        signals = tuple(str(one) for one in found)
        state = Suspicion(signals, now + self._options.lock, identity, action, now, self._windows)
        if (yield from self._suspicions.begin(who, state)):
            self._events.publish(
                AccountSuspected(
                    at=now,
                    user=identity,
                    signals=signals,
                    action=action,
                    until=state.until,
                    session=session.id,
                    queue_id=transaction.id,
                    notify=told(self._options.notify, session, self._options.domain or ""),
                )
            )
        return state

    def _act(self, session: Session, transaction: Transaction, state: Suspicion | None) -> Steps[Verdict | None]:
        if state is None:
            return None
        action = self._options.action
        name = session.identity.name if session.identity is not None else ""
        result = CompromisedResult(name, state.signals, action)
        if action == "refuse":
            reason = f"{name} is suspected: {'; '.join(state.signals)}"
            return Reject(Reply.of(550, "5.7.1", self._options.text), reason, evidence=(result,))
        if action == "slow":
            pause: Deferred[None] = deferLater(self._clock, self._options.delay)
            yield pause
        is_new = transaction.evidence.get(CompromisedResult) != result
        return Continue((result,)) if is_new else None


def _watched(path: Path, clock: IReactorTime) -> WatchedFile[IdentitySet]:
    def parse(lines: Iterable[tuple[int, str]]) -> IdentitySet:
        return IdentitySet([line for _, line in lines])

    return WatchedFile(path, parse, clock)


def _later(steps: Generator[Awaitable[Any], Any, None]) -> None:
    counted = run(steps)
    if isinstance(counted, Awaitable):
        as_deferred(counted).addErrback(_uncounted)


def _uncounted(failure: Failure) -> None:
    _log.warn("a signal of an account cannot be counted: {error}", error=failure.getErrorMessage())
