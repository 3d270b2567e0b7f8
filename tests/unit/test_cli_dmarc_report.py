"""`mailgate dmarc-report`: what an administrator is told of the reports that came."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailgate.cli.dmarc_report import command
from mailgate.mailauth.dmarc.aggregate import AggregateReport, DkimOutcome, SpfOutcome
from mailgate.mailauth.dmarc.report_xml import compress, report_xml
from tests.unit.test_dmarc_report_read import OLD, XML
from tests.unit.test_dmarc_report_xml import REPORT, ROW

PASSING = replace(ROW, source="192.0.2.10", count=1200, spf="pass", envelope_from="example.org")
FORWARDED = replace(
    ROW,
    source="198.51.100.7",
    count=40,
    disposition="none",
    dkim="fail",
    dkim_results=(DkimOutcome("list.test", "s", "pass"),),
    spf_results=(SpfOutcome("list.test", "mfrom", "pass"),),
    overrides=(*REPORT.rows[1].overrides[1:],),
)
FORGED = replace(
    ROW,
    source="2001:db8::66",
    count=7,
    disposition="reject",
    dkim="fail",
    dkim_results=(),
    spf_results=(SpfOutcome("example.org", "mfrom", "fail"),),
)


def saved(tmp_path: Path, name: str, report: AggregateReport) -> str:
    path = tmp_path / name
    path.write_bytes(compress(report_xml(report)))
    return str(path)


def run(*arguments: str, given: bytes = b"") -> Result:
    result = CliRunner().invoke(command, arguments, input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_table_says_who_sent_what_passed_and_what_was_done(tmp_path: Path) -> None:
    one = replace(REPORT, organization="one.test", rows=(FORGED, PASSING, FORWARDED), errors=())
    other = replace(
        REPORT,
        organization="other.test",
        begin=REPORT.begin + 86400,
        end=REPORT.end + 86400,
        rows=(replace(PASSING, count=300),),
        errors=("12 more",),
    )
    result = run(saved(tmp_path, "a.xml.gz", one), saved(tmp_path, "b.xml.gz", other))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "example.org: 2 reports, 2025-06-16 to 2025-06-17 (UTC)\n"
        "  reported by  one.test, other.test\n"
        "  policy       p=reject sp=quarantine np=none adkim=r aspf=s t=y\n"
        "  messages     1547, of which 1500 passed DMARC (97.0 %)\n"
        "  done         none 1500, none (mailing_list) 40, reject 7\n"
        "  note         other.test: 12 more\n"
        "\n"
        "  messages  source        DMARC  SPF                   DKIM                done                 From\n"
        "      1500  192.0.2.10    pass   pass                  pass                none                 example.org\n"
        "        40  198.51.100.7  fail   pass for list.test    pass for list.test  none (mailing_list)  example.org\n"
        "         7  2001:db8::66  fail   fail for example.org  none                reject               example.org\n"
    )


def test_domains_are_told_apart(tmp_path: Path) -> None:
    other = replace(REPORT, published=replace(REPORT.published, domain="a.test"))
    result = run(saved(tmp_path, "a", REPORT), saved(tmp_path, "b", other))
    heads = [line for line in result.stdout.splitlines() if line and not line.startswith(" ")]
    assert heads == ["a.test: 1 report, 2025-06-16 (UTC)", "example.org: 1 report, 2025-06-16 (UTC)"]


def test_the_same_report_counts_once(tmp_path: Path) -> None:
    path = saved(tmp_path, "a", REPORT)
    result = run(path, path)
    assert "1 report," in result.stdout
    assert result.stderr == f"{path}: is a report that was read already, and counts once\n"
    assert result.exit_code == 0


def test_the_standard_input_is_read() -> None:
    result = run("-", given=gzip.compress(OLD))
    assert result.exit_code == 0
    assert "example.org: 1 report, 2025-06-16 (UTC)" in result.stdout
    assert "p=none pct=50" in result.stdout


def test_files_that_cannot_be_read_are_told_in_a_line_and_the_others_are_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad\x1b.xml"
    bad.write_bytes(b"<!DOCTYPE a><feedback/>")
    result = run(str(bad), str(tmp_path / "missing"), str(tmp_path), saved(tmp_path, "good", REPORT))
    assert result.exit_code == 1
    assert "example.org: 1 report" in result.stdout
    lines = result.stderr.splitlines()
    assert lines[0] == f"{tmp_path}/bad\\x1b.xml: has a document type, which no report has: entities are refused"
    assert lines[1:] == [
        f"{tmp_path}/missing: No such file or directory",
        f"{tmp_path}: Is a directory",
        "mailgate: not every file could be read",
    ]


def test_a_file_without_end_is_not_read_whole() -> None:
    result = run("/dev/zero")
    assert result.exit_code == 1
    assert "is larger than 32 MiB" in result.stderr


def test_text_of_others_is_spelt_out(tmp_path: Path) -> None:
    evil = replace(REPORT, organization="a|b\u202ec", rows=(replace(ROW, source="\u202e1", header_from="x|y"),))
    path = tmp_path / "evil.xml"
    path.write_bytes(report_xml(evil).replace(b"a|b", b"a\nb").replace(b"x|y", b"x\ty"))
    result = run(str(path))
    assert "\u202e" not in result.stdout
    assert "\t" not in result.stdout
    assert "a\\nb\\u202ec" in result.stdout


def test_numbers_and_dates_that_make_no_sense_are_shown(tmp_path: Path) -> None:
    odd = replace(REPORT, begin=10**17, end=10**18 - 1, rows=(replace(ROW, count=0),))
    result = run(saved(tmp_path, "a", odd))
    assert result.exit_code == 0
    assert "second 100000000000000000" in result.stdout
    assert "messages     0, of which 0 passed DMARC\n" in result.stdout


def test_json_holds_all_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_bytes(XML)
    result = run(str(path), "--json")
    assert result.exit_code == 0
    (report,) = json.loads(result.stdout)
    assert report["published"]["domain"] == "example.org"
    assert (report["rows"][0]["source"], report["rows"][0]["count"]) == ("192.0.2.1", 3)
    assert report["rows"][0]["dkim_results"][1]["detail"] == "body hash"


@pytest.mark.parametrize("arguments", [[], ["--odd"]])
def test_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
