"""`mailgate accounts`: those that the filter compromised suspects."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from time import time

import click

from mailgate.cli.common import FailedError, config_option, json_option, not_empty, places_of, printable, span, when
from mailgate.cli.desk import open_desk
from mailgate.web.account_models import AccountRelease

__all__ = ["command"]


@click.group("accounts")
def command() -> None:
    """Look at accounts that send as if somebody else had their password, and let them send again.

    They are suspected where a pipeline has the filter `compromised`.
    """


@command.command("list")
@json_option
@config_option
def list_(as_json: bool, config: Path) -> None:
    """List suspected accounts, with what speaks against each.

    Exit code 1 where there are none.
    """
    with closing(open_desk(places_of(config), config)) as desk:
        found = desk.accounts()
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    now = time()
    for one in () if as_json else found.accounts:
        since = f"since {when(one.since)}, " if one.since else ""
        click.echo(f"{printable(one.name)}: {one.action}, {since}for another {span(max(0.0, one.until - now))}")
        for signal in one.signals:
            click.echo(f"      {printable(signal)}")
    if not found.is_all:
        click.echo("There are more of them: the log has each as account_suspected.", err=True)
    if not found.accounts:
        raise FailedError("no account is suspected")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", callback=not_empty)
@config_option
def release(names: tuple[str, ...], config: Path) -> None:
    """Suspect these accounts no more: what has led to that is forgotten.

    See first that the password is a new one. Mail that was kept back stays where it is (see `mailgate quarantine`).
    Exit code 1 where one of them is not suspected.
    """
    missed = []
    with closing(open_desk(places_of(config), config)) as desk:
        for name in names:
            if desk.release_account(AccountRelease(name=name)).was_suspected:
                click.echo(f"{printable(name)} is not suspected any more")
            else:
                missed.append(printable(name))
    if missed:
        raise FailedError("\n".join(f"{one} is not suspected" for one in missed))
