"""Where reports on a domain go: the URIs of rua, and whether those whom they name want them (RFC 9990 section 4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from mailgate.address import Address, AddressError
from mailgate.awaiting import answered
from mailgate.interfaces import Answer, DnsStatus, IResolver
from mailgate.mailauth.dmarc.organization import Domains
from mailgate.mailauth.dmarc.record import Mode

__all__ = ["MOST_DESTINATIONS", "Destination", "Destinations", "Refused", "find_destinations", "parse_uri"]

#: Destinations of one domain; what its record names beyond them is passed over.
MOST_DESTINATIONS = 5
#: URIs that are looked at, and characters of one of them.
_MOST_URIS, _LONGEST_URI = 20, 500
#: Records at one name that are looked at, and octets of one of them.
_MOST_RECORDS, _LONGEST_RECORD = 10, 4096
#: Characters of the longest name of DNS as text.
_LONGEST_NAME = 253

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_LIMIT = re.compile(r"!([0-9]{1,12})([kmgt]?)\Z", re.IGNORECASE)
_VERSION = re.compile(rb"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_OVERRIDE = re.compile(rb";[ \t]*rua[ \t]*=([^;]*+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Destination:
    """An address that reports go to. `limit` is the size in octets that it takes, 0 where it names none."""

    address: Address
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A URI that no report goes to, and why. With `is_temporary` DNS could not say; asking later may help."""

    uri: str
    reason: str
    is_temporary: bool = False


@dataclass(frozen=True, slots=True)
class Destinations:
    """Whom a report may go to, in the order of the record, and whom not."""

    accepted: tuple[Destination, ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def is_temporary(self) -> bool:
        """Whether asking again later may find more."""
        return any(one.is_temporary for one in self.refused)


class _NotNowError(Exception):
    """DNS could not say."""


def parse_uri(text: str) -> Destination:
    """The destination that a URI of rua is: "mailto:reports@example.org!10m" (RFC 9989 section 4.7, with the limit of
    RFC 7489 section 6.2). ValueError, with the reason, where no mail can be sent there."""
    text = text.strip()
    if len(text) > _LONGEST_URI:
        raise ValueError("is too long")
    limit = 0
    if match := _LIMIT.search(text):
        limit = int(match[1]) * _UNITS[match[2].lower()]
        text = text[: match.start()]
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() != "mailto":
        raise ValueError("is no mailto: URI")
    try:
        address = Address.parse(unquote(rest.partition("?")[0], errors="strict"))
    except (AddressError, UnicodeError) as error:
        raise ValueError(f"is no address: {error}") from None
    if address.domain.startswith("["):
        raise ValueError("has an IP address in the place of a domain")
    if not address.is_ascii:
        raise ValueError("is an address that needs SMTPUTF8")
    return Destination(address, limit)


async def find_destinations(
    resolver: IResolver,
    domain: str,
    uris: Sequence[str],
    *,
    mode: Mode = "rfc9989",
) -> Destinations:
    """Who of those in `uris` (rua) takes reports on `domain`, at which the policy was found.

    A destination of another organization, by the standard that `mode` names, must have said so in DNS, and may there
    name another address at the same host. Awaits nothing but the resolver's answers. Each host is asked once, and no
    more than MOST_DESTINATIONS of them.
    """
    search = _Search(resolver, domain.lower().removesuffix("."), Domains.of(resolver, mode))
    for uri in uris[:_MOST_URIS]:
        await search.add(uri)
    return Destinations(tuple(search.accepted.values()), tuple(search.refused))


class _Search:
    def __init__(self, resolver: IResolver, domain: str, domains: Domains) -> None:
        self._resolver = resolver
        self._domain = domain
        self._domains = domains
        self._hosts: dict[str, tuple[str, ...] | _NotNowError | None] = {}
        self.accepted: dict[str, Destination] = {}
        self.refused: list[Refused] = []

    async def add(self, uri: str) -> None:
        try:
            wanted = parse_uri(uri)
        except ValueError as error:
            self._refuse(uri, str(error))
            return
        host = wanted.address.domain
        if str(wanted.address) in self.accepted:
            return
        is_new = host not in self._hosts
        if len(self.accepted) >= MOST_DESTINATIONS or (is_new and len(self._hosts) >= MOST_DESTINATIONS):
            self._refuse(uri, f"is beyond the {MOST_DESTINATIONS} destinations that a domain may have")
            return
        if is_new:
            try:
                self._hosts[host] = await self._overrides(host)
            except _NotNowError as error:
                self._hosts[host] = error
        found = self._hosts[host]
        if isinstance(found, _NotNowError):
            self._refuse(uri, str(found), is_temporary=True)
        elif found is None:
            self._refuse(uri, f"{host} does not say that it takes reports on {self._domain}")
        elif found:
            self._replace(uri, host, found)
        else:
            self.accepted[str(wanted.address)] = wanted

    def _refuse(self, uri: str, reason: str, *, is_temporary: bool = False) -> None:
        self.refused.append(Refused(uri[:_LONGEST_URI], reason, is_temporary))

    def _replace(self, uri: str, host: str, overrides: Sequence[str]) -> None:
        """Those that the host itself names, instead; none of them where one is elsewhere (RFC 9990 section 4)."""
        try:
            others = [parse_uri(one) for one in overrides]
        except ValueError as error:
            self._refuse(uri, f"{host} names another destination, which {error}")
            return
        if any(one.address.domain != host for one in others):
            self._refuse(uri, f"{host} names a destination that is elsewhere")
            return
        for other in others:
            if len(self.accepted) < MOST_DESTINATIONS:
                self.accepted.setdefault(str(other.address), other)

    async def _overrides(self, host: str) -> tuple[str, ...] | None:
        """The URIs that a host takes reports at instead of those that were asked for, none for these; None where it
        does not take any."""
        if host == self._domain:
            return ()
        own = await self._domains.organization_of(self._domain)
        other = await self._domains.organization_of(host)
        is_certain = own.is_certain and other.is_certain
        if is_certain and own.domain == other.domain:
            return ()
        name = f"{self._domain}._report._dmarc.{host}"
        answer = Answer(DnsStatus.NXDOMAIN)
        if len(name) <= _LONGEST_NAME:
            answer = await answered(self._resolver.resolve(name, "TXT"))
        found = _permission(answer.records)
        if found is None and (answer.is_temporary or not is_certain):
            raise _NotNowError(f"DNS cannot say now whether {host} takes reports on {self._domain}")
        return found


def _permission(records: Sequence[object]) -> tuple[str, ...] | None:
    """The URIs in the records of a host that takes reports; None where it does not say so."""
    takes = False
    for record in records[:_MOST_RECORDS]:
        if not isinstance(record, bytes) or len(record) > _LONGEST_RECORD or not _VERSION.match(record):
            continue
        takes = True
        if match := _OVERRIDE.search(record):
            uris = match[1].decode("ascii", "replace").split(",")
            return tuple(one for one in map(str.strip, uris[:_MOST_URIS]) if one)
    return () if takes else None
