"""What every event has."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Event"]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened at a moment."""

    at: float
