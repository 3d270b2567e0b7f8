"""`[recipients.NAME]` of kind callout: the server behind is asked whether it would take the mail.

Answers are kept for days, where all processes find them (ICounters), and asked for anew beside the mail before they are
too old. What was asked lately is in memory too, so that most mail waits for nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping

import msgspec
from cachetools import LRUCache
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.task import deferLater
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import answered, as_deferred
from mailgate.backends.outage import Outage
from mailgate.backends.together import Together
from mailgate.config.recipients import CalloutRecipients
from mailgate.interfaces import ProbeResult, RecipientStatus
from mailgate.recipients.source import ISource, SourceTools

__all__ = ["CalloutSource", "build"]

#: Answers in the memory of this process; questions that wait or are under way; seconds between two tries to have an
#: answer anew that is there already.
_FRONT, _MOST_OPEN, _AGAIN = 20_000, 1000, 300.0
#: Characters of a reply that are kept.
_TOLD = 200
#: In the place of a local part: any address of the domain, that is, one that cannot exist.
_ANY = ""

_Key = tuple[str, str]


class _Answer(msgspec.Struct, frozen=True):
    """That an address was accepted, or was not; `at` in seconds since the epoch."""

    is_known: bool
    at: float
    reply: str = ""


class _BusyError(Exception):
    """More is to be asked than may be."""


def build(section: CalloutRecipients, name: str, tools: SourceTools) -> CalloutSource:
    """See `mailgate.recipients.source`."""
    return CalloutSource(section, name, tools)


@implementer(ISource)
class CalloutSource:
    """Asks through `tools.prober`."""

    takes_whole = True
    restricts = False

    def __init__(self, section: CalloutRecipients, name: str, tools: SourceTools) -> None:
        self._section = section
        self._prefix = f"callout {name} {section.route} {section.stage}"
        self._sender = Address.parse(section.sender) if section.sender else NULL_PATH
        self._tools = tools
        self._clock = tools.reactor
        self._outage = Outage(name, tools.reactor, tools.events)
        self._slots = DeferredSemaphore(section.connections)
        self._together: Together[_Key, _Answer | None] = Together()
        self._front: MutableMapping[_Key, _Answer] = LRUCache(_FRONT)
        self._tried: MutableMapping[_Key, float] = LRUCache(_FRONT)
        self._is_closed = False

    # -- ISource

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus | None:
        if self._takes_all(self._fresh((_ANY, domain))):
            return RecipientStatus.KNOWN
        return _status(self._fresh((local_part, domain)))

    def ask(self, local_part: str, domain: str) -> Deferred[RecipientStatus]:
        found = self.at_hand(local_part, domain)
        if found is not None or self._is_closed:
            return succeed(found or RecipientStatus.UNAVAILABLE)
        asked = Deferred.fromCoroutine(self._find(local_part, domain))
        return asked.addTimeout(self._section.timeout, self._clock, onTimeoutCancel=_late)

    def start(self) -> None:
        """It does nothing by itself: what is old is asked for when it is used."""

    def retire(self) -> None:
        """As for `start`."""

    def close(self) -> None:
        self._is_closed = True

    # -- what is known

    async def _find(self, local_part: str, domain: str) -> RecipientStatus:
        if self._section.detect_catch_all and self._takes_all(await self._about_any((_ANY, domain))):
            return RecipientStatus.KNOWN
        key = (local_part, domain)
        answer = await self._together.ask(key, lambda: self._get(key))
        return _status(answer) or RecipientStatus.UNAVAILABLE

    async def _about_any(self, key: _Key) -> _Answer | None:
        """Whether the domain's server takes every address; None where it has not said so lately."""
        answer, now = self._fresh(key), self._clock.seconds()
        if answer is not None:
            return answer
        if key not in self._together:
            if now - self._tried.get(key, float("-inf")) < _AGAIN:
                return None
            self._tried[key] = now
        return await self._together.ask(key, lambda: self._get(key))

    def _takes_all(self, answer: _Answer | None) -> bool:
        return self._section.detect_catch_all and answer is not None and answer.is_known

    def _fresh(self, key: _Key) -> _Answer | None:
        """The answer in memory, if it still counts; where it is to be asked for anew, that begins."""
        answer = self._front.get(key)
        if answer is None or not self._counts(answer):
            return None
        self._renew(key, answer)
        return answer

    def _counts(self, answer: _Answer) -> bool:
        section = self._section
        return self._clock.seconds() - answer.at < (section.known_for if answer.is_known else section.unknown_for)

    def _renew(self, key: _Key, answer: _Answer) -> None:
        section, now = self._section, self._clock.seconds()
        if now - answer.at < (section.known_refresh if answer.is_known else section.unknown_refresh):
            return
        if now - self._tried.get(key, float("-inf")) < _AGAIN or self._is_closed or key in self._together:
            return
        self._tried[key] = now
        self._together.begin(key, lambda: self._ask(key, answer))

    async def _get(self, key: _Key) -> _Answer | None:
        """The answer that was kept, or else that of the server; None where there is none now."""
        octets = await answered(self._tools.counters.get(self._name(key)))
        answer = _decoded(octets)
        if answer is not None and self._counts(answer):
            self._front[key] = answer
            self._tell(key, answer)
            return answer
        return await self._ask(key, None)

    # -- asking

    async def _ask(self, key: _Key, old: _Answer | None) -> _Answer | None:
        """The server's answer, which is kept; where it has none, the old one."""
        try:
            result = await self._probe(key)
        except _BusyError:
            return old
        if result.status is RecipientStatus.UNAVAILABLE:
            if result.reason:
                self._outage.begins(result.reason)
            return old
        self._outage.ends()
        is_known = result.status is not RecipientStatus.UNKNOWN
        answer = _Answer(is_known, self._clock.seconds(), result.reply[:_TOLD])
        self._front[key] = answer
        self._tell(key, answer)
        kept_for = self._section.known_for if is_known else self._section.unknown_for
        await answered(self._tools.counters.put(self._name(key), msgspec.json.encode(answer), kept_for))
        return answer

    async def _probe(self, key: _Key) -> ProbeResult:
        local_part, domain = key
        if len(self._together) > _MOST_OPEN:
            raise _BusyError
        section, counters = self._section, self._tools.counters
        end = self._clock.seconds() + section.timeout
        while wait := await answered(counters.take(self._prefix, section.rate, max(1.0, section.rate))):
            if self._clock.seconds() + wait > end:
                raise _BusyError
            await deferLater(self._clock, wait, lambda: None)
        await self._slots.acquire()
        try:
            if self._is_closed:
                raise _BusyError
            address = Address(local_part or f"no-such-user-{secrets.token_hex(8)}", domain)
            asked = self._tools.prober.probe(section.route, address, stage=section.stage, sender=self._sender)
            return await as_deferred(asked)
        finally:
            self._slots.release()

    def _tell(self, key: _Key, answer: _Answer) -> None:
        if key[0] == _ANY:
            what = "accepts all"
            if answer.is_known:
                self._outage.begins(f"{key[1]}: {answer.reply}", what=what, about=key[1])
            else:
                self._outage.ends(what=what, about=key[1])

    def _name(self, key: _Key) -> str:
        local_part, domain = key
        return f"{self._prefix} {Address(local_part, domain) if local_part else f'@{domain}'}"


def _status(answer: _Answer | None) -> RecipientStatus | None:
    if answer is None:
        return None
    return RecipientStatus.KNOWN if answer.is_known else RecipientStatus.UNKNOWN


def _decoded(octets: bytes | None) -> _Answer | None:
    try:
        return None if octets is None else msgspec.json.decode(octets, type=_Answer)
    except msgspec.DecodeError:
        return None


def _late(_outcome: object, _seconds: float) -> RecipientStatus:
    return RecipientStatus.UNAVAILABLE
