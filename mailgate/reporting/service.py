"""Sends DMARC aggregate reports once a day: for each domain that asks for it, to whom it names and who agrees."""

from __future__ import annotations

import random
from typing import TypeAlias

from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as NoAnswerError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.address import Address
from mailgate.awaiting import as_deferred
from mailgate.config.reports import ReportsSection
from mailgate.interfaces import IResolver
from mailgate.mailauth.dmarc.destinations import Destinations, find_destinations
from mailgate.mailauth.dmarc.record import Mode
from mailgate.reporting.compose import Packed, Signer, compose_mail, compose_report, pack
from mailgate.reporting.daily import DailyReports, IGathered, LaterError, Send
from mailgate.reporting.gathering import wanted_domain
from mailgate.stores.aggregate_file import AggregateFile, Batch, Policy

__all__ = ["DmarcReports", "Send"]

_log = Logger()

#: Seconds that DNS may take for the destinations of one report.
_DNS_DEADLINE = 60.0

_Gathered: TypeAlias = IGathered[AggregateFile]


class DmarcReports(DailyReports[AggregateFile, Policy]):
    """`mode` is the standard by which the filter dmarc evaluates, and `sign` signs the reports."""

    kind = "DMARC"

    def __init__(
        self,
        gathered: _Gathered,
        section: ReportsSection,
        *,
        hostname: str,
        resolver: IResolver,
        clock: IReactorTime,
        random: random.Random,
        send: Send,
        sign: Signer | None = None,
        mode: Mode = "rfc9989",
    ) -> None:
        """`section` has a sender."""
        sender = Address.parse(section.sender or "")
        super().__init__(gathered, sender=sender, clock=clock, random=random, send=send)
        self._section = section
        self._is_wanted = wanted_domain(section)
        self._hostname = hostname
        self._resolver = resolver
        self._sign = sign
        self._mode: Mode = mode

    async def _deliver(self, batch: Batch) -> str:
        if not self._is_wanted(batch.policy.domain):
            return "not wanted"
        found = await self._destinations(batch)
        if not found.accepted:
            self._check_later(found)
            return f"nobody to send it to: {_reasons(found)}"
        packed = await self._gathered.run(lambda file: self._pack(file, batch))
        if packed is None:
            return "nothing was counted"
        done = await self._gathered.run(lambda file: file.sent(batch))
        sent: list[str] = []
        for destination in found.accepted:
            address = str(destination.address)
            if address in done or (batch.id, address) in self._handed_over:
                continue
            if not self._is_running:
                raise CancelledError
            if mail := await self._mail(packed, destination.address, destination.limit):
                await self._hand_over(batch, destination.address, mail)
                sent.append(address)
        self._check_later(found)
        return f"sent to {', '.join(sent) or 'nobody'}"

    async def _destinations(self, batch: Batch) -> Destinations:
        policy = batch.policy
        asked = as_deferred(find_destinations(self._resolver, policy.domain, policy.rua, mode=self._mode))
        asked.addTimeout(_DNS_DEADLINE, self._clock)
        try:
            return await self._waiting(asked)
        except NoAnswerError:
            raise LaterError("DNS did not answer in time") from None

    def _check_later(self, found: Destinations) -> None:
        if found.is_temporary:
            raise LaterError(_reasons(found))

    def _pack(self, file: AggregateFile, batch: Batch) -> Packed | None:
        """In the file's thread: thousands of rows take their time."""
        tallies = file.tallies(batch)
        if not tallies:
            return None
        report = compose_report(batch, tallies, self._section, self._hostname, self._mode)
        return pack(report, self._section, self._hostname)

    async def _mail(self, packed: Packed, to: Address, limit: int) -> bytes | None:
        """The mail; None where it is too large."""
        section, hostname, now = self._section, self._hostname, self._clock.seconds()
        mail = await self._gathered.run(lambda _: compose_mail(packed, to, section, hostname, now, self._sign))
        if len(mail) <= min(limit or section.max_size, section.max_size):
            return mail
        text = "the DMARC report on {domain} is too large for {to}: {size} octets"
        _log.warn(text, domain=packed.domain, to=str(to), size=len(mail))
        return None

    async def _hand_over(self, batch: Batch, to: Address, mail: bytes) -> None:
        await self._note(batch, str(to), lambda: self._send(self._sender, [to], mail))


def _reasons(found: Destinations) -> str:
    return "; ".join(f"{one.uri} {one.reason}" for one in found.refused) or "its record names nobody"
