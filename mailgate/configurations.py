"""The configurations of one gateway, one after another: what it goes by now, and the next while that is prepared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from mailgate.addressing import is_slow, make_addressing, make_slow, make_users
from mailgate.assembly import Assembly, assemble
from mailgate.auth.checker import IAuthReactor
from mailgate.auth.portal import Authenticator
from mailgate.auth.retired import Retired, close_all
from mailgate.awaiting import in_reactors_threads
from mailgate.backends.keeping import SourceKeeper, Sources
from mailgate.config.load import Loaded
from mailgate.interfaces import ICounters, IEvents, IProber, IResolver, ISuppressions
from mailgate.pipeline.registry import Registry
from mailgate.recipients.source import SourceTools

__all__ = ["Configurations", "Prepared"]


class Prepared(NamedTuple):
    """A configuration that has been read and built: `read` is what the file says, `loaded` what of it holds now."""

    read: Loaded
    loaded: Loaded
    users: dict[str, Authenticator]
    assembly: Assembly


class Configurations:
    """Builds them, with the same parts. Users and sources of addresses go on where a new one leaves them alone, and
    are closed when no session can ask them any more. `users` are those of now."""

    def __init__(
        self,
        *,
        reactor: IAuthReactor,
        resolver: IResolver,
        counters: ICounters,
        events: IEvents,
        random: Random,
        prober: IProber,
        suppressions: ISuppressions,
        incoming: Path,
        leads: bool,
        serving: Callable[[], Collection[Authenticator | None]],
    ) -> None:
        """`leads`: whether this process, of several, reads what one is enough to read; `incoming` is its spool's;
        `serving` as in Retired."""
        self._reactor = reactor
        self._resolver = resolver
        self._counters = counters
        self._events = events
        self._random = random
        self._prober = prober
        self._suppressions = suppressions
        self._incoming = incoming
        self._leads = leads
        self._retired = Retired(reactor, serving)
        self._sources = SourceKeeper(reactor)
        self.users: Mapping[str, Authenticator] = {}

    def build(self, read: Loaded, loaded: Loaded, registry: Registry, slow: Sources = MappingProxyType({})) -> Prepared:
        """What is to be in force next, as in Prepared; it is given to `use` or to `drop` then. ConfigError; what was
        made until then is closed, and so is `slow`, which was made before."""
        users: dict[str, Authenticator] = {}
        sources = slow
        try:
            users = make_users(loaded, self._reactor, self.users)
            sources = make_addressing(loaded, self._tools(loaded), {**self._sources.current, **slow})
            assembly = assemble(
                loaded,
                registry,
                clock=self._reactor,
                resolver=self._resolver,
                counters=self._counters,
                events=self._events,
                random=self._random,
                users=users,
                sources=sources,
                suppressions=self._suppressions,
                incoming=self._incoming,
            )
        except BaseException:
            self._close_new(users)
            self._sources.drop(sources)
            raise
        return Prepared(read, loaded, users, assembly)

    async def prepare(self, read: Loaded, loaded: Loaded, registry: Registry) -> Prepared:
        """`build` it without holding up the reactor: what takes long is made in a thread. One at a time."""
        current = self._sources.current
        if not is_slow(loaded, current):
            return self.build(read, loaded, registry)
        tools = self._tools(loaded)
        slow = await in_reactors_threads(self._reactor)(lambda: make_slow(loaded, tools, current))
        return self.build(read, loaded, registry, slow)

    def use(self, prepared: Prepared) -> None:
        """From now on recipients are looked up by this one, and its users are those of now: listeners serve by it."""
        self._retired.replace(self.users, prepared.users)
        self.users = prepared.users
        self._sources.use(prepared.assembly.sources)

    def drop(self, prepared: Prepared) -> None:
        """It is not wanted after all."""
        self._close_new(prepared.users)
        self._sources.drop(prepared.assembly.sources)

    def close_users(self) -> Deferred[list[None]]:
        """Close all that check passwords, at the end. It does not fail."""
        return close_all([*self.users.values(), *self._retired.take()])

    def close_sources(self) -> Deferred[list[Any]]:
        """Close all that know addresses, at the end. It does not fail."""
        return self._sources.close()

    def _tools(self, loaded: Loaded) -> SourceTools:
        return SourceTools(
            reactor=self._reactor,
            events=self._events,
            counters=self._counters,
            prober=self._prober,
            state_dir=loaded.config.gateway.state_dir,
            leads=self._leads,
        )

    def _close_new(self, users: Mapping[str, Authenticator]) -> None:
        """Those who are not in force, of whom no session has heard."""
        close_all(one for name, one in users.items() if self.users.get(name) is not one)
