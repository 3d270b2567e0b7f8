"""DKIM at the end of DATA: verifies the signatures of the message, and does what the options say."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal

from pydantic import Field
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.awaiting import answered, as_deferred
from mailgate.config.schema import Network, Section
from mailgate.config.units import Timeout
from mailgate.envelope import Session, Transaction
from mailgate.filters.hashing import BodyHashing, OpenContent
from mailgate.filters.networks import NetworkSet
from mailgate.interfaces import Answer, Answered, DnsStatus, FilterServices, IMessageFilter, IResolver
from mailgate.mailauth.dkim.keys import fetch_keys
from mailgate.mailauth.dkim.limits import MAX_KEY_BITS, MIN_KEY_BITS, VerifyLimits
from mailgate.mailauth.dkim.verify import Verification
from mailgate.mailauth.results import DkimResult
from mailgate.message import Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

__all__ = ["Dkim", "Options", "build"]

Action = Literal["continue", "defer", "reject", "quarantine"]
Outcome = Literal["none", "fail", "temperror"]
Unsigned = Literal["ignore", "allow"]

#: Results that a private reason names.
_MOST_NAMED = 4

_TEXTS: dict[Outcome, str] = {
    "none": "This message has no DKIM signature",
    "fail": "No DKIM signature of this message is valid",
    "temperror": "The DKIM signatures of this message cannot be checked now, try again later",
}
_REASONS: dict[Outcome, str] = {
    "none": "not signed",
    "fail": "no signature passes",
    "temperror": "no signature passes, and a key cannot be asked for now",
}


class Options(Section):
    """`[filters.dkim]`: whether the domains that signed a message did sign it as it is (RFC 6376).

    By itself each signature's result is evidence for `dmarc`, `score` and the trace. A signature that fails says no
    more than none: mailing lists and gateways break honest ones, so refusing by DKIM alone loses mail.
    """

    none: Action = "continue"
    """what to do with a message without signatures: continue, defer, reject or quarantine"""
    fail: Action = "continue"
    """where there are signatures, and none passes"""
    temperror: Literal["continue", "defer"] = "continue"
    """where none passes, and a key cannot be asked for now; continue leaves it to `dmarc`, which knows whether it
    matters"""
    max_signatures: Annotated[int, Field(strict=True, ge=1, le=100)] = 8
    """how many signatures are verified, from the top of the message; those below come to policy"""
    minimum_key_bits: Annotated[int, Field(strict=True, ge=512, le=MAX_KEY_BITS)] = MIN_KEY_BITS
    """the least size of an RSA key; a signature by a smaller one comes to policy. RFC 8301 wants 1024 at least"""
    body_length: Unsigned = "ignore"
    """a signature that covers only the beginning of the body (l=), with more behind it: ignore makes it policy, and
    allow a pass, as RFC 6376 has it. Whoever passes on such a message can add to it what they like"""
    added_fields: Unsigned = "ignore"
    """a signature of a message with more Subject, Date, To, Cc, Reply-To or Sender fields than it covers: ignore makes
    it policy, allow a pass. A second From never passes"""
    exempt: list[Network] = Field(default=[])
    """clients whose mail is not verified. Clients that have logged in, and those in trusted_networks, are never
    verified"""
    timeout: Timeout = 8.0
    """a key that does not come within this time is a temperror; must be below `deadline`"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Dkim(options, services)


@implementer(IMessageFilter)
class Dkim:
    """Asks for all keys at the same time, while the body is hashed."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._actions: dict[Outcome, Action] = {
            "none": options.none,
            "fail": options.fail,
            "temperror": options.temperror,
        }
        self._exempt = NetworkSet(options.exempt)
        # A time in the future is a clock that is wrong, here or there: nobody gains by it.
        self._limits = VerifyLimits(
            early=math.inf,
            signatures=options.max_signatures,
            key_bits=options.minimum_key_bits,
            allow_uncovered=options.body_length == "allow",
            allow_added=options.added_fields == "allow",
        )
        self._clock = services.clock
        self._resolver = _InTime(services.resolver, services.clock, options.timeout)
        self._hashing = BodyHashing(services.clock)

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Leave one result for each signature, and act where none passes."""
        if session.identity is not None or session.client.address in self._exempt:
            return None
        opened = OpenContent(message.content)
        verification = Verification(opened.fields, now=self._clock.seconds(), limits=self._limits)
        if not opened.is_whole:
            return self._verdict(verification.refuse("not looked at: the header is too large"))
        return self._judge(opened, verification) if verification.count else self._verdict([])

    async def _judge(self, opened: OpenContent, verification: Verification) -> Verdict:
        asking = as_deferred(fetch_keys(self._resolver, verification.key_names))
        try:
            bodies = await answered(self._hashing.bodies(opened, verification.wanted))
            keys = await asking
        finally:
            # Where the body cannot be read, or the pipeline has given up, nobody waits for keys any more.
            asking.addErrback(lambda _: None)
            asking.cancel()
        return self._verdict(verification.results(bodies, keys))

    def _verdict(self, results: Sequence[DkimResult]) -> Verdict:
        # Those below `max_signatures` are all alike: one of them says so.
        evidence = tuple(dict.fromkeys(results))
        outcome = _outcome(evidence)
        action: Action = "continue" if outcome is None else self._actions[outcome]
        if outcome is None or action == "continue":
            return Continue(evidence)
        named = "; ".join(one.summary() for one in evidence[:_MOST_NAMED])
        reason = f"{_REASONS[outcome]}{': ' if named else ''}{named}"
        match action:
            case "reject":
                return Reject(Reply.of(550, "5.7.20", _TEXTS[outcome]), reason, evidence=evidence)
            case "defer":
                # RFC 3463 section 3.8: X.7.5 is for keys that cannot be had.
                status = "4.7.5" if outcome == "temperror" else "4.7.20"
                return Defer(Reply.of(451, status, _TEXTS[outcome]), reason, evidence=evidence)
            case _:
                return Quarantine(reason, evidence=evidence)


def _outcome(results: Sequence[DkimResult]) -> Outcome | None:
    """What the results come to together; None where one passes."""
    found = {one.result for one in results}
    if "pass" in found:
        return None
    if "temperror" in found:
        return "temperror"
    return "fail" if found else "none"


@implementer(IResolver)
class _InTime:
    """A resolver whose answers come within a time; TIMEOUT is the answer where there is none."""

    def __init__(self, resolver: IResolver, clock: IReactorTime, timeout: float) -> None:
        self._resolver = resolver
        self._clock = clock
        self._timeout = timeout

    def resolve(self, name: str, rdtype: str) -> Answer | Awaitable[Answer]:
        return self._bounded(self._resolver.resolve(name, rdtype))

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer | Awaitable[Answer]:
        return self._bounded(self._resolver.reverse(address))

    def _bounded(self, answer: Answer | Awaitable[Answer]) -> Answer | Awaitable[Answer]:
        if isinstance(answer, Answer):
            return answer
        return as_deferred(answer).addTimeout(self._timeout, self._clock).addErrback(_too_late)


def _too_late(failure: Failure) -> Answer:
    failure.trap(DeferredTimeout)
    return Answer(DnsStatus.TIMEOUT)
