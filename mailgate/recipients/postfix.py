"""`[recipients.NAME]` of kind postfix: who exists stands in tables of Postfix's."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.config.postfix import PostfixRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.listed import AddressList
from mailgate.recipients.source import ISource, SourceTools
from mailgate.stores.domains import canonical
from mailgate.stores.postfix_map import Pair, each, open_maps

__all__ = ["PostfixTables", "build"]


def build(section: PostfixRecipients, name: str, tools: SourceTools) -> PostfixTables:
    """See `mailgate.recipients.source`; FileError about the tables."""
    return PostfixTables(section, tools.reactor)


@implementer(ISource)
class PostfixTables:
    """What the tables hold. Never UNAVAILABLE: one that cannot be read later, or that has become empty, keeps its old
    content."""

    takes_whole = False
    restricts = False

    def __init__(self, section: PostfixRecipients, clock: IReactorTime) -> None:
        self._domains = [canonical(domain) for domain in section.domains]
        self._tables = open_maps(section.maps, self._parse, clock)

    def _parse(self, pairs: Iterable[tuple[int, Pair]]) -> AddressList:
        local_parts: dict[str, set[str]] = {}
        domains: set[str] = set()

        def take(pair: Pair) -> None:
            key = pair.key
            if "@" not in key:
                for domain in self._domains if canonical(key) not in self._domains else ():
                    local_parts.setdefault(domain, set()).add(key.lower())
                return
            is_domain = key.startswith("@")
            try:
                address = Address.parse(f"any{key}" if is_domain else key)
            except AddressError as error:
                raise ValueError(f'"{key}": {error}') from None
            domain = canonical(address.domain)
            if is_domain:
                domains.add(domain)
            else:
                local_parts.setdefault(domain, set()).add(address.local_part.lower())

        each(pairs, take)
        return AddressList({domain: frozenset(found) for domain, found in local_parts.items()}, frozenset(domains))

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus:
        for table in self._tables:
            listed, expressions = table.pairs, table.expressions
            if listed is not None and listed.has(local_part, domain):
                return RecipientStatus.KNOWN
            if expressions is not None and expressions.find(str(Address(local_part, domain))) is not None:
                return RecipientStatus.KNOWN
        return RecipientStatus.UNKNOWN

    def ask(self, local_part: str, domain: str) -> Deferred[RecipientStatus]:
        return succeed(self.at_hand(local_part, domain))

    def start(self) -> None:
        """It does nothing by itself."""

    def retire(self) -> None:
        """It does nothing by itself."""

    def close(self) -> None:
        """There is nothing to close."""
