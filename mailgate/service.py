"""The gateway as one service: the only module that knows every part.

Ports are bound while the process may still be root; everything else begins when it is not any more.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.assembly import Assembly
from mailgate.awaiting import OneRun, in_reactors_threads, surely, within
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.openings import openings
from mailgate.config.reload import as_running, needs_restart
from mailgate.configurations import Configurations, Prepared
from mailgate.events import ConfigRefused, ConfigReloaded, Started, Stopped, Stopping
from mailgate.interfaces import IEventObserver, SpoolError, SweepReport
from mailgate.message import MemoryBudget
from mailgate.mta.door import Door
from mailgate.mta.office import MtaOffice
from mailgate.observe.hub import EventHub
from mailgate.observe.rates import Rates
from mailgate.offices import Offices
from mailgate.outside import IGatewayReactor, Outside
from mailgate.pipeline.registry import Registry
from mailgate.process import cannot_start, collect_seldom, own_directory, own_secret, raise_descriptor_limit
from mailgate.quarantine.originals import Originals
from mailgate.relay.inline.relay import InlineRelay
from mailgate.relay.locate import Locator, OwnAddresses
from mailgate.relay.probing import Prober
from mailgate.relay.security.accounts import Accountant
from mailgate.relay.security.office import SecurityOffice
from mailgate.relay.taking import make_taking
from mailgate.relay.turn import Turns
from mailgate.relay.warm_up import WarmUp
from mailgate.smtp.factory import Listener
from mailgate.sockets.sessions import open_wide
from mailgate.web.control import StatusBoard
from mailgate.web.desk import HttpDesk
from mailgate.web.rates import rates_of_worker
from mailgate.workers.ports import CannotBindError, adopted, open_ports
from mailgate.workers.team import Team, alone, make_counters
from mailgate.workers.together import Answers

__all__ = ["Gateway", "IGatewayReactor"]

_log = Logger()

#: Seconds for each part that is closed at the end, and for what was cut.
_PATIENCE = 2.0


class Gateway(Outside):
    """One process: accepts, judges, keeps, delivers. Of several that share all that, each is one.

    The parts that touch the outside are made by methods of `Outside`; a test in memory has its own.
    """

    name = "mailgate"

    def __init__(
        self,
        loaded: Loaded,
        reactor: IGatewayReactor,
        twistd: Mapping[str, object] = MappingProxyType({}),
        team: Team | None = None,
    ) -> None:
        """`twistd` are the options of the command that runs it; `team` is what it shares with other processes."""
        team = team or alone(reactor, make_counters(loaded.config, reactor))
        self.board = StatusBoard(pid=team.pid)
        self.rates = Rates(reactor.seconds)
        super().__init__(loaded, reactor, team, EventHub([self.board, self.rates]))
        self._twistd = twistd
        self._started = loaded.config
        self.registry = Registry()
        self.listeners = {section.name: Listener(section, self._team.tally) for section in loaded.config.listeners}
        self.mta = MtaOffice(loaded.config, self._team.tally)
        self._doors: dict[str, Listener | Door] = {**self.listeners, **self.mta.doors}
        self._ports: list[IListeningPort] = []
        self._filter_observers: Sequence[IEventObserver] = ()
        self._budget = MemoryBudget(loaded.config.gateway.memory_ceiling)
        self._prepared: Prepared | None = None
        self._reload = OneRun(self._read_again, lambda failure: _log.failure("the reload failed", failure))
        self.http = HttpDesk(
            loaded.config,
            reactor,
            leads=not team.worker,
            counters=team.counters,
            status=self.board.status,
            ask_others=team.ask_others,
        )

    # -- start

    def privilegedStartService(self) -> None:
        """Bind the ports. SystemExit, with a line that says which, where that cannot be."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's
        try:
            doors = self._doors.__getitem__
            self._ports += open_ports(self.reactor, openings(self.config), doors, self._team.sockets)
            self.http.listen(self.reactor, adopted(self.reactor, self._team.http_sockets, self.http.server.factory))
        except (CannotBindError, CannotListenError) as error:
            self._cannot_start(str(error))

    def startService(self) -> None:
        """Open the spool, build what the configuration says, and begin. SystemExit with a line where that cannot be."""
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's
        if self._team.workers == 1:
            signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self.reload))
        os.umask(0o077)
        raise_descriptor_limit()
        try:
            own_directory(self.config.gateway.state_dir)
            self._secret = own_secret(self.places.secret)
            self.recorder = self.make_recorder()
            self.events.add(self.recorder)
            self.http.watch(self.events)
            self.spool = self.open_spool()
            if self._team.kept is not None:
                self._team.kept.open()
            self.resolver = self.http.counted(self.make_resolver())
            self.transports = self.make_transports()
            locator = Locator(
                self.resolver, self.config.gateway.hostname, self.random, OwnAddresses(self.reactor.seconds)
            )
            self._security = SecurityOffice(
                self.places.policies,
                locator,
                reactor=self.reactor,
                resolver=self.resolver,
                leads=not self._team.worker,
            )
            self.suppressions = self.make_suppressions()
            self.rehearsed = self.make_rehearsed()
            self._prober = Prober(self.transports, locator, self.reactor)
            self.configurations = Configurations(
                reactor=self.reactor,
                resolver=self.resolver,
                counters=self._team.counters,
                events=self.events,
                random=self.random,
                prober=self._prober,
                suppressions=self.suppressions,
                incoming=self.spool.incoming,
                leads=not self._team.worker,
                serving=lambda: [it.services.authenticator for it in self.listeners.values()],
            )
            prepared = self.configurations.build(self.loaded, self.loaded, self.registry)
        except ConfigError as error:
            self._cannot_start("\n".join(error.errors))
        except (OSError, SpoolError) as error:
            self._cannot_start(f"mailgate: cannot start: {error}")
        assembly = prepared.assembly
        self._warn(self.loaded, assembly)
        swept = self.spool.sweep()  # before anything else that the spool is asked
        self._deliver_by(prepared)
        accountant = Accountant(self.reactor, lambda: self._security.security)
        self.relay = InlineRelay(
            self.spool,
            self.config,
            assembly.routing,
            transports=self.transports,
            locator=locator,
            events=self.events,
            clock=self.reactor,
            random=self.random,
            slots=self._team.slots,
            warm_up=WarmUp(self.spool, self.reactor, worker=self._team.worker, workers=self._team.workers),
            bounces=assembly.bounces,
            delivery_filter=assembly.delivery_filter,
            account=accountant.account,
        )
        self._together = self._team.together(self.relay)
        rates = functools.partial(rates_of_worker, self.rates)
        self.answers = Answers(self.relay, self.spool, self._team.worker, self.http.numbers, rates)
        self._turns = Turns(self._team.operators_spool(self.spool), self._together.kick, self.reactor)
        originals = Originals(self.places.originals, in_reactors_threads(self.reactor), set_aside=self.places.set_aside)
        self.intake, self.inline = make_taking(
            self.spool,
            self.relay,
            refusal=self.spool.refusal,
            incoming=self.spool.incoming,
            budget=self._budget,
            originals=originals,
            events=self.events,
            clock=self.reactor,
        )
        self.offices = Offices(
            self,
            self._team,
            spool=self.spool,
            relay=self.relay,
            relays=self._together,
            resolver=self.resolver,
            originals=originals,
            accountant=accountant,
            http=self.http,
            board=self.board,
            secret=self._secret,
            suppressions=self.suppressions,
            intake=self.intake,
            budget=self._budget,
            rates=self.rates,
            mta=self.mta,
            security=self._security,
        )
        try:
            self.offices.listen()
        except OSError as error:
            self._cannot_start(f"mailgate: cannot start: {error}")
        self._serve(assembly)
        for port in self._ports:
            open_wide(port)
        collect_seldom()
        swept.addCallbacks(self._swept, self._unswept)

    def _cannot_start(self, why: str) -> NoReturn:
        cannot_start(self._twistd, why)

    def _swept(self, report: SweepReport) -> None:
        if not self.running:
            return
        self.relay.start()
        self.offices.start()
        self.events.publish(Started(at=self.reactor.seconds(), listeners=tuple(self._doors)))
        _log.info("mailgate accepts and delivers; {leftovers} leftovers were removed", leftovers=report.leftovers)

    def _unswept(self, failure: Failure) -> None:
        # What was acknowledged is safe; nothing is delivered until it can be read.
        _log.critical("the spool cannot be swept: {error}", error=failure.getErrorMessage())
        self.reactor.callLater(1.0, self._sweep)

    def _sweep(self) -> None:
        if self.running:
            self.spool.sweep().addCallbacks(self._swept, self._unswept)

    def _deliver_by(self, prepared: Prepared) -> None:
        """From now on, next hops are met, and recipients looked up, by this configuration."""
        assembly = prepared.assembly
        self.transports.use(assembly.terms, assembly.web_terms)
        self._security.use(assembly.config)
        self._prober.use(assembly.config, assembly.bounces.classifier)
        self.configurations.use(prepared)

    def _serve(self, assembly: Assembly) -> None:
        self.offices.use(assembly)
        for observer in self._filter_observers:
            self.events.remove(observer)
        self._filter_observers = assembly.observers
        for observer in self._filter_observers:
            self.events.add(observer)
        self.inline.use(assembly.config.routes)
        rehearsal = assembly.config.rehearsal
        self.rehearsed.use(rehearsal.keep, rehearsal.max_mails, rehearsal.max_size)
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
                    counters=self._team.counters,
                    turn=self._turns.turn,
                    secret=self._secret,
                    inline=self.inline or None,
                    learnt=self.relay.sizes,
                    rehearsed=self.rehearsed,
                )
                listener.serve(section, services)

    def _warn(self, loaded: Loaded, assembly: Assembly) -> None:
        if self._team.worker:
            return  # the first one says the same
        for warning in (*loaded.warnings, *assembly.warnings()):
            _log.warn("{warning}", warning=warning)

    # -- reload

    def reload(self) -> None:
        """Read the file again: a good one is for new sessions, a bad one is refused and the old one stays."""
        self._reload.begin()

    async def _read_again(self) -> None:
        self.settle(await self.prepare())

    async def prepare(self, source: str | None = None) -> tuple[str, ...]:
        """Read the file again, or the text that is said to be in it, for `settle`; every error of it."""
        self.json_log.reopen()
        try:
            read = load(self.loaded.path, Registry().find, source)
            loaded = replace(read, config=as_running(self._started, read.config))
            self._prepared = await self.configurations.prepare(read, loaded, self.registry)
        except ConfigError as error:
            return error.errors
        except Exception as error:
            _log.failure("the configuration could not be prepared")
            return (f"{self.loaded.path}: an error of ours: {type(error).__name__}: {error}",)
        return ()

    def settle(self, errors: Sequence[str], *, tells: bool = True) -> None:
        """Go by what was prepared, or refuse it where anybody has found errors."""
        prepared, self._prepared = self._prepared, None
        path = str(self.loaded.path)
        if not self.running:  # it may have taken long to prepare
            if prepared is not None:
                self.configurations.drop(prepared)
            return
        if errors or prepared is None:
            if prepared is not None:
                self.configurations.drop(prepared)
            self.events.publish(ConfigRefused(at=self.reactor.seconds(), path=path, errors=tuple(errors)))
            if not self._team.worker:
                _log.error("the configuration was refused, the old one stays: {errors}", errors="; ".join(errors))
            return
        read, loaded, assembly = prepared.read, prepared.loaded, prepared.assembly
        waits = needs_restart(self._started, read.config)
        self.loaded = loaded
        self._budget.ceiling = loaded.config.gateway.memory_ceiling
        self._serve(assembly)
        self._deliver_by(prepared)
        self.relay.reload(loaded.config, assembly.routing, assembly.delivery_filter, assembly.bounces)
        if tells:
            self._warn(read, assembly)
            self.events.publish(ConfigReloaded(at=self.reactor.seconds(), path=path, needs_restart=waits))
            if waits and not self._team.worker:
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
        await self.stop_accepting()
        listeners = list(self._doors.values())
        await within(self.reactor, end, Deferred.fromCoroutine(self.offices.stop_taking()))
        if not await within(
            self.reactor, end, gatherResults([listener.drain() for listener in listeners], consumeErrors=True)
        ):
            for listener in listeners:
                listener.cut()
        if not await within(self.reactor, end, self.inline.when_idle()):
            self.relay.cut()
            await self._briefly(self.inline.when_idle())
        if not await within(self.reactor, end, Deferred.fromCoroutine(self.relay.stop())):
            self.relay.cut()
            await self._briefly(Deferred.fromCoroutine(self.relay.stop()))
        await self.offices.close()
        await self._briefly(Deferred.fromCoroutine(self._security.close()))
        await self._briefly(self.configurations.close_users())
        await self._briefly(self.configurations.close_sources())
        await surely(maybeDeferred(self.resolver.close))
        await surely(Deferred.fromCoroutine(self.rehearsed.close()))
        await surely(self.spool.close())
        if self._team.kept is not None:
            self._team.kept.close()
        for pool in self._pools:
            await surely(maybeDeferred(pool.stop))
        self.events.publish(Stopped(at=self.reactor.seconds()))
        self.recorder.close()

    async def _briefly(self, ended: Deferred[Any]) -> None:
        await within(self.reactor, self.reactor.seconds() + _PATIENCE, ended)

    async def stop_accepting(self) -> None:
        """Close the ports."""
        ports, self._ports = self._ports, []
        for port in ports:
            await surely(maybeDeferred(port.stopListening))
