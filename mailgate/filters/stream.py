"""Which stream a message of our users belongs to: newsletters, invoices, what people write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.config.values import Name
from mailgate.envelope import Session, Transaction
from mailgate.filters.who import AddressPatterns, IdentityTable
from mailgate.findings import Stream
from mailgate.interfaces import FilterServices, IMessageFilter, IMessageModifier
from mailgate.message import Edit, Message, RemoveHeader
from mailgate.verdict import Continue, Verdict

__all__ = ["Options", "StreamFilter", "build"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Options(Section):
    """`[filters.stream]`: tells streams of mail apart, for suppressions, webhooks and numbers.

    For mail of clients that have logged in or are trusted. The first that is known counts: the field, the sender, the
    identity, the default. The filter stands before those that go by streams (list-unsubscribe, suppressions).
    """

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,60}$")] = "X-Stream"
    """a header field in which programs name the stream of a message; it is removed, from everybody's mail"""
    names: list[Name] = Field(default=[])
    """the streams that the field may name, any if empty: a name that is not here is as none"""
    senders: dict[str, Name] = Field(default={})
    """streams by sender: { "news@example.org" = "news", "*.shop.example.org" = "shop" }; the longest pattern counts"""
    identities: dict[str, Name] = Field(default={})
    """streams by identity: names, patterns of names with *, networks"""
    default: Name | None = None
    """the stream of all other mail; none if not given"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where a pattern is none."""
    return StreamFilter(options)


@implementer(IMessageFilter, IMessageModifier)
class StreamFilter:
    """Finds the stream, and removes the field."""

    def __init__(self, options: Options) -> None:
        self._header = options.header
        self._names = frozenset(options.names)
        patterns = sorted(options.senders, key=len, reverse=True)
        self._senders = [(AddressPatterns([pattern]), options.senders[pattern]) for pattern in patterns]
        self._identities: IdentityTable[str] = IdentityTable()
        for key, name in options.identities.items():
            self._identities.add(key, name)
        self._default = options.default or ""

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        """Tell it as evidence."""
        name = self._find(session, transaction, message)
        return Continue(evidence=(Stream(name),)) if name else None

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """Others need not see it."""
        return [RemoveHeader(self._header)] if message.values(self._header) else []

    def _find(self, session: Session, transaction: Transaction, message: Message) -> str:
        if session.identity is None:
            return ""
        for value in message.values(self._header)[:1]:
            name = value.strip()
            if _NAME.fullmatch(name) and (not self._names or name in self._names):
                return name
        for patterns, name in self._senders:
            if patterns.has(transaction.sender):
                return name
        found = self._identities.all(session.identity)
        return found[0] if found else self._default
