"""The resolver that the whole gateway shares: a cache, questions in flight asked once, and a bound on both."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random
from typing import TextIO

import dns.exception
import dns.resolver
from cachetools import TLRUCache
from twisted.internet.interfaces import IReactorTime, IReactorUDP
from zope.interface import implementer

from mailgate.dns.lookup import Lookup, Servers
from mailgate.dns.messages import Query
from mailgate.dns.names import query_name, unmapped, without_asking
from mailgate.dns.transport import Server, Transport
from mailgate.interfaces import Answer, DnsStatus, IResolver

__all__ = ["Resolver", "system_servers"]

#: Questions that servers are asked at one time, and those that wait for their turn; what is beyond gets TIMEOUT.
_RUNNING, _WAITING = 500, 2000
#: Records of one answer, and octets of their text, up to which it takes one place in the cache.
_RECORDS, _OCTETS = 16, 1024
#: Seconds for which a temporary failure is remembered, so that dead servers are not asked by every session.
_FAILURE_TTL = 2.0

_Key = tuple[str, str]


def system_servers(source: TextIO | None = None) -> list[Server]:
    """The name servers of the system (`source`: a resolv.conf); port 53 of this machine where it names none.

    ValueError where the system's file is malformed. Reads a file: for construction, not for the reactor's loop.
    """
    try:
        system = dns.resolver.Resolver(source) if source is not None else dns.resolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return [("127.0.0.1", 53)]
    except dns.exception.DNSException as error:
        raise ValueError(f"the system's resolver configuration: {error}") from error
    return [(str(server), system.port) for server in system.nameservers]


@implementer(IResolver)
class Resolver:
    """Asks `servers` (pairs of address and port; none: the system's), which have to be resolvers, for everybody.

    `reactor` provides UDP, TCP and time. `timeout` is for one question, all servers and retries together, and the
    wait for its turn. `cache_size` is in answers, of which a big one counts as several; 0 keeps none. `random`
    chooses ids and sockets: give a SystemRandom. `secure` of an answer is the server's word for it (the AD flag),
    which is worth as much as the way to the server. Records of types that `Answer` does not name are text as in a zone
    file; an answer of more than 500 records is as good as none (SERVFAIL).
    """

    def __init__(
        self, reactor: IReactorUDP, servers: Sequence[Server], timeout: float, cache_size: int, random: Random
    ) -> None:
        self._clock = IReactorTime(reactor)
        self._timeout = timeout
        self._transport = Transport(reactor, random)
        chosen = [(str(ip_address(host)), port) for host, port in servers or system_servers()]
        self._servers = Servers(chosen, self._clock)
        self._cache_size = cache_size
        self._cache: TLRUCache[_Key, tuple[float, Answer], float] = TLRUCache(
            cache_size, lambda _, kept, now: kept[0], self._clock.seconds, lambda kept: _places(kept[1])
        )
        self._lookups: dict[_Key, Lookup] = {}
        self._running = 0
        self._queue: deque[Lookup] = deque()
        self._is_closed = False

    def resolve(self, name: str, rdtype: str) -> Answer | Awaitable[Answer]:
        key = name.lower().removesuffix("."), rdtype
        kept = self._cache.get(key)
        if kept is not None:
            expires, answer = kept
            ttl = expires - self._clock.seconds()
            return Answer(answer.status, answer.records, ttl, answer.secure, answer.alias)
        lookup = self._lookups.get(key)
        if lookup is None:
            local = without_asking(*key)
            if local is not None:
                return local
            wire_name = query_name(key[0])
            if wire_name is None:
                return Answer(DnsStatus.NXDOMAIN)
            if self._is_closed or len(self._queue) >= _WAITING:
                return Answer(DnsStatus.TIMEOUT)
            lookup = self._begin(key, Query(wire_name, rdtype))
        return lookup.wait(lambda: self._give_up(key))

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer | Awaitable[Answer]:
        return self.resolve(unmapped(address).reverse_pointer, "PTR")

    def close(self) -> None:
        """Close every socket. What is under way ends with TIMEOUT, and so does what is asked later."""
        self._is_closed = True
        for lookup in list(self._lookups.values()):
            lookup.finish(Answer(DnsStatus.TIMEOUT))
        self._transport.close()

    def _begin(self, key: _Key, query: Query) -> Lookup:
        lookup = Lookup(
            query,
            self._servers,
            self._transport,
            self._clock,
            self._timeout,
            lambda answer: self._finished(key, answer),
        )
        self._lookups[key] = lookup
        self._queue.append(lookup)
        self._start_queued()
        return lookup

    def _finished(self, key: _Key, answer: Answer) -> None:
        self._keep(key, answer)
        self._remove(key)

    def _give_up(self, key: _Key) -> None:
        self._lookups[key].stop()
        self._remove(key)

    def _remove(self, key: _Key) -> None:
        lookup = self._lookups.pop(key)
        if lookup.is_running:
            self._running -= 1
            self._start_queued()
        elif lookup in self._queue:
            self._queue.remove(lookup)

    def _start_queued(self) -> None:
        while self._queue and self._running < _RUNNING and not self._is_closed:
            lookup = self._queue.popleft()
            if not lookup.is_over:
                self._running += 1
                lookup.begin()

    def _keep(self, key: _Key, answer: Answer) -> None:
        ttl = _FAILURE_TTL if answer.is_temporary else answer.ttl
        if ttl > 0 and _places(answer) <= self._cache_size:
            self._cache[key] = self._clock.seconds() + ttl, answer


def _places(answer: Answer) -> int:
    """How many places it takes in the cache, so that the cache's size bounds its memory, too."""
    octets = sum(len(record) for record in answer.records if isinstance(record, bytes | str))
    return 1 + max(len(answer.records) // _RECORDS, octets // _OCTETS)
