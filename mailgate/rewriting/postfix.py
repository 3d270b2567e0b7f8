"""`[aliases.NAME]` of kind postfix: what addresses stand for, in tables of Postfix's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime

from mailgate.address import AddressError
from mailgate.config.postfix import PostfixAliases
from mailgate.rewriting.source import MAX_TARGETS, AliasTools
from mailgate.rewriting.tables import key_of, parse_key, parse_target, split_targets
from mailgate.stores.domains import canonical
from mailgate.stores.postfix_map import Pair, each, open_maps

__all__ = ["PostfixMaps", "build"]


def build(section: PostfixAliases, name: str, tools: AliasTools) -> PostfixMaps:
    """See `mailgate.rewriting.source`; FileError about the tables."""
    return PostfixMaps(section, tools.reactor)


class PostfixMaps:
    """Aliases of the tables; one that cannot be read later, or that has become empty, keeps its old content."""

    def __init__(self, section: PostfixAliases, clock: IReactorTime) -> None:
        self._domains = [canonical(domain) for domain in section.domains]
        self._origin = section.origin
        self._tables = open_maps(section.maps, self._parse, clock)

    def find(self, key: str) -> Sequence[str] | None:
        for table in self._tables:
            aliases, expressions = table.pairs, table.expressions
            if aliases is not None and key in aliases:
                return aliases[key]
            found = None if expressions is None or key.startswith("@") else expressions.find(key)
            if found is not None:
                # Parted before the address comes in, whose quoted local part may hold a comma and another address.
                _refuse_others(key, found.value, AddressError)
                return [self._whole(found.filled(one)) for one in split_targets(found.value)]
        return None

    def start(self) -> None:
        """It does nothing by itself."""

    def retire(self) -> None:
        """It does nothing by itself."""

    def close(self) -> None:
        """There is nothing to close."""

    def _parse(self, pairs: Iterable[tuple[int, Pair]]) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}

        def take(pair: Pair) -> None:
            keys = self._keys(pair.key)
            if keys:
                targets = self._targets(pair)
                for key in keys:
                    found.setdefault(key, targets)  # as Postfix does, which keeps the first of two

        each(pairs, take)
        return found

    def _keys(self, key: str) -> Sequence[str]:
        if "@" in key:
            return [parse_key(key)]
        if canonical(key) in self._domains:
            return []
        return [key_of(key, domain) for domain in self._domains]

    def _targets(self, pair: Pair) -> tuple[str, ...]:
        _refuse_others(pair.key, pair.value, ValueError)
        targets = tuple(parse_target(self._whole(one)) for one in split_targets(pair.value))
        if not 0 < len(targets) <= MAX_TARGETS:
            raise ValueError(f"{pair.key} stands for {len(targets)} addresses; 1 to {MAX_TARGETS} can be")
        return targets

    def _whole(self, target: str) -> str:
        if "@" in target:
            return target
        if self._origin is None:
            raise AddressError(f'"{target}" names no domain: say by `origin` which is meant')
        return f"{target}@{self._origin}"


def _refuse_others(key: str, value: str, error: type[ValueError]) -> None:
    """An error where the value is a command, a file or a list of others."""
    if value[:1] in ("|", "/", '"') or value.lower().startswith(":include:"):
        raise error(f"{key} stands for no address: {value[:60]}")
