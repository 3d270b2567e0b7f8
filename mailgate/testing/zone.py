"""DNS from a zone that is written as in JSON or YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any

from zope.interface import implementer

from mailgate.dns.names import unmapped
from mailgate.interfaces import Answer, DnsStatus, IResolver

__all__ = ["MemoryResolver", "Zone"]

Zone = Mapping[str, Any] | Mapping[tuple[str, str], Any]
"""What there is in DNS, as MemoryResolver reads it."""

_STATUSES = {one.name: one for one in DnsStatus if one is not DnsStatus.FOUND}
_MOST_CNAMES = 16


@implementer(IResolver)
class MemoryResolver:
    """Answers at once from `{name: {"TXT": ["text"], "A": ["192.0.2.1"], "MX": [[10, "mx.example"]], ...}}`.

    A record set, or a whole name, may be "NXDOMAIN", "NODATA", "SERVFAIL" or "TIMEOUT", or the DnsStatus of that name.
    A TXT given as a list is one record in several strings; a CNAME is followed. A key may also name one set:
    `{("client.example", "MX"): [(10, "mx.client.example")]}`. Names compare without case and final dot; what is absent
    is NXDOMAIN, a type that a name lacks NODATA, and so is a name that only has others below it. ValueError for a
    record that cannot be one. `asked` holds every question, in order; `secure` is what every answer says of DNSSEC.
    """

    def __init__(self, zone: Zone = MappingProxyType({}), *, ttl: float = 300.0, secure: bool = False) -> None:
        self._ttl = ttl
        self._secure = secure
        self._names: dict[str, dict[str, Answer] | Answer] = {}
        self._above: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.update(zone)

    def update(self, zone: Zone) -> None:
        """Put what this zone has in the place of the same sets and names: DNS changes."""
        for key, sets in zone.items():
            self._add(*((key[0], {key[1]: sets}) if isinstance(key, tuple) else (key, sets)))

    def _add(self, name: str, sets: Any) -> None:
        owner = _plain(name)
        if isinstance(sets, str | DnsStatus):
            self._names[owner] = self._ending(sets)
        else:
            known = self._names.get(owner)
            both = known if isinstance(known, dict) else {}
            self._names[owner] = both | {rdtype.upper(): self._set(rdtype.upper(), one) for rdtype, one in sets.items()}
        _, _, above = owner.partition(".")
        while above and above not in self._above:
            self._above.add(above)
            _, _, above = above.partition(".")

    def resolve(self, name: str, rdtype: str) -> Answer:
        asked = owner = _plain(name)
        rdtype = rdtype.upper()
        self.asked.append((owner, rdtype))
        for _ in range(_MOST_CNAMES):
            found = self._names.get(owner)
            if isinstance(found, Answer):
                return found
            if found is None:
                status = DnsStatus.NODATA if owner in self._above else DnsStatus.NXDOMAIN
                return Answer(status, ttl=self._ttl, secure=self._secure)
            if rdtype in found:
                answer = found[rdtype]
                return answer if owner == asked else replace(answer, alias=owner)
            alias = found.get("CNAME")
            if alias is None or alias.status is not DnsStatus.FOUND:
                return alias or Answer(DnsStatus.NODATA, ttl=self._ttl, secure=self._secure)
            owner = str(alias.records[0])
        return Answer(DnsStatus.SERVFAIL)

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer:
        return self.resolve(unmapped(address).reverse_pointer, "PTR")

    def _ending(self, word: str | DnsStatus) -> Answer:
        status = word if isinstance(word, DnsStatus) else _STATUSES.get(word)
        if status is None or status is DnsStatus.FOUND:
            raise ValueError(f"{word!r} is no way in which a question ends ({', '.join(_STATUSES)})")
        answer = Answer(status, ttl=self._ttl)
        return Answer(status) if answer.is_temporary else answer

    def _set(self, rdtype: str, records: object) -> Answer:
        if isinstance(records, DnsStatus) or (isinstance(records, str) and records in _STATUSES):
            return self._ending(records)
        rows = [records] if isinstance(records, str) else records
        if not isinstance(rows, Sequence):
            raise ValueError(f"{records!r} is no set of records")
        read: list[Any] = [_record(rdtype, one) for one in rows]
        if rdtype == "MX":
            read.sort()
        status = DnsStatus.FOUND if read else DnsStatus.NODATA
        return Answer(status, tuple(read), self._ttl, self._secure)


def _record(rdtype: str, value: Any) -> object:
    if rdtype == "A":
        return IPv4Address(value)
    if rdtype == "AAAA":
        return IPv6Address(value)
    if rdtype == "MX":
        preference, host = value
        return int(preference), _plain(host)
    if rdtype in ("TXT", "SPF"):
        return b"".join(map(_octets, [value] if isinstance(value, str | bytes) else value))
    if rdtype in ("PTR", "CNAME", "NS"):
        return _plain(value)
    return str(value)


def _octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")
