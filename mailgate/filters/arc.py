"""ARC at the end of DATA: whether the chain of those that handed the message on holds, and who they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from twisted.internet.defer import TimeoutError as DeferredTimeout
from zope.interface import implementer

from mailgate.awaiting import answered, as_deferred
from mailgate.config.schema import Network, Section
from mailgate.config.units import Timeout
from mailgate.envelope import Session, Transaction
from mailgate.filters.hashing import BodyHashing, OpenContent
from mailgate.filters.networks import NetworkSet
from mailgate.interfaces import Answered, FilterServices, IMessageFilter
from mailgate.mailauth.arc.chain import MAX_HOPS
from mailgate.mailauth.arc.verify import ChainVerification
from mailgate.mailauth.dkim.limits import MAX_KEY_BITS, MIN_KEY_BITS, VerifyLimits
from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.mailauth.results import ArcResult
from mailgate.message import Content, Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

__all__ = ["Arc", "Options", "build"]

Action = Literal["continue", "defer", "reject", "quarantine"]

_FAIL_TEXT = "The ARC chain of this message does not hold"
_TEMPORARY_TEXT = "The ARC chain of this message cannot be checked now, try again later"


class Options(Section):
    """`[filters.arc]`: whether the chain of seals on a message holds (RFC 8617).

    By itself the result is evidence for `dmarc`, `score` and the trace. A chain that holds says who handed the message
    on and what they found, not that they are honest: whom to believe is an option of `dmarc`.
    """

    fail: Action = "continue"
    """what to do where there is a chain and it does not hold: continue, defer, reject or quarantine. A host that
    changes messages and does not seal them breaks honest ones"""
    temporary: Literal["continue", "defer"] = "continue"
    """where a key cannot be asked for now; continue leaves it to `dmarc`, which knows whether it matters"""
    max_hops: Annotated[int, Field(strict=True, ge=1, le=MAX_HOPS)] = MAX_HOPS
    """a chain of more hops fails unread; RFC 8617 has 50"""
    minimum_key_bits: Annotated[int, Field(strict=True, ge=512, le=MAX_KEY_BITS)] = MIN_KEY_BITS
    """the least size of an RSA key; a chain with a smaller one fails"""
    exempt: list[Network] = Field(default=[])
    """clients whose mail is not verified. Clients that have logged in, and those in trusted_networks, are never
    verified"""
    timeout: Timeout = 8.0
    """a chain whose keys do not all come within this time cannot be told about now; must be below `deadline`"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Arc(options, services)


@implementer(IMessageFilter)
class Arc:
    """Reads the body, and asks DNS, only for messages with a chain that is whole."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._fail = options.fail
        self._temporary = options.temporary
        self._max_hops = options.max_hops
        self._limits = VerifyLimits(key_bits=options.minimum_key_bits)
        self._exempt = NetworkSet(options.exempt)
        self._timeout = options.timeout
        self._resolver = services.resolver
        self._clock = services.clock
        self._hashing = BodyHashing(services.clock)

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Leave the result, and act where the chain does not hold."""
        if session.identity is not None or session.client.address in self._exempt:
            return None
        # Only the fields of a chain are called so; most messages have none.
        if b"arc-" not in message.content.header.lower():
            return self._verdict(ArcResult("none"))
        return self._judge(message.content)

    async def _judge(self, content: Content) -> Verdict:
        opened = OpenContent(content)
        verification = ChainVerification(
            HeaderFields(opened.fields),
            now=self._clock.seconds(),
            max_hops=self._max_hops,
            limits=self._limits,
        )
        decided = verification.decided
        if not opened.is_whole and (decided is None or decided.result != "none"):
            decided = ArcResult("fail", "not looked at: the header is too large")
        if decided is not None:
            return self._verdict(decided)
        bodies = await answered(self._hashing.bodies(opened, verification.wanted))
        asking = as_deferred(verification.result(self._resolver, bodies))
        try:
            result = await asking.addTimeout(self._timeout, self._clock)
        except DeferredTimeout:
            result = verification.failed("the keys did not come in time", is_temporary=True)
        return self._verdict(result)

    def _verdict(self, result: ArcResult) -> Verdict:
        evidence = (result,)
        if result.result != "fail":
            return Continue(evidence)
        if result.is_temporary:
            if self._temporary == "continue":
                return Continue(evidence)
            # RFC 3463 section 3.8: X.7.5 is for keys that cannot be had.
            return Defer(Reply.of(451, "4.7.5", _TEMPORARY_TEXT), result.summary(), evidence=evidence)
        match self._fail:
            case "reject":
                # RFC 8617 has X.7.29 for it.
                return Reject(Reply.of(550, "5.7.29", _FAIL_TEXT), result.summary(), evidence=evidence)
            case "defer":
                return Defer(Reply.of(451, "4.7.29", _FAIL_TEXT), result.summary(), evidence=evidence)
            case "quarantine":
                return Quarantine(result.summary(), evidence=evidence)
            case _:
                return Continue(evidence)
