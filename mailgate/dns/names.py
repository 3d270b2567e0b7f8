"""Which texts are domain names, and what is known of some without asking (RFC 1035, RFC 5891, RFC 6761)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import dns.exception
import dns.name

from mailgate.interfaces import Answer, DnsStatus

__all__ = ["query_name", "unmapped", "without_asking"]

#: Characters of the longest name as text (255 octets on the wire); what is longer is not even looked at.
_LONGEST = 253

_LOOPBACK = {"A": (IPv4Address("127.0.0.1"),), "AAAA": (IPv6Address("::1"),)}


def query_name(text: str) -> dns.name.Name | None:
    """The name to ask for, with A-labels for what is not ASCII; None where `text` is no domain name.

    `text` has no final dot. The root, white space, control characters and escapes (a backslash) are nothing that
    mail has business with.
    """
    if not 0 < len(text) <= _LONGEST or text == "@" or text[-1] == "." or not text.isprintable():
        return None
    if " " in text or "\\" in text:
        return None
    try:
        return dns.name.from_text(text, idna_codec=dns.name.IDNA_2008_Practical)
    except (dns.exception.DNSException, UnicodeError):
        return None


def without_asking(name: str, rdtype: str) -> Answer | None:
    """The answer for `name` (lower case) that no server is asked for: localhost and all below it (RFC 6761 6.3)."""
    if name != "localhost" and not name.endswith(".localhost"):
        return None
    records = _LOOPBACK.get(rdtype)
    return Answer(DnsStatus.FOUND, records) if records else Answer(DnsStatus.NODATA)


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address behind ::ffff:0:0/96, which is how IPv4 clients look on an IPv6 socket; others as they are."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
