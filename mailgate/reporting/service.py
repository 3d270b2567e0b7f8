"""Sends DMARC aggregate reports once a day: for each domain that asks for it, to whom it names and who agrees.

What is done is in the same file as what is to be done, so a restart goes on where it was. A report that is in the spool
is not sent again, unless the process was killed in the moment between the two; it has the same names then, by which
its readers know it (RFC 9990 section 3.5.4).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as NoAnswerError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.awaiting import as_deferred
from mailgate.config.reports import ReportsSection
from mailgate.interfaces import IResolver
from mailgate.mailauth.dmarc.destinations import Destinations, find_destinations
from mailgate.mailauth.dmarc.record import Mode
from mailgate.reporting.compose import Packed, Signer, compose_mail, compose_report, pack
from mailgate.reporting.gathering import wanted_domain
from mailgate.stores.aggregate_file import AggregateFile, Batch
from mailgate.stores.aggregates import DAY

__all__ = ["DmarcReports", "IGathered", "Send"]

_log = Logger()

T = TypeVar("T")

Send = Callable[[Address, Sequence[Address], bytes], Awaitable[str]]
"""Takes responsibility for a mail: the envelope's sender, its recipients, and the content with CRLF line ends. Its
queue id; any exception where that cannot be now."""

#: Seconds after midnight (UTC) until all workers have counted the day, and until the last one begins with its reports.
_SETTLED, _SPREAD = 600.0, 3 * 3600.0
#: Seconds until a first look after a start, and between two reports, at most.
_FIRST, _PAUSE = 60.0, 2.0
#: Seconds that DNS may take for the destinations of one report, and that a report is ours once we have begun with it.
_DNS_DEADLINE, _CLAIM = 60.0, 900.0
#: Seconds until the second attempt; each wait is twice the one before, up to the other.
_RETRY, _LONGEST_RETRY = 1800.0, 4 * 3600.0
#: Seconds until the file is tried again.
_ANEW = 300.0
#: Days for which a report is tried.
_KEEP = 3


class IGathered(Protocol):
    """Where the evaluations were counted, as Aggregates has it."""

    def run(self, work: Callable[[AggregateFile], T]) -> Deferred[T]:
        """What `work` makes of the file."""


class DmarcReports:
    """Each report is made by one of those who work on the same file, whichever comes first.

    `mode` is the standard by which the filter dmarc evaluates, and `sign` signs the reports.
    """

    def __init__(
        self,
        gathered: IGathered,
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
        self._gathered = gathered
        self._section = section
        self._sender = Address.parse(section.sender or "")
        self._is_wanted = wanted_domain(section)
        self._hostname = hostname
        self._resolver = resolver
        self._clock = clock
        self._random = random
        self._send = send
        self._sign = sign
        self._mode: Mode = mode
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] = succeed(None)
        self._waits: Deferred[object] | None = None
        # Batches and addresses, for the case that the file does not take a note of it.
        self._handed_over: set[tuple[int, str]] = set()
        self._is_running = False

    def start(self) -> None:
        """Begin: what an earlier process has left soon, and the rest in its time."""
        self._is_running = True
        self._look_at(self._clock.seconds() + self._random.uniform(0, _FIRST))

    async def stop(self) -> None:
        """End: a report that is being handed over gets there, others wait for the next start."""
        self._is_running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._waits is not None:
            self._waits.cancel()
        await self._round

    # -- when

    def _look_at(self, at: float) -> None:
        if self._is_running:
            self._timer = self._clock.callLater(max(at - self._clock.seconds(), 0.0), self._look)

    def _look(self) -> None:
        self._round = Deferred.fromCoroutine(self._look_once()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(sqlite3.Error, OSError):
            _log.warn("DMARC reports cannot be made now: {error}", error=failure.getErrorMessage())
        else:
            _log.failure("DMARC reports failed", failure=failure)
        self._look_at(self._clock.seconds() + _ANEW)

    async def _look_once(self) -> None:
        """Send what is due, and come again when more is."""
        await self._tidy()
        while self._is_running:
            now = self._clock.seconds()
            before = _settled(now)
            claimed = now + _CLAIM
            batch = await self._gathered.run(lambda file: file.claim(before, now, claimed))  # noqa: B023  run before the next
            if batch is None:
                break
            await self._report(batch)
            if not self._is_running:
                break
            with suppress(CancelledError):
                await self._waiting(deferLater(self._clock, self._random.uniform(0, _PAUSE)))
        now = self._clock.seconds()
        before = _settled(now)
        due = await self._gathered.run(lambda file: file.next_due(before))
        tomorrow = (before + 1) * DAY + _SETTLED + self._random.uniform(0, _SPREAD)
        self._look_at(tomorrow if due is None else min(tomorrow, max(due, now + _FIRST)))

    async def _tidy(self) -> None:
        oldest = _settled(self._clock.seconds()) - _KEEP
        for batch in await self._gathered.run(lambda file: file.tidy(oldest)):
            _log.warn(
                "the DMARC report {about} could not be sent to all in {days} days", about=_about(batch), days=_KEEP
            )

    async def _waiting(self, deferred: Deferred[T]) -> T:
        """What comes of it; `stop` cancels it."""
        self._waits = deferred  # type: ignore[assignment]  # only ever cancelled
        try:
            return await deferred
        finally:
            self._waits = None

    # -- what

    async def _report(self, batch: Batch) -> None:
        """See to one report, whatever becomes of it."""
        try:
            outcome = await self._deliver(batch)
        except CancelledError:
            await self._put_off(batch, 0.0, "the gateway stops", counts=False)
        except (sqlite3.Error, OSError):
            raise  # the file, for which others wait as well: the claim ends by itself
        except _LaterError as error:
            wait = min(_RETRY * 2**batch.attempts, _LONGEST_RETRY) * self._random.uniform(1.0, 1.2)
            await self._put_off(batch, wait, str(error))
        except Exception:
            _log.failure("the DMARC report {about} cannot be made", about=_about(batch))
            await self._finish(batch, "cannot be made")
        else:
            await self._finish(batch, outcome)

    async def _deliver(self, batch: Batch) -> str:
        """Send a report to those who do not have it: what was done, in words. _LaterError where more is to be done."""
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
            raise _LaterError("DNS did not answer in time") from None

    def _check_later(self, found: Destinations) -> None:
        if found.is_temporary:
            raise _LaterError(_reasons(found))

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
        try:
            queue_id = await self._send(self._sender, [to], mail)
        except CancelledError:
            raise
        except Exception as error:
            # Whatever it is, the spool may take it later.
            raise _LaterError(f"the mail cannot be taken: {error}") from error
        address = str(to)
        self._handed_over.add((batch.id, address))
        await self._gathered.run(lambda file: file.note_sent(batch, address, queue_id))
        self._handed_over.discard((batch.id, address))

    async def _put_off(self, batch: Batch, wait: float, reason: str, *, counts: bool = True) -> None:
        due = self._clock.seconds() + wait
        await self._gathered.run(lambda file: file.put_off(batch, due, counts=counts))
        _log.info("the DMARC report {about} is put off: {reason}", about=_about(batch), reason=reason)

    async def _finish(self, batch: Batch, outcome: str) -> None:
        await self._gathered.run(lambda file: file.finish(batch, outcome))
        _log.info("the DMARC report {about}: {outcome}", about=_about(batch), outcome=outcome)


class _LaterError(Exception):
    """More of a report is to be done, but not now; the text says why."""


def _settled(now: float) -> int:
    """The first day that is not over yet, as far as reports are concerned."""
    return int((now - _SETTLED) // DAY)


def _about(batch: Batch) -> str:
    return f"on {batch.policy.domain} of {datetime.fromtimestamp(batch.day * DAY, UTC).date()}"


def _reasons(found: Destinations) -> str:
    return "; ".join(f"{one.uri} {one.reason}" for one in found.refused) or "its record names nobody"
