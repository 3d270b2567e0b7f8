"""Addresses with any extension that their owners may add (RFC 5233), as lists write them: `ann+*@example.org`."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["DELIMITERS", "ExtendedTable"]

T = TypeVar("T")

DELIMITERS = "+=_#/~.-"
"""What may stand between a local part and its extension."""


class ExtendedTable(Generic[T]):
    """Values by such patterns. Local parts and domains are given in the form in which they are compared; looking up
    takes as long for a million patterns as for one."""

    __slots__ = ("_delimiters", "_values")

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], T] = {}  # by the local part with its delimiter
        self._delimiters: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, local_part: str, domain: str, value: T) -> bool:
        """Whether this is such a pattern, which is then kept; of two that are the same the first stays."""
        if len(local_part) < 3 or not local_part.endswith("*") or local_part[-2] not in DELIMITERS:
            return False
        self._delimiters.add(local_part[-2])
        self._values.setdefault((local_part[:-1], domain), value)
        return True

    def find(self, local_part: str, domain: str) -> T | None:
        """The value for an address with an extension; None where no pattern is for it."""
        for at in range(len(local_part) - 1, 0, -1) if self._values else ():  # the narrowest one first
            if local_part[at] in self._delimiters:
                value = self._values.get((local_part[: at + 1], domain))
                if value is not None:
                    return value
        return None
