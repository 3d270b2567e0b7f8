"""The quarantine of one gateway: its parts, begun, changed on a reload, and ended with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address
from mailgate.awaiting import InThread, at_once
from mailgate.config.schema import Config
from mailgate.interfaces import IEvents, IRelay, IRescan, ISpool
from mailgate.quarantine.keeper import Keeper
from mailgate.quarantine.originals import Originals
from mailgate.quarantine.rescan import Rescanner
from mailgate.quarantine.review import Review
from mailgate.quarantine.sending import Sending

__all__ = ["QuarantineOffice"]


class QuarantineOffice:
    """What is done with mail in quarantine, whoever asks for it: `review`, `sending` and `originals` are for them.

    `route_of`, `incoming` and `in_thread` as in Sending. `use` comes before anything else.
    """

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        relay: IRelay,
        *,
        clock: IReactorTime,
        originals: Originals,
        route_of: Callable[[Address, Address], str],
        incoming: Path,
        in_thread: InThread = at_once,
    ) -> None:
        now = clock.seconds
        self.originals = originals
        self._rescanner = Rescanner()
        self.review = Review(spool, events, relay, self._rescanner, now)
        self.sending = Sending(
            spool,
            events,
            relay,
            originals=originals,
            route_of=route_of,
            incoming=incoming,
            in_thread=in_thread,
            now=now,
        )
        self._keeper = Keeper(spool, originals, self.review, events, clock)
        self._retention = 0.0

    def retention(self) -> float:
        """For how many seconds mail stays in quarantine."""
        return self._retention

    def use(self, config: Config, rescans: Mapping[str, IRescan]) -> None:
        """From now on go by this configuration; `rescans` by the names of the pipelines."""
        self._retention = config.quarantine.retention
        self._rescanner.use(config, rescans)
        self._keeper.use(config.quarantine)

    def start(self) -> None:
        """Begin to see to it from time to time: one process of several does."""
        self._keeper.start()

    async def close(self) -> None:
        """End."""
        await self._keeper.close()
