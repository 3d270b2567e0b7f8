"""`mailgate rehearsal`: what this gateway would have done, and where the other one decided otherwise."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import time

import click

from mailgate.cli.common import FailedError, config_option, duration, json_option, places_of
from mailgate.cli.replay_text import told
from mailgate.rehearsal.compare import Comparison
from mailgate.rehearsal.store import read_accounts

__all__ = ["command"]


@click.group("rehearsal")
def command() -> None:
    """What was found of copies of mail that another gateway handles: listeners with `rehearse = true` take them."""


@command.command()
@click.option("--since", callback=duration, metavar="AGE", help="Copies that came since then only, like 24h.")
@click.option("--show", default=100, show_default=True, type=click.IntRange(0), help="Differences that are told.")
@json_option
@config_option
def report(since: float, show: int, as_json: bool, config: Path) -> None:
    """Tell for how many recipients this gateway would have decided as the other one did, and for whom not, and why.

    Exit code 1 where anything differs.
    """
    path = places_of(config).rehearsal
    comparison = Comparison(most=show)
    if not path.exists():
        raise FailedError("no copy has come: no listener has rehearse = true, or nobody sends it any")
    try:
        for account in read_accounts(path, time() - since if since else 0.0):
            comparison.add(account)
    except (OSError, sqlite3.Error) as error:
        raise FailedError(f"{path} cannot be read: {error}") from None
    if not comparison.mails:
        raise FailedError("no copy has come since then")
    click.echo(told(comparison, ("the other gateway", "this one"), as_json=as_json))
    if comparison.differing:
        raise click.exceptions.Exit(1)
