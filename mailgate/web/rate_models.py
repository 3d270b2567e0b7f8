"""What is asked and answered at /v1/rates."""

from __future__ import annotations

from typing import Annotated, Self, get_args

from pydantic import AfterValidator, Field

from mailgate.observe.rates import Counted, RateKey, is_of_the_way
from mailgate.stores.domains import canonical
from mailgate.web.selection import Model, Text

__all__ = ["MOST_RATES", "Rate", "RateQuery", "RatesNow"]

#: Names that are told at most; each worker tells so many, and the rest as one.
MOST_RATES = 2000

Wanted = Annotated[Text, Field(min_length=1)]


class RateQuery(Model):
    """What to count by, and of which mail: all conditions that are given must hold."""

    by: RateKey = "domain"
    limit: int = Field(default=100, ge=1, le=MOST_RATES)
    domain: Annotated[Wanted, AfterValidator(canonical)] = ""
    """the recipient's"""
    site: Wanted = ""
    """any part of the name of the site"""
    route: Wanted = ""
    source: Wanted = ""
    stream: Wanted = ""

    @property
    def only(self) -> dict[RateKey, str]:
        """The conditions."""
        given = {key: getattr(self, key) for key in get_args(RateKey)}
        return {key: value for key, value in given.items() if value}


class Rate(Model):
    """What became of recipients that have something in common; "(other)" are all that are not told by name.

    The first three are outcomes of attempts. The others came back later, about mail that had been delivered; they are
    null where they cannot be told apart.
    """

    key: str
    delivered: int
    deferred: int
    bounced: int
    bounced_back: int | None
    complained: int | None


class RatesNow(Model):
    """What happened since a moment (seconds since the epoch), about an hour ago or when the gateway began: the most
    frequent first. Who began anew has forgotten what it had counted: `all_since` is the moment from which on every
    worker has counted, later than `since` where one began after others. `missing` says whose numbers are not among
    these, where a worker has not answered."""

    by: RateKey
    since: float
    all_since: float
    rates: tuple[Rate, ...]
    missing: str = ""

    @classmethod
    def of(cls, query: RateQuery, counted: Counted, all_since: float, missing: str = "") -> Self:
        """As it was counted."""
        has_way = is_of_the_way(query.by, *query.only)
        rates = (
            Rate(
                key=name,
                delivered=one.delivered,
                deferred=one.deferred,
                bounced=one.bounced,
                bounced_back=None if has_way else one.bounced_back,
                complained=None if has_way else one.complained,
            )
            for name, one in counted.rows
        )
        return cls(by=query.by, since=counted.since, all_since=all_since, rates=tuple(rates), missing=missing)
