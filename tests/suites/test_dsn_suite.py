"""Bounces and complaints of many systems, as others have collected them: what reports say of themselves is found."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from mailgate.mime.reports import read_report
from tests.suites.conftest import SUITES

FOLDER = Path(SUITES) / "dsn"
#: Delivery reports in the suite that we read, and those with the first status that the suite expects: it corrects many.
LEAST_READ, LEAST_SAME = 160, 135


def test_reports() -> None:
    expected = json.loads((FOLDER / "sisimai_expected.json").read_text())
    kinds: Counter[str] = Counter()
    same = 0
    for name, wanted in expected.items():
        octets = re.sub(rb"\r?\n", b"\r\n", (FOLDER / "maildir" / name).read_bytes())
        report = read_report(octets)
        kinds[report.kind] += 1
        if report.kind == "delivery" and report.recipients:
            same += report.recipients[0].get("status").partition(" ")[0] == wanted[0][0]
        if name.startswith("arf-") and report.kind:
            assert report.about.get("feedback-type"), name
    assert kinds["delivery"] >= LEAST_READ
    assert kinds["feedback"] >= 6
    assert same >= LEAST_SAME
