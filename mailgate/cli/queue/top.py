"""`mailgate queue top` and `sites`: what the queue consists of, and what the relay does about it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, get_args

import click

from mailgate.cli.common import (
    FailedError,
    config_option,
    json_option,
    places_of,
    printable,
    span,
)
from mailgate.cli.desk import Desk, open_desk
from mailgate.cli.entries import suspension_text
from mailgate.cli.queue.outcomes import NONE, OUTCOMES, UNKNOWN, cells
from mailgate.cli.queue.selecting import conditions, within
from mailgate.interfaces import Grouping
from mailgate.observe.rates import OTHERS, RateKey
from mailgate.web.models import Groups, SiteNow, Status, SuspensionNow
from mailgate.web.rate_models import MOST_RATES, RateQuery, RatesNow
from mailgate.web.selection import Selection
from mailgate.web.waits import names

__all__ = ["COMMANDS"]


class _Page(NamedTuple):
    """What `top` shows."""

    groups: Groups
    sites: Sequence[SiteNow]
    suspensions: Sequence[SuspensionNow]
    status: Status | None
    rates: RatesNow | None
    limit: int


#: Sites that `top` shows below the groups.
_SITES = 10
#: Suspensions that it shows above them.
_SUSPENSIONS = 5
#: Seconds by which a worker must have begun after the others to be told of.
_YOUNGER = 60.0
#: What entries have in common of which there is nothing to count by; none of it is a name.
_NO_KEY: Mapping[Grouping, str] = {
    "site": "(not tried yet)",
    "source": "(none, or not tried yet)",
    "category": "(no failure yet)",
    "sender": "<>",
    "stream": "(none)",
}
_WIDEST = 48


@click.command()
@conditions
@click.option(
    "--by",
    default="domain",
    show_default=True,
    type=click.Choice(get_args(Grouping)),
    help="What entries are counted by; site, source and category are those of the last attempt, and stream is what"
    " the sender, or the filter `stream`, has called the mail.",
)
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="The largest groups at most."
)
@click.option("--watch", "every", type=click.FloatRange(0.1), metavar="SECONDS", help="Show it again and again.")
@json_option
@config_option
def top(selection: Selection, by: Grouping, limit: int, every: float | None, as_json: bool, config: Path) -> None:
    """Count the entries by what they have in common, and show what became of such mail in the last hour, and what the
    sites do now.

    A per cent of outcomes is one of all attempts, a per cent of complaints one of deliveries. `bounced` has what came
    back after its delivery, too. Conditions on what only the queue knows (a sender, a state) leave the outcomes out.
    """
    if every and as_json:
        raise click.UsageError("--watch is for people, and --json for programs")
    places = places_of(config)

    def read() -> _Page:
        with closing(open_desk(places, config)) as desk:
            suspensions = desk.suspensions().suspensions
            return _Page(
                desk.summary(by, limit, selection),
                desk.sites(selection).sites,
                suspensions,
                desk.status(),
                _rates(desk, by, selection),
                limit,
            )

    if every:
        with suppress(KeyboardInterrupt):
            _watch(lambda: "\n".join(_page(read(), selection)), every)
        return
    page = read()
    if as_json:
        told = {
            **page.groups.model_dump(),
            "sites": [one.model_dump() for one in page.sites],
            "suspensions": [one.model_dump() for one in page.suspensions],
            "status": page.status and page.status.model_dump(),
            "rates": page.rates and page.rates.model_dump(),
        }
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo("\n".join(_page(page, selection)))


@click.command()
@json_option
@config_option
def sites(as_json: bool, config: Path) -> None:
    """List every site that the relay has anything for now, the busiest first.

    Exit code 1 where the gateway does not run.
    """
    with closing(open_desk(places_of(config), config)) as desk:
        found, status = desk.sites().sites, desk.status()
    if as_json:
        click.echo(json.dumps([one.model_dump() for one in found], indent=1))
    elif found:
        click.echo("\n".join(_site_table(found)))
    elif status is not None:
        click.echo("The relay has nothing for any site now.")
    if status is None:
        raise FailedError("the gateway does not run")


COMMANDS = (top, sites)


def _watch(page: Callable[[], str], every: float) -> None:
    """Show it until the user has seen enough; a daemon that restarts meanwhile does not end that."""
    while True:
        try:
            text = page()
        except FailedError as error:
            text = f"mailgate: {printable(error.message)}"
        click.clear()
        click.echo(text)
        time.sleep(every)


def _page(page: _Page, selection: Selection) -> Iterator[str]:
    now = time.time()
    status, groups = page.status, page.groups
    if status is None:
        yield "The gateway does not run."
    else:
        spool = "" if status.spool == "ok" else f"; THE SPOOL CANNOT BE WRITTEN: {printable(status.spool)}"
        runs = (
            f"has been stopping for {span(status.stopping_for)}"
            if status.stopping
            else f"runs, for {span(status.uptime)} now"
        )
        yield f"The gateway {runs}{spool}"
    for one in page.suspensions[:_SUSPENSIONS]:
        yield suspension_text(one, now)
    if len(page.suspensions) > _SUSPENSIONS:
        yield f"and {len(page.suspensions) - _SUSPENSIONS} more: mailgate queue suspended"
    yield ""
    chosen = within(selection)
    if not groups.groups:
        yield f"No entry fits{printable(chosen)}." if chosen else "Nothing is in the queue."
    rows = _rows(page, now)
    if rows:
        wide = page.rates is not None
        head = groups.by, "recipients", "due", "held", "oldest", *(OUTCOMES if wide else ()), ""
        yield from _table([head, *rows], texts=(0, len(head) - 1))
    if page.rates is not None and rows:
        missing = f"; not all of them: {printable(page.rates.missing)}" if page.rates.missing else ""
        younger = ""
        if page.rates.all_since - page.rates.since > _YOUNGER:
            younger = f" (of a worker that began anew, those of the last {span(now - page.rates.all_since)})"
        yield f"Outcomes are those of the last {span(now - page.rates.since)}{younger}{missing}."
    if page.sites:
        yield ""
        yield from _site_table(page.sites[:_SITES])
        if len(page.sites) > _SITES:
            yield f"and {len(page.sites) - _SITES} more: mailgate queue sites"


def _rates(desk: Desk, by: Grouping, selection: Selection) -> RatesNow | None:
    """The outcomes of what is chosen; None where they are not counted by that."""
    keys: Sequence[RateKey] = get_args(RateKey)
    given = selection.model_dump(exclude_defaults=True)
    if by not in keys or not given.keys() <= set(keys):
        return None
    return desk.rates(RateQuery.model_validate({**given, "by": by, "limit": MOST_RATES}))


def _rows(page: _Page, now: float) -> list[tuple[str, ...]]:
    """What is in the queue, and below it other mail, the busiest first."""
    by, groups = page.groups.by, page.groups.groups
    of_none = _NO_KEY.get(by, "-")
    rates = {one.key: one for one in page.rates.rates} if page.rates is not None else None
    rare = UNKNOWN if rates and OTHERS in rates else NONE
    rows = [
        (
            _name(one.key) if one.key else of_none,
            str(one.recipients),
            str(one.due),
            str(one.held),
            span(now - one.oldest),
            *(() if rates is None else (cells(rates.pop(one.key)) if one.key in rates else rare)),
            "suspended" if _is_suspended(by, one.key, page.suspensions) else "",
        )
        for one in groups
    ]
    for key, rate in list((rates or {}).items())[: max(0, page.limit - len(rows))]:
        suspended = "suspended" if _is_suspended(by, key, page.suspensions) else ""
        rows.append((_name(key) if key else of_none, "-", "-", "-", "-", *cells(rate), suspended))
    return rows


def _is_suspended(by: Grouping, key: str, suspensions: Sequence[SuspensionNow]) -> bool:
    """Whether a group is suspended as a whole."""
    return any(one.kind == by and names(one, key) for one in suspensions)


def _site_table(sites: Sequence[SiteNow]) -> Iterator[str]:
    table = [("site", "route", "source", "waiting", "active", "connections", "state")]
    table += [
        (
            _name(one.site),
            _name(one.route),
            _name(one.source) if one.source else "-",
            f"{one.waiting}{'+' if one.backlog else ''}",
            str(one.active),
            f"{one.connections} of {one.most}",
            printable(one.state),
        )
        for one in sites
    ]
    yield from _table(table, texts=(0, 1, 2, 6))


def _name(key: str) -> str:
    name = printable(key)
    return name if len(name) <= _WIDEST else name[: _WIDEST - 3] + "..."


def _table(rows: Sequence[tuple[str, ...]], texts: Sequence[int] = (0,)) -> Iterator[str]:
    """Rows in columns; those of `texts` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if number in texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
