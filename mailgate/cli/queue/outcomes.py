"""What became of mail, in columns."""

from __future__ import annotations

from mailgate.web.rate_models import Rate

__all__ = ["NONE", "OUTCOMES", "UNKNOWN", "cells"]

OUTCOMES = ("delivered", "deferred", "bounced", "complained")


#: Of mail that has had none, and of what is so rare that it is not told by name.
NONE, UNKNOWN = ("0",) * 4, ("-",) * 4


def cells(rate: Rate) -> tuple[str, str, str, str]:
    """How often, with a per cent where there is anything to be one of; "-" where it is not known."""
    attempts = rate.delivered + rate.deferred + rate.bounced
    bounced = rate.bounced + (rate.bounced_back or 0)
    complained = "-" if rate.complained is None else _cell(rate.complained, rate.delivered)
    return _cell(rate.delivered, attempts), _cell(rate.deferred, attempts), _cell(bounced, attempts), complained


def _cell(count: int, of: int) -> str:
    return f"{count} {100 * count / of:.3g}%" if count and of else str(count)
