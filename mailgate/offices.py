"""What one process does beside taking and delivering mail: reports, notices, the quarantine, operators, HTTP."""

from __future__ import annotations

import functools

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from mailgate.assembly import Assembly
from mailgate.awaiting import in_reactors_threads, surely, within
from mailgate.interfaces import IIntake, IRelay, IResolver
from mailgate.message import MemoryBudget
from mailgate.mta.making import make_milters, make_policies, make_socketmaps
from mailgate.mta.office import MtaOffice
from mailgate.observe.rates import Rates
from mailgate.outside import Outside
from mailgate.quarantine.office import QuarantineOffice
from mailgate.quarantine.originals import Originals
from mailgate.relay.own_mail import OwnMail
from mailgate.relay.security.accounts import Accountant
from mailgate.relay.security.office import SecurityOffice
from mailgate.relay.service import Relay
from mailgate.reporting.notices import Notices
from mailgate.reporting.office import ReportingOffice
from mailgate.reporting.tls_office import TlsReportingOffice
from mailgate.rewriting.unsubscribe import UnsubscribeTokens
from mailgate.spool.sqlite import SqliteSpool
from mailgate.stores.suppressions import Suppressions
from mailgate.web.accounts import AccountOperations
from mailgate.web.control import Control, StatusBoard
from mailgate.web.desk import HttpDesk
from mailgate.web.injection.office import InjectionOffice
from mailgate.web.rates import AllRates
from mailgate.web.rendering import Templates
from mailgate.web.resources import accounts as accounts_resource
from mailgate.web.resources import rates as rates_resource
from mailgate.web.resources import suppressions as suppressions_resource
from mailgate.web.suppressions import SuppressionOperations
from mailgate.web.unsubscribe import UnsubscribePages
from mailgate.webhooks.office import Webhooks
from mailgate.workers.team import Team

__all__ = ["Offices"]

#: Seconds that each has to end.
_PATIENCE = 5.0


class Offices:
    """Those of one gateway; the first of several workers has all of them, the others what every process needs.

    `relays` are the relays of all workers. `use` comes before `start`.
    """

    def __init__(
        self,
        gateway: Outside,
        team: Team,
        *,
        spool: SqliteSpool,
        relay: Relay,
        relays: IRelay,
        resolver: IResolver,
        originals: Originals,
        accountant: Accountant,
        http: HttpDesk,
        board: StatusBoard,
        secret: bytes,
        suppressions: Suppressions,
        intake: IIntake,
        budget: MemoryBudget,
        rates: Rates,
        mta: MtaOffice,
        security: SecurityOffice,
    ) -> None:
        self._gateway = gateway
        self._intake = intake
        self._incoming = spool.incoming
        self._budget = budget
        self._leads = not team.worker
        self._suppressions = suppressions
        self._http = http
        self._mta = mta
        self._security = security
        reactor, events, places = gateway.reactor, gateway.events, gateway.places
        hostname = gateway.config.gateway.hostname
        in_thread = in_reactors_threads(reactor)
        operators_spool = team.operators_spool(spool)
        self._own_mail = own_mail = OwnMail(
            spool, route=relay.route_of, deliver=relay.deliver, events=events, clock=reactor, hostname=hostname
        )
        self.quarantine = QuarantineOffice(
            operators_spool,
            events,
            relays,
            clock=reactor,
            originals=originals,
            route_of=relay.route_of,
            incoming=spool.incoming,
            in_thread=in_thread,
        )
        self.dmarc = ReportingOffice(
            places.reports,
            reactor=reactor,
            events=events,
            resolver=resolver,
            random=gateway.random,
            send=own_mail.send,
        )
        self.tls = TlsReportingOffice(
            places.tls_reports,
            reactor=reactor,
            listen=accountant.listen,
            resolver=resolver,
            random=gateway.random,
            send=functools.partial(own_mail.send, tls_optional=True),
        )
        events.add(Notices(own_mail.send, hostname, reactor))
        self.webhooks = Webhooks(
            places.webhooks,
            reactor=reactor,
            events=events,
            in_thread=in_thread,
            random=gateway.random,
            leads=self._leads,
            workers=team.workers,
        )
        if not self._leads:
            return
        routes = lambda: gateway.config.routes  # noqa: E731  they change at a reload
        self.control = Control(reactor, operators_spool, events, relays, board, routes, self.quarantine)
        api = self.control.resource.children[b"v1"]
        listed = SuppressionOperations(suppressions, events, reactor.seconds)
        api.putChild(b"suppressions", suppressions_resource(listed))
        api.putChild(b"accounts", accounts_resource(AccountOperations(team.counters, events, reactor.seconds)))
        api.putChild(b"rates", rates_resource(AllRates(rates, team.ask_others)))
        self.injection = InjectionOffice(
            spool, register=places.injections, history=places.history, clock=reactor, in_thread=in_thread
        )
        http.open(
            api=self.control.resource,
            quarantine=self.control.quarantine,
            spool=spool,
            secret=secret,
            send=own_mail.send,
            digests=places.digests,
            in_thread=in_thread,
            injection=self.injection,
            incoming=spool.incoming,
        )

    def listen(self) -> None:
        """Answer operators. OSError where that cannot be."""
        if not self._leads:
            return
        try:
            self.control.listen(self._gateway.places.control)
        except CannotListenError as error:
            raise OSError(str(error)) from error

    def use(self, assembly: Assembly) -> None:
        """From now on go by this configuration."""
        hostname = assembly.config.gateway.hostname
        self._own_mail.use(assembly.bounces.sign)
        self.dmarc.use(hostname, assembly.reporting)
        self.tls.use(hostname, assembly.tls_reporting)
        self.quarantine.use(assembly.config, assembly.rescans)
        if self._leads:
            taker = assembly.taker(
                clock=self._gateway.reactor,
                events=self._gateway.events,
                intake=self._intake,
                incoming=self._incoming,
                budget=self._budget,
            )
            self.injection.use(taker)
        self._mta.use(
            make_milters(
                assembly,
                clock=self._gateway.reactor,
                events=self._gateway.events,
                intake=self._intake,
                incoming=self._incoming,
                budget=self._budget,
            ),
            make_policies(assembly, self._gateway.reactor, self._gateway.events),
            make_socketmaps(assembly, self._gateway.reactor, self._security),
        )
        self._http.use(assembly.config, assembly.certificates)
        self.webhooks.use(assembly.webhooks)
        tokens = assembly.unsubscribe
        self._http.let_leave(None if tokens is None else self._leaving(tokens))

    def _leaving(self, tokens: UnsubscribeTokens) -> UnsubscribePages:
        gateway = self._gateway
        return UnsubscribePages(tokens, self._suppressions, gateway.events, gateway.reactor.seconds, Templates())

    def start(self) -> None:
        """Begin what changes the spool by itself: it is in order."""
        if self._leads:
            self.quarantine.start()

    async def stop_taking(self) -> None:
        """Take no more mail by HTTP."""
        if self._leads:
            await self.injection.close()

    async def close(self) -> None:
        """End all of them."""
        reactor = self._gateway.reactor
        for close in (self.dmarc.close, self.tls.close, self._http.close):
            await within(reactor, reactor.seconds() + _PATIENCE, Deferred.fromCoroutine(close()))
        if self._leads:
            await surely(self.control.close())
        for close in (
            self.quarantine.close,
            self.webhooks.close,
            self._suppressions.close,
        ):  # these last: what the others do is told of
            await within(reactor, reactor.seconds() + _PATIENCE, Deferred.fromCoroutine(close()))
