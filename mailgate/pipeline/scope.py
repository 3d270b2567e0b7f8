"""The recipients that a filter is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address
from mailgate.config.hosts import parse_routing_pattern
from mailgate.config.whom import LIST
from mailgate.stores.domains import DomainTable
from mailgate.stores.extensions import ExtendedTable
from mailgate.stores.lists import LineError, WatchedFile

__all__ = ["Scope"]


class Scope:
    """Those in `only_for`, or all where that is empty, but for those in `except_for`; see `Whom` for the entries.

    An address counts as it was written to, before aliases, whatever the case of its letters. FileError where a list
    cannot be read; later a list that changes is read again, and one that is wrong leaves the old one in force.
    """

    def __init__(self, only_for: Sequence[str], except_for: Sequence[str], clock: IReactorTime) -> None:
        self._only_for = _sources(only_for, clock)
        self._except_for = _sources(except_for, clock)

    def is_for(self, address: Address) -> bool:
        """Whether the filter is for this recipient."""
        if self._only_for and not any(one.value.has(address) for one in self._only_for):
            return False
        return not any(one.value.has(address) for one in self._except_for)


class _Whom:
    """Addresses and domains of one place."""

    __slots__ = ("_addresses", "_domains", "_extended")

    def __init__(self, entries: Iterable[str]) -> None:
        """ValueError where one is none, or a domain stands there twice."""
        normal = list(map(parse_routing_pattern, entries))
        self._extended: ExtendedTable[bool] = ExtendedTable()
        keys = (_key(Address.parse(one)) for one in normal if "@" in one)
        self._addresses = {key for key in keys if not self._extended.add(*key, True)}
        self._domains = DomainTable({one: True for one in normal if "@" not in one})

    def has(self, address: Address) -> bool:
        key = _key(address)
        return key in self._addresses or self._domains.has(address.domain) or bool(self._extended.find(*key))


class _Fixed:
    def __init__(self, value: _Whom) -> None:
        self.value = value


def _sources(entries: Sequence[str], clock: IReactorTime) -> list[_Fixed | WatchedFile[_Whom]]:
    own = [one for one in entries if not one.startswith(LIST)]
    sources: list[_Fixed | WatchedFile[_Whom]] = [_Fixed(_Whom(own))] if own else []
    paths = [Path(one.removeprefix(LIST)) for one in entries if one.startswith(LIST)]
    return [*sources, *(WatchedFile(path, _read, clock) for path in paths)]


def _read(lines: Iterable[tuple[int, str]]) -> _Whom:
    entries: dict[str, None] = {}
    for number, text in lines:
        try:
            entries[parse_routing_pattern(text)] = None
        except ValueError as error:
            raise LineError(number, str(error)) from None
    return _Whom(entries)


def _key(address: Address) -> tuple[str, str]:
    return address.local_part.lower(), address.domain
