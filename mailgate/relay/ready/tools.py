"""What all sites share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from twisted.internet.interfaces import IReactorTime

from mailgate.interfaces import IEvents, ISlots
from mailgate.relay.attempt import ConnectFailedError, IConnection
from mailgate.relay.locate import Locator
from mailgate.relay.replies.shaping import Shaping
from mailgate.relay.sources import Source

__all__ = ["Account", "SiteTools", "account_nothing"]

Account = Callable[[str, IConnection | ConnectFailedError, Source], None]
"""Takes note of what came of TLS with a host of a domain ("" where the route names the hosts), from a source."""


def account_nothing(_domain: str, _outcome: IConnection | ConnectFailedError, _source: Source) -> None:
    """Nobody wants to know."""


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
