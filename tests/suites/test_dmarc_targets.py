"""The report targets of the DMARC suite: who may be sent reports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types of its own

from mailgate.mailauth.dmarc.destinations import Destinations, find_destinations
from mailgate.testing import MemoryResolver


def _cases() -> list[Any]:
    suite = Path(os.environ["MAILGATE_SUITES"]) / "dmarc" / "dmarc_cases.yml"
    cases = yaml.safe_load(suite.read_text())["reports"]
    assert isinstance(cases, list)
    return cases


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case["name"])
def test_report_target(case: dict[str, Any]) -> None:
    domain, rua = case["domain"], f"mailto:{case['rua']}"
    # The record that names the target; the walk to its organization finds it, as in the suite's story.
    zone: dict[str, Any] = {f"_dmarc.{domain}": {"TXT": [f"v=DMARC1; p=none; rua={rua}"]}}
    for name, records in case["zone"].items():
        zone[name.replace("*", domain)] = records if isinstance(records, str) else {"TXT": records}
    with pytest.raises(StopIteration) as end:
        find_destinations(MemoryResolver(zone), domain, [rua]).send(None)
    found = end.value.value
    assert isinstance(found, Destinations)
    sent = "true" if [str(one.address) for one in found.accepted] == [case["rua"]] else "false"
    assert sent in str(case["send"]).lower().split("|")
