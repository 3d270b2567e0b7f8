"""What Postfix has refused, out of its log, in the forms that the log has."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import pytest

from mailgate.address import Address
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


def line(what: str, *, program: str = "smtpd", ident: str = "NOQUEUE") -> str:
    return f"Nov 26 11:00:00 mx postfix/{program}[123]: {ident}: {what}"


FORMS = [
    (line("reject: CONNECT from far.test[192.0.2.1]: 554 5.7.1 <far.test[192.0.2.1]>: Client host rejected: no;"
          " proto=SMTP"), ("refused", "", "to@box.test", "")),
    (line("reject: HELO from far.test[192.0.2.1]: 504 5.5.2 <x>: Helo command rejected: need fully-qualified"
          " hostname; proto=SMTP helo=<x>"), ("refused", "", "to@box.test", "x")),
    (line("reject: EHLO from far.test[192.0.2.1]: 450 4.7.1 <x.test>: Helo command rejected: Host not found;"
          " proto=ESMTP helo=<x.test>"), ("deferred", "", "to@box.test", "x.test")),
    (line("reject: MAIL from far.test[192.0.2.1]: 450 4.1.8 <a@x.test>: Sender address rejected; from=<a@x.test>"
          " proto=ESMTP helo=<x.test>"), ("deferred", "a@x.test", "to@box.test", "x.test")),
    (line("reject: DATA from far.test[192.0.2.1]: 550 5.5.3 <DATA>: Data command rejected: Multi-recipient bounce;"
          " from=<> proto=ESMTP helo=<x.test>", ident="4Q1"), ("refused", "", "to@box.test", "x.test")),
    (line("reject: END-OF-MESSAGE from far.test[192.0.2.1]: 554 5.7.1 <END-OF-MESSAGE>: End-of-data rejected: no;"
          " from=<a@x.test> to=<b@box.test> proto=ESMTP helo=<x.test>", ident="4Q1"),
     ("refused", "a@x.test", "b@box.test", "x.test")),
    (line("milter-reject: RCPT from far.test[192.0.2.1]: 451 4.7.1 Try again later; from=<a@x.test> to=<b@box.test>"
          " proto=ESMTP helo=<x.test>"), ("deferred", "a@x.test", "b@box.test", "x.test")),
    (line("milter-reject: END-OF-MESSAGE from far.test[192.0.2.1]: 5.7.1 Spam message rejected; from=<a@x.test>"
          " to=<b@box.test> proto=ESMTP helo=<x.test>", program="cleanup", ident="4Q1"),
     ("refused", "a@x.test", "b@box.test", "x.test")),
    (line("milter-reject: END-OF-MESSAGE from far.test[192.0.2.1]: 4.7.1 Try again, 550 5.7.1 says nothing;"
          " from=<a@x.test> to=<b@box.test> proto=ESMTP helo=<x.test>", program="cleanup", ident="4Q1"),
     ("deferred", "a@x.test", "b@box.test", "x.test")),
    (line("milter-hold: END-OF-MESSAGE from far.test[192.0.2.1]: milter triggers HOLD action; from=<a@x.test>"
          " to=<b@box.test> proto=ESMTP helo=<x.test>", program="cleanup", ident="4Q1"),
     ("quarantined", "a@x.test", "b@box.test", "x.test")),
    (line("milter-discard: END-OF-MESSAGE from far.test[192.0.2.1]: milter triggers DISCARD action; from=<a@x.test>"
          " to=<b@box.test> proto=ESMTP helo=<x.test>", program="cleanup", ident="4Q1"),
     ("discarded", "a@x.test", "b@box.test", "x.test")),
    (line("hold: RCPT from far.test[192.0.2.1]: <b@box.test>: Recipient address triggers HOLD action;"
          " from=<a@x.test> to=<b@box.test> proto=ESMTP helo=<x.test>"),
     ("quarantined", "a@x.test", "b@box.test", "x.test")),
    (line("reject: header Subject: hi from eve[1.2.3.4]: 450 from far.test[192.0.2.1]; from=<a@x.test>"
          " to=<b@box.test> proto=ESMTP helo=<x.test>: 5.7.1 No thanks", program="cleanup", ident="4Q1"),
     ("refused", "a@x.test", "b@box.test", "x.test")),
    (line("reject: body buy now from far.test[192.0.2.1]; from=<a@x.test> to=<b@box.test> proto=ESMTP helo=<x.test>:"
          " 4.7.1 Later", program="cleanup", ident="4Q1"), ("deferred", "a@x.test", "b@box.test", "x.test")),
    (line("hold: mime-header Content-Type: x from far.test[192.0.2.1]; from=<a@x.test> to=<b@box.test> proto=ESMTP"
          " helo=<x.test>", program="cleanup", ident="4Q1"), ("quarantined", "a@x.test", "b@box.test", "x.test")),
    (line("reject: RCPT from [192.0.2.1]:4711: 550 5.7.1 Service unavailable; client [192.0.2.1] blocked using"
          " bl.test; from=<a@x.test>, to=<b@box.test>, proto=ESMTP, helo=<x.test>", program="postscreen"),
     ("refused", "a@x.test", "b@box.test", "x.test")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FORMS, ids=[one[0].split("]: ")[1][:45] for one in FORMS])
def test_each_stage_at_which_postfix_says_no(tmp_path: Path, text: str, expected: tuple[str, str, str, str]) -> None:
    path = tmp_path / "mail.log"
    path.write_text(f"{text}\n")
    (place,) = refusals(path, NOW, (Address.parse("to@box.test"),))
    mail = place.read()
    assert (mail.then, str(mail.sender), str(mail.recipients[0]), mail.helo) == ((expected[0],), *expected[1:])
    assert str(mail.address) == "192.0.2.1"
    told = " ".join(mail.assumed)
    assert ("no recipient" in told) == (expected[2] == "to@box.test")
    assert ("no sender" in told) == ("from=<" not in text)
    assert ("no greeting" in told) == (not expected[3])
    # Without --to nobody can be asked about it.
    (place,) = refusals(path, NOW)
    if "no recipient" in told:
        with pytest.raises(UnreadableError, match="--to says for whom"):
            place.read()


@pytest.mark.parametrize(
    "text",
    [
        line("reject: CONNECT from [192.0.2.1]:1: all server ports busy", program="postscreen"),
        line("reject: CONNECT from [192.0.2.1]:1: too many connections", program="postscreen"),
        line("warn: RCPT from far.test[192.0.2.1]: 450 4.7.1 x; from=<a@x.test> to=<b@box.test> proto=SMTP helo=<x>"),
        line("reject: VRFY from far.test[192.0.2.1]: 550 5.1.1 <x>; to=<x> proto=SMTP"),
        line("reject_warning: RCPT from far.test[192.0.2.1]: 550 5.1.1 <x>; from=<> to=<x@y.test> proto=SMTP"),
        "Nov 26 11:00:00 mx other[1]: NOQUEUE: reject: RCPT from far.test[192.0.2.1]: 550 5.1.1 x; from=<> to=<b@c.d>",
    ],
)
def test_lines_that_say_nothing_about_mail(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mail.log"
    path.write_text(f"{text}\n")
    assert list(refusals(path, NOW)) == []


def test_long_hostile_lines_are_read_all_the_same(tmp_path: Path) -> None:
    """What grows with the square of a line would take minutes here."""
    path = tmp_path / "mail.log"
    lines = []
    for part in (" from a[1.2.3.4]", "; from=<a@b> to=<c@d>", ": 5.7.1 ", " helo=<x", "[", "; from=<"):
        for stage in ("header", "RCPT"):
            lines += [line(f"reject: {stage} {part * (8000 // len(part))}", program="cleanup")[:8000]] * 50
    path.write_text("\n".join([*lines, SMTPD]) + "\n")
    assert list(refusals(path, NOW))[-1].name == f"{path}:{len(lines) + 1}"
