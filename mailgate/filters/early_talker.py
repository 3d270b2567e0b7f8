"""Refuses clients that speak before the banner, which no mail server does (RFC 5321 section 3.1)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated

from pydantic import AfterValidator, Field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from mailgate.config.schema import Network, Section
from mailgate.config.units import Duration, format_duration
from mailgate.envelope import Session
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet, client_of
from mailgate.interfaces import FilterServices, IConnectFilter
from mailgate.reply import Reply
from mailgate.verdict import Disconnect, Verdict

__all__ = ["EarlyTalker", "Options", "build"]


#: A filter's deadline is 10 seconds, unless it is configured.
_LONGEST_WAIT = 9.0


def _wait(seconds: float) -> float:
    if seconds > _LONGEST_WAIT:
        raise ValueError(
            f"must be at most {format_duration(_LONGEST_WAIT)}: the filter must answer within its deadline"
        )
    return seconds


class Options(Section):
    """`[filters.early-talker]`: how long a stranger waits for the banner."""

    wait: Annotated[Duration, AfterValidator(_wait)] = 1.0
    """how long the banner is held back from a client that we do not know yet, at most 9s and shorter than the
    filter's deadline; "0s" holds nothing back and still refuses whoever has spoken by then"""
    remember: Duration = 7 * 86400.0
    """how long a client that has waited is greeted at once; "0s" makes it wait each time"""
    exempt: list[Network] = Field(default=list(LOCAL_NETWORKS))
    """clients that never wait; if not given, those of loopback and private networks"""
    text: str = "You spoke before the greeting"
    """what a client that speaks first is told"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return EarlyTalker(options, services)


@implementer(IConnectFilter)
class EarlyTalker:
    """Holds the banner back and looks whether the client has sent anything by then.

    Whoever passed lately is remembered in the counters, which are bounded: what they forget waits again.
    """

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._wait = options.wait
        self._remember = options.remember
        self._exempt = NetworkSet(options.exempt)
        # A greeting carries no enhanced status code (RFC 2034 section 3).
        self._refusal = Reply.of(554, "", options.text)
        self._clock = services.clock
        self._counters = services.counters

    def on_connect(self, session: Session) -> Verdict | Awaitable[Verdict | None] | None:
        """Disconnect where the client spoke first; None at once for clients that need not wait."""
        address = session.client.address
        if session.early_octets or not self._wait or address is None or address in self._exempt:
            return self._judge(session)
        if not self._remember:
            return self._wait_and_judge(session)
        key = f"early-talker {client_of(address)}"
        passed = self._counters.peek(key, self._remember)
        if isinstance(passed, int):
            return self._judge(session) if passed else self._wait_and_judge(session, key)
        return self._ask_and_judge(session, key, passed)

    async def _ask_and_judge(self, session: Session, key: str, passed: Awaitable[int]) -> Verdict | None:
        return self._judge(session) if await passed else await self._wait_and_judge(session, key)

    async def _wait_and_judge(self, session: Session, key: str = "") -> Verdict | None:
        pause: Deferred[None] = deferLater(self._clock, self._wait)
        await pause
        verdict = self._judge(session)
        if verdict is None and key:
            counted = self._counters.hit(key, self._remember)
            if not isinstance(counted, int):
                await counted
        return verdict

    def _judge(self, session: Session) -> Verdict | None:
        if not session.early_octets:
            return None
        return Disconnect(self._refusal, f"{session.early_octets} octets from the client before the banner")
