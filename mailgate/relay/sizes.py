"""How large a message next hops take, as their replies to EHLO have said it (RFC 1870)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["LearntSizes"]

#: Octets that our own fields may add to a message on its way.
_OURS = 16 * 1024
#: The least that is offered, whatever a next hop says (RFC 5321 section 4.5.3.1.7).
_LEAST = 64 * 1024
#: Hosts that are remembered of one route, and seconds after which the word of one that is not asked any more is not.
_MOST_HOSTS, _KEPT = 64, 86400.0


class LearntSizes:
    """The latest word of each host, by route. Kept in memory: nothing is known before the first connection."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._by_route: dict[str, dict[str, tuple[int, float]]] = {}  # sizes, and when they were said

    def learn(self, route: str, host: str, size: int) -> None:
        """A host of a route takes so many octets; 0 where it names no limit."""
        hosts = self._by_route.setdefault(route, {})
        hosts.pop(host, None)
        hosts[host] = size, self._seconds()
        if len(hosts) > _MOST_HOSTS:
            del hosts[next(iter(hosts))]

    def limit(self, routes: Iterable[str], most: int) -> int:
        """What may be offered of `most`, so that every host of these routes takes it with our fields."""
        since = self._seconds() - _KEPT
        known = [one for route in routes for one in self._by_route.get(route, {}).values()]
        said = [size for size, at in known if size and at >= since]
        return min(most, max(min(said) - _OURS, _LEAST)) if said else most
