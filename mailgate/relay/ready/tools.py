"""What all sites share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from twisted.internet.interfaces import IReactorTime

from mailgate.interfaces import IEvents, ISlots
from mailgate.relay.attempt import ConnectFailedError, IConnection
from mailgate.relay.locate import Locator
from mailgate.relay.ready.host_watch import HostWatch
from mailgate.relay.ready.job import Job
from mailgate.relay.replies.shaping import Shaping
from mailgate.relay.sources import Source

__all__ = ["Account", "Alarm", "Learn", "Served", "SiteTools", "account_nothing", "raise_no_alarm"]

Alarm = Callable[[str, str], None]
"""An alarm about a route: no attempts by it for a while, for this reason."""

Account = Callable[[str, IConnection | ConnectFailedError, Source], None]
"""Takes note of what came of TLS with a host of a domain ("" where the route names the hosts), from a source."""


def account_nothing(_domain: str, _outcome: IConnection | ConnectFailedError, _source: Source) -> None:
    """Nobody wants to know."""


Served = Callable[[Job], None]
"""Writes what became of recipients who have been served while their job goes on for others: they are this one's."""

Learn = Callable[[str, str, int], None]
"""Takes note of how many octets a message may have at a host of a route, 0 where the host names no limit."""


def learn_nothing(_route: str, _host: str, _size: int) -> None:
    """Nobody wants to know."""


def raise_no_alarm(_route: str, _reason: str) -> None:
    """Nobody wants to hear of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTools:
    """It, as the configuration of now has it."""

    locator: Locator
    shaping: Shaping
    slots: ISlots
    events: IEvents
    clock: IReactorTime
    random: Random
    account: Account = account_nothing
    alarm: Alarm = raise_no_alarm
    learn: Learn = learn_nothing
    served: Served | None = None
    watch: HostWatch | None = None
