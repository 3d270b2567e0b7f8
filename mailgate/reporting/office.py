"""Reports of one gateway: begun, changed on a reload, and ended with it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from twisted.internet.interfaces import IReactorFromThreads, IReactorTime

from mailgate.config.reports import ReportsSection
from mailgate.interfaces import IResolver
from mailgate.mailauth.dmarc.record import Mode
from mailgate.observe.hub import EventHub
from mailgate.reporting.changing import ChangingOffice
from mailgate.reporting.compose import Signer
from mailgate.reporting.daily import Send
from mailgate.reporting.gathering import wanted
from mailgate.reporting.service import DmarcReports
from mailgate.stores.aggregates import Aggregates

__all__ = ["IOfficeReactor", "Reporting", "ReportingOffice"]


class IOfficeReactor(IReactorTime, IReactorFromThreads):
    """What it needs of a reactor."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """How reports are made; `mode` is the standard by which mail is judged."""

    section: ReportsSection
    sign: Signer | None
    mode: Mode


class ReportingOffice(ChangingOffice[Reporting]):
    """Gathers the results of DMARC, and sends reports on them."""

    def __init__(
        self,
        path: Path,
        *,
        reactor: IOfficeReactor,
        events: EventHub,
        resolver: IResolver,
        random: random.Random,
        send: Send,
    ) -> None:
        super().__init__(path, resolver=resolver, random=random, send=send)
        self._reactor = reactor
        self._events = events
        self._aggregates: Aggregates | None = None

    def _begin(self, hostname: str, reporting: Reporting) -> DmarcReports:
        if self._aggregates is None:
            self._aggregates = Aggregates(
                self._path, wants=wanted(reporting.section), call_from_thread=self._reactor.callFromThread
            )
            self._events.add(self._aggregates)
        self._aggregates.wants = wanted(reporting.section)
        return DmarcReports(
            self._aggregates,
            reporting.section,
            hostname=hostname,
            resolver=self._resolver,
            clock=self._reactor,
            random=self._random,
            send=self._send,
            sign=reporting.sign,
            mode=reporting.mode,
        )

    async def _end(self) -> None:
        aggregates, self._aggregates = self._aggregates, None
        if aggregates is not None:
            self._events.remove(aggregates)
            aggregates.close()
