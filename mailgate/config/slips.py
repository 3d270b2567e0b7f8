"""Slips that TOML allows and that make a document of another shape than its author meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from mailgate.config.document import Document
from mailgate.config.inline import inline_slips
from mailgate.config.locate import Path
from mailgate.config.problems import Problems
from mailgate.config.schema import DomainSection

__all__ = ["find_slips"]


def find_slips(document: Document, problems: Problems) -> Collection[Path]:
    """Report them. What else is wrong at or below the paths returned only follows from them."""
    slips: list[Path] = []
    if isinstance(document.root.get("listeners"), dict):
        problems.error(("listeners",), "each listener begins with [[listeners]]")
        slips.append(("listeners",))
    for entry, below in document.tables("domains").items():
        if not below.keys() <= DomainSection.model_fields.keys():
            for keys in _domains((entry,), below):
                problems.error(("domains", *keys), f'a domain stands in quotes: [domains."{".".join(keys)}"]')
                slips.append(("domains", entry))
    for table in ("recipients", "senders"):
        for entry, value in document.table("routing", table).items():
            for keys in _leaves((entry,), value):
                problems.error(("routing", table, *keys), f'a domain stands in quotes: "{".".join(keys)}" = ...')
                slips.append(("routing", table, entry))
    slips += inline_slips(document, problems)
    return slips


def _domains(keys: tuple[str, ...], table: Mapping[str, object]) -> Iterator[tuple[str, ...]]:
    """The dotted names, two labels at least, below which the settings of a domain stand."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    if len(keys) > 1 and (not inner or inner.keys() != table.keys()):
        yield keys
    for key, value in inner.items():
        yield from _domains((*keys, key), value)


def _leaves(keys: tuple[str, ...], value: object) -> Iterator[tuple[str, ...]]:
    """The dotted names, two labels at least, that have a route."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves((*keys, key), inner)
    elif len(keys) > 1 and isinstance(value, str):
        yield keys
