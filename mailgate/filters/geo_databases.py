"""Databases of addresses in MaxMind's format: read into memory, and read again when the file is another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Literal

import maxminddb
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.stores.lists import look_at

__all__ = ["GeoDatabase", "Place"]

_log = Logger()

#: Seconds between two looks at the file.
_LOOK_EVERY = 60.0
#: Octets of the largest file that is read, since all of it stays in memory; and of one that is read again at once: a
#: larger one is read in a thread.
_LARGEST, _AT_ONCE = 512 * 1024 * 1024, 1024 * 1024
#: Characters of an organization's name.
_MOST_NAME = 100
#: Addresses that a good database can be asked about, whatever it knows of them.
_PROBES = tuple(map(ip_address, ("1.1.1.1", "8.8.8.8", "193.0.0.1", "2001:4860:4860::8888", "2a00::1")))

_COUNTRY = re.compile(r"[A-Za-z]{2}")
_ASN = re.compile(r"(?:AS)?([0-9]{1,10})", re.IGNORECASE | re.ASCII)

Subject = Literal["country", "asn"]


@dataclass(frozen=True, slots=True)
class Place:
    """What a database knows of an address.

    `country` is its ISO 3166 code in upper case, `asn` the number of the autonomous system with its `organization`,
    `network` the part of the database that the address is in; "" and 0 for what is not known.
    """

    country: str = ""
    asn: int = 0
    organization: str = ""
    network: str = ""


class GeoDatabase:
    """A file of countries or of autonomous systems, whatever `subject` says.

    All of the file is read, and none of it is mapped: a mapped file that somebody writes over gives wrong answers, or
    ends the process. Construction raises ValueError, in one line, where the file cannot be used. Later such a file
    leaves the old content in force and is logged once.
    """

    def __init__(self, path: Path, subject: Subject, clock: IReactorTime) -> None:
        self._path = path
        self._subject = subject
        self._clock = clock
        self._next_look = clock.seconds() + _LOOK_EVERY
        self._signature = look_at(self._path)
        self._reading: Future[maxminddb.Reader] | None = None
        self._reader = _open(path, subject)
        self._is_torn = False

    def find(self, address: IPv4Address | IPv6Address) -> Place:
        """What is known of an address."""
        self._refresh()
        if address.version > self._reader.metadata().ip_version:  # of 4 and 6
            return Place()
        try:
            record, length = self._reader.get_with_prefix_len(address)
        except Exception as error:  # a broken file may make its reader raise anything
            if not self._is_torn:
                self._is_torn = True
                _log.error("{path}: {address}: {error}", path=self._path, address=address, error=str(error))
            return Place()
        return _place(record, str(ip_network((address, length), strict=False))) if record is not None else Place()

    def _refresh(self) -> None:
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            self._take(reading.result)
        now = self._clock.seconds()
        if now < self._next_look or self._reading is not None:
            return
        self._next_look = now + _LOOK_EVERY
        signature = look_at(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        if signature is not None and signature[0] > _AT_ONCE:
            executor = ThreadPoolExecutor(1, "geo")
            self._reading = executor.submit(_open, self._path, self._subject)
            executor.shutdown(wait=False)
        else:
            self._take(lambda: _open(self._path, self._subject))

    def _take(self, read: Callable[[], maxminddb.Reader]) -> None:
        try:
            self._reader = read()
            self._is_torn = False
        except ValueError as error:
            _log.error("{error}; its old content stays in force", error=str(error))


def _open(path: Path, subject: Subject) -> maxminddb.Reader:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise ValueError(f"{path}: is larger than {_LARGEST // 1024**2} MiB")
    try:
        reader = maxminddb.open_database(BytesIO(content), maxminddb.MODE_FD)
        kind = str(reader.metadata().database_type)
        versions = reader.metadata().ip_version
        for address in _PROBES:
            if address.version <= versions:
                reader.get_with_prefix_len(address)
    except Exception as error:  # a broken file may make its reader raise anything
        raise ValueError(f"{path}: is no database in MaxMind's format, or a broken one") from error
    if versions not in (4, 6):
        raise ValueError(f"{path}: is a database of addresses of version {versions}")
    _check_kind(path, subject, kind)
    return reader


def _check_kind(path: Path, subject: Subject, kind: str) -> None:
    """ValueError where a database is by its type surely one of the others: the two files were taken for each other."""
    text = kind.lower()
    has_countries = any(word in text for word in ("country", "city", "enterprise", "location"))
    has_systems = any(word in text for word in ("asn", "isp"))
    if subject == "country" and has_systems and not has_countries:
        raise ValueError(f"{path}: is of type {kind[:50]!r}, which knows autonomous systems and no countries")
    if subject == "asn" and has_countries and not has_systems:
        raise ValueError(f"{path}: is of type {kind[:50]!r}, which knows countries and no autonomous systems")


def _place(record: object, network: str) -> Place:
    """From the fields of MaxMind, DB-IP and IPinfo; what is not as it should be is not known."""
    if not isinstance(record, Mapping):
        return Place()
    countries = (record.get(key) for key in ("country", "country_code", "registered_country"))
    codes = (one.get("iso_code") if isinstance(one, Mapping) else one for one in countries)
    country = next((one.upper() for one in codes if isinstance(one, str) and _COUNTRY.fullmatch(one)), "")
    numbers = (record.get(key) for key in ("autonomous_system_number", "asn"))
    matches = (_ASN.fullmatch(str(one)) for one in numbers if isinstance(one, int | str))
    asn = next((int(match[1]) for match in matches if match), 0)
    names = (record.get(key) for key in ("autonomous_system_organization", "as_name", "organization"))
    organization = next((one for one in names if isinstance(one, str)), "")
    return Place(country, asn if asn < 1 << 32 else 0, organization[:_MOST_NAME], network)
