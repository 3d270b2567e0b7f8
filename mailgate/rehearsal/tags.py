"""How another gateway marks what it takes for spam: by fields that it adds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailgate.message import HeaderField

__all__ = ["Tag", "outcome_of"]

#: Characters of a value that are looked at.
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Tag:
    """A field with a value that begins as the pattern says, in whatever case."""

    name: str
    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Tag:
        """`NAME: PATTERN`; ValueError where it is not that."""
        name, colon, pattern = text.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"{text!r}: a field and the beginning of its value are wanted, like X-Spam-Flag: yes")
        try:
            return cls(name.strip().lower(), re.compile(pattern.strip(), re.IGNORECASE))
        except re.error as error:
            raise ValueError(f"{text!r}: {error}") from None


def outcome_of(fields: Sequence[HeaderField], tags: Sequence[Tag]) -> str:
    """What another gateway has decided of mail that it let through: "quarantined" where it is marked, or "taken"."""
    for field in fields:
        name = field.name.lower()
        if any(one.name == name and one.pattern.match(field.value[:_LONGEST]) for one in tags):
            return "quarantined"
    return "taken"
