"""ETRN (RFC 1985): a client asks for what waits for a domain."""

from __future__ import annotations

from collections.abc import Callable

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime

from mailgate.interfaces import ISpool, Selector, SpoolError

__all__ = ["Turns"]

#: Seconds in which the mail of a domain is tried once, and for how many domains that is known.
_EVERY, _DOMAINS = 300.0, 10_000


class Turns:
    """Makes queued mail due now, domain by domain, and no domain's more often than every five minutes: each time costs
    every message an attempt. `kick` is IRelay's: sites of the domain that rest try again.
    """

    def __init__(self, spool: ISpool, kick: Callable[[Selector], None], clock: IReactorTime) -> None:
        self._spool = spool
        self._kick = kick
        self._turned: TTLCache[str, None] = TTLCache(_DOMAINS, _EVERY, clock.seconds)

    async def turn(self, domain: str) -> int:
        """How many recipients are tried now; 0 where the domain has had its turn just before. SpoolError."""
        if domain in self._turned:
            return 0
        self._turned[domain] = None
        selector = Selector(domain=domain)
        try:
            count = await self._spool.retry(selector)
        except SpoolError:
            self._turned.pop(domain, None)
            raise
        if count:
            self._kick(selector)
        return count
