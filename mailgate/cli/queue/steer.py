"""`mailgate queue suspend`, `resume` and `suspended`: no deliveries for a while."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import wraps
from pathlib import Path
from time import time
from typing import Any, get_args

import click
from pydantic import ValidationError

from mailgate.cli.common import config_option, duration, json_option, not_empty, places_of, printable
from mailgate.cli.desk import open_desk
from mailgate.cli.entries import suspension_text
from mailgate.cli.queue.selecting import usage_error
from mailgate.interfaces import Suspended
from mailgate.web.selection import Resume, Suspend

__all__ = ["COMMANDS"]

_KINDS: tuple[Suspended, ...] = get_args(Suspended)


def _naming(function: Callable[..., None]) -> Callable[..., None]:
    """What is suspended; the function gets `kind` and `name`, both "" where nothing was said."""

    @click.option("--route", callback=not_empty, help="A route.")
    @click.option("--domain", callback=not_empty, help="A recipients' domain.")
    @click.option("--site", callback=not_empty, metavar="HOST", help="A site, by any host of it.")
    @click.option("--sender", callback=not_empty, help="A sender's address, or a domain of senders.")
    @wraps(function)
    def named(**others: Any) -> None:
        given = {kind: name for kind in _KINDS if (name := others.pop(kind))}
        if len(given) > 1:
            raise click.UsageError("say one of --route, --domain, --site and --sender at a time")
        kind, name = next(iter(given.items()), ("", ""))
        function(kind=kind, name=name, **others)

    return named


def _lasting(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    seconds = duration(ctx, param, value)
    if value is not None and not seconds:
        raise click.BadParameter("is no time; without --for it lasts until resume")
    return seconds


@click.command()
@_naming
@click.option(
    "--for", "seconds", callback=_lasting, metavar="TIME", help="How long, like 2h; if not given: until resume."
)
@click.option("--reason", "--because", "reason", default="", metavar="TEXT", help="Why, for people.")
@json_option
@config_option
def suspend(kind: Suspended, name: str, seconds: float, reason: str, as_json: bool, config: Path) -> None:
    """Begin no more attempts for a route, a domain, a site or a sender. Mail is accepted and waits.

    What is under delivery is finished. It lasts through a restart of the gateway.
    """
    if not kind:
        raise click.UsageError("say what: --route, --domain, --site or --sender")
    try:
        order = Suspend(kind=kind, name=name, seconds=seconds, reason=reason)
    except ValidationError as error:
        raise usage_error(error) from None
    with closing(open_desk(places_of(config), config)) as desk:
        one = desk.suspend(order)
    click.echo(one.model_dump_json(indent=1, ensure_ascii=True) if as_json else suspension_text(one, time()))


@click.command()
@_naming
@click.option("--all", "everything", is_flag=True, help="All suspensions.")
@config_option
def resume(kind: Suspended, name: str, everything: bool, config: Path) -> None:
    """End a suspension: what waits because of it is due now.

    Exit code 1 where there is none of this name.
    """
    if bool(kind) == everything:
        raise click.UsageError("say what: --route, --domain, --site or --sender, or else --all")
    with closing(open_desk(places_of(config), config)) as desk:
        if everything:
            orders = [Resume(kind=one.kind, name=one.name) for one in desk.suspensions().suspensions]
        else:
            orders = [Resume(kind=kind, name=name)]
        resumed = [order for order in orders if desk.resume(order).was_suspended]
    for one in resumed:
        click.echo(f"resumed: {one.kind} {printable(one.name)}")
    if not resumed:
        click.echo("Nothing is suspended." if everything else f"No {kind} {printable(name)} is suspended.")
        raise click.exceptions.Exit(0 if everything else 1)


@click.command()
@json_option
@config_option
def suspended(as_json: bool, config: Path) -> None:
    """List the suspensions."""
    with closing(open_desk(places_of(config), config)) as desk:
        found = desk.suspensions().suspensions
    if as_json:
        click.echo(json.dumps([one.model_dump() for one in found], indent=1))
        return
    now = time()
    for one in found:
        click.echo(suspension_text(one, now))
    if not found:
        click.echo("Nothing is suspended.")


COMMANDS = (suspend, resume, suspended)
