"""The cases of DMARC and the tests of the public suffix list, whole, through the public functions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from mailgate.mailauth.dmarc.evaluate import evaluate_dmarc
from mailgate.mailauth.dmarc.organization import organizational_domain
from mailgate.mailauth.dmarc.record import Mode
from mailgate.mailauth.results import DkimResult, SpfResult
from mailgate.testing import MemoryResolver, wait_for

_FOLDER = Path(os.environ["MAILGATE_SUITES"]) / "dmarc"
_MODES: tuple[Mode, ...] = ("rfc9989", "rfc7489")
_SUFFIX = re.compile(r"checkPublicSuffix\('([^']+)', (?:'([^']+)'|null)\);")


def cases() -> Iterator[Any]:
    """Every case, for each of the standards that it is about."""
    with (_FOLDER / "dmarc_cases.yml").open("rb") as file:
        for case in yaml.safe_load(file)["cases"]:
            for mode in _MODES:
                if str(case.get("spec", "both")) in ("both", mode.removeprefix("rfc")):
                    yield pytest.param(case, mode, id=f"{case['name']}-{mode}")


def suffixes() -> Iterator[Any]:
    """Pairs of a domain and the one that was registered, None where it is a public suffix or no domain."""
    for line in (_FOLDER / "psl" / "test_psl.txt").read_text("utf-8").splitlines():
        if match := _SUFFIX.match(line):
            yield pytest.param(match[1], match[2], id=match[1])


@pytest.mark.parametrize(("case", "mode"), list(cases()))
def test_case(case: dict[str, Any], mode: Mode) -> None:
    zone: dict[str, Any] = {
        name: what if isinstance(what, str) else {"TXT": what} for name, what in (case["zone"] or {}).items()
    }
    zone |= {name: {"A": ["192.0.2.1"]} for name in case.get("exists", ())}
    resolver = MemoryResolver(zone)
    result, domain = case["spf"]
    found = wait_for(
        evaluate_dmarc(
            resolver,
            header_from=case["from"],
            spf=SpfResult(result, domain),
            dkim=[DkimResult(result, domain) for result, domain in case["dkim"]],
            mode=mode,
        )
    )
    expected = case["expect"]
    assert re.fullmatch(expected["result"], found.result), found
    assert found.policy == expected.get("policy", found.policy), found
    assert found.organization == expected.get("org", found.organization)
    assert expected.get("align") in (None, *found.aligned)
    assert len(resolver.asked) == expected.get("queries", len(resolver.asked))


@pytest.mark.parametrize(("domain", "registered"), list(suffixes()))
def test_public_suffix(domain: str, registered: str | None) -> None:
    assert organizational_domain(domain) == (registered or domain.lower())
