"""Refuses recipients that the directory does not know, while the sender still holds the mail."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Annotated, Any

from pydantic import Field
from zope.interface import implementer

from mailgate.awaiting import run
from mailgate.config.schema import Section
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.interfaces import FilterServices, IRecipientFilter, RecipientStatus
from mailgate.reply import Reply
from mailgate.verdict import Defer, Disconnect, Reject, Verdict

__all__ = ["Options", "Recipients", "build"]

#: Longer than a session lasts: the unknown recipients of a session are counted under its id.
_SESSION = 86400.0


class Options(Section):
    """`[filters.recipients]`: what is said of recipients that the domain's [recipients.NAME] does not know."""

    text: str = "No such recipient here"
    """the reply to an unknown recipient (550 5.1.1)"""
    unavailable_text: str = "The recipient cannot be looked up now, try again later"
    """the reply where the directory cannot be asked (451 4.4.3)"""
    restricted_text: str = "This recipient takes mail from inside only"
    """the reply to clients that may not relay where the recipient, mostly a group, is for internal mail (550 5.7.1)"""
    max_unknown: Annotated[int, Field(strict=True, ge=0)] = 0
    """with this many unknown recipients in one session it is ended with 421, so that the directory cannot be read
    by guessing; 0 leaves that to the listener's max_errors. A list with that many old addresses gets through to
    nobody, so keep it well above what your correspondents need"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Recipients(options, services)


@implementer(IRecipientFilter)
class Recipients:
    """Asks the directory. Domains that are not ours, or that take any recipient, are known to it."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._directory = services.directory
        self._counters = services.counters
        self._max_unknown = options.max_unknown
        self._unknown = Reply.of(550, "5.1.1", options.text)
        self._unavailable = Reply.of(451, "4.4.3", options.unavailable_text)
        self._restricted = Reply.of(550, "5.7.1", options.restricted_text)
        self._harvest = Reply.of(421, "4.7.0", "Too many unknown recipients")

    def on_rcpt(
        self, session: Session, transaction: Transaction, recipient: Recipient
    ) -> Verdict | Awaitable[Verdict | None] | None:
        """Reject an unknown recipient, Defer where nobody can tell; Disconnect at too many unknown ones.

        Those for internal mail are there for clients that have proved who they are, or are trusted.
        """
        if recipient.targets:
            status: RecipientStatus | Awaitable[RecipientStatus] = run(self._look_up_targets(recipient))
        else:
            status = self._directory.lookup(recipient.address)
        if status is RecipientStatus.KNOWN:
            return None
        if isinstance(status, RecipientStatus):
            return self._judge(session, recipient, status)
        return self._ask_and_judge(session, recipient, status)

    def _look_up_targets(self, recipient: Recipient) -> Generator[Awaitable[Any], Any, RecipientStatus]:
        """The best of those that the address stands for: one that exists is enough."""
        found = RecipientStatus.UNKNOWN
        for target in recipient.targets:
            status = self._directory.lookup(target.address)
            if isinstance(status, Awaitable):
                status = yield status
            if status is RecipientStatus.KNOWN:
                return status
            if found is RecipientStatus.UNKNOWN or status is RecipientStatus.UNAVAILABLE:
                found = status
        return found

    async def _ask_and_judge(
        self, session: Session, recipient: Recipient, status: Awaitable[RecipientStatus]
    ) -> Verdict | None:
        verdict = self._judge(session, recipient, await status)
        return await verdict if isinstance(verdict, Awaitable) else verdict

    def _judge(
        self, session: Session, recipient: Recipient, status: RecipientStatus
    ) -> Verdict | Awaitable[Verdict | None] | None:
        if status is RecipientStatus.KNOWN:
            return None
        if status is RecipientStatus.UNAVAILABLE:
            return Defer(self._unavailable, f"the directory cannot be asked for {recipient.address}")
        if status is RecipientStatus.RESTRICTED:
            if session.identity is not None:
                return None
            return Reject(self._restricted, f"{recipient.address} is for internal mail only")
        reason = f"{_told(recipient)} is not in the directory"
        if not self._max_unknown:
            return Reject(self._unknown, reason)
        count = self._counters.hit(f"recipients {session.id}", _SESSION)
        return self._counted(reason, count) if isinstance(count, int) else self._count(reason, count)

    async def _count(self, reason: str, count: Awaitable[int]) -> Verdict:
        return self._counted(reason, await count)

    def _counted(self, reason: str, count: int) -> Verdict:
        if count < self._max_unknown:
            return Reject(self._unknown, reason)
        return Disconnect(self._harvest, f"{reason}, the last of {count} unknown recipients in this session")


def _told(recipient: Recipient) -> str:
    if not recipient.targets:
        return str(recipient.address)
    return f"nobody of {', '.join(str(one.address) for one in recipient.targets[:5])} ({recipient.address})"
