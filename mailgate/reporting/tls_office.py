"""TLS reports of one gateway: begun, changed on a reload, and ended with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred

from mailgate.backends.http import Fetcher, TooLargeError
from mailgate.backends.named import NamedEndpoints, is_public
from mailgate.backends.questions import IBackendReactor
from mailgate.backends.threads import Threads
from mailgate.config.reports import TlsReportsSection
from mailgate.interfaces import IResolver
from mailgate.reporting.changing import ChangingOffice
from mailgate.reporting.compose import Signer
from mailgate.reporting.daily import Send
from mailgate.reporting.tls_service import TlsReports
from mailgate.stores.tls_sessions import TlsGatherer, TlsSession

__all__ = ["TlsReporting", "TlsReportingOffice"]

#: Seconds for one post.
_POST_TIMEOUT = 60.0

Tell = Callable[[TlsSession], None]


@dataclass(frozen=True, slots=True)
class TlsReporting:
    """How reports are made."""

    section: TlsReportsSection
    sign: Signer | None


class TlsReportingOffice(ChangingOffice[TlsReporting]):
    """Gathers what came of sessions, and sends reports on that; `listen` is told to whom sessions are to be told from
    now on, None for nobody."""

    what = "TLS reports"

    def __init__(
        self,
        path: Path,
        *,
        reactor: IBackendReactor,
        listen: Callable[[Tell | None], None],
        resolver: IResolver,
        random: random.Random,
        send: Send,
    ) -> None:
        super().__init__(path, resolver=resolver, random=random, send=send)
        self._reactor = reactor
        self._listen = listen
        self._gatherer: TlsGatherer | None = None
        self._fetcher: Fetcher | None = None
        self._section: TlsReportsSection | None = None

    def _begin(self, hostname: str, reporting: TlsReporting) -> TlsReports:
        if self._gatherer is None:
            self._gatherer = TlsGatherer(self._path, call_from_thread=self._reactor.callFromThread)
        self._listen(self._gatherer.add)
        return TlsReports(
            self._gatherer,
            reporting.section,
            hostname=hostname,
            resolver=self._resolver,
            clock=self._reactor,
            random=self._random,
            send=self._send,
            post=partial(self._post, reporting.section),
            sign=reporting.sign,
        )

    async def _end(self) -> None:
        self._listen(None)
        gatherer, self._gatherer = self._gatherer, None
        if gatherer is not None:
            thread = Threads(self._reactor, 1, "tls-reports")  # the disk may let us wait
            await thread.run(gatherer.close)
            thread.close()
        await self._close_fetcher()

    async def _close_fetcher(self) -> None:
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None:
            await fetcher.close()

    def _made(self, section: TlsReportsSection) -> Fetcher:
        accept = partial(is_public, but=section.private_networks)
        timeout = _POST_TIMEOUT / 2
        return Fetcher(
            self._reactor,
            connect_timeout=timeout,
            endpoints=lambda creators: NamedEndpoints(self._reactor, self._resolver, creators, timeout, accept),
        )

    async def _post(self, section: TlsReportsSection, url: str, octets: bytes) -> int:
        if self._fetcher is None or self._section != section:
            await self._close_fetcher()
            self._fetcher, self._section = self._made(section), section
        fields = {"Content-Type": "application/tlsrpt+gzip", "User-Agent": "mailgate"}
        asked = Deferred.fromCoroutine(self._fetcher.fetch("POST", url, fields, octets))
        asked.addTimeout(_POST_TIMEOUT, self._reactor)
        try:
            return (await asked).status
        except TooLargeError as error:
            return error.status  # what it says beside that is nothing to us
