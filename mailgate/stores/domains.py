"""Tables by domain: an exact entry first, then the longest `*.` entry above the name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import idna

__all__ = ["DomainTable", "canonical"]

T = TypeVar("T")
U = TypeVar("U")


def canonical(domain: str) -> str:
    """The one spelling in which domains are compared: lower case, A-labels, without a final dot (RFC 5890).

    What has no A-label form stays as it is, in lower case.
    """
    domain = domain.lower().removesuffix(".")
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        return domain


class DomainTable(Generic[T]):
    """Values by domain. An entry "*.example.org" is for every name below example.org, not for itself."""

    def __init__(self, entries: Mapping[str, T]) -> None:
        """ValueError for an entry that is neither a name nor "*." and a name, or that stands there twice."""
        self._exact: dict[str, T] = {}
        self._below: dict[str, T] = {}
        for entry, value in entries.items():
            table, name = (self._below, entry[2:]) if entry.startswith("*.") else (self._exact, entry)
            if not name or "*" in name:
                raise ValueError(f'"{entry}" is not a domain, or "*." before one')
            if canonical(name) in table:
                raise ValueError(f'"{entry}" stands there twice')
            table[canonical(name)] = value

    def match(self, domain: str) -> T | None:
        """The value of the entry that is nearest to the domain; None where no entry is for it."""
        return self._find(domain, None)

    def has(self, domain: str) -> bool:
        """Whether an entry is for the domain."""
        return self._find(domain, self) is not self

    def _find(self, domain: str, otherwise: U) -> T | U:
        exact = self._exact
        if domain not in exact:  # as it stands, which is how most come
            domain = canonical(domain)
        if domain in exact:
            return exact[domain]
        if self._below:
            _, dot, above = domain.partition(".")
            while dot:
                if above in self._below:
                    return self._below[above]
                _, dot, above = above.partition(".")
        return otherwise
