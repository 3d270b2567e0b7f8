"""What /v1/rates answers: what this worker and the others have counted in the last hour."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from mailgate.observe.rates import Counted, Outcome, Rates, added
from mailgate.web.rate_models import MOST_RATES, RateQuery, RatesNow

__all__ = ["AllRates", "rates_of_worker"]


class AllRates:
    """Gathers them. `ask_others` as in `mailgate.web.numbers.Numbers`."""

    def __init__(
        self, rates: Rates, ask_others: Callable[[str, str], Awaitable[tuple[str, str]]] | None = None
    ) -> None:
        self._rates = rates
        self._ask_others = ask_others

    async def told(self, query: RateQuery) -> RatesNow:
        """At this moment; where a worker does not answer, what the rest have counted."""
        parts, missing = [_counted(self._rates, query)], ""
        if self._ask_others is not None:
            answers, missing = await self._ask_others("rates", query.model_dump_json(exclude_defaults=True))
            found: list[Any] = json.loads(answers)
            parts += [
                Counted(since, [(name, Outcome(*counts)) for name, counts in rows])
                for since, rows in (one for one in found if one is not None)
            ]
        all_since = max(part.since for part in parts)
        return RatesNow.of(query, added(parts, query.limit), all_since, missing)


def rates_of_worker(rates: Rates, argument: object) -> object:
    """The same of one worker, for another one that asks: as JSON can carry it."""
    return _counted(rates, RateQuery.model_validate(argument))


def _counted(rates: Rates, query: RateQuery) -> Counted:
    # More than are wanted, since the most frequent here need not be so in all.
    return rates.count(query.by, MOST_RATES, query.only)
