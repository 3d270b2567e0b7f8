"""Countries and autonomous systems: what databases say, who is refused for it, and broken or replaced files."""

from __future__ import annotations

import builtins
import os
import random
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import maxminddb
import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from mailgate.envelope import Client, Identity, Session
from mailgate.filters import geo_databases
from mailgate.filters.geo import Geo, GeoResult, Options, build
from mailgate.filters.geo_databases import GeoDatabase, Place
from mailgate.interfaces import IRecipientFilter
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, recipient, services, session, transaction
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from tests.unit.geo_parts import write_database

FACTORY = FilterMaker("geo", "mailgate.filters.geo", "tells the client's country and network")

COUNTRIES = {
    "198.51.100.0/24": {"country": {"iso_code": "AT"}, "registered_country": {"iso_code": "DE"}},
    "203.0.113.0/24": {"registered_country": {"iso_code": "DE"}},
    "2001:db8::/32": {"country": {"iso_code": "FR"}},
    "192.0.2.0/24": {"continent": {"code": "EU"}},
}
SYSTEMS = {
    "198.51.100.0/25": {"autonomous_system_number": 64496, "autonomous_system_organization": "Example Net"},
    "2001:db8::/32": {"autonomous_system_number": 64497},
}
AUSTRIAN, GERMAN, FRENCH, NOWHERE = "198.51.100.7", "203.0.113.7", "2001:db8::7", "192.0.2.7"


@pytest.fixture
def country(tmp_path: Path) -> Path:
    return write_database(tmp_path / "country.mmdb", COUNTRIES)


@pytest.fixture
def asn(tmp_path: Path) -> Path:
    return write_database(tmp_path / "asn.mmdb", SYSTEMS, "GeoLite2-ASN")


@implementer(ILogObserver)
class Errors:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        if event["log_level"] is LogLevel.error:
            self.texts.append(str(event.get("error", "")))


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What is logged as an error."""
    observer = Errors()
    globalLogPublisher.addObserver(observer)
    yield observer.texts
    globalLogPublisher.removeObserver(observer)


def make(clock: Clock | None = None, **options: Any) -> Geo:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    built = build(Options.model_validate(given), services(clock=clock or Clock()))
    assert isinstance(built, Geo)
    return built


def find(built: Geo, client: str) -> GeoResult:
    verdict = built.on_connect(session(client))
    assert isinstance(verdict, Continue)
    (found,) = verdict.evidence
    assert isinstance(found, GeoResult)
    return found


def rcpt(built: Geo, client: str, address: str = "bob@example.org", **changes: Any) -> Verdict | None:
    known = session(client, **changes)
    verdict = built.on_connect(known)
    for one in getattr(verdict, "evidence", ()):
        known.evidence.add(one)
    return built.on_rcpt(known, transaction(), recipient(address))


@pytest.mark.parametrize(
    ("client", "result", "facts"),
    [
        (
            AUSTRIAN,
            GeoResult("AT", 64496, "Example Net", "198.51.100.0/25"),
            ("geo.country.at", "geo.asn.64496"),
        ),
        (f"::ffff:{AUSTRIAN}", GeoResult("AT", 64496, "Example Net", "198.51.100.0/25"), None),
        (GERMAN, GeoResult("DE", 0, "", "203.0.113.0/24"), ("geo.country.de",)),
        (FRENCH, GeoResult("FR", 64497, "", "2001:db8::/32"), ("geo.country.fr", "geo.asn.64497")),
        (NOWHERE, GeoResult("", 0, "", "192.0.2.0/24"), ("geo.country.unknown",)),
        ("8.8.8.8", GeoResult(), ("geo.country.unknown",)),
    ],
)
def test_where_a_client_is(
    country: Path, asn: Path, client: str, result: GeoResult, facts: tuple[str, ...] | None
) -> None:
    found = find(make(country=country, asn=asn), client)
    assert found == result
    assert facts is None or found.facts() == facts
    assert found.summary().startswith(f"geo={result.country or 'unknown'}")


def test_one_database_is_enough(country: Path, asn: Path) -> None:
    assert find(make(country=country), AUSTRIAN) == GeoResult("AT", network="198.51.100.0/24")
    assert find(make(asn=asn), AUSTRIAN).asn == 64496


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"country": "at", "asn": "AS64496", "as_name": "Example"}, ("AT", 64496, "Example")),
        ({"country_code": "AT", "asn": 64496, "organization": "Example"}, ("AT", 64496, "Example")),
        ({"country": {"iso_code": 7}, "autonomous_system_number": "many"}, ("", 0, "")),
        ({"country": ["AT"], "asn": -5}, ("", 0, "")),
        ({"asn": "AS99999999999999"}, ("", 0, "")),
        ({"asn": 9999999999}, ("", 0, "")),
        ({"country": "Austria", "as_name": "x" * 5000}, ("", 0, "x" * 100)),
        (["AT"], ("", 0, "")),
        ("AT", ("", 0, "")),
    ],
)
def test_records_of_several_vendors_and_of_none(tmp_path: Path, record: Any, place: tuple[str, int, str]) -> None:
    path = write_database(tmp_path / "any.mmdb", {"198.51.100.0/24": record}, "Any-Kind")
    found = GeoDatabase(path, "country", Clock()).find(ip_address(AUSTRIAN))
    assert (found.country, found.asn, found.organization) == place


def test_a_database_of_ipv4_knows_nothing_of_ipv6(tmp_path: Path) -> None:
    path = write_database(tmp_path / "four.mmdb", {"198.51.100.0/24": {"country": {"iso_code": "AT"}}}, version=4)
    built = make(country=path)
    assert find(built, AUSTRIAN).country == "AT"
    assert find(built, FRENCH) == GeoResult()


def test_who_is_refused(country: Path, asn: Path) -> None:
    built = make(country=country, asn=asn, reject=["de", "AS64497"], defer=["unknown"])
    assert rcpt(built, AUSTRIAN) is None
    for client in (GERMAN, FRENCH):
        verdict = rcpt(built, client)
        assert isinstance(verdict, Reject)
        assert verdict.reply.to_bytes() == b"550 5.7.1 Mail from your network is not accepted here\r\n"
    verdict = rcpt(built, NOWHERE)
    assert isinstance(verdict, Defer)
    assert verdict.reply.status == "4.7.1"


def test_only_from_some_countries(country: Path) -> None:
    built = make(country=country, reject=["*"], allow=["AT"], text="Only from Austria")
    assert rcpt(built, AUSTRIAN) is None
    for client in (GERMAN, FRENCH, NOWHERE):
        assert isinstance(rcpt(built, client), Reject)


def test_at_once_and_by_default(country: Path) -> None:
    verdict = make(country=country, reject=["AT"], when="at-once").on_connect(session(AUSTRIAN))
    assert isinstance(verdict, Disconnect)
    assert verdict.reply.code == 554
    assert isinstance(verdict.evidence[0], GeoResult)
    assert not IRecipientFilter.providedBy(make(country=country))


def test_who_is_left_alone(country: Path) -> None:
    built = make(country=country, reject=["*"])
    assert rcpt(built, AUSTRIAN, "postmaster@example.org") is None
    assert rcpt(built, AUSTRIAN, identity=Identity("ann", "PLAIN")) is None
    for client in ("127.0.0.1", "10.0.0.1", "fe80::1", "0.0.0.0"):  # noqa: S104  no bind
        assert built.on_connect(session(client)) is None
    assert built.on_connect(session(Client(None))) is None
    exempt = make(country=country, reject=["*"], when="at-once", exempt=["198.51.100.0/24"])
    assert isinstance(exempt.on_connect(session(AUSTRIAN)), Continue)


def test_a_file_that_is_replaced_is_read_again(country: Path) -> None:
    clock = Clock()
    built = make(clock, country=country)
    assert find(built, AUSTRIAN).country == "AT"
    write_database(country, {"198.51.100.0/24": {"country": {"iso_code": "CH"}}})
    assert find(built, AUSTRIAN).country == "AT"
    clock.advance(60)
    assert find(built, AUSTRIAN).country == "CH"


def test_a_broken_file_leaves_the_old_content_in_force_and_is_told_once(country: Path, errors: list[str]) -> None:
    clock = Clock()
    built = make(clock, country=country)
    good = country.read_bytes()
    country.write_bytes(good[: len(good) // 2])
    for _ in range(5):
        clock.advance(60)
        assert find(built, AUSTRIAN).country == "AT"
    country.unlink()
    for _ in range(5):
        clock.advance(60)
        assert find(built, AUSTRIAN).country == "AT"
    assert len(errors) == 2
    assert errors[0] == f"{country}: is no database in MaxMind's format, or a broken one"
    assert "cannot be read" in errors[1]
    write_database(country, {"198.51.100.0/24": {"country": {"iso_code": "CH"}}})
    clock.advance(60)
    assert find(built, AUSTRIAN).country == "CH"


def test_a_file_that_is_written_over_in_its_place_is_no_danger(country: Path) -> None:
    built = make(country=country)
    os.truncate(country, 10)
    assert find(built, AUSTRIAN).country == "AT"


def test_a_large_file_is_read_in_a_thread(country: Path, monkeypatch: pytest.MonkeyPatch, errors: list[str]) -> None:
    monkeypatch.setattr(geo_databases, "_AT_ONCE", 100)
    clock = Clock()
    built = make(clock, country=country)
    write_database(country, {"198.51.100.0/24": {"country": {"iso_code": "CH"}}})
    clock.advance(60)
    found = find(built, AUSTRIAN).country
    for thread in threading.enumerate():
        if thread.name.startswith("geo"):
            thread.join()
    assert found in ("AT", "CH")
    assert find(built, AUSTRIAN).country == "CH"
    country.write_bytes(b"x" * 1000)
    clock.advance(60)
    find(built, AUSTRIAN)
    for thread in threading.enumerate():
        if thread.name.startswith("geo"):
            thread.join()
    assert find(built, AUSTRIAN).country == "CH"
    assert len(errors) == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_stops_the_start_with_one_line(country: Path, share: float) -> None:
    content = country.read_bytes()
    country.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="no database") as caught:
        make(country=country)
    assert str(caught.value) == f"{country}: is no database in MaxMind's format, or a broken one"


def test_a_missing_file_a_folder_and_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"none.mmdb: cannot be read: No such file"):
        make(country=tmp_path / "none.mmdb")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        make(country=tmp_path)
    monkeypatch.setattr(geo_databases, "_LARGEST", 1024**2)
    (tmp_path / "large.mmdb").write_bytes(b"\0" * (1024**2 + 1))
    with pytest.raises(ValueError, match="is larger than 1 MiB"):
        make(country=tmp_path / "large.mmdb")


def test_databases_that_were_taken_for_each_other(country: Path, asn: Path) -> None:
    with pytest.raises(ValueError, match="knows autonomous systems and no countries"):
        make(country=asn)
    with pytest.raises(ValueError, match="knows countries and no autonomous systems"):
        make(asn=country)


def test_any_octets_are_a_database_or_one_clear_error(country: Path, tmp_path: Path) -> None:
    good = country.read_bytes()
    chance = random.Random(5)
    path = tmp_path / "hostile.mmdb"
    refused = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(chance.choice((1, 3, 30))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            database = GeoDatabase(path, "country", Clock())
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017  some are good
            continue
        for client in (AUSTRIAN, GERMAN, FRENCH, NOWHERE, "8.8.8.8"):
            assert isinstance(database.find(ip_address(client)), Place)
    assert 0 < refused < 400


def test_a_record_that_cannot_be_read_is_not_known_and_told_once(
    country: Path, monkeypatch: pytest.MonkeyPatch, errors: list[str]
) -> None:
    built = make(country=country)

    def torn(*_: object) -> None:
        raise maxminddb.InvalidDatabaseError("bad data")

    monkeypatch.setattr(maxminddb.Reader, "get_with_prefix_len", torn)
    for _ in range(3):
        assert find(built, AUSTRIAN) == GeoResult()
    assert errors == ["bad data"]


def test_a_missing_library_is_told_in_one_line(country: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "maxminddb":
            raise ModuleNotFoundError("No module named 'maxminddb'", name="maxminddb")
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "mailgate.filters.geo_databases")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'mailgate\[geo\]'"):
        make(country=country)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no database is given"),
        ({"country": "c.mmdb", "reject": ["AS64496"]}, "AS64496.*needs a database of autonomous systems"),
        ({"asn": "a.mmdb", "allow": ["AT"]}, "AT.*needs a database of countries"),
        ({"asn": "a.mmdb", "defer": ["unknown"]}, "UNKNOWN.*needs a database of countries"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**options)


@pytest.mark.parametrize("place", ["Austria", "AS", "64496", "AS0", "A1", ""])
def test_what_is_no_place(place: str) -> None:
    if place == "AS":  # American Samoa
        assert Options.model_validate({"reject": [place]}).reject == ["AS"]
        return
    with pytest.raises(ValidationError, match="is no country"):
        Options.model_validate({"reject": [place]})


class TestContract(FilterContract):
    factory = FACTORY

    @pytest.fixture(autouse=True)
    def _database(self, country: Path) -> None:
        self.settings = {"country": str(country), "reject": ["AT"], "when": "at-once"}

    def occasions(self) -> list[Occasion]:
        return [Occasion(session=one) for one in self.sessions()]

    def sessions(self) -> list[Session]:
        return [session(client) for client in (AUSTRIAN, GERMAN, FRENCH)]


class TestContractAtRcpt(TestContract):
    @pytest.fixture(autouse=True)
    def _database(self, country: Path) -> None:
        self.settings = {"country": str(country), "defer": ["AT"]}

    def sessions(self) -> list[Session]:
        known = session(AUSTRIAN)
        known.evidence.add(GeoResult("AT"))
        return [known]
