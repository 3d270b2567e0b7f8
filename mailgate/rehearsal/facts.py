"""What a stored message tells of how it came: the client, the envelope, and what was put on top of it on the way in.

A message in a folder has no envelope of its own. Whoever took it from the Internet has written its client into a
Received field (RFC 5321 section 4.4), and whoever delivered it the envelope into fields above that. Nothing below the
field that names the client is believed: the client may have written it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import getaddresses, parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import NamedTuple

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.message import HeaderField, split_header

__all__ = ["NO_CLIENT", "Facts", "Hop", "facts_of", "first_fields", "hop_of"]

#: Characters that are looked at of a field, and of all that list addresses.
_LONGEST, _LISTED = 1000, 8 * 1024
#: Octets and fields of the header section that are looked at, and Received fields of these.
_HEADER, _FIELDS, _HOPS = 64 * 1024, 1000, 50
#: Recipients that are taken from a message.
_RECIPIENTS = 1000
#: Characters of an id, and of a date.
_IDENT, _DATE = 100, 100
#: Who the envelope's recipients were, the surest first: before aliases, then behind them.
_TO = ("x-original-to", "envelope-to", "x-envelope-to", "delivered-to")
_FROM = ("return-path", "x-envelope-from", "envelope-from")
#: Fields that a delivery puts on top.
_ENVELOPE = frozenset((*_TO, *_FROM))

_WHO = re.compile(r"from\s+(\S+)\s*(.*)", re.IGNORECASE | re.DOTALL)
_BY = re.compile(r"(?:^|\s)by\s", re.IGNORECASE)
#: How Exim and qmail tell of the greeting, within the brackets in which the address stands, too.
_GREETED = re.compile(r"\bhelo[= ](\S+?)(?=[\s)]|$)", re.IGNORECASE)
_LITERAL = re.compile(r"\[(?:IPv6:)?([0-9A-Fa-f:.]+)\]", re.IGNORECASE)
_BARE = re.compile(r"\(([0-9A-Fa-f:.]+)\)")
_NAMED = re.compile(r"\(([A-Za-z0-9_.-]+)\s+\[")
_FOR = re.compile(r"\sfor\s+<([^<>\s]+)>")
_LOGIN = re.compile(r"\(Authenticated sender: ([^()\s]+)\)")
_ID = re.compile(r"\sid\s+([^\s;]+)")
_WITH = re.compile(r"\swith\s+([A-Za-z0-9]+)")

NO_CLIENT = "no client"
"""What is assumed of mail whose client nothing tells: it is judged as mail of this machine."""


class Hop(NamedTuple):
    """A Received field: who had sent the message (`address` is None where it does not tell), and to whom. `name` is ""
    for a client without one, and None where the field does not tell; `ident` is the id that it was given there."""

    address: IPv4Address | IPv6Address | None
    name: str | None
    helo: str
    login: str
    protocol: str
    recipient: str
    received: float
    ident: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How a message came. `address` is None where nothing tells; `begin` is where in its content begins what the client
    had sent, in octets; `received` is 0 where nothing tells, and `ident` the id that it was given then, "" for none.
    `assumed` says in words what had to be taken from elsewhere.
    """

    address: IPv4Address | IPv6Address | None
    name: str | None
    helo: str
    login: str
    sender: Address
    recipients: tuple[Address, ...]
    received: float
    begin: int
    ident: str = ""
    assumed: tuple[str, ...] = ()


def facts_of(
    header: bytes,
    is_inside: Callable[[IPv4Address | IPv6Address], bool],
    is_local: Callable[[str], bool],
    sender: str | None = None,
    recipients: tuple[Address, ...] = (),
) -> Facts:
    """What the header section tells. `is_inside`: whether a host belongs to the site, whose Received fields are
    believed; `is_local`: whether a domain is the site's. `sender` and `recipients` are those that are known
    from elsewhere.

    The client is the first that is not inside. Mail that came from inside, as all its fields say, was sent by the host
    that the last of these fields names.
    """
    fields = first_fields(header)
    hop, at = _client(fields, is_inside)
    above = fields[: at + 1]
    begin = sum(len(one.raw) for one in above)
    assumed: list[str] = []
    if hop is None:
        assumed.append(NO_CLIENT)
        hop = Hop(None, "", "", "", "", "", 0.0, "")
        begin = _behind_envelope(fields)
        above = [one for one in fields if one.name.lower() in _ENVELOPE]
    found = next(_values(above, _FROM), sender)
    if found is None:
        assumed.append("no sender: that of its From field")
        found = next(_listed(_texts(fields, ("from",))), "")
    to = recipients or _recipients(above)
    if not to:
        addresses = map(_parsed, _listed(_texts(fields, ("to", "cc"))))
        to = tuple(dict.fromkeys(one for one in addresses if one and is_local(one.domain)))[:_RECIPIENTS]
        if to:
            assumed.append("no recipients: those of its To and Cc fields")
    return Facts(
        address=hop.address,
        name=hop.name,
        helo=hop.helo,
        login=hop.login,
        sender=_parsed(found.strip("<> \t")) or NULL_PATH,
        recipients=to,
        received=hop.received,
        begin=begin,
        ident=hop.ident,
        assumed=tuple(assumed),
    )


def first_fields(header: bytes) -> Sequence[HeaderField]:
    """The fields of a header section, as far as they are looked at here."""
    return split_header(header[:_HEADER])[:_FIELDS]


def hop_of(value: str) -> Hop | None:
    """What a Received field tells; None where it names no sending host, as that of a program of the host itself."""
    value = value[:_LONGEST]
    match = _WHO.match(value)
    if match is None:
        return None
    word, rest = match.groups()
    # What the client has said is a word without a space, here or behind "helo": it cannot stand for an address.
    who = _BY.split(rest, maxsplit=1)[0]
    greeted = _GREETED.search(who)
    plain = _GREETED.sub("", who)
    address = _address(_LITERAL.search(plain) or _BARE.search(plain))
    if address is None and (greeted is not None or not plain.strip()):
        address = _address(_LITERAL.fullmatch(word))
    named = _NAMED.search(plain)
    name = named[1] if named is not None else None
    login = _LOGIN.search(who)
    protocol, recipient, ident = (one.search(value) for one in (_WITH, _FOR, _ID))
    return Hop(
        address=address,
        name="" if name == "unknown" else name,
        helo=greeted[1] if greeted is not None else word,
        login=login[1] if login is not None else "",
        protocol=protocol[1] if protocol is not None else "",
        recipient=recipient[1] if recipient is not None else "",
        received=_moment(value),
        ident=ident[1][:_IDENT] if ident is not None else "",
    )


def _client(
    fields: Sequence[HeaderField], is_inside: Callable[[IPv4Address | IPv6Address], bool]
) -> tuple[Hop | None, int]:
    """The field that names the client, and its place."""
    inside: tuple[Hop | None, int] = None, -1
    trace = (one for one in enumerate(fields) if one[1].name.lower() == "received")
    for place, field in islice(trace, _HOPS):
        hop = hop_of(field.value)
        if hop is None or hop.address is None:
            continue
        if not is_inside(hop.address):
            return hop, place
        inside = hop, place
    return inside


def _behind_envelope(fields: Sequence[HeaderField]) -> int:
    """Where the fields end that a delivery has put on top."""
    end = 0
    for one in fields:
        if one.name.lower() not in _ENVELOPE:
            break
        end += len(one.raw)
    return end


def _recipients(above: Sequence[HeaderField]) -> tuple[Address, ...]:
    for name in _TO:
        found = dict.fromkeys(filter(None, map(_parsed, _listed(_texts(above, (name,))))))
        if found:
            return tuple(found)[:_RECIPIENTS]
    hops = filter(None, map(hop_of, islice(_values(above, ("received",)), _HOPS)))
    # The lowest of these was written first, before any alias was looked up.
    named = [address for hop in hops if hop.recipient and (address := _parsed(hop.recipient))]
    return tuple(named[-1:])


def _values(fields: Sequence[HeaderField], names: Sequence[str]) -> Iterator[str]:
    return (one.value[:_LONGEST] for name in names for one in fields if one.name.lower() == name)


def _texts(fields: Sequence[HeaderField], names: Sequence[str]) -> Sequence[str]:
    """All values of these fields, as far as they are looked at."""
    texts: list[str] = []
    room = _LISTED
    for one in fields:
        if one.name.lower() in names and room > 0:
            texts.append(one.value[:room])
            room -= len(texts[-1])
    return texts


def _listed(texts: Sequence[str]) -> Iterator[str]:
    """The addresses in such values."""
    try:
        found = getaddresses(list(texts))
    except (IndexError, RecursionError, ValueError):  # of comments within comments there may be many
        return
    yield from (address for _, address in found)


def _parsed(text: str) -> Address | None:
    try:
        return Address.parse(text)
    except AddressError:
        return None


def _address(match: re.Match[str] | None) -> IPv4Address | IPv6Address | None:
    if match is None:
        return None
    try:
        return ip_address(match[1])
    except ValueError:
        return None


def _moment(value: str) -> float:
    """When it was received, in seconds since the epoch; 0 where the field's date cannot be read."""
    try:
        return parsedate_to_datetime(value.rpartition(";")[2].strip()[:_DATE]).timestamp()
    except (IndexError, OverflowError, TypeError, ValueError):
        return 0.0
