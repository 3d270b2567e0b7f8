"""What the relay tells an operator and is told by one, and the limits that several workers keep together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from zope.interface import Interface

from mailgate.interfaces.spool import Selector

__all__ = ["IRelay", "ISlots", "ITally", "SiteView"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteView:
    """A ready queue: one destination from one source, as it stands now.

    `waiting` and `active` count messages, `connections` those that are open, and `most` is how many there may be at
    this moment. `backlog`: more waits in the spool. `rests_until` is 0 where it does not rest; `state` says for people
    what it does and why: "delivering", "rests for 40 s: connection refused", "10 messages a minute", "suspended".
    """

    site: str
    route: str
    source: str
    waiting: int
    active: int
    connections: int
    most: int
    backlog: bool
    rests_until: float
    state: str


class IRelay(Interface):
    """The relay, for whoever operates it."""

    def look() -> None:
        """Something is due that was not before: look into the spool; sites that rest go on resting."""

    def kick(selector: Selector | None = None) -> None:
        """Look into the spool, and let even sites that rest try again: all of them, or where the selector names a
        domain, a site or a route, those."""

    def apply_suspensions() -> Awaitable[None]:
        """Suspensions have changed: read them anew."""

    def put_back(selector: Selector) -> Awaitable[None]:
        """Before a change: what may be chosen and only waits in memory goes back to the spool.

        The spool has it when this is there, and it is leased again some seconds later. What is under delivery goes on.
        SpoolError, only.
        """

    def bounce(selector: Selector, reason: str = "") -> Awaitable[int]:
        """Give up what is chosen and not under delivery, as an operator wants it: reports go out, with his reason.

        The number of recipients; it is there when their outcomes are written. SpoolError, only.
        """

    def waits(queue_id: str) -> Mapping[int, str] | Awaitable[Mapping[int, str]]:
        """Why those recipients of a message wait, or what happens to them, that are in the relay's hands."""

    def sites(selector: Selector | None = None) -> Sequence[SiteView] | Awaitable[Sequence[SiteView]]:
        """Every ready queue there is, or those that hold anything that the selector may choose."""


class ISlots(Interface):
    """Limits on what is open or sent at one time, kept by all workers of a gateway together."""

    def acquire(key: str, limit: int, wanted: Callable[[], None]) -> Awaitable[None] | None:
        """Take one slot of `key`, of which there are `limit`; waits for one. Cancel to give up waiting.

        None where it is there at once. While the slot is held, `wanted` is called when somebody else waits for one:
        who holds it for later use should release it.
        """

    def release(key: str) -> None:
        """Give a slot back."""

    def spend(key: str, rate: float, amount: int = 1) -> float | Awaitable[float]:
        """Take `amount` of a budget that grows by `rate` a second, and holds one second's at most (one, at least).

        Seconds until the time has come for what was taken: 0.0 for now.
        """


class ITally(Interface):
    """Numbers to which all workers of a gateway add, for limits that may be passed for a moment."""

    def add(key: str, amount: int) -> None:
        """Add, or take away."""

    def total(key: str) -> int:
        """The number; what other workers did in the last moment may be missing."""

    def watch(key: str, changed: Callable[[], None]) -> None:
        """Call when the number has changed, whoever has changed it; for good."""
