"""What Postfix has refused, out of its log, in the forms that the log has."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import pytest

from mailgate.rehearsal.postfix_log import refusals
from mailgate.rehearsal.recorded import UnreadableError

NOW = datetime(2026, 11, 26, 12, 0, 0).astimezone().timestamp()
HOUR = 3600.0

SMTPD = (
    "Nov 26 11:00:00 mx postfix/smtpd[123]: NOQUEUE: reject: RCPT from far.test[192.0.2.1]: 554 5.7.1 Service"
    " unavailable; Client host [192.0.2.1] blocked using bl.test; https://bl.test/?192.0.2.1; from=<ann@far.test>"
    " to=<bob@box.test> proto=ESMTP helo=<mx.far.test>"
)
POSTSCREEN = (
    "2026-11-26T11:00:00.123456+00:00 mx postfix/postscreen[9]: NOQUEUE: reject: RCPT from [2001:db8::1]:4711: 550"
    " 5.7.1 Service unavailable; client [2001:db8::1] blocked using bl.test; from=<>, to=<bob@box.test>, proto=ESMTP,"
    " helo=<x>"
)


def read(folder: Path, *lines: str) -> list[tuple[object, ...]]:
    path = folder / "mail.log"
    path.write_text("".join(f"{line}\n" for line in lines))
    found: list[tuple[object, ...]] = []
    for place in refusals(path, NOW):
        mail = place.read()
        assert mail.content is None
        found.append((str(mail.address), mail.name, mail.helo, str(mail.sender), str(mail.recipients[0]), mail.then[0]))
    return found


def test_lines_of_smtpd_and_of_postscreen(tmp_path: Path) -> None:
    assert read(tmp_path, SMTPD, POSTSCREEN, "Nov 26 11:00:00 mx postfix/qmgr[1]: 4Q: removed") == [
        ("192.0.2.1", "far.test", "mx.far.test", "ann@far.test", "bob@box.test", "refused"),
        ("2001:db8::1", None, "x", "", "bob@box.test", "refused"),
    ]
    greylisted = SMTPD.replace("554 5.7.1", "450 4.7.1").replace("far.test[", "unknown[")
    assert read(tmp_path, greylisted, SMTPD.replace(" helo=<mx.far.test>", "")) == [
        ("192.0.2.1", "", "mx.far.test", "ann@far.test", "bob@box.test", "deferred"),
        ("192.0.2.1", "far.test", "", "ann@far.test", "bob@box.test", "refused"),
    ]


def test_when_and_where(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    later = SMTPD.replace("Nov 26", "Dec  1")
    path.write_text(f"x\n{SMTPD}\n{later}\n{SMTPD.replace('Nov 26', 'Foo 26')}\n")
    places = list(refusals(path, NOW))
    assert [place.name for place in places] == [f"{path}:{number}" for number in (2, 3, 4)]
    # A day that is still to come was last year's.
    assert [place.received for place in places] == [NOW - HOUR, NOW - HOUR - 360 * 86400.0, 0.0]
    with gzip.open(tmp_path / "mail.log.1.gz", "wt") as packed:
        packed.write(f"{POSTSCREEN}\n")
    (place,) = refusals(tmp_path / "mail.log.1.gz", NOW)
    assert place.received == datetime.fromisoformat("2026-11-26T11:00:00.123456+00:00").timestamp()


def test_odd_lines_have_bounds(tmp_path: Path) -> None:
    assert read(tmp_path, SMTPD.replace("Service", "x" * 100_000), SMTPD.replace("192.0.2.1]: 554", "x]: 554")) == []
    for wrong in ("<bob@box.test>", "[192.0.2.1]: 554"):
        path = tmp_path / "mail.log"
        path.write_text(SMTPD.replace(wrong, wrong.replace("bob@", "b b@").replace("192.0.2.1", "999.1.1.1")) + "\n")
        (place,) = refusals(path, NOW)
        with pytest.raises(UnreadableError):
            place.read()
