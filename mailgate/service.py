"""The gateway as one service: the only module that knows every part, and that imports the reactor.

Ports are bound while the process may still be root; everything else begins when it is not any more.
"""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorUDP
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from mailgate.assembly import Assembly, assemble, make_users
from mailgate.auth.checker import IAuthReactor
from mailgate.auth.portal import Authenticator
from mailgate.auth.retired import Retired, close_all
from mailgate.config.endpoints import with_backlog
from mailgate.config.hosts import parse_server
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.reload import as_running, needs_restart
from mailgate.config.schema import Config
from mailgate.dns.resolver import Resolver
from mailgate.events import ConfigRefused, ConfigReloaded, Started, Stopped, Stopping
from mailgate.interfaces import IEventObserver, SpoolError, SweepReport
from mailgate.message import MemoryBudget
from mailgate.observe.history import History
from mailgate.observe.hub import EventHub
from mailgate.observe.log import JsonLog
from mailgate.observe.recorder import Recorder
from mailgate.pipeline.registry import Registry
from mailgate.process import own_secret, raise_descriptor_limit, user_name
from mailgate.relay.intake import Intake
from mailgate.relay.jobs import LocalQueue
from mailgate.relay.locate import Locator
from mailgate.relay.service import Relay
from mailgate.relay.transports import ITransportReactor, RouteTransports, Transports
from mailgate.relay.turn import Turns
from mailgate.smtp.factory import Listener
from mailgate.spool.sqlite import SqliteSpool
from mailgate.stores.counters import MemoryCounters
from mailgate.web.control import Control, StatusBoard
from mailgate.web.places import Places

__all__ = ["Gateway", "Options", "makeService"]

_log = Logger()

#: Connections that may wait to be accepted.
_BACKLOG = 1024
#: The collector's thresholds: a message leaves hundreds of objects and hardly a cycle.
_GARBAGE = (20_000, 20, 20)


class IGatewayReactor(ITransportReactor, IAuthReactor, IReactorUDP):
    """What the gateway needs of the reactor."""


class Options(usage.Options):
    """`twistd mailgate`."""

    synopsis = "[--config FILE]"
    longdesc = "A mail gateway that people program in Python. The configuration is checked before anything starts."

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.file = Path(os.environ.get("MAILGATE_CONFIG", "/etc/mailgate/mailgate.toml"))
        self.loaded: Loaded | None = None

    def opt_config(self, value: str) -> None:
        """The configuration; $MAILGATE_CONFIG, then /etc/mailgate/mailgate.toml, if not given."""
        self.file = Path(value)

    opt_c = opt_config

    def postOptions(self) -> None:
        """Read the configuration: SystemExit with every error of it."""
        try:
            self.loaded = load(self.file, Registry().find)
        except ConfigError as error:
            raise SystemExit("\n".join(error.errors)) from None


def makeService(options: Options) -> Gateway:
    """What `twistd mailgate` runs."""
    from twisted.internet import reactor

    if options.loaded is None:
        raise AssertionError("the options have not been parsed")
    return Gateway(options.loaded, cast(IGatewayReactor, reactor), options.parent or {})


class Gateway(Service):
    """One process: accepts, judges, keeps, delivers.

    The methods `open_spool`, `make_resolver`, `make_transports`, `make_pool` and `make_recorder` make the parts that
    touch the outside; a test in memory has its own.
    """

    name = "mailgate"

    def __init__(
        self, loaded: Loaded, reactor: IGatewayReactor, twistd: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """`twistd` are the options of the command that runs it."""
        self._twistd = twistd
        self.loaded = loaded
        self._started = loaded.config
        self.reactor = reactor
        self.registry = Registry()
        self.random = random.SystemRandom()
        self.board = StatusBoard()
        self.events = EventHub([self.board])
        self.listeners = {section.name: Listener(section) for section in loaded.config.listeners}
        self._ports: list[IListeningPort] = []
        self._filter_observers: Sequence[IEventObserver] = ()
        self._pools: list[ThreadPool] = []
        self._users: dict[str, Authenticator] = {}
        self._retired = Retired(reactor, lambda: [it.services.authenticator for it in self.listeners.values()])
        self._budget = MemoryBudget(loaded.config.gateway.memory_ceiling)

    @property
    def config(self) -> Config:
        """The configuration that new sessions go by."""
        return self.loaded.config

    @property
    def places(self) -> Places:
        """Where its state lies."""
        return Places(self.config.gateway.state_dir)

    # -- parts that touch the outside

    def open_spool(self) -> SqliteSpool:
        """The spool; SpoolError where it cannot be used."""
        section = self.config.spool
        return SqliteSpool(
            self.places.spool,
            events=self.events,
            call_from_thread=self.reactor.callFromThread,
            inline_limit=section.inline_limit,
            min_free=section.min_free,
        )

    def make_resolver(self) -> Resolver:
        """DNS."""
        section = self.config.dns
        servers = [parse_server(server) for server in section.servers]
        return Resolver(self.reactor, servers, section.timeout, section.cache_size, self.random)

    def make_transports(self) -> Transports:
        """What delivers."""
        return RouteTransports(self.reactor, self.make_pool, self.config.gateway.hostname)

    def make_pool(self) -> ThreadPool:
        """Threads that wait for a disk."""
        pool = ThreadPool(0, LocalQueue.LIMIT, name="delivery")
        pool.start()
        self._pools.append(pool)
        return pool

    def make_recorder(self) -> Recorder:
        """The log and the history; OSError where they cannot be written."""
        self.json_log = JsonLog(self.config.log.path, self.places.state_dir)
        section = self.config.history
        min_free = self.config.spool.min_free // 2  # the refusals of a full disk are history too
        history = History(self.places.history, keep=section.keep, max_size=section.max_size, min_free=min_free)
        return Recorder([self.json_log, history])

    # -- start

    def privilegedStartService(self) -> None:
        """Bind the ports. SystemExit, with a line that says which, where that cannot be."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's
        failures: list[str] = []
        for section in self.config.listeners:
            for text in section.endpoints:
                listening = serverFromString(self.reactor, with_backlog(text, _BACKLOG)).listen(
                    self.listeners[section.name]
                )
                listening.addCallbacks(
                    self._ports.append,
                    lambda failure, text=text: failures.append(f"mailgate: {text}: {failure.getErrorMessage()}"),
                )
        if failures:
            self._cannot_start("\n".join(failures))

    def startService(self) -> None:
        """Open the spool, build what the configuration says, and begin. SystemExit with a line where that cannot be."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self.reload))
        os.umask(0o077)
        raise_descriptor_limit()
        state_dir = self.config.gateway.state_dir
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.geteuid() == 0 and (owner := state_dir.stat().st_uid) != 0:
                # Root's files in it would lock the other user out.
                self._cannot_start(
                    f"mailgate: cannot start: {state_dir} belongs to {user_name(owner)}: start with --uid"
                )
            state_dir.chmod(0o700)
            self._secret = own_secret(self.places.secret)
            self.recorder = self.make_recorder()
            self.events.add(self.recorder)
            self.spool = self.open_spool()
            self.resolver = self.make_resolver()
            self.counters = MemoryCounters(self.reactor, self.config.counters.max_keys)
            self._users = make_users(self.loaded, self.reactor)
            assembly = self._assemble(self.loaded, self._users)
        except ConfigError as error:
            self._cannot_start("\n".join(error.errors))
        except (OSError, SpoolError) as error:
            self._cannot_start(f"mailgate: cannot start: {error}")
        self._warn(self.loaded, assembly)
        swept = self.spool.sweep()  # before anything else that the spool is asked
        self.transports = self.make_transports()
        self.transports.use(assembly.terms)
        self.relay = Relay(
            self.spool,
            self.config,
            assembly.routing,
            transports=self.transports,
            locator=Locator(self.resolver, self.config.gateway.hostname, self.random),
            events=self.events,
            clock=self.reactor,
            random=self.random,
            delivery_filter=assembly.delivery_filter,
        )
        self._turns = Turns(self.spool, self.relay.look, self.reactor)
        self.intake = Intake(
            self.spool,
            refusal=self.spool.refusal,
            deliver=self.relay.deliver,
            events=self.events,
            clock=self.reactor,
        )
        self.control = Control(self.reactor, self.spool, self.events, self.relay.kick, self.board)
        try:
            self.control.listen(self.places.control)
        except (OSError, CannotListenError) as error:
            self._cannot_start(f"mailgate: cannot start: {error}")
        self._serve(assembly)
        gc.freeze()  # what is here stays: the collector need not look at it again
        gc.set_threshold(*_GARBAGE)
        swept.addCallbacks(self._swept, self._unswept)

    def _cannot_start(self, why: str) -> NoReturn:
        """End with these lines (SystemExit), and tell them to whoever started us in the background."""
        pipe = self._twistd.get("statusPipe")
        if isinstance(pipe, int):  # the twistd in the terminal waits to hear how the start went
            os.write(pipe, b"1 " + why.encode()[:98])
            os.close(pipe)
            Path(str(self._twistd.get("pidfile"))).unlink(missing_ok=True)
        raise SystemExit(why)

    def _swept(self, report: SweepReport) -> None:
        if not self.running:
            return
        self.relay.start()
        self.events.publish(Started(at=self.reactor.seconds(), listeners=tuple(self.listeners)))
        _log.info("mailgate accepts and delivers; {leftovers} leftovers were removed", leftovers=report.leftovers)

    def _unswept(self, failure: Failure) -> None:
        # What was acknowledged is safe; nothing is delivered until it can be read.
        _log.critical("the spool cannot be swept: {error}", error=failure.getErrorMessage())
        self.reactor.callLater(1.0, self._sweep)

    def _sweep(self) -> None:
        if self.running:
            self.spool.sweep().addCallbacks(self._swept, self._unswept)

    def _assemble(self, loaded: Loaded, users: Mapping[str, Authenticator]) -> Assembly:
        return assemble(
            loaded,
            self.registry,
            clock=self.reactor,
            resolver=self.resolver,
            counters=self.counters,
            events=self.events,
            random=self.random,
            users=users,
        )

    def _serve(self, assembly: Assembly) -> None:
        for observer in self._filter_observers:
            self.events.remove(observer)
        self._filter_observers = assembly.observers
        for observer in self._filter_observers:
            self.events.add(observer)
        for section in assembly.config.listeners:
            listener = self.listeners.get(section.name)
            if listener is not None:
                services = assembly.session_services(
                    section,
                    clock=self.reactor,
                    resolver=self.resolver,
                    events=self.events,
                    intake=self.intake,
                    incoming=self.spool.incoming,
                    budget=self._budget,
                    counters=self.counters,
                    turn=self._turns.turn,
                    secret=self._secret,
                )
                listener.serve(section, services)

    def _warn(self, loaded: Loaded, assembly: Assembly) -> None:
        for warning in (*loaded.warnings, *assembly.warnings()):
            _log.warn("{warning}", warning=warning)

    # -- reload

    def reload(self) -> None:
        """Read the file again: a good one is for new sessions, a bad one is refused and the old one stays."""
        path = self.loaded.path
        self.json_log.reopen()
        try:
            read = load(path, Registry().find)
            loaded = replace(read, config=as_running(self._started, read.config))
            users = make_users(loaded, self.reactor, self._users)
            assembly = self._assemble(loaded, users)
        except ConfigError as error:
            self.events.publish(ConfigRefused(at=self.reactor.seconds(), path=str(path), errors=error.errors))
            _log.error("the configuration was refused, the old one stays: {errors}", errors="; ".join(error.errors))
            return
        self._warn(read, assembly)
        waits = needs_restart(self._started, read.config)
        self.loaded = loaded
        self._budget.ceiling = loaded.config.gateway.memory_ceiling
        self._serve(assembly)
        self._retired.replace(self._users, users)
        self._users = users
        self.transports.use(assembly.terms)
        self.relay.reload(loaded.config, assembly.routing, assembly.delivery_filter)
        self.events.publish(ConfigReloaded(at=self.reactor.seconds(), path=str(path), needs_restart=waits))
        if waits:
            _log.warn("these changes wait for the next start: {waits}", waits=", ".join(waits))

    # -- stop

    def stopService(self) -> Deferred[None]:
        """Stop accepting, let sessions and deliveries finish within `drain_timeout`, give back the rest, close."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if not hasattr(self, "relay"):
            return
        end = self.reactor.seconds() + self.config.gateway.drain_timeout
        self.events.publish(Stopping(at=self.reactor.seconds()))
        for port in self._ports:
            await self._surely(maybeDeferred(port.stopListening))
        listeners = list(self.listeners.values())
        if not await self._within(end, gatherResults([listener.drain() for listener in listeners], consumeErrors=True)):
            for listener in listeners:
                listener.cut()
        if not await self._within(end, Deferred.fromCoroutine(self.relay.stop())):
            self.relay.cut()
            await self._within(self.reactor.seconds() + 2.0, Deferred.fromCoroutine(self.relay.stop()))
        await self._surely(self.control.close())
        users = close_all([*self._users.values(), *self._retired.take()])
        await self._within(self.reactor.seconds() + 2.0, users)
        await self._surely(maybeDeferred(self.resolver.close))
        await self._surely(self.spool.close())
        for pool in self._pools:
            await self._surely(maybeDeferred(pool.stop))
        self.events.publish(Stopped(at=self.reactor.seconds()))
        self.recorder.close()

    async def _within(self, end: float, work: Deferred[Any]) -> bool:
        """Whether the work was done by then; it is cancelled otherwise."""
        return await self._surely(work.addTimeout(max(end - self.reactor.seconds(), 0.1), self.reactor))

    async def _surely(self, work: Deferred[Any]) -> bool:
        """Whether the work was done. Whatever it fails with, the stop goes on."""
        try:
            await work
        except (DeferredTimeout, CancelledError, FirstError):  # the last where one of several was cancelled
            return False
        except Exception:
            _log.failure("a part of the gateway cannot stop as it should")
            return False
        return True
