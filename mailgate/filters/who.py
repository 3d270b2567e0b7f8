"""Who a client has proved to be, and addresses, as rules name them."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator

from mailgate.address import Address, AddressError
from mailgate.config.schema import Network
from mailgate.config.units import Form
from mailgate.envelope import Identity, Session
from mailgate.filters.networks import NetworkTable
from mailgate.stores.domains import DomainTable

__all__ = ["NETWORK", "AddressPattern", "AddressPatterns", "IdentitySet", "IdentityTable", "address_of", "told"]

T = TypeVar("T")

#: The mechanism of who is known by its address alone.
NETWORK = "network"


class AddressPatterns:
    """Addresses by patterns: "ann@example.org", "bounce-*@example.org", "example.org" or "@example.org",
    "*.example.org" for all below it, and "*" for any. ValueError where one is none of these."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._globs: list[re.Pattern[str]] = []
        domains: dict[str, bool] = {}
        self._is_any = False
        for text in patterns:
            local_part, at, domain = text.strip().lower().rpartition("@")
            if text.strip() == "*":
                self._is_any = True
            elif not local_part:
                domains[_domain_pattern(domain)] = True
            elif "*" in local_part:
                name = str(Address.parse(f"any@{domain}").domain)
                self._globs.append(re.compile(fnmatch.translate(_literal(local_part) + at + name)))
            else:
                self._exact.add(str(Address.parse(text.strip())).lower())
        self._domains = DomainTable(domains)

    def has(self, address: Address) -> bool:
        """Whether a pattern is for this address; none is for the null one."""
        if not address:
            return False
        text = str(address).lower()
        if self._is_any or text in self._exact or self._domains.has(address.domain):
            return True
        return any(glob.match(text) for glob in self._globs)


def _address_pattern(text: str) -> str:
    AddressPatterns([text])
    return text


AddressPattern = Annotated[str, AfterValidator(_address_pattern), Form("address pattern")]
"""One of the patterns of AddressPatterns, in options."""


class IdentityTable(Generic[T]):
    """Values by identities: names, patterns of names with *, networks of clients that are known by their address, and
    "*" for whoever has an identity.

    Case does not matter, but other letters are other names ("ß" is no "ss"). A name is never that of a client known by
    its address only, whatever it looks like.
    """

    def __init__(self) -> None:
        self._names: dict[str, T] = {}
        self._globs: list[tuple[re.Pattern[str], T]] = []
        self._networks: NetworkTable[T] = NetworkTable()
        self._everybody: list[T] = []
        self._keys: set[str] = set()

    def add(self, key: str, value: T) -> None:
        """ValueError where the key is empty, or stands there already."""
        key = key.strip()
        if not key:
            raise ValueError("an identity has a name")
        if key.lower() in self._keys:
            raise ValueError(f'"{key}" stands there twice')
        self._keys.add(key.lower())
        network = _network(key)
        if key == "*":
            self._everybody.append(value)
        elif network is not None:
            self._networks.add(network, value)
        elif "*" in key:
            self._globs.append((re.compile(fnmatch.translate(_literal(key.lower()))), value))
        else:
            self._names[key.lower()] = value

    def all(self, identity: Identity) -> list[T]:
        """The values that are for this identity, the nearest first: its own name's, or that of its smallest network."""
        if identity.mechanism == NETWORK:
            try:
                found = self._networks.find(ipaddress.ip_address(identity.name.partition("%")[0]))
            except ValueError:  # who came by a unix socket
                found = None
            return ([] if found is None else [found]) + self._everybody
        name = identity.name.lower()
        found = self._names.get(name)
        patterns = [value for glob, value in self._globs if glob.match(name)]
        return ([] if found is None else [found]) + patterns + self._everybody


class IdentitySet:
    """Identities, by the keys of IdentityTable."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._table: IdentityTable[bool] = IdentityTable()
        self._is_empty = True
        for key in dict.fromkeys(one.lower() for one in keys):
            self._table.add(key, True)
            self._is_empty = False

    def __bool__(self) -> bool:
        return not self._is_empty

    def has(self, identity: Identity | None) -> bool:
        """Whether one of the keys is for it."""
        return identity is not None and bool(self._table.all(identity))


def address_of(identity: Identity, domain: str = "") -> Address | None:
    """The address that is the identity's own name: itself, or, with a `domain`, its name there; None where it has none.

    Clients that are known by their address on the network have none.
    """
    if identity.mechanism == NETWORK:
        return None
    try:
        return Address.parse(identity.name if "@" in identity.name or not domain else f"{identity.name}@{domain}")
    except AddressError:
        return None


def told(notify: Sequence[str], session: Session, domain: str) -> tuple[str, ...]:
    """The addresses that are told, "user" being that of the session's identity, where it has one."""
    own = address_of(session.identity, domain) if session.identity is not None else None
    found = [(str(own) if own is not None else "") if one == "user" else one for one in notify]
    return tuple(dict.fromkeys(filter(None, found)))


def _network(key: str) -> Network | None:
    try:
        return ipaddress.ip_network(key)
    except ValueError:
        return None


def _literal(text: str) -> str:
    """A pattern in which nothing but * means more than itself."""
    return text.replace("[", "[[]").replace("?", "[?]")


def _domain_pattern(text: str) -> str:
    name = text.removeprefix("*.")
    Address.parse(f"any@{name}")
    return text
