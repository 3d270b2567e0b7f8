"""Refuses mail from addresses that take no answers."""

from __future__ import annotations

from pydantic import Field
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.envelope import Session, Transaction
from mailgate.interfaces import FilterServices, IMailFilter
from mailgate.reply import Reply
from mailgate.verdict import Reject, Verdict

__all__ = ["NoReply", "Options", "build"]


class Options(Section):
    """`[filters.noreply]`: who is refused, and what they are told."""

    local_parts: list[str] = Field(default=["noreply", "no-reply", "donotreply", "do-not-reply"])
    """local parts that take no answers; case, and what stands behind a +, do not matter"""
    exempt: list[str] = Field(default=[])
    """sender domains that may write all the same"""
    text: str = "Please write from an address that takes answers"
    """the reply (550 5.7.1)"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where it would never refuse anything."""
    if not options.local_parts:
        raise ValueError("local_parts is empty: nothing would ever be refused")
    return NoReply(options)


@implementer(IMailFilter)
class NoReply:
    """Looks at the sender only."""

    def __init__(self, options: Options) -> None:
        self._local_parts = frozenset(name.lower() for name in options.local_parts)
        self._exempt = frozenset(domain.lower() for domain in options.exempt)
        self._reply = Reply.of(550, "5.7.1", options.text)

    def on_mail(self, session: Session, transaction: Transaction) -> Verdict | None:
        """Reject a sender that takes no answers. The null sender of reports is none of those."""
        sender = transaction.sender
        if sender.local_part.partition("+")[0].lower() not in self._local_parts or sender.domain in self._exempt:
            return None
        return Reject(self._reply, f"{sender} takes no answers")
