"""The name of a client: what its PTR record says, if the name says the same of the address (RFC 8601 section 2.7.3)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import islice

from mailgate.dns.names import unmapped
from mailgate.interfaces import Answer, IResolver

__all__ = ["HOSTNAME", "MOST_NAMES", "confirmed_name"]

#: PTR names that are looked at; an address with more has no name that says anything.
MOST_NAMES = 5
#: Only such names count: they end up in logs, header fields and replies.
HOSTNAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def confirmed_name(resolver: IResolver, address: IPv4Address | IPv6Address) -> str | Awaitable[str]:
    """The first PTR name of `address` that has it among its own addresses; "" where none has, or DNS cannot say now.

    Only names of letters, digits, hyphens, underscores and dots count: they end up in logs and header fields.
    A plain value where the resolver has every answer at hand. Cancelling the Awaitable cancels the question.
    """
    address = unmapped(address)
    pointer = resolver.reverse(address)
    if isinstance(pointer, Answer):
        return _first_confirmed(resolver, address, _names(pointer))
    return _after_pointer(resolver, address, pointer)


def _names(pointer: Answer) -> Iterator[str]:
    names = (name for name in pointer.records if isinstance(name, str) and HOSTNAME.fullmatch(name))
    return islice(names, MOST_NAMES)


def _first_confirmed(
    resolver: IResolver, address: IPv4Address | IPv6Address, names: Iterator[str]
) -> str | Awaitable[str]:
    rdtype = "A" if address.version == 4 else "AAAA"
    for name in names:
        answer = resolver.resolve(name, rdtype)
        if not isinstance(answer, Answer):
            return _after_addresses(resolver, address, name, answer, names)
        if address in answer.records:
            return name
    return ""


async def _after_pointer(resolver: IResolver, address: IPv4Address | IPv6Address, pointer: Awaitable[Answer]) -> str:
    found = _first_confirmed(resolver, address, _names(await pointer))
    return found if isinstance(found, str) else await found


async def _after_addresses(
    resolver: IResolver,
    address: IPv4Address | IPv6Address,
    name: str,
    answer: Awaitable[Answer],
    names: Iterator[str],
) -> str:
    if address in (await answer).records:
        return name
    found = _first_confirmed(resolver, address, names)
    return found if isinstance(found, str) else await found
