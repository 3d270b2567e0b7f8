"""Names that providers give to the lines of their customers: the address itself, mostly, in one spelling or another."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from mailgate.dns.names import unmapped

__all__ = ["is_generic"]

#: Characters of the longest name; what is longer is not looked at.
_LONGEST = 253
_TOKENS = re.compile(r"[0-9]+|[a-z]+")
_WORDS = re.compile(r"[0-9a-z]+")

#: What lines are called whose addresses change; they may stand within longer words, or only by themselves.
_LINE_PARTS = ("adsl", "broadband", "dhcp", "dial", "dsl", "dyn", "ftth", "pool", "ppp")
_LINE_WORDS = frozenset(
    {"cable", "catv", "client", "cpe", "cust", "customer", "customers", "fiber", "fttb", "fttx", "home", "host", "hsd"}
    | {"hsia", "ip", "kabel", "lte", "mobile", "modem", "res", "residential", "umts", "user", "users", "wireless"}
)
#: What hosts are called that somebody runs on purpose.
_SERVER_WORDS = frozenset(
    {"biz", "business", "colo", "dedicated", "fixed", "mail", "mailout", "mta", "mx", "out", "outbound", "relay"}
    | {"server", "smtp", "srv", "sta", "static", "vps"}
)


def is_generic(name: str, address: IPv4Address | IPv6Address) -> bool:
    """Whether a name (lower case) only spells its address: all of it, or half of it beside a word like "dsl".

    The two labels at the end are the provider's and do not count, and a word like "mail" or "static" among the others
    tells of a server. Takes time by the length of the name, and looks at no name that is longer than a name can be.
    """
    labels = name.split(".") if len(name) <= _LONGEST else []
    if len(labels) < 3:
        return False
    host = ".".join(labels[:-2])
    tokens = _TOKENS.findall(host)
    if not _SERVER_WORDS.isdisjoint(tokens):
        return False
    address = unmapped(address)
    if isinstance(address, IPv6Address):
        return _spells_v6(host, address)
    return _spells_v4(host, tokens, address)


def _spells_v4(host: str, tokens: list[str], address: IPv4Address) -> bool:
    octets = list(address.packed)
    backwards = octets[::-1]
    numbers = [int(token) if token.isdigit() and len(token) <= 3 else -1 for token in tokens]
    fours = [numbers[at : at + 4] for at in range(len(numbers) - 3)]
    if octets in fours or backwards in fours:
        return True
    written = {form for way in (octets, backwards) for form in _joined(way)}
    if not written.isdisjoint(_WORDS.findall(host)) or not written.isdisjoint(tokens):
        return True
    if not any(token in _LINE_WORDS or any(part in token for part in _LINE_PARTS) for token in tokens):
        return False
    numbers = [number for number in numbers if number >= 0]
    twos = [numbers[at : at + 2] for at in range(len(numbers) - 1)]
    return octets[2:] in twos or backwards[:2] in twos


def _joined(octets: list[int]) -> tuple[str, str, str]:
    """The octets as one word: in hexadecimal, with three digits each, and with as many as they need."""
    return (
        "".join(f"{octet:02x}" for octet in octets),
        "".join(f"{octet:03}" for octet in octets),
        "".join(map(str, octets)),
    )


def _spells_v6(host: str, address: IPv6Address) -> bool:
    digits = address.packed.hex()
    squeezed = host.replace("-", "").replace(".", "")
    if digits in squeezed or digits[::-1] in squeezed:
        return True
    shorter = str(address).replace(":", "-")
    groups = address.exploded.split(":")
    own = "-".join(group.lstrip("0") or "0" for group in groups[4:])
    return shorter in host or (int(address) & 0xFFFFFFFF_FFFFFFFF > 0xFFFF_FFFF and own in host)
