"""Hosts of a site that are down, closed for maintenance or short of resources: others are asked before them, until a
probe finds them well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.relay.attempt import ConnectFailedError, IConnection, Target

__all__ = ["HostWatch"]

_log = Logger()

#: Seconds until a host is probed first, and at most between two probes.
_FIRST, _LONGEST = 30.0, 300.0
#: Hosts that are remembered.
_MOST = 1000

Probe = Callable[[Target], Awaitable[IConnection]]
"""A session with the host: its greeting, EHLO, and what else the route asks for. ConnectFailedError."""


class _Unwell(Struct):
    """A host that is probed next at `due`, and `waits` longer after each failure."""

    due: float
    waits: float = _FIRST
    is_probed: bool = False


class HostWatch:
    """What is known of all hosts, by route. Probes are made only while there is mail for the site, which goes to other
    hosts meanwhile: nobody waits for them."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._unwell: dict[tuple[str, str], _Unwell] = {}

    def order(self, route: str, targets: Sequence[Target], probe: Probe) -> Sequence[Target]:
        """The targets in the order in which they are to be asked: those that are unwell come last."""
        if not self._unwell or len(targets) < 2:
            return targets
        unwell = [one for one in targets if (route, str(one)) in self._unwell]
        if len(unwell) < len(targets):
            for one in unwell:
                self._look_at(route, one, probe)
        return [*(one for one in targets if one not in unwell), *unwell]

    def unwell(self, route: str, target: str) -> None:
        """Nobody is there, or takes anything now."""
        now = self._seconds()
        known = self._unwell.get((route, target))
        if known is None:
            self._unwell[route, target] = _Unwell(now + _FIRST)
            if len(self._unwell) > _MOST:  # whoever has been there longest, and is perhaps in no DNS any more
                del self._unwell[next(iter(self._unwell))]
        elif now >= known.due:
            known.waits = min(2 * known.waits, _LONGEST)
            known.due = now + known.waits

    def well(self, route: str, target: str) -> None:
        """It takes mail."""
        if self._unwell:
            self._unwell.pop((route, target), None)

    def _look_at(self, route: str, target: Target, probe: Probe) -> None:
        state = self._unwell.get((route, str(target)))
        if state is None or state.is_probed or self._seconds() < state.due:
            return
        state.is_probed = True

        def there(connection: IConnection) -> None:
            connection.close()
            self.well(route, str(target))

        def absent(failure: Failure) -> None:
            if not failure.check(ConnectFailedError):
                _log.failure("{target} could not be probed", failure, target=str(target))
            self.unwell(route, str(target))

        def over(_: None) -> None:
            state.is_probed = False

        Deferred.fromCoroutine(_session(probe, target)).addCallbacks(there, absent).addCallback(over)


async def _session(probe: Probe, target: Target) -> IConnection:
    return await probe(target)
