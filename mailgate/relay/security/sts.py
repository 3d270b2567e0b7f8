"""The MTA-STS policies of destinations (RFC 8461): found, kept, and kept up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Protocol, TypeVar

from cachetools import TTLCache
from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import answered
from mailgate.interfaces import IResolver
from mailgate.relay.security.sts_fetch import StsFetchError
from mailgate.relay.security.sts_policy import StsPolicy, announced_id
from mailgate.relay.security.sts_slots import NoSlotError, Slots
from mailgate.relay.security.sts_store import Kept, PolicyFile
from mailgate.tls.failures import TlsFailure

__all__ = ["IPolicyFetcher", "IPolicyStore", "MtaSts", "StsFound"]

_log = Logger()

T = TypeVar("T")

#: Octets of policies in memory, and of domains that have none in the file, and for how many seconds: other workers
#: fetch, too. Failures, for how long, and characters that are kept of why.
_OCTETS, _ABSENT, _KNOWN_FOR = 16 * 1024**2, 10_000, 600.0
_FAILURES, _FAILURES_FOR, _LONGEST_REASON = 10_000, 600.0, 500
#: Policies that are fetched at one time, and those of hosts in one network. Others wait, and their mail with them, so
#: many and so many seconds; then it goes as if there were none, and nobody waits again for a minute.
_MOST_FETCHES, _MOST_OF_NETWORK, _MOST_WAITING, _PATIENCE, _PUT_OFF_FOR = 100, 10, 2000, 30.0, 60.0
#: Seconds between looks at the file; policies of one look; those that were not asked for in so long are left to expire.
_LOOK_EVERY, _MOST_REFRESHED, _UNUSED = 3600.0, 200, 30 * 86_400.0


class IPolicyFetcher(Protocol):
    """As PolicyFetcher."""

    async def fetch(self, domain: str) -> StsPolicy:
        """The policy that the domain has now; StsFetchError."""


class IPolicyStore(Protocol):
    """As PolicyStore."""

    def run(self, work: Callable[[PolicyFile], T]) -> Deferred[T]:
        """What `work` makes of the file."""


class StsFound(Struct, frozen=True):
    """What there is for a domain: its policy, None where it has none that holds; and what went wrong, if anything."""

    policy: StsPolicy | None = None
    failure: TlsFailure = ""
    reason: str = ""


_NOTHING = StsFound()


class MtaSts:
    """Asks DNS for each domain, which its resolver remembers, and the policy host where it says that something is new.

    A policy that holds is kept to, whatever DNS or its host say, or do not: else whoever can hide them could take it
    away. Where there is none yet, mail waits while it is fetched; a fetch that failed is not tried again for ten
    minutes, and such a domain has no policy meanwhile (RFC 8461 section 5.1). So it is, for a minute, where its turn
    has not come for half of one.
    """

    def __init__(self, resolver: IResolver, fetcher: IPolicyFetcher, store: IPolicyStore, clock: IReactorTime) -> None:
        self._resolver = resolver
        self._fetcher = fetcher
        self._store = store
        self._clock = clock
        self._kept: TTLCache[str, Kept] = TTLCache(_OCTETS, _KNOWN_FOR, clock.seconds, getsizeof=_octets)
        self._absent: TTLCache[str, None] = TTLCache(_ABSENT, _KNOWN_FOR, clock.seconds)
        self._failures: TTLCache[tuple[str, str], StsFound] = TTLCache(_FAILURES, _FAILURES_FOR, clock.seconds)
        self._fetches: dict[str, Deferred[Kept | StsFound]] = {}
        self._put_off: TTLCache[str, StsFound] = TTLCache(_FAILURES, _PUT_OFF_FOR, clock.seconds)
        self._slots = Slots(
            clock,
            most=_MOST_FETCHES,
            most_of_one=_MOST_OF_NETWORK,
            most_waiting=_MOST_WAITING,
            patience=_PATIENCE,
        )
        self._timer: IDelayedCall | None = None
        self._is_stopped = False

    def use(self, fetcher: IPolicyFetcher) -> None:
        """From now on fetch with this, which may get what could not be had before."""
        self._fetcher = fetcher
        self._failures.clear()

    def start(self) -> None:
        """Keep what is in the file up to date from now on."""
        if self._timer is None and not self._is_stopped:
            self._timer = self._clock.callLater(_LOOK_EVERY, self._look)

    def stop(self) -> None:
        """End: what is being fetched is given up."""
        self._is_stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for fetch in list(self._fetches.values()):
            fetch.cancel()
            fetch.addErrback(lambda _: None)  # whoever waits has been told

    async def find(self, domain: str) -> StsFound:
        """What holds for a domain (A-labels, lower case) now. Nothing raises but CancelledError."""
        answer = await answered(self._resolver.resolve(f"_mta-sts.{domain}", "TXT"))
        announced = announced_id(answer.records)
        kept = await self._known(domain)
        if not announced or (kept is not None and kept.id == announced):
            if kept is not None and kept.is_aged(self._clock.seconds()):
                self._refresh(domain, announced or kept.id)
            return _NOTHING if kept is None else StsFound(kept.policy)
        failed = self._failures.get((domain, announced)) or self._put_off.get(domain)
        if failed is None:
            found = await self._fetched(domain, announced)
            if isinstance(found, Kept):
                return StsFound(found.policy)
            failed = found
        if kept is None:
            return failed
        return StsFound(kept.policy, failed.failure, failed.reason)

    async def _known(self, domain: str) -> Kept | None:
        now = self._clock.seconds()
        kept = self._kept.get(domain)
        if kept is not None:
            return kept if kept.expires > now else None
        if domain in self._absent:
            return None
        try:
            kept = await self._store.run(lambda file: file.get(domain, now))
        except (sqlite3.Error, OSError, ValueError) as error:
            _log.warn("the file of MTA-STS policies cannot be read: {error}", error=str(error))
            return None
        if kept is None:
            self._absent[domain] = None
        else:
            self._kept[domain] = kept
        return kept

    def _fetched(self, domain: str, announced: str) -> Deferred[Kept | StsFound]:
        """The policy fetched anew, once for all who ask at the same time; cancelling it ends the waiting only."""
        if domain not in self._fetches:
            fetch = Deferred.fromCoroutine(self._fetch(domain, announced))
            if not fetch.called:
                self._fetches[domain] = fetch
                fetch.addBoth(self._over, domain)
            return self._waiting(fetch)
        return self._waiting(self._fetches[domain])

    def _waiting(self, fetch: Deferred[Kept | StsFound]) -> Deferred[Kept | StsFound]:
        waiting: Deferred[Kept | StsFound] = Deferred()

        def tell(found: Kept | StsFound | Failure) -> Kept | StsFound | Failure:
            if not waiting.called:
                waiting.callback(found)
            return found  # for the next one who waits

        fetch.addBoth(tell)
        return waiting

    def _over(self, found: T, domain: str) -> T:
        self._fetches.pop(domain, None)
        return found

    async def _fetch(self, domain: str, announced: str) -> Kept | StsFound:
        network = await self._network(domain)
        try:
            await self._slots.take(network)
        except NoSlotError as error:
            put_off = StsFound(None, "sts-policy-fetch-error", str(error))
            self._put_off[domain] = put_off
            _log.warn("the MTA-STS policy of {domain} is not fetched now: {error}", domain=domain, error=str(error))
            return put_off
        try:
            policy = await self._fetch_now(domain)
        except StsFetchError as error:
            failed = StsFound(None, error.failure, str(error)[:_LONGEST_REASON])
            self._failures[domain, announced] = failed
            _log.warn("the MTA-STS policy of {domain} cannot be fetched: {error}", domain=domain, error=failed.reason)
            return failed
        finally:
            self._slots.give_back(network)
        now = self._clock.seconds()
        kept = Kept(domain=domain, id=announced, policy=policy, fetched=now, expires=now + policy.max_age)
        self._kept[domain] = kept
        self._absent.pop(domain, None)
        try:
            await self._store.run(lambda file: file.put(kept, now))
        except (sqlite3.Error, OSError) as error:
            _log.warn("the MTA-STS policy of {domain} cannot be kept: {error}", domain=domain, error=str(error))
        return kept

    async def _network(self, domain: str) -> str:
        """That of its policy host, whoever else has theirs there; "" where it has no address."""
        for kind in ("A", "AAAA"):
            answer = await answered(self._resolver.resolve(f"mta-sts.{domain}", kind))
            for one in answer.records:
                if isinstance(one, IPv4Address | IPv6Address):
                    return str(ip_network(f"{one}/{24 if one.version == 4 else 48}", strict=False))
        return ""

    async def _fetch_now(self, domain: str) -> StsPolicy:
        while True:
            fetcher = self._fetcher
            try:
                return await fetcher.fetch(domain)
            except StsFetchError:
                if self._is_stopped:  # which is no word on whether there is a policy
                    raise CancelledError from None
                if fetcher is self._fetcher:  # else a reload has come between, and another may be believed now
                    raise

    # -- in the background

    def _refresh(self, domain: str, announced: str) -> None:
        is_known = (domain, announced) in self._failures or domain in self._put_off
        if domain not in self._fetches and not is_known and not self._is_stopped:
            self._fetched(domain, announced).addErrback(_not_refreshed, domain)

    def _look(self) -> None:
        self._timer = None
        looked = Deferred.fromCoroutine(self._look_once())
        looked.addErrback(_not_looked)
        looked.addBoth(lambda _: self.start())

    async def _look_once(self) -> None:
        now = self._clock.seconds()
        try:
            domains = await self._store.run(lambda file: file.ageing(now, now - _UNUSED, _MOST_REFRESHED))
        except (sqlite3.Error, OSError) as error:
            _log.warn("the file of MTA-STS policies cannot be read: {error}", error=str(error))
            return
        for domain in domains:  # one after another: nobody waits for it
            if self._is_stopped:
                return
            kept = await self._known(domain)
            answer = await answered(self._resolver.resolve(f"_mta-sts.{domain}", "TXT"))
            if kept is None:
                continue
            # Whatever becomes of the record, which others may hide (RFC 8461 section 10.2).
            announced = announced_id(answer.records) or kept.id
            if (domain, announced) not in self._failures:
                await self._fetched(domain, announced)


def _octets(kept: Kept) -> int:
    """About what one takes in memory."""
    return 1000 + sum(100 + len(text) for text in (*kept.policy.mx, *kept.policy.lines))


def _not_looked(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("MTA-STS policies cannot be kept up to date", failure=failure)


def _not_refreshed(failure: Failure, domain: str) -> None:
    if not failure.check(CancelledError):
        _log.failure("the MTA-STS policy of {domain} cannot be fetched", failure=failure, domain=domain)
