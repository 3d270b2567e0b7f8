"""Tells recipients once a day what is kept back from them.

A round reads the quarantine in pages, puts what is new into a file, and then sends one mail to each recipient. A mail
is in the spool before the file says that its recipient has been told: who is told twice, because the process was killed
in the moment between the two, gets the same mail with the same Message-ID. A round that was broken off is begun anew.

Days are those of the machine's time zone. A round belongs to a day, and each day has one at most: where a clock is put
back or forward, or a day has an hour twice or not at all, nobody is told twice, and the next round is that of the next
day.
"""

from __future__ import annotations

import datetime
import hashlib
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.awaiting import InThread, at_once
from mailgate.config.digest import DigestSection
from mailgate.interfaces import SpoolError
from mailgate.quarantine.digest_file import DigestFile, Listed
from mailgate.stores.domains import DomainTable

__all__ = ["Digests", "Listed", "Send", "wanted_recipient"]

_log = Logger()

T = TypeVar("T")

Send = Callable[[Address, Sequence[Address], bytes], Awaitable[str]]
"""Takes responsibility for a mail: the envelope's sender, its recipients, and the content with CRLF line ends."""

#: Entries of a page, and characters of one text of an entry.
_PAGE, _LONGEST = 500, 1000
#: Seconds after which the clock is looked at again, and until a round that failed is begun anew.
_LOOK, _ANEW = 300.0, 300.0
#: Seconds after the start at which a round is begun that is due.
_FIRST = 10.0
#: Days that a clock may be wrong by, before the day of the last round is not believed.
_AHEAD = 1


class IKeptEntry(Protocol):
    """As much of KeptEntry as is told."""

    @property
    def queue_id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def sender(self) -> str: ...
    @property
    def recipient(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def from_(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def received(self) -> float: ...
    @property
    def expires(self) -> float: ...


class IKeptPage(Protocol):
    """As KeptPage."""

    @property
    def entries(self) -> Sequence[IKeptEntry]: ...
    @property
    def after(self) -> str: ...


class IShown(Protocol):
    """What recipients may see of the quarantine. SpoolError."""

    async def listed(self, limit: int, after: str) -> IKeptPage:
        """Entries from behind `after` on, "" for the first."""

    async def is_for_recipients(self, queue_id: str, number: int, recipient: str) -> bool:
        """Whether the entry is still there, and no policy keeps it from its recipient's eyes."""


Compose = Callable[[Address, Sequence[Listed], int, str, float], bytes]
"""Makes a mail: to whom, of what, how many more there are, what tells it from every other mail, and the time."""


def wanted_recipient(section: DigestSection, is_local: Callable[[str], bool]) -> Callable[[Address], bool]:
    """Who gets digests; `is_local` knows the domains whose mail is ours."""
    only, never = _matcher(section.recipients), _matcher(section.never)

    def wanted(address: Address) -> bool:
        if not is_local(address.domain):
            return False
        return (not section.recipients or only(address)) and not never(address)

    return wanted


class Digests:
    """Sends them: `start`, and `stop` before the spool is closed. `path` is the file of who has been told."""

    def __init__(
        self,
        path: Path,
        section: DigestSection,
        *,
        shown: IShown,
        compose: Compose,
        send: Send,
        wanted: Callable[[Address], bool],
        clock: IReactorTime,
        in_thread: InThread = at_once,
        zone: datetime.tzinfo | None = None,
    ) -> None:
        """`zone` is None for the machine's own."""
        self._path = path
        self._section = section
        self._shown = shown
        self._compose = compose
        self._send = send
        self._wanted = wanted
        self._clock = clock
        self._in_thread = in_thread
        self._zone = zone
        self._file: DigestFile | None = None
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] = succeed(None)
        self._is_running = False

    def start(self) -> None:
        """Begin: a round that an earlier process has missed comes soon."""
        self._is_running = True
        self._later(_FIRST)

    async def stop(self) -> None:
        """End: a mail that is being handed over gets there, the others wait for the next start."""
        self._is_running = False
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        await self._round
        if self._file is not None:
            self._file.close()

    # -- when

    def _later(self, seconds: float) -> None:
        if self._is_running:
            self._timer = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._round = Deferred.fromCoroutine(self._look_once()).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(SpoolError, sqlite3.Error, OSError):
            _log.warn("digests of the quarantine cannot be sent now: {error}", error=failure.getErrorMessage())
        elif not failure.check(CancelledError):
            _log.failure("digests of the quarantine failed", failure=failure)
        self._later(_ANEW)

    async def _look_once(self) -> None:
        now = self._clock.seconds()
        today = self._day(now)
        # A new file begins with the day whose time is past: the first round is not in the middle of a day.
        past = today if now >= self._due(today) else today - datetime.timedelta(days=1)
        last = await self._use(lambda file: file.last(past))
        if last > today + datetime.timedelta(days=_AHEAD):
            _log.warn("the last digests of the quarantine are of {last}: the clock was wrong, or is", last=last)
            await self._use(lambda file: file.correct(past))
            last = past
        if past > last:
            await self._tell_all(past)
        if self._is_running:
            now = self._clock.seconds()
            today = self._day(now)
            due = self._due(today) if now < self._due(today) else self._due(today + datetime.timedelta(days=1))
            # A clock may be put forward, and a time zone changed, while we wait.
            self._later(min(max(due - now, 0.0), _LOOK))

    def _day(self, now: float) -> datetime.date:
        return datetime.datetime.fromtimestamp(now, self._zone).date()

    def _due(self, day: datetime.date) -> float:
        return datetime.datetime.combine(day, self._section.at, self._zone).timestamp()

    # -- what

    async def _tell_all(self, day: datetime.date) -> None:
        """One round."""
        await self._gather(day)
        mails, behind = 0, ""
        while self._is_running:
            found = await self._use(lambda file: file.next(day, self._section.max_entries, behind))  # noqa: B023  run before the next
            if found is None:
                await self._use(lambda file: file.finish(day))
                _log.info("digests of the quarantine: {mails} for {day}", mails=mails, day=day)
                return
            recipient, entries, count = found
            behind = recipient
            try:
                mails += await self._tell(day, recipient, entries, count)
            except (CancelledError, SpoolError, sqlite3.Error, OSError):
                raise
            except Exception:
                # Nobody else goes without a mail for that; this one's is tried again the next day.
                _log.failure("the digest for {recipient} cannot be sent", recipient=recipient)
                await self._use(lambda file: file.served(day, recipient, ()))  # noqa: B023  run before the next
            await deferLater(self._clock, 0.0)  # the mail of others goes on between two of ours

    async def _gather(self, day: datetime.date) -> None:
        await self._use(lambda file: file.begin())
        after = ""
        while self._is_running:
            page = await self._shown.listed(_PAGE, after)
            entries = [_listed(one) for one in page.entries if self._is_told(one)]
            await self._use(lambda file: file.add(day, entries))  # noqa: B023  run before the next
            after = page.after
            if not after:
                return
        raise CancelledError

    def _is_told(self, entry: IKeptEntry) -> bool:
        try:
            recipient = Address.parse(entry.recipient)
        except AddressError:
            return False
        # A digest that has come into quarantine itself is no news.
        is_own = not entry.sender and (self._section.sender or "").lower() in entry.from_.lower()
        return self._wanted(recipient) and not is_own

    async def _tell(self, day: datetime.date, recipient: str, entries: Sequence[Listed], count: int) -> bool:
        """Send one recipient's mail; whether there was anything to tell."""
        may_see = [
            one for one in entries if await self._shown.is_for_recipients(one.queue_id, one.number, one.recipient)
        ]
        if may_see:
            to = Address.parse(may_see[0].recipient)
            mail = self._compose(to, may_see, count - len(entries), _mark(recipient, may_see), self._clock.seconds())
            await self._send(NULL_PATH, [to], mail)
        # Those that are not for them are done with as well: others come in their place.
        await self._use(lambda file: file.served(day, recipient, entries))
        return bool(may_see)

    async def _use(self, work: Callable[[DigestFile], T]) -> T:
        def run() -> T:
            if self._file is None:
                self._file = DigestFile(self._path)
            return work(self._file)

        return await self._in_thread(run)


def _listed(entry: IKeptEntry) -> Listed:
    return Listed(
        queue_id=entry.queue_id,
        number=entry.number,
        sender=entry.sender,
        recipient=entry.recipient,
        subject=entry.subject[:_LONGEST],
        from_=entry.from_[:_LONGEST],
        reason=entry.reason[:_LONGEST],
        received=entry.received,
        expires=entry.expires,
    )


def _mark(recipient: str, entries: Sequence[Listed]) -> str:
    """The same for the same mail."""
    what = [recipient, *(f"{one.queue_id}:{one.number}" for one in entries)]
    return f"digest.{hashlib.sha256(' '.join(what).encode()).hexdigest()[:32]}"


def _matcher(patterns: Sequence[str]) -> Callable[[Address], bool]:
    addresses = frozenset(one for one in patterns if "@" in one)
    domains = DomainTable({one: True for one in patterns if "@" not in one})
    return lambda address: str(address).lower() in addresses or domains.has(address.domain)
