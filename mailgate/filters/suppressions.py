"""Addresses that get no more mail of ours, because it failed or they do not want it."""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.awaiting import answered
from mailgate.config.schema import Section
from mailgate.config.units import Duration, at_least, format_duration
from mailgate.config.values import Count
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import Bounced, BouncedBack, Complained, Event, Suppressed
from mailgate.findings import stream_of
from mailgate.interfaces import (
    AttemptContext,
    FilterServices,
    IDeliveryFilter,
    IEventObserver,
    IMessageFilter,
    IRecipientFilter,
    Suppression,
)
from mailgate.observe.render import to_stamp
from mailgate.reply import Reply
from mailgate.stores.suppressions import key_of
from mailgate.verdict import Discard, Reject, Verdict

__all__ = ["Options", "SuppressionFilter", "build"]

_log = Logger()

Category = Literal["no-such-user", "no-such-domain", "bad-address", "disabled", "mailbox-full"]

#: Events that are being noted at one time; of more, those that come are left out: the next of their kind counts.
_MOST_OPEN = 1000
#: Seconds until the list is tried again where it cannot be written.
_PAUSES = (5.0, 30.0, 300.0, 1800.0)
#: Characters of the key by which a mail that has failed is known.
_LONGEST_KEY = 600
_REPLY = Reply.of(550, "5.7.1", "The recipient does not want, or cannot get, this mail")


class Options(Section):
    """`[filters.suppressions]`: the suppression list. Mail of ours to an address on it is refused or dropped.

    It is for mail of clients that have logged in or are trusted, to domains that are not ours: at RCPT, with the
    message where the entry is for a stream (filter `stream`, which stands before), and before each attempt, for what
    waits already. Mail that is only passed on (another's sender, without a stream) is never held up, nor are reports.
    The list is `state_dir/suppressions.db`; see `mailgate suppressions` and /v1/suppressions. Entries come from there,
    from links to unsubscribe, and by this filter from bounces and complaints.
    """

    action: Literal["reject", "discard"] = "reject"
    """reject: 550 5.7.1, and a report to the sender where the mail had been taken already; discard: it is taken and
    dropped, with an event that tells so, for programs that cannot deal with a refusal"""
    bounce_categories: list[Category] = Field(default=["no-such-user", "no-such-domain", "disabled"])
    """failures for good that put the recipient on the list, for all mail: refusals of next hops, and reports that come
    back (filter `feedback`). None: none do"""
    bounces: Annotated[Count, Field(le=100)] = 2
    """so many of them in `bounce_window`: one may be an error of the other side"""
    bounce_window: Annotated[Duration, at_least(3600.0, format_duration)] = 30 * 86400.0
    """the time that is looked back on"""
    bounce_expiry: Annotated[Duration, at_least(3600.0, format_duration)] = 180 * 86400.0
    """after which such an entry ends: addresses are given to others, and domains come back"""
    complaints: Literal["off", "sender", "all"] = "sender"
    """what a complaint (filter `feedback`) ends, for good: nothing, mail of the stream or the sender (all mail, where
    the report does not tell them), or all mail"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return SuppressionFilter(options, services)


@implementer(IRecipientFilter, IMessageFilter, IDeliveryFilter, IEventObserver)
class SuppressionFilter:
    """Asks the list, and adds to it. A list that cannot be asked is the filter's failure."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._categories = frozenset(options.bounce_categories)
        self._list = services.suppressions
        self._is_local = services.local_domains
        self._counters = services.counters
        self._events = services.events
        self._clock = services.clock
        self._now = services.clock.seconds
        self._open = 0

    async def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Refuse what is for all mail or for this sender's; what is to be dropped is taken."""
        if session.identity is None or self._options.action == "discard":
            return None
        found = await self._find(transaction.sender, [recipient.address], _of_sender(transaction.sender))
        return self._verdict(found, names=False)

    async def on_message(self, session: Session, transaction: Transaction, message: object) -> Verdict | None:
        """The same for the stream; and what is to be dropped is dropped now."""
        if session.identity is None:
            return None
        stream = stream_of(transaction.evidence)
        scopes = [stream] if stream else []
        if self._options.action == "discard":
            scopes = [*_of_sender(transaction.sender), *scopes]
        if not scopes:
            return None
        addresses = [one.address for one in transaction.recipients]
        return self._verdict(await self._find(transaction.sender, addresses, scopes))

    async def on_attempt(self, attempt: AttemptContext) -> Verdict | None:
        """What has been put on the list since the mail was taken counts as well."""
        envelope = attempt.envelope
        if not self._is_ours(envelope.sender, envelope.stream) and not envelope.origin.login:
            return None
        scopes = [*_of_sender(envelope.sender), *([envelope.stream] if envelope.stream else [])]
        return self._verdict(await self._find(envelope.sender, [one.address for one in attempt.recipients], scopes))

    def observe(self, event: Event) -> None:
        """Put on the list who cannot get mail, or does not want it."""
        match event:
            case Bounced() if event.category in self._categories:
                self._note(event, self._failed(event))
            case BouncedBack() if event.is_permanent and event.category in self._categories:
                self._note(event, self._failed(event), is_proved=True)
            case Complained() if self._options.complaints != "off":
                self._note(event, self._complained(event), is_proved=True)

    # -- looking

    async def _find(
        self, sender: Address, addresses: Sequence[Address], scopes: Sequence[str]
    ) -> Mapping[Address, Suppression]:
        outside = [one for one in addresses if not self._is_local(one.domain)]
        if not sender or not outside or self._list is None:
            return {}
        return await self._list.find(outside, scopes)

    def _verdict(self, found: Mapping[Address, Suppression], *, names: bool = True) -> Verdict | None:
        if not found:
            return None
        one = next(iter(found.values()))
        scope = f" for {one.scope}" if one.scope else ""
        why = f"{one.reason} ({one.detail})" if one.detail else one.reason
        reason = f"{one.address} is suppressed{scope} since {to_stamp(one.added)}: {why}"
        if len(found) > 1:
            reason += f", and {len(found) - 1} more"
        if self._options.action == "reject":
            return Reject(_REPLY, reason, recipients=tuple(found) if names else ())
        return Discard(reason, recipients=tuple(found))

    # -- adding

    def _is_ours(self, sender: Address, stream: str) -> bool:
        return bool(sender) and (bool(stream) or self._is_local(sender.domain))

    def _note(
        self,
        event: Bounced | BouncedBack | Complained,
        work: Coroutine[Any, Any, None],
        *,
        is_proved: bool = False,
    ) -> None:
        """Do the work later, where it is about mail of ours to somebody elsewhere."""
        try:
            concerns_us = not self._is_local(Address.parse(event.recipient).domain) and (
                is_proved or self._is_ours(Address.parse(event.sender), event.stream)
            )
        except AddressError:  # of a sender too, who is null in reports
            concerns_us = False
        if concerns_us and self._open >= _MOST_OPEN:
            _log.warn("{who} is not suppressed: too many others are, at this moment", who=event.recipient)
            concerns_us = False
        if not concerns_us or self._list is None:
            work.close()
            return
        self._open += 1
        noted = Deferred.fromCoroutine(work)
        noted.addErrback(
            lambda failure: _log.failure("{who} cannot be suppressed", who=event.recipient, failure=failure)
        )
        noted.addBoth(self._noted)

    def _noted(self, _: object) -> None:
        self._open -= 1

    async def _failed(self, event: Bounced | BouncedBack) -> None:
        options = self._options
        if options.bounces > 1:
            key, mail = f"suppressions:{key_of(event.recipient)}", _mail_of(event)
            # A mail fails once, however many reports come of it, and however many filters there are of this kind.
            known = await answered(self._counters.add(f"{key} {mail}"[:_LONGEST_KEY], b"", options.bounce_window))
            if known is not None:
                return
            if await answered(self._counters.hit(key, options.bounce_window)) < options.bounces:
                return
        detail = f"{event.category}: {event.reason or getattr(event, 'reply', '')}"
        until = self._now() + options.bounce_expiry
        await self._add(Suppression(event.recipient, "", "bounce", detail, self._now(), until), event.queue_id)

    async def _complained(self, event: Complained) -> None:
        scope = ""
        if self._options.complaints == "sender":
            scope = event.stream or (key_of(event.sender) if event.sender else "")
        entry = Suppression(event.recipient, scope, "complaint", event.kind, self._now())
        await self._add(entry, event.queue_id)

    async def _add(self, entry: Suppression, queue_id: str) -> None:
        if await self._added(entry):
            self._events.publish(
                Suppressed(
                    at=self._now(),
                    recipient=entry.address,
                    scope=entry.scope,
                    reason=entry.reason,
                    detail=entry.detail,
                    queue_id=queue_id,
                    until=entry.until,
                )
            )

    async def _added(self, entry: Suppression) -> Sequence[Suppression]:
        """As in ISuppressions, where the disk may be well again only later: whoever has complained does so once."""
        assert self._list is not None  # noqa: S101  for the type checker
        for pause in _PAUSES:
            try:
                return await self._list.add(entry)
            except (OSError, sqlite3.Error) as error:
                _log.warn("{who} cannot be suppressed now: {error}", who=entry.address, error=error)
            await deferLater(self._clock, pause)
        return await self._list.add(entry)


def _mail_of(event: Bounced | BouncedBack) -> str:
    """By what the mail that has failed is known again: what reports say of it may be missing."""
    return event.queue_id or (event.message_id or event.report if isinstance(event, BouncedBack) else "")


def _of_sender(sender: Address) -> list[str]:
    """The scopes that a sender's mail has by itself."""
    key = key_of(sender)
    return ["", key, key[key.rindex("@") :]]
