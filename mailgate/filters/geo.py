"""Where a client is: its country and its autonomous system, from databases that the site brings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field
from zope.interface import directlyProvides

from mailgate.config.units import ConfigPath, Form
from mailgate.dns.names import unmapped
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet, is_known
from mailgate.filters.refusing import Manner, Objection, RefusalSection
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IConnectFilter, IRecipientFilter
from mailgate.verdict import Continue, Verdict

if TYPE_CHECKING:
    from mailgate.filters.geo_databases import GeoDatabase, Subject

__all__ = ["Geo", "GeoResult", "Options", "build"]

_PLACE = re.compile(r"[A-Z]{2}|AS[1-9][0-9]{0,9}|UNKNOWN|\*", re.ASCII)
_LOCAL = NetworkSet(LOCAL_NETWORKS)


def _place(text: str) -> str:
    place = text.upper()
    if not _PLACE.fullmatch(place):
        raise ValueError(f'"{text}" is no country like "AT", no network like "AS64496", and not "unknown" or "*"')
    return place


Places = list[Annotated[str, AfterValidator(_place), Form("place")]]


class Options(RefusalSection):
    """`[filters.geo]`: the databases, and whose mail is not wanted.

    The databases are files in MaxMind's format (GeoLite2, DB-IP, IPinfo) that you download and renew; one of the two
    is enough. A file that is replaced is read again within a minute. What they say is evidence, for rate-limit,
    reputation and score too: the facts `geo.country.at` and `geo.asn.64496`. By default nobody is refused.
    """

    country: ConfigPath | None = None
    """the database of countries"""
    asn: ConfigPath | None = None
    """the database of autonomous systems, which are the networks of providers and companies"""
    reject: Places = Field(default=[])
    """whose clients are refused (550 5.7.1): countries by their two letters ("AT"), autonomous systems ("AS64496"),
    "unknown" for clients of no known country, or "*" for all"""
    defer: Places = Field(default=[])
    """whose clients may come again later (450 4.7.1), in the same form"""
    allow: Places = Field(default=[])
    """whose clients are let through, whatever stands in `reject` and `defer`: reject = ["*"] and allow = ["AT", "DE"]
    takes mail from two countries only"""
    text: str = "Mail from your network is not accepted here"
    """what a refused client is told"""


@dataclass(frozen=True, slots=True)
class GeoResult(Finding):
    """Where the client is: `country` in upper case (ISO 3166), `asn` with its `organization`, and the `network` that
    the database has; "" and 0 for what is not known."""

    country: str = ""
    asn: int = 0
    organization: str = ""
    network: str = ""

    def summary(self) -> str:
        system = f" asn={self.asn} ({self.organization or 'nameless'})" if self.asn else ""
        return f"geo={self.country or 'unknown'}{system} {self.network}".rstrip()

    def facts(self) -> Sequence[str]:
        country = f"geo.country.{self.country.lower() or 'unknown'}"
        return (country, f"geo.asn.{self.asn}") if self.asn else (country,)


def build(options: Options, services: FilterServices) -> object:
    """The filter. ValueError where no database is given, one cannot be used, or the library is missing."""
    return Geo(options, services)


class Geo:
    """Looks the client up when it connects."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        if options.country is None and options.asn is None:
            raise ValueError('no database is given: write country = "GeoLite2-Country.mmdb", or asn, or both')
        self._check_use(options)
        try:
            from mailgate.filters.geo_databases import GeoDatabase  # the extra brings its library
        except ModuleNotFoundError as error:
            if error.name != "maxminddb":
                raise
            raise ValueError("the filter geo needs: pip install 'mailgate[geo]'") from error
        files: list[tuple[Subject, Path | None]] = [("country", options.country), ("asn", options.asn)]
        self._databases: list[GeoDatabase] = [
            GeoDatabase(path, subject, services.clock) for subject, path in files if path is not None
        ]
        self._manner = Manner(options, services)
        self._text = options.text
        self._allow, self._reject, self._defer = map(frozenset, (options.allow, options.reject, options.defer))
        is_late = bool(options.reject or options.defer) and not self._manner.is_at_once
        directlyProvides(self, IConnectFilter, *([IRecipientFilter] if is_late else []))

    @staticmethod
    def _check_use(options: Options) -> None:
        """ValueError where a place is named that no database can tell."""
        for place in (*options.reject, *options.defer, *options.allow):
            is_system = place.startswith("AS") and len(place) > 2
            if is_system and options.asn is None:
                raise ValueError(f'"{place}" needs a database of autonomous systems: write asn = "FILE"')
            if not is_system and place != "*" and options.country is None:
                raise ValueError(f'"{place}" needs a database of countries: write country = "FILE"')

    def on_connect(self, session: Session) -> Verdict | None:
        """Find out where the client is; refuse it where that is to be done at once."""
        address = session.client.address
        if not is_known(address) or address in _LOCAL:
            return None
        result = self._find(unmapped(address))
        objection = self._objection(session, result) if self._manner.is_at_once else None
        return objection.at("connect", (result,)) if objection else Continue(evidence=(result,))

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        """Refuse for what was found."""
        result = session.evidence.get(GeoResult)
        if result is None or self._manner.is_reachable(recipient):
            return None
        objection = self._objection(session, result)
        return objection.at("rcpt") if objection else None

    def _find(self, address: IPv4Address | IPv6Address) -> GeoResult:
        places = [database.find(address) for database in self._databases]
        return GeoResult(
            next((one.country for one in places if one.country), ""),
            next((one.asn for one in places if one.asn), 0),
            next((one.organization for one in places if one.organization), ""),
            next((one.network for one in reversed(places) if one.network), ""),
        )

    def _objection(self, session: Session, result: GeoResult) -> Objection | None:
        address = self._manner.judged(session)
        if address is None:
            return None
        names = {"*", result.country or "UNKNOWN", f"AS{result.asn}"}
        if not names.isdisjoint(self._allow):
            return None
        if not names.isdisjoint(self._reject):
            return Objection("reject", self._text, f"{address} is in {result.summary()}, one of reject")
        if not names.isdisjoint(self._defer):
            return Objection("defer", self._text, f"{address} is in {result.summary()}, one of defer")
        return None
