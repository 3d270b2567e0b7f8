"""`mailgate token`: a secret for a program that uses the HTTP API, and what the configuration keeps of it."""

from __future__ import annotations

import datetime
from typing import get_args

import click
from pydantic import TypeAdapter, ValidationError

from mailgate.cli.common import FailedError
from mailgate.config.http import Scope
from mailgate.config.values import Name
from mailgate.web.tokens import hash_of, make_secret

__all__ = ["command"]


@click.command("token")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(get_args(Scope)),
    help="What it may be used for; more than once for several.",
)
@click.option(
    "--expires", type=click.DateTime(["%Y-%m-%d"]), help="The day (UTC) from which on it is not taken any more."
)
def command(name: str, scopes: tuple[str, ...], expires: datetime.datetime | None) -> None:
    """Make a token with this NAME for the HTTP API.

    The secret goes to the standard error and is shown this once: it is kept nowhere. The lines for the configuration,
    with its hash, go to the standard output.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise FailedError(f"NAME: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    secret = make_secret()
    click.echo(f"The secret, which is shown this once:\n{secret}", err=True)
    key = name if "." not in name else f'"{name}"'
    click.echo(f"[http.tokens.{key}]")
    click.echo(f'hash = "{hash_of(secret)}"')
    listed = ", ".join(f'"{one}"' for one in dict.fromkeys(scopes))
    click.echo(f"scopes = [{listed}]")
    if expires is not None:
        click.echo(f"expires = {expires.date().isoformat()}")
