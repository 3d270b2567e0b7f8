"""What is asked and answered at /v1/suppressions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mailgate.stores.suppressions import checked, checked_scope
from mailgate.web.selection import Model

__all__ = [
    "SuppressedEntry",
    "SuppressedPage",
    "SuppressionCount",
    "SuppressionEntry",
    "SuppressionOrder",
    "SuppressionReason",
    "Unsuppress",
]


Whom = Annotated[str, AfterValidator(checked)]
"""An address, or "@domain"."""
Scope = Annotated[str, Field(max_length=320), AfterValidator(checked_scope)]
"""Which mail: "" all, or that of a stream, of a sender, of "@domain"."""
SuppressionReason = Literal["bounce", "complaint", "unsubscribe", "manual"]
Moment = Annotated[float, Field(ge=0, le=253_402_300_799, allow_inf_nan=False)]
"""Seconds since the epoch, up to the last that dates can tell."""


class SuppressionEntry(Model):
    """An address that is to get no more mail; `until` is in seconds since the epoch, 0 for good, and so is `added`, 0
    for now. `reason` is for lists that come from elsewhere."""

    address: Whom
    scope: Scope = ""
    reason: SuppressionReason = "manual"
    detail: Annotated[str, Field(max_length=500)] = ""
    added: Moment = 0.0
    until: Moment = 0.0


class SuppressionOrder(Model):
    """Addresses to put on the list, not more than the daemon reads in some milliseconds."""

    entries: Annotated[list[SuppressionEntry], Field(min_length=1, max_length=1000)]


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
