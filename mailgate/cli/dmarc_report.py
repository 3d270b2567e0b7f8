"""`mailgate dmarc-report`: what the DMARC aggregate reports say that we were sent."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click

from mailgate.cli.common import FailedError, json_option, printable
from mailgate.mailauth.dmarc.aggregate import AggregateReport, AggregateRow
from mailgate.mailauth.dmarc.report_read import MAX_FILE, ReportError, read_reports

__all__ = ["command"]

#: Reporters whose names stand in a summary.
_NAMED = 5


class _Kind(NamedTuple):
    """Messages that stand in one line of the table."""

    source: str
    dmarc: str
    spf: str
    dkim: str
    disposition: str
    header_from: str


@click.command("dmarc-report")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True), metavar="FILE...")
@json_option
def command(files: Sequence[Path], as_json: bool) -> None:
    """Who sent mail in our domains' name, as others report it.

    FILE is a DMARC aggregate report as it came: XML, packed by gzip or zip or not, or the whole mail; - reads the
    standard input. Several are added up, and a report that comes twice counts once.
    """
    reports: dict[tuple[str, str, str, int], AggregateReport] = {}
    is_whole = True
    for path in files:
        try:
            found = read_reports(_octets(path))
        except (OSError, ReportError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            click.echo(f"{printable(str(path))}: {printable(reason)}", err=True)
            is_whole = False
            continue
        for report in found:
            key = (report.published.domain, report.organization, report.report_id, report.begin)
            if key in reports:
                click.echo(f"{printable(str(path))}: is a report that was read already, and counts once", err=True)
            reports.setdefault(key, report)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in reports.values()], indent=2))
    else:
        click.echo("\n\n".join("\n".join(map(printable, _tell(one))) for one in _by_domain(reports.values())))
    if not is_whole:
        raise FailedError("not every file could be read")


def _octets(path: Path) -> bytes:
    """No more than is needed to see that it is too much."""
    if str(path) == "-":
        return sys.stdin.buffer.read(MAX_FILE + 1)
    with path.open("rb") as file:
        return file.read(MAX_FILE + 1)


def _by_domain(reports: Iterable[AggregateReport]) -> list[list[AggregateReport]]:
    domains: dict[str, list[AggregateReport]] = {}
    for report in reports:
        domains.setdefault(report.published.domain, []).append(report)
    return [domains[domain] for domain in sorted(domains)]


def _tell(reports: Sequence[AggregateReport]) -> Iterator[str]:
    """The reports on one domain, in lines."""
    newest = max(reports, key=lambda report: report.end)
    published = newest.published
    number = f"{len(reports)} reports" if len(reports) > 1 else "1 report"
    yield f"{published.domain}: {number}, {_dates(reports)}"
    yield f"  reported by  {_named(Counter(one.organization or one.email for one in reports))}"
    yield f"  policy       {_policy(newest)}"
    kinds: Counter[_Kind] = Counter()
    for report in reports:
        for row in report.rows:
            kinds[_kind(row)] += row.count
    total = kinds.total()
    passed = sum(count for kind, count in kinds.items() if kind.dmarc == "pass")
    done: Counter[str] = Counter()
    for kind, count in kinds.items():
        done[kind.disposition] += count
    share = f" ({100 * passed / total:.1f} %)" if total else ""
    yield f"  messages     {total}, of which {passed} passed DMARC{share}"
    yield f"  done         {', '.join(f'{what} {count}' for what, count in done.most_common())}"
    for report in reports:
        for error in report.errors:
            yield f"  note         {report.organization}: {error}"
    yield ""
    yield from _table(kinds)


def _table(kinds: Counter[_Kind]) -> Iterator[str]:
    head = ("messages", "source", "DMARC", "SPF", "DKIM", "done", "From")
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        head,
        *(
            (str(count), kind.source, kind.dmarc, kind.spf, kind.dkim, kind.disposition, kind.header_from)
            for kind, count in ordered
        ),
    ]
    widths = [max(len(printable(row[place])) for row in rows) for place in range(len(head))]
    for number, *others in rows:
        cells = [printable(cell).ljust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"  {number.rjust(widths[0])}", *cells]).rstrip()


def _kind(row: AggregateRow) -> _Kind:
    reasons = sorted({one.kind for one in row.overrides if one.kind})
    done = row.disposition if row.disposition not in ("", "pass") else "none"
    return _Kind(
        source=row.source,
        dmarc="pass" if row.passes else "fail",
        spf=_checked(row.spf == "pass", [(one.result, one.domain) for one in row.spf_results]),
        dkim=_checked(row.dkim == "pass", [(one.result, one.domain) for one in row.dkim_results]),
        disposition=f"{done} ({', '.join(reasons)})" if reasons else done,
        header_from=row.header_from,
    )


def _checked(is_aligned: bool, results: Sequence[tuple[str, str]]) -> str:
    """What was found, the best first: "pass", or "pass for other.example", which DMARC does not count."""
    if is_aligned:
        return "pass"
    if not results:
        return "none"
    result, domain = next((one for one in results if one[0] == "pass"), results[0])
    return f"{result or 'none'} for {domain}" if domain else result or "none"


def _dates(reports: Sequence[AggregateReport]) -> str:
    first = _date(min(one.begin for one in reports))
    # The end of a day is as often written as the beginning of the next.
    last = _date(max(max(one.end - 1, one.begin) for one in reports))
    return f"{first} (UTC)" if first == last else f"{first} to {last} (UTC)"


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"


def _named(names: Counter[str]) -> str:
    told = [name if count == 1 else f"{name} ({count})" for name, count in names.most_common(_NAMED)]
    others = len(names) - len(told)
    return ", ".join(told) + (f" and {others} others" if others else "")


def _policy(report: AggregateReport) -> str:
    published = report.published
    tags = [
        ("p", published.policy),
        ("sp", published.subdomain_policy),
        ("np", published.missing_policy),
        ("adkim", published.dkim_alignment),
        ("aspf", published.spf_alignment),
        ("t", "y" if published.is_testing else ""),
        ("pct", "" if published.percent == 100 else str(published.percent)),
    ]
    return " ".join(f"{tag}={value}" for tag, value in tags if value)
