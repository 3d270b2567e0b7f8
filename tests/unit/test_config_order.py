"""What `mailgate check` says about pipelines whose filters stand in the wrong order, or without each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.config_file import load_text

BASE = """\
[gateway]
hostname = "mx.example.org"
state_dir = "state"
[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "inbound"
[domains."example.org"]
route = "inside"
recipients = "people"
[recipients.people]
kind = "list"
addresses = ["ann@example.org"]
[routes.inside]
transport = "smtp"
hosts = ["10.0.0.5:25"]
"""
#: The line of the pipeline's filters.
LINE = BASE.count("\n") + 2
LISTS = '[filters.dnsbl]\nzones = ["bl.example"]\n'
GEO = '[filters.geo]\ncountry = "countries.mmdb"\n'

Warnings = Callable[..., list[str]]


@pytest.fixture
def warnings(tmp_path: Path) -> Warnings:
    def found(filters: str, more: str = "", base: str = BASE) -> list[str]:
        loaded = load_text(tmp_path, f"{base}[pipelines.inbound]\nfilters = [{filters}]\n{more}")
        return [line.removeprefix(f"{tmp_path}/mailgate.toml:") for line in loaded.warnings]

    return found


def behind(*lines: str) -> list[str]:
    return [f"{LINE}: pipelines.inbound.filters{line}" for line in lines]


@pytest.mark.parametrize(
    "filters",
    [
        '"recipients", ["spf"], ["dkim", "arc"], "dmarc", "score", "authentication-results"',
        '["dnsbl", "fcrdns", "geo"], "rate-limit", "helo", ["spf", "resolvable"], ["dkim", "arc"], "reputation", '
        '"recipients", "greylist", "tarpit", "dmarc", "score", "authentication-results", "headers"',
        # What is not there cannot stand in the wrong place.
        '"recipients", "greylist", "score", "authentication-results"',
    ],
)
def test_good_orders(warnings: Warnings, filters: str) -> None:
    assert warnings(filters, (LISTS if "dnsbl" in filters else "") + (GEO if "geo" in filters else "")) == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (
            '"recipients", "dmarc", "spf", "dkim"',
            ["[2]: dmarc does not stand behind spf, dkim, whose results it judges by"],
        ),
        (
            '"recipients", "spf", ["dkim", "dmarc"]',
            ["[3][2]: dmarc does not stand behind dkim, whose results it judges by"],
        ),
        (
            '"recipients", "dmarc"',
            [
                "[2]: dmarc has no spf before it in this pipeline: mail that only SPF proves fails",
                "[2]: dmarc has no dkim before it in this pipeline: forwarded mail, of which a signature proves the "
                "author, fails",
            ],
        ),
        (
            '"recipients", "score", "helo", "spf"',
            ["[2]: score does not stand behind helo, spf, whose findings it weighs"],
        ),
        (
            '"recipients", "authentication-results", "spf"',
            ["[2]: authentication-results does not stand behind spf, whose results it tells"],
        ),
        (
            '"recipients", "reputation", "dkim"',
            ["[2]: reputation does not stand behind dkim, by whose results it knows networks and domains"],
        ),
        (
            '"greylist", "spf", "recipients"',
            [
                "[1]: greylist does not stand behind spf, by which it knows who need not wait",
                "[1]: greylist stands before recipients: mail to addresses that do not exist is deferred before it is "
                "refused",
            ],
        ),
        (
            '"recipients", "tarpit", "fcrdns"',
            ["[2]: tarpit does not stand behind fcrdns, for whose findings it lets clients wait"],
        ),
    ],
)
def test_wrong_orders(warnings: Warnings, filters: str, expected: list[str]) -> None:
    assert warnings(filters) == behind(*expected)


def test_a_filter_is_known_by_its_kind(warnings: Warnings) -> None:
    sections = '[filters.sender]\nkind = "spf"\n[filters.early]\nkind = "spf"\n[filters.policy]\nkind = "dmarc"\n'
    assert (
        warnings('"recipients", "dkim", "policy", "sender"', sections)[0]
        == (behind("[3]: policy does not stand behind sender, whose results it judges by")[0])
    )
    assert [
        line
        for line in warnings('"recipients", "dkim", "early", "policy", "sender"', sections)
        if "stand behind" in line
    ] == []


def test_rate_limit_reads_geo_only_where_it_counts_by_it(warnings: Warnings) -> None:
    filters = '"recipients", "rate-limit", "geo"'
    assert warnings(filters, GEO) == []
    rules = '[filters.rate-limit]\nrules = [{ count = "messages", per = "asn+sender", limit = 9, window = "1m" }]\n'
    told = "[2]: rate-limit does not stand behind geo, by which it knows country and network"
    assert warnings(filters, GEO + rules) == behind(told)
    assert warnings('"recipients", "rate-limit"', rules) == [
        f"{LINE + 2}: filters.rate-limit.rules: counts by asn or country, but geo is not in its pipeline"
    ]


def test_sealers_without_arc(warnings: Warnings) -> None:
    sealers = '[filters.dmarc]\ntrusted_sealers = ["lists.example"]\n'
    assert warnings('"recipients", ["spf", "dkim", "arc"], "dmarc"', sealers) == []
    assert warnings('"recipients", ["spf", "dkim"], "dmarc"', sealers) == [
        f"{LINE + 2}: filters.dmarc.trusted_sealers: has no effect: no filter of kind arc is in its pipeline"
    ]


def test_aliases_that_nobody_names_and_a_catch_all_that_catches_nothing(warnings: Warnings) -> None:
    base = BASE.replace('"people"\n', '"any"\ncatch_all = "ann@example.org"\n', 1)
    names = '[aliases.names]\nkind = "map"\nentries = { "a@example.org" = "ann@example.org" }\n'
    found = warnings('"recipients"', names, base)
    assert '11: domains."example.org".catch_all: has no effect: with recipients = any, every address exists' in found
    assert f"{LINE + 2}: aliases.names: no entry of [domains] names these aliases" in found
    used = BASE.replace('"people"\n', '"people"\naliases = ["names"]\ncatch_all = "ann@example.org"\n', 1)
    assert warnings('"recipients"', names, used) == []


_LEAVING = """
[filters.list-unsubscribe]
senders = ["news@example.org"]
secrets = "unsubscribe.secrets"
link = "https://mail.example.org/unsubscribe/{token}"
[filters.verp]
senders = ["news@example.org"]
secrets = "verp.secrets"
"""


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (
            '"recipients", "feedback", "verp", ["dkim", "headers"]',
            [
                "[2]: feedback does not stand behind verp, dkim, by which it knows what reports to believe",
                "[2]: feedback stands before verp, dkim, headers, which may refuse a report that it has told of: put "
                "it last",
            ],
        ),
        ('"recipients", "verp", "dkim", "headers", "feedback"', []),
        (
            '"suppressions", "list-unsubscribe", "stream", "dkim-sign"',
            [
                "[1]: suppressions does not stand behind stream, by which it knows whose mail a recipient does not "
                "want",
                "[2]: list-unsubscribe does not stand behind stream, by which its links end the mail of a stream",
            ],
        ),
        ('"stream", "suppressions", "list-unsubscribe", "dkim-sign"', []),
    ],
)
def test_what_comes_back_and_streams(warnings: Warnings, filters: str, expected: list[str]) -> None:
    more = _LEAVING + (
        '[filters.dkim-sign.domains."example.org"]\nkeys = [{ selector = "s", path = "k.pem" }]\n'
        * ("dkim-sign" in filters)
    )
    assert [one for one in warnings(filters, more) if "pipelines.inbound.filters[" in one] == behind(*expected)


@pytest.mark.parametrize(
    ("filters", "link", "warns"),
    [
        ('"stream", "list-unsubscribe"', "https://mail.example.org/unsubscribe/{token}", True),
        ('"suppressions", "list-unsubscribe"', "https://mail.example.org/unsubscribe/{token}", False),
        # Another program serves it, and may send what it wants.
        ('"list-unsubscribe"', "https://crm.example.org/unsubscribe/{token}", False),
    ],
)
def test_links_that_end_nothing(warnings: Warnings, filters: str, link: str, warns: bool) -> None:
    http = '[http]\nendpoints = ["tcp:8025:interface=127.0.0.1"]\nurl = "https://mail.example.org"\n'
    more = _LEAVING.replace("https://mail.example.org/unsubscribe/{token}", link) + http
    text = "list-unsubscribe has no suppressions beside it in this pipeline: who leaves by its links gets mail all"
    assert any(text in one for one in warnings(filters, more)) is warns
