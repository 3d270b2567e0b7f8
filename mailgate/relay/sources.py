"""The local addresses that mail goes out from: what they are, and which of a pool a message gets."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address

from mailgate.config.routes import HopRoute
from mailgate.config.schema import Config, SourceSection, WarmUpSection
from mailgate.relay.warm_up import DAY, WarmUp

__all__ = ["SYSTEM", "Capped", "Source", "Sources", "daily_cap"]

#: Seconds after which is looked again whether the counters have been read.
_UNTIL_KNOWN = 2.0


@dataclass(frozen=True, slots=True)
class Source:
    """One of them. An address that is None leaves that family out, unless both are: then the system chooses.

    `hostname` is what EHLO says, "" for the gateway's own.
    """

    name: str = ""
    address: IPv4Address | None = None
    address6: IPv6Address | None = None
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Capped:
    """All sources of a pool have sent what they may today: `until` when to wait, and why, for people."""

    until: float
    reason: str


#: As the system chooses.
SYSTEM = Source()


class Sources:
    """Chooses sources, by one configuration; `warm_up` counts what they send, and outlives a reload."""

    def __init__(self, config: Config, warm_up: WarmUp) -> None:
        self._warm_up = warm_up
        self._sources = {name: _source(name, section) for name, section in config.sources.items()}
        self._pools = {name: dict(section.sources) for name, section in config.pools.items()}
        self._plans = {name: one.warm_up for name, one in config.sources.items() if one.warm_up is not None}

    def choose(self, route: HopRoute, queue_id: str, kept: str = "", without: Container[str] = ()) -> Source | Capped:
        """The source for one job of a message; SYSTEM where the route has no pool.

        `kept` is the source of the last attempt ("" where there was none): it is chosen again while it is in the pool.
        Otherwise those in `without` (names) are passed over: the next in the order of this message is chosen.
        A source other than SYSTEM counts as used from then on, until `settle`, which is to be called once for each.
        """
        if route.pool is None:
            return SYSTEM
        pool = self._pools.get(route.pool) or {route.pool: 1}
        name = kept
        if kept not in pool or (self._plans and not self._has_room(kept)):
            if self._plans:
                pool = {name: weight for name, weight in pool.items() if self._has_room(name)}
            if without:
                pool = {name: weight for name, weight in pool.items() if name not in without}
            name = _by_weight(pool, queue_id)
        if not name:
            return self._capped(route.pool)
        self._warm_up.begin(name)
        return self._sources[name]

    def settle(self, source: str, *, sent: bool) -> None:
        """The job for which this source (its name) was chosen has ended: `sent`, that is, at least one recipient has
        the message; or not, or it was given back without an attempt."""
        self._warm_up.end(source, sent=sent)

    def _has_room(self, name: str) -> bool:
        plan = self._plans.get(name)
        if plan is None:
            return True
        if not self._warm_up.is_known:
            return False
        most = daily_cap(plan, self._warm_up.now())
        return most is None or self._warm_up.has_room(name, most)

    def _capped(self, pool: str) -> Capped:
        now = self._warm_up.now()
        if not self._warm_up.is_known:
            return Capped(now + _UNTIL_KNOWN, f"sources of {pool}: what they have sent today is not known yet")
        tomorrow = (now // DAY + 1) * DAY
        return Capped(tomorrow, f"sources of {pool} are being warmed up, and have sent what they may today")


def daily_cap(plan: WarmUpSection, now: float) -> int | None:
    """How many messages a source may send on the day (UTC) of `now`: none before its first; None where its plan has
    come to its end."""
    day = datetime.fromtimestamp(now, UTC).date().toordinal() - plan.start.toordinal()
    if day >= plan.days:
        return None
    if day < 0:
        return 0
    # A power that no float can hold is more than anybody sends.
    return int(plan.first * math.exp(min(day * math.log(plan.factor), 100.0)) + 1e-6)


def _by_weight(pool: Mapping[str, int], queue_id: str) -> str:
    """The one that this message goes to by rendezvous hashing: each gets messages in proportion to its weight, and a
    change in the pool moves only what has to move. "" where none has a weight."""
    best, highest = "", -math.inf
    for name, weight in pool.items():
        if weight:
            digest = blake2b(f"{name}/{queue_id}".encode(), digest_size=8).digest()
            score = weight / -math.log((int.from_bytes(digest, "big") + 0.5) / 2.0**64)
            if score > highest:
                best, highest = name, score
    return best


def _source(name: str, section: SourceSection) -> Source:
    return Source(name, section.address, section.address6, section.hostname or "")
