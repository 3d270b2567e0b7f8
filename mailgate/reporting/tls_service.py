"""Sends TLS reports once a day (RFC 8460): by mail, and by HTTPS, as each domain asks for it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as NoAnswerError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.address import Address
from mailgate.awaiting import answered, as_deferred
from mailgate.config.reports import TlsReportsSection
from mailgate.interfaces import IResolver
from mailgate.reporting.compose import Signer
from mailgate.reporting.daily import DailyReports, IGathered, LaterError, Send
from mailgate.reporting.tls_compose import TlsPacked, compose_tls_mail, pack_tls
from mailgate.reporting.tls_record import TlsDestination, destinations_in
from mailgate.stores.domains import DomainTable
from mailgate.stores.tls_sessions import TlsBatch, TlsFile, TlsReported

__all__ = ["Post", "TlsReports"]

_log = Logger()

Post = Callable[[str, bytes], Awaitable[int]]
"""Posts a report (application/tlsrpt+gzip) to a URL: the status; any exception where nobody answers."""

#: Seconds that DNS may take for one report.
_DNS_DEADLINE = 60.0

_Gathered: TypeAlias = IGathered[TlsFile]


class TlsReports(DailyReports[TlsFile, TlsReported]):
    """`sign` signs the mails."""

    kind = "TLS"

    def __init__(
        self,
        gathered: _Gathered,
        section: TlsReportsSection,
        *,
        hostname: str,
        resolver: IResolver,
        clock: IReactorTime,
        random: random.Random,
        send: Send,
        post: Post,
        sign: Signer | None = None,
    ) -> None:
        """`section` has a sender."""
        sender = Address.parse(section.sender or "")
        super().__init__(gathered, sender=sender, clock=clock, random=random, send=send)
        self._section = section
        self._only, self._never = (DomainTable(dict.fromkeys(one, True)) for one in (section.only, section.never))
        self._hostname = hostname
        self._resolver = resolver
        self._post = post
        self._sign = sign

    async def _deliver(self, batch: TlsBatch) -> str:
        domain = batch.policy.domain
        if self._never.has(domain) or (self._section.only and not self._only.has(domain)):
            return "not wanted"
        destinations = await self._destinations(domain)
        if not destinations:
            return "nobody to send it to"
        packed = await self._gathered.run(lambda file: self._pack(file, batch))
        if packed is None:
            return "nothing was counted"
        done = await self._gathered.run(lambda file: file.sent(batch))
        sent: list[str] = []
        problems: list[str] = []
        for one in destinations:
            if str(one) in done or (batch.id, str(one)) in self._handed_over:
                continue
            if not self._is_running:
                raise CancelledError
            try:
                if await self._hand_over(batch, packed, one):
                    sent.append(str(one))
            except LaterError as error:
                problems.append(str(error))  # the others are not to wait for it
        if problems:
            raise LaterError("; ".join(problems))
        return f"sent to {', '.join(sent) or 'nobody'}"

    async def _destinations(self, domain: str) -> tuple[TlsDestination, ...]:
        asked = as_deferred(answered(self._resolver.resolve(f"_smtp._tls.{domain}", "TXT")))
        asked.addTimeout(_DNS_DEADLINE, self._clock)
        try:
            answer = await self._waiting(asked)
        except NoAnswerError:
            raise LaterError("DNS did not answer in time") from None
        if answer.is_temporary:
            raise LaterError(f"_smtp._tls.{domain}: {answer.status.value}")
        return destinations_in(answer.records)

    def _pack(self, file: TlsFile, batch: TlsBatch) -> TlsPacked | None:
        rows = file.tallies(batch)
        return pack_tls(batch, rows, self._section, self._hostname) if rows else None

    async def _hand_over(self, batch: TlsBatch, packed: TlsPacked, to: TlsDestination) -> bool:
        """False where it is too large."""
        section, hostname, now = self._section, self._hostname, self._clock.seconds()
        address = to.address
        if address is None:
            await self._note(batch, str(to), lambda: self._posted(to.url, packed.octets))
            return True
        mail = await self._gathered.run(lambda _: compose_tls_mail(packed, address, section, hostname, now, self._sign))
        if len(mail) > section.max_size:
            text = "the TLS report on {domain} is too large for {to}: {size} octets"
            _log.warn(text, domain=packed.domain, to=str(to), size=len(mail))
            return False
        await self._note(batch, str(to), lambda: self._send(self._sender, [address], mail))
        return True

    async def _posted(self, url: str, octets: bytes) -> str:
        status = await self._waiting(as_deferred(self._post(url, octets)))
        if not 200 <= status < 300:
            raise LaterError(f"{url}: status {status}")
        return "https"
