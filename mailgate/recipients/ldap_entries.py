"""What an entry of a directory says of recipients, and how entries are searched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ldaptor.protocols import pureldap  # type: ignore[import-untyped]  # ldaptor has no types

from mailgate.address import Address, AddressError
from mailgate.backends.ldap_connection import Attributes
from mailgate.backends.ldap_names import FilterTemplate, parse_filter
from mailgate.backends.ldap_search import SMTP_PREFIX, addresses_in
from mailgate.backends.places import PLACES
from mailgate.config.recipients import LdapRecipients
from mailgate.stores.domains import canonical

__all__ = ["Entry", "EntryReader", "filter_of", "template_of"]

_CONTROL = "userAccountControl"
#: The bit of userAccountControl that tells of a disabled account (ADS_UF_ACCOUNTDISABLE).
_DISABLED = 0x2
#: What an entry of Active Directory is called whatever becomes of its name.
_GUID = "objectGUID"
#: Asks for no attribute (RFC 4511 section 4.5.1.8).
_NO_ATTRIBUTES = "1.1"


class Entry(NamedTuple):
    """The addresses of an entry, as LOCAL_PART@DOMAIN in lower case, and whether they are for internal mail only."""

    addresses: tuple[str, ...]
    is_restricted: bool


class EntryReader:
    """Reads entries as `section` says: `attributes` is what to ask for, `marks` what of it says no address, and
    `identity` what tells entries apart."""

    identity = (_GUID,)

    def __init__(self, section: LdapRecipients) -> None:
        self._addresses = [name.lower().encode() for name in section.attributes]
        self._restricted = section.restricted_attribute.lower().encode()
        self._skips_disabled = section.skip_disabled
        marks = [section.restricted_attribute] if section.restricted_attribute else []
        marks += [_CONTROL] if section.skip_disabled else []
        self.marks: Sequence[str] = marks or (_NO_ATTRIBUTES,)
        self.attributes: Sequence[str] = (_GUID, *section.attributes, *marks)

    def name(self, dn: bytes, attributes: Attributes) -> str:
        """What the entry is called: by its GUID, or else by its DN."""
        guid = attributes.get(_GUID.lower().encode())
        return guid[0].hex() if guid else dn.decode("utf-8", "replace").lower()

    def entry(self, attributes: Attributes) -> Entry:
        """What it says; no address at all where it is skipped."""
        if self.is_skipped(attributes):
            return Entry((), False)
        addresses = _addresses(addresses_in(attributes, self._addresses))
        return Entry(tuple(dict.fromkeys(addresses)), self.is_restricted(attributes))

    def is_skipped(self, attributes: Attributes) -> bool:
        """Whether it is a disabled account, where those do not count."""
        if not self._skips_disabled:
            return False
        values = attributes.get(_CONTROL.lower().encode(), [b"0"])
        return any(value.isdigit() and len(value) < 12 and int(value) & _DISABLED for value in values)

    def is_restricted(self, attributes: Attributes) -> bool:
        """Whether it is for internal mail only."""
        return bool(self._restricted) and b"TRUE" in [one.upper() for one in attributes.get(self._restricted, [])]


def _addresses(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            address = Address.parse(text)
        except AddressError:
            continue  # of another kind: "X500:/o=...", or no address at all
        yield f"{address.local_part.lower()}@{canonical(address.domain)}"


def filter_of(section: LdapRecipients) -> Any:
    """ldaptor's filter of all recipients; ValueError where it is none."""
    if not section.filter:
        return pureldap.LDAPFilter_or([pureldap.LDAPFilter_present(name) for name in section.attributes])
    if any(f"{{{place}}}" in section.filter for place in PLACES):
        raise ValueError("filter: with a snapshot it is for all recipients, and names no address")
    return parse_filter(section.filter)


def template_of(section: LdapRecipients) -> FilterTemplate:
    """The filter for one address; ValueError where it is none."""
    forms = "".join(f"({name}={{address}})({name}={SMTP_PREFIX}{{address}})" for name in section.attributes)
    return FilterTemplate(section.filter or f"(|{forms})", PLACES)
