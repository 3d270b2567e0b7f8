"""`[reports]`, and which evaluations are reported by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mailgate.config.reference import _table
from mailgate.config.reports import ReportsSection
from mailgate.config.wording import field_types, reworded
from mailgate.reporting.gathering import wanted, wanted_domain
from tests.unit.test_dmarc_aggregates import evaluated


def section(**more: Any) -> ReportsSection:
    return ReportsSection.model_validate({"enabled": True, "from": "dmarc-reports@gate.test", **more})


def mistakes(**more: Any) -> list[tuple[tuple[str | int, ...], str]]:
    data = {"enabled": True, "from": "dmarc-reports@gate.test", **more}
    data = {key: value for key, value in data.items() if value is not None}
    with pytest.raises(ValidationError) as caught:
        ReportsSection.model_validate(data)
    return list(reworded(ReportsSection, data, caught.value))


def test_nothing_is_reported_unless_it_is_asked_for() -> None:
    assert not ReportsSection().enabled


def test_the_section_as_a_file_has_it() -> None:
    made = section(
        organization="Gate Ltd",
        dkim={"domain": "gate.test", "selector": "s1", "key": "keys/reports.pem"},
        only=["*.example.org"],
        never=["example.net"],
        max_size="5MiB",
        form="rfc7489",
    )
    assert (made.sender, made.max_size) == ("dmarc-reports@gate.test", 5 * 1024**2)
    assert made.dkim is not None
    assert made.dkim.key == Path("keys/reports.pem")


@pytest.mark.parametrize(
    ("more", "key", "text"),
    [
        ({"from": None}, (), "reports need a sender"),
        ({"from": "@gate.test"}, ("from",), "is a domain"),
        ({"from": "nobody"}, ("from",), "is no address"),
        ({"sender": "a@gate.test"}, ("sender",), "unknown key"),
        ({"dkim": {"domain": "other.test", "selector": "s", "key": "k"}}, (), "is not the domain of from"),
        ({"dkim": {"domain": "gate.test", "selector": "a b", "key": "k"}}, ("dkim", "selector"), ""),
        ({"only": ["*"]}, ("only", 0), "every domain"),
        ({"max_size": "1KiB"}, ("max_size",), "at least"),
        ({"organization": "x" * 300}, ("organization",), ""),
    ],
)
def test_a_mistake_is_told_at_its_key(more: dict[str, Any], key: tuple[str | int, ...], text: str) -> None:
    ((path, told),) = mistakes(**more)
    assert path == key
    assert text in told


def test_the_domain_that_signs_may_be_above_that_of_the_sender() -> None:
    section(**{"from": "a@mail.gate.test", "dkim": {"domain": "gate.test", "selector": "s1", "key": "k"}})


def test_the_reference_and_the_hints_have_the_key_as_the_file_does() -> None:
    assert "from" in field_types(ReportsSection)
    assert "sender" not in field_types(ReportsSection)
    assert "| `from` | address |" in _table(ReportsSection)


def test_domains_are_chosen() -> None:
    every = wanted_domain(section())
    assert every("example.org")
    some = wanted_domain(section(only=["example.org", "*.example.net"], never=["secret.example.net"]))
    assert [some(one) for one in ("example.org", "a.example.net", "secret.example.net", "example.net", "x.test")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("more", "is_reported"),
    [
        ({}, True),
        ({"result": "fail"}, True),
        # a report of another gateway, or another bounce that is what it says
        ({"envelope_from": ""}, False),
        # somebody who sends with the null reverse-path in the domain's name
        ({"envelope_from": "", "result": "fail"}, True),
        # a report of ours that came back to us
        ({"header_from": "gate.test", "domain": "gate.test"}, False),
        ({"header_from": "Gate.Test"}, False),
        ({"envelope_from": "DMARC-reports@gate.test", "result": "fail"}, False),
        # somebody who sends in our name
        ({"header_from": "gate.test", "result": "fail"}, True),
        ({"domain": "unwanted.test"}, False),
    ],
)
def test_nothing_is_reported_about_reports(more: dict[str, Any], is_reported: bool) -> None:
    assert wanted(section(never=["unwanted.test"]))(evaluated(**more)) is is_reported
