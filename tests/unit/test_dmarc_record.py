"""Policy records: what is one, its tags with their defaults, what spoils it, and how much is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.dmarc.record import MAX_RECORD, MAX_URIS, Mode, read_record, read_records
from mailgate.mailauth.results import DmarcRecord

DOMAIN = "example.org"


def read(text: str, mode: Mode = "rfc9989") -> DmarcRecord:
    reading = read_record(text.encode(), DOMAIN, mode)
    assert reading.record is not None, reading
    assert reading.problem == ""
    return reading.record


def test_defaults() -> None:
    assert read("v=DMARC1; p=reject") == DmarcRecord(DOMAIN, "reject", "reject", "reject")


def test_every_tag() -> None:
    text = (
        "v=DMARC1; p=none; sp=quarantine; np=reject; psd=n; aspf=s; adkim=s; t=y; fo=1:d:s; "
        "rua=mailto:a@example.org, https://reports.example/in; ruf=mailto:f@example.org!10m"
    )
    assert read(text) == DmarcRecord(
        DOMAIN,
        "none",
        "quarantine",
        "reject",
        psd="n",
        strict_spf=True,
        strict_dkim=True,
        is_testing=True,
        aggregate=("mailto:a@example.org", "https://reports.example/in"),
        failure=("mailto:f@example.org!10m",),
        failure_options=("1", "d", "s"),
    )


@pytest.mark.parametrize(
    ("tags", "policies"),
    [
        ("p=reject; sp=none", ("reject", "none", "none")),
        ("p=reject; np=none", ("reject", "reject", "none")),
        ("p=none; sp=quarantine; np=reject", ("none", "quarantine", "reject")),
        ("P=Reject;\tsp = QUARANTINE ", ("reject", "quarantine", "quarantine")),
        ("p=none;;; zz=1; sp; =x; np=reject;", ("none", "none", "reject")),
    ],
)
def test_policies_of_a_domain_and_below(tags: str, policies: tuple[str, str, str]) -> None:
    record = read(f"v=DMARC1; {tags}")
    assert (record.policy, record.subdomain_policy, record.missing_policy) == policies


@pytest.mark.parametrize(
    "text",
    [
        "p=reject; v=DMARC1",
        " v=DMARC1; p=reject",
        "v=DMARC1x; p=reject",
        "v=dmarc1; p=reject",
        "v=DMARC1 p=reject",
        "v=DMARC2; p=reject",
        "dmarc=v1",
        "",
    ],
)
def test_what_is_no_record(text: str) -> None:
    assert read_record(text.encode(), DOMAIN).record is None
    assert read_record(text.encode(), DOMAIN).problem == ""


def test_the_version_may_have_space_around_it() -> None:
    assert read("V \t= DMARC1 ;p=reject").policy == "reject"
    assert read("v=DMARC1; rua=mailto:a@example.org").policy == "none"


@pytest.mark.parametrize("bad", ["p=bogus", "p=", "sp=none", "p=reject; sp=bogus", "p=reject; np=x", "p=r\u00e9ject"])
def test_a_wrong_policy_counts_as_none_where_reports_are_wanted(bad: str) -> None:
    record = read(f"v=DMARC1; {bad}; rua=mailto:a@example.org")
    assert (record.policy, record.subdomain_policy, record.missing_policy) == ("none", "none", "none")
    without = read_record(f"v=DMARC1; {bad}".encode(), DOMAIN)
    assert without.record is not None  # it marks the domain still
    assert "no valid" in without.problem
    assert "no rua=" in without.problem
    in_vain = read_record(f"v=DMARC1; {bad}; rua=nobody, mailto:nobody, :x, a b:c".encode(), DOMAIN)
    assert "no rua=" in in_vain.problem


def test_a_wrong_value_elsewhere_has_its_default() -> None:
    text = "v=DMARC1; p=reject; adkim=x; aspf=strict; t=yes; psd=maybe; fo=0:0; ruf=mailto:f@example.org; rua=\x01"
    assert read(text) == DmarcRecord(DOMAIN, "reject", "reject", "reject", failure=("mailto:f@example.org",))


def test_failure_options_are_for_failure_reports() -> None:
    assert read("v=DMARC1; p=none; fo=1").failure_options == ("0",)


def test_a_tag_that_stands_there_twice_spoils_the_record() -> None:
    reading = read_record(b"v=DMARC1; p=none; P=reject", DOMAIN)
    assert (reading.record, reading.problem) == (None, "the record of example.org has p= twice")
    assert read("v=DMARC1; p=none; zz=1; zz=2").policy == "none"


@pytest.mark.parametrize(
    ("pct", "percent"),
    [("0", 0), ("100", 100), ("7", 7), ("101", 100), ("-1", 100), ("x", 100), ("", 100), ("1.5", 100)],
)
def test_pct_is_of_rfc_7489(pct: str, percent: int) -> None:
    assert read(f"v=DMARC1; p=reject; pct={pct}", "rfc7489").percent == percent
    assert read(f"v=DMARC1; p=reject; pct={pct}").percent == 100


def test_rfc_7489_does_not_know_the_new_tags() -> None:
    record = read("v=DMARC1; p=reject; np=none; psd=y; t=y", "rfc7489")
    assert record == DmarcRecord(DOMAIN, "reject", "reject", "reject")


def test_several_records_are_as_none_and_other_texts_do_not_count() -> None:
    one, two = b"v=DMARC1; p=reject", b"v=DMARC1; p=none"
    assert read_records([b"v=spf1 -all", one, b"hello"], DOMAIN).record == read(one.decode())
    several = read_records([one, two], DOMAIN)
    assert (several.record, several.is_several) == (None, True)
    assert several.problem == "there are 2 records at _dmarc.example.org"
    assert read_records([b"v=spf1 -all", "text", 1], DOMAIN).record is None


def test_what_is_too_long_is_not_read() -> None:
    room = b"v=DMARC1; p=reject; x="
    assert read((room + b"x" * (MAX_RECORD - len(room))).decode()).policy == "reject"
    reading = read_record(room + b"x" * MAX_RECORD, DOMAIN)
    assert (reading.record, reading.problem) == (None, f"the record of example.org has more than {MAX_RECORD} octets")


def test_so_many_uris_are_taken() -> None:
    uris = ",".join(f"mailto:{number}@e.example" for number in range(100))
    assert read(f"v=DMARC1; p=none; rua={uris}").aggregate == tuple(uris.split(",")[:MAX_URIS])


@given(st.binary(max_size=300) | st.text(alphabet="vpsdnt=;: \tDMARC1noejctaruiq,@!", max_size=200).map(str.encode))
def test_whatever_stands_there_is_read(octets: bytes) -> None:
    for text in (octets, b"v=DMARC1;" + octets):
        record = read_record(text, DOMAIN).record
        if record is not None:
            assert {record.policy, record.subdomain_policy, record.missing_policy} <= {"none", "quarantine", "reject"}
            assert record.psd in ("y", "n", "u")
            assert 0 <= record.percent <= 100
