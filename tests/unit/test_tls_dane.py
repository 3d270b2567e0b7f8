"""DANE: TLSA records, and real handshakes with servers that they are, or are not, about."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256, sha512
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mailgate.tls.check import CheckedConnection, misnamed, outcome_of
from mailgate.tls.client import ClientContexts
from mailgate.tls.dane import DaneCheck, Tlsa, usable, verify
from mailgate.tls.store import CertificateStore
from tests.unit.certificates import Issued, authority, issue
from tests.unit.tls_pair import Pair

ROOT = authority()
MIDDLE = authority("Middle", ROOT)
OTHER = authority("Other")
SERVER = issue(MIDDLE, "mx.example.org")
OLD = issue(MIDDLE, "mx.example.org", days=(-9, -2))
BY_DOMAIN = issue(MIDDLE, "example.org")
ELSEWHERE = issue(MIDDLE, "mx.example.net")
ALONE = issue(None, "whatever.example")
NAMES = ("mx.example.org", "example.org")


def der(one: Issued) -> bytes:
    return one.certificate.public_bytes(Encoding.DER)


def key(one: Issued) -> bytes:
    return one.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def record(usage: int, selector: int, matching: int, one: Issued) -> str:
    octets = key(one) if selector else der(one)
    data = {0: octets, 1: sha256(octets).digest(), 2: sha512(octets).digest()}[matching]
    return f"{usage} {selector} {matching} {data.hex()}"


def shown(tmp_path: Path, server: Issued, records: Sequence[str], names: Sequence[str] = NAMES) -> tuple[Pair, str]:
    """The handshake with a server, and what was found against it."""
    creator = ClientContexts(Clock()).client_creator(hostname=names[0], verify=False, tlsa=usable(records), names=names)
    store = CertificateStore(server.write(tmp_path / "server.pem"), Clock())
    pair = Pair(store.server_creator("none"), creator)
    assert pair.is_up
    outcome = outcome_of(pair.client.connection)
    assert outcome.is_verified is (not outcome.reason)
    assert bool(outcome.failure) is bool(outcome.reason)
    return pair, outcome.failure


def proved(pair: Pair) -> str:
    assert isinstance(pair.client.connection, CheckedConnection)
    assert isinstance(pair.client.connection.check, DaneCheck)
    return pair.client.connection.check.proved


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_every_form_of_a_record_is_matched(tmp_path: Path, selector: int, matching: int) -> None:
    for usage, of in ((3, SERVER), (2, MIDDLE)):
        good, wrong = record(usage, selector, matching, of), record(usage, selector, matching, OTHER)
        assert shown(tmp_path, SERVER, [good])[1] == ""
        assert shown(tmp_path, SERVER, [wrong])[1] in ("validation-failure", "certificate-not-trusted")
        assert shown(tmp_path, SERVER, [wrong, good])[1] == ""


@pytest.mark.parametrize("server", [ALONE, OLD, ELSEWHERE], ids=["its own authority", "expired", "another name"])
def test_the_certificate_itself_needs_neither_name_nor_age_nor_authority(tmp_path: Path, server: Issued) -> None:
    pair, failure = shown(tmp_path, server, [record(3, 1, 1, server)])
    assert (failure, proved(pair)) == ("", "")


@pytest.mark.parametrize(
    ("server", "failure"),
    [
        (SERVER, ""),
        (BY_DOMAIN, ""),
        (ELSEWHERE, "certificate-host-mismatch"),
        (OLD, "certificate-expired"),
        (ALONE, "validation-failure"),
        (issue(OTHER, "mx.example.org"), "validation-failure"),
    ],
    ids=["right", "by the domain", "another name", "expired", "its own authority", "another authority"],
)
def test_below_an_authority_name_and_age_count(tmp_path: Path, server: Issued, failure: str) -> None:
    assert shown(tmp_path, server, [record(2, 0, 1, MIDDLE)])[1] == failure


def test_a_reason_does_not_tell_all_of_a_name_that_is_very_long() -> None:
    wild = issue(ROOT, "a.test", *(f"{number}.{'x' * 20_000}.test" for number in range(5)))
    told = misnamed(wild.certificate, "mx.example.org")
    assert len(told) < 800
    assert told.endswith(" and 3 more, not for mx.example.org")


def test_a_chain_without_end_is_not_looked_through() -> None:
    filling = [OTHER.certificate] * 100
    records = usable([record(2, 0, 1, MIDDLE)])
    for at, is_verified in ((14, True), (15, False), (100, False)):
        chain = [SERVER.certificate, *filling[:at], MIDDLE.certificate, *filling[at:]]
        assert verify(records, chain, ["mx.example.org"])[0].is_verified is is_verified


def test_which_name_counted_is_told(tmp_path: Path) -> None:
    assert proved(shown(tmp_path, SERVER, [record(2, 0, 1, MIDDLE)])[0]) == "mx.example.org"
    assert proved(shown(tmp_path, BY_DOMAIN, [record(2, 0, 1, MIDDLE)])[0]) == "example.org"


def test_an_authority_that_is_not_shown_must_be_whole_in_the_record(tmp_path: Path) -> None:
    # the root is never part of what servers show here
    assert shown(tmp_path, SERVER, [record(2, 0, 0, ROOT)])[1] == ""
    assert shown(tmp_path, SERVER, [record(2, 0, 1, ROOT)])[1] == "validation-failure"


def test_a_chain_that_merely_holds_the_authority_does_not_lead_to_it(tmp_path: Path) -> None:
    forged = Issued(*(lambda one: (one.certificate, one.key, (MIDDLE.certificate,)))(issue(OTHER, "mx.example.org")))
    _, failure = shown(tmp_path, forged, [record(2, 0, 1, MIDDLE)])
    assert failure == "certificate-not-trusted"


def test_of_digests_the_strongest_counts(tmp_path: Path) -> None:
    weak, strong = record(3, 1, 1, SERVER), record(3, 1, 2, OTHER)
    assert usable([weak, strong]) == (Tlsa.parse(strong),)
    assert shown(tmp_path, SERVER, [weak, strong])[1] == "validation-failure"
    # those about the certificate are another kind
    assert len(usable([weak, record(3, 0, 2, OTHER), record(3, 1, 0, OTHER)])) == 3


@pytest.mark.parametrize(
    "text",
    [
        record(0, 0, 1, ROOT),
        record(1, 1, 1, SERVER),
        "3 2 1 " + "00" * 32,
        "3 1 3 " + "00" * 32,
        "3 1 1 " + "00" * 31,
        "3 1 2 " + "00" * 32,
        "3 0 0 00",
        "3 1 0 00",
        "2 0 0 " + "00" * 9000,
        "255 255 255 00",
        "4 1 1 " + "00" * 32,
        "3 1 1",
        "3 1 1 0",
        "",
        "x",
    ],
)
def test_what_cannot_be_used(text: str) -> None:
    assert usable([text]) == ()
    assert len(usable([text, record(3, 1, 1, SERVER)])) == 1


def test_a_thousand_records_are_not_looked_at() -> None:
    assert len(usable(f"3 1 1 {number:064x}" for number in range(1000))) == 32


def test_a_record_as_a_zone_file_has_it() -> None:
    text = record(3, 1, 2, SERVER)
    one = Tlsa.parse(text[:70] + " " + text[70:])
    assert str(one) == text


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(min_size=1, max_size=80))
def test_nothing_in_a_record_is_a_surprise(usage: int, selector: int, matching: int, data: bytes) -> None:
    found = usable([f"{usage} {selector} {matching} {data.hex()}"])
    assert not verify(found, [SERVER.certificate, MIDDLE.certificate], NAMES)[0].is_verified
    assert not verify(found, [], NAMES)[0].is_verified
