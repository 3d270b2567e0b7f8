"""The suite of RFC 7208, whole, through the public function and a resolver in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from mailgate.mailauth.spf import check_spf
from mailgate.testing import MemoryResolver, wait_for

_SUITE = Path(os.environ["MAILGATE_SUITES"]) / "spf" / "rfc7208-tests.yml"
_TYPES = ("A", "AAAA", "MX", "PTR", "TXT")
#: The name of the host that the suite's explanations expect with %{r}.
_RECEIVER = "mx.example.com"


def scenarios() -> list[dict[str, Any]]:
    """The documents of the suite that hold tests."""
    with _SUITE.open("rb") as file:
        return [one for one in yaml.safe_load_all(file) if one and "tests" in one]


def zone_of(scenario: dict[str, Any]) -> dict[str, Any]:
    """A scenario's zone as MemoryResolver has it.

    Records called SPF stand for TXT where a name has no TXT of its own (NONE: it has none at all); TIMEOUT is what
    becomes of every question that the other lines do not answer.
    """
    zone: dict[str, Any] = {}
    for name, lines in (scenario["zonedata"] or {}).items():
        rows = [(rdtype, value) for line in lines if line != "TIMEOUT" for rdtype, value in line.items()]
        sets: dict[str, Any] = {}
        for rdtype, value in rows:
            if value == "TIMEOUT":
                sets[rdtype] = "TIMEOUT"
            elif value != "NONE":
                sets.setdefault(rdtype, []).append(value)
        if not any(rdtype == "TXT" for rdtype, _ in rows) and "SPF" in sets:
            sets["TXT"] = sets["SPF"]
        if "TIMEOUT" in lines:
            sets = dict.fromkeys(_TYPES, "TIMEOUT") | sets
        zone[str(name)] = sets
    return zone


def cases() -> Iterator[Any]:
    for scenario in scenarios():
        zone = zone_of(scenario)
        for name, case in scenario["tests"].items():
            yield pytest.param(zone, case, id=f"{scenario['description']}: {name}")


@pytest.mark.parametrize(("zone", "case"), list(cases()))
def test_rfc_7208(zone: dict[str, Any], case: dict[str, Any]) -> None:
    found = wait_for(
        check_spf(
            MemoryResolver(zone),
            ip=case["host"],
            helo=case.get("helo") or "",
            mail_from=case["mailfrom"],
            receiver=_RECEIVER,
        )
    )
    wanted = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert found.result in wanted, found
    assert "cannot be evaluated" not in found.reason
    if found.result == "fail" and "explanation" in case:
        assert (found.explanation or "DEFAULT") == case["explanation"]


def test_the_suite_is_whole() -> None:
    assert sum(len(scenario["tests"]) for scenario in scenarios()) == 203
