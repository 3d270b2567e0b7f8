"""`[recipients.NAME]` of kind list: addresses in the configuration and in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.config.recipients import ListRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.source import ISource, SourceTools
from mailgate.stores.domains import canonical
from mailgate.stores.lists import LineError, LinesError, WatchedFile

__all__ = ["AddressList", "Listed", "build", "parse_addresses"]

#: So many wrong lines of a list are told at once.
_TOLD = 10


@dataclass(frozen=True, slots=True)
class AddressList:
    """Local parts (lower case) by domain (canonical), and domains of which every address is listed."""

    local_parts: Mapping[str, frozenset[str]]
    domains: frozenset[str]

    def has(self, local_part: str, domain: str) -> bool:
        """Whether this very address, in lower case, is listed."""
        return domain in self.domains or local_part in self.local_parts.get(domain, ())


def parse_addresses(lines: Iterable[tuple[int, str]]) -> AddressList:
    """The list of numbered lines, each an address or `@` and a domain; LinesError, with the first ten, where lines are
    neither."""
    local_parts: dict[str, set[str]] = {}
    domains = set()
    wrong: list[LineError] = []
    for number, line in lines:
        is_domain = line.startswith("@")
        try:
            address = Address.parse(f"any{line}" if is_domain else line)
        except AddressError as error:
            if len(wrong) == _TOLD:
                raise LinesError(wrong, more=True) from error
            hint = " (one address a line, nothing behind it)" if len(line.split()) > 1 else ""
            wrong.append(LineError(number, f'"{line}": {error}{hint}'))
            continue
        if is_domain:
            domains.add(canonical(address.domain))
        else:
            local_parts.setdefault(canonical(address.domain), set()).add(address.local_part.lower())
    if wrong:
        raise LinesError(wrong)
    return AddressList({domain: frozenset(found) for domain, found in local_parts.items()}, frozenset(domains))


def build(section: ListRecipients, name: str, tools: SourceTools) -> Listed:
    """See `mailgate.recipients.source`; LinesError about `addresses`, FileError about the file."""
    return Listed(section, tools.reactor)


@implementer(ISource)
class Listed:
    """What stands in the configuration, and what the file holds. Never UNAVAILABLE: a file that cannot be read later,
    or that has become empty, keeps its old content."""

    takes_whole = False
    restricts = False

    def __init__(self, section: ListRecipients, clock: IReactorTime) -> None:
        self._listed = parse_addresses(enumerate(section.addresses, 1))
        self._file: WatchedFile[AddressList] | None = None
        if section.path is not None:
            self._file = WatchedFile(section.path, parse_addresses, clock, keep_filled=True)

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus:
        is_known = self._listed.has(local_part, domain) or (
            self._file is not None and self._file.value.has(local_part, domain)
        )
        return RecipientStatus.KNOWN if is_known else RecipientStatus.UNKNOWN

    def ask(self, local_part: str, domain: str) -> Deferred[RecipientStatus]:
        return succeed(self.at_hand(local_part, domain))

    def start(self) -> None:
        """It does nothing by itself."""

    def retire(self) -> None:
        """It does nothing by itself."""

    def close(self) -> None:
        """There is nothing to close."""
