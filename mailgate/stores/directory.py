"""Which of our recipients exist, by the domains and lists of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.config.schema import Config, ListRecipients
from mailgate.interfaces import IRecipientDirectory, RecipientStatus
from mailgate.stores.domains import DomainTable, canonical
from mailgate.stores.lists import FileError, LineError, LinesError, WatchedFile

__all__ = ["AddressList", "Directory", "DirectoryError", "parse_addresses"]

#: In `[domains]`: whatever the local part, the address counts as known.
_ANY = "any"
#: Between a local part and the extension that its owner may add (RFC 5233).
_DELIMITER = "+"
#: So many wrong lines of a list are told at once.
_TOLD = 10


class DirectoryError(ValueError):
    """What is wrong with the lists: each text with its key, ("recipients", "people", "path")."""

    def __init__(self, errors: Sequence[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(f"{'.'.join(key)}: {text}" for key, text in errors))
        self.errors = tuple(errors)


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


@implementer(IRecipientDirectory)
class Directory:
    """Knows recipients by `[domains]` and `[recipients.NAME]` of kind list.

    Local parts compare without regard to case, which mail systems expect and RFC 5321 leaves to the receiver. An
    address that is not listed is looked for without its extension too: user+tag is known where user is. The
    postmaster of each of our domains is always known (RFC 5321 section 4.5.1). Never UNAVAILABLE: a file that
    cannot be read later, or that has become empty, keeps its old content.
    """

    def __init__(self, config: Config, clock: IReactorTime) -> None:
        """DirectoryError where lists cannot be used; ValueError, in words for an administrator, where a domain's name
        is malformed."""
        lists: dict[str, _List] = {}
        errors: list[tuple[tuple[str, ...], str]] = []
        for name, section in config.recipients.items():
            try:
                lists[name] = _List(name, section, clock)
            except DirectoryError as error:
                errors += error.errors
        if errors:
            raise DirectoryError(errors)
        self._domains: DomainTable[_List | None] = DomainTable(
            {
                name: None if section.recipients == _ANY else lists[section.recipients]
                for name, section in config.domains.items()
            }
        )

    def is_local(self, domain: str) -> bool:
        """Whether mail for this domain is ours to take from anyone."""
        return self._domains.has(domain)

    def lookup(self, address: Address) -> RecipientStatus:
        known = self._domains.match(address.domain)
        if known is None:
            return RecipientStatus.KNOWN
        local_part, domain = address.local_part.lower(), canonical(address.domain)
        if known.has(local_part, domain):
            return RecipientStatus.KNOWN
        base = local_part.partition(_DELIMITER)[0]
        if base == "postmaster" or (base and base != local_part and known.has(base, domain)):
            return RecipientStatus.KNOWN
        return RecipientStatus.UNKNOWN


class _List:
    """One `[recipients.NAME]`: what stands in the configuration and what its file holds."""

    def __init__(self, name: str, section: ListRecipients, clock: IReactorTime) -> None:
        try:
            self._listed = parse_addresses(enumerate(section.addresses, 1))
        except LinesError as error:
            raise DirectoryError([(("recipients", name, "addresses"), str(one)) for one in error.errors]) from error
        self._file: WatchedFile[AddressList] | None = None
        if section.path is not None:
            try:
                self._file = WatchedFile(section.path, parse_addresses, clock, keep_filled=True)
            except FileError as error:
                raise DirectoryError([(("recipients", name, "path"), text) for text in error.errors]) from error

    def has(self, local_part: str, domain: str) -> bool:
        return self._listed.has(local_part, domain) or (
            self._file is not None and self._file.value.has(local_part, domain)
        )
