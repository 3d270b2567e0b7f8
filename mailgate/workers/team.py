"""What a gateway has in common with the other processes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from mailgate.config.places import Places
from mailgate.config.schema import Config
from mailgate.interfaces import ICounters, IRelay, ISlots, ISpool, ITally
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.counters_sqlite import SqliteCounters
from mailgate.stores.slots import LocalSlots, LocalTally
from mailgate.workers.together import AskOthers, OperatorSpool, Together

__all__ = ["Team", "alone", "make_counters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """`worker` is the number of this process, from 0, of `workers`.

    `sockets` are descriptors of listening sockets by listener, which pass into the gateway's hands; None where it has
    to bind its ports itself; `http_sockets` the same for HTTP. `ask_others` reaches the other processes, if there are
    any. `pid` is the process that is told to reload and to stop. `kept` are the counters where this process keeps them:
    it opens and closes them.
    """

    slots: ISlots
    tally: ITally
    counters: ICounters
    kept: MemoryCounters | None = None
    worker: int = 0
    workers: int = 1
    sockets: Mapping[str, Sequence[int]] | None = None
    http_sockets: Sequence[int] | None = None
    ask_others: AskOthers | None = None
    pid: int = field(default_factory=os.getpid)

    def together(self, relay: IRelay) -> IRelay:
        """The relays of all, where `relay` is our own."""
        return relay if self.ask_others is None else Together(relay, self.ask_others, self.worker)

    def operators_spool(self, spool: ISpool) -> ISpool:
        """The spool for whoever changes what is in the queue."""
        return spool if self.ask_others is None else OperatorSpool(spool, self.ask_others)


def alone(clock: IReactorTime, counters: MemoryCounters) -> Team:
    """Of one process: all that is shared is its own."""
    return Team(slots=LocalSlots(clock), tally=LocalTally(), counters=counters, kept=counters)


def make_counters(config: Config, clock: IReactorTime) -> MemoryCounters:
    """The counters that `[counters]` asks for, not yet opened."""
    section = config.counters
    if section.url == "memory:":
        return MemoryCounters(clock, section.max_keys, section.max_size)
    return SqliteCounters(clock, section.max_keys, section.max_size, Places(config.gateway.state_dir).counters)
