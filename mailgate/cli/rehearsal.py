"""`mailgate rehearsal`: what this gateway would have done, and where the other one decided otherwise."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import time

import click

from mailgate.cli.common import FailedError, config_option, duration, json_option, places_of
from mailgate.cli.replay_text import told
from mailgate.rehearsal.compare import Comparison
from mailgate.rehearsal.store import lost_accounts, read_accounts

__all__ = ["command"]


class _NothingError(FailedError):
    """There is no report, so that no difference is no good news."""

    exit_code = 2


@click.group("rehearsal")
def command() -> None:
    """What was found of copies of mail that another gateway handles: listeners with `rehearse = true` take them."""


@command.command()
@click.option("--since", callback=duration, metavar="AGE", help="Copies that came since then only, like 24h.")
@click.option("--show", default=100, show_default=True, type=click.IntRange(0), help="Differences that are told.")
@click.option(
    "--missed",
    is_flag=True,
    help="Mail alone that the other gateway took and this one would not; the exit code is about that as well.",
)
@json_option
@config_option
def report(since: float, show: int, missed: bool, as_json: bool, config: Path) -> None:
    """Tell for how many recipients this gateway would have decided as the other one did, and for whom not, and why:
    first the mail that the other one took and this one would not, which somebody would miss.

    Exit code 0 where nothing differs, 1 where anything does, 2 where there is nothing to tell of.
    """
    path = places_of(config).rehearsal
    comparison = Comparison(most=show, only="not taken any more" if missed else None)
    if not path.exists():
        raise _NothingError("no copy has come: no listener has rehearse = true, or nobody sends it any")
    begin = time() - since if since else 0.0
    try:
        for account in read_accounts(path, begin):
            comparison.add(account)
        comparison.lost.update(lost_accounts(path, begin))
    except (OSError, sqlite3.Error) as error:
        raise _NothingError(f"{path} cannot be read: {error}") from None
    if not comparison.mails:
        lost = f", and of {comparison.lost.total()} that came nothing is known" if comparison.lost else ""
        raise _NothingError(f"no copy has come since then{lost}")
    click.echo(told(comparison, ("the other gateway", "this one"), as_json=as_json))
    if comparison.differing:
        raise click.exceptions.Exit(1)
