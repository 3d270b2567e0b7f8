"""What is asked and answered at /v1/suppressions."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from mailgate.stores.suppressions import checked
from mailgate.web.selection import Model

__all__ = [
    "SuppressedEntry",
    "SuppressedPage",
    "SuppressionCount",
    "SuppressionEntry",
    "SuppressionOrder",
    "Unsuppress",
]


def _scope(text: str) -> str:
    return checked(text) if "@" in text else text


Whom = Annotated[str, AfterValidator(checked)]
"""An address, or "@domain"."""
Scope = Annotated[str, Field(max_length=320), AfterValidator(_scope)]
"""Which mail: "" all, or that of a stream, of a sender, of "@domain"."""


class SuppressionEntry(Model):
    """An address that is to get no more mail; `until` is in seconds since the epoch, 0 for good."""

    address: Whom
    scope: Scope = ""
    detail: Annotated[str, Field(max_length=500)] = ""
    until: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class SuppressionOrder(Model):
    """Addresses to put on the list."""

    entries: Annotated[list[SuppressionEntry], Field(min_length=1, max_length=10_000)]


class Unsuppress(Model):
    """An address to take off the list: from one scope, or from all where that is null."""

    address: Whom
    scope: Scope | None = None


class SuppressionCount(Model):
    """How many entries have come, or gone."""

    count: int


class SuppressedEntry(Model):
    """An entry of the list."""

    address: str
    scope: str
    reason: str
    detail: str
    added: float
    until: float


class SuppressedPage(Model):
    """Entries in the order of address and scope; `next` is what to give as `after` for those behind, "" at the end."""

    entries: list[SuppressedEntry]
    next: str
