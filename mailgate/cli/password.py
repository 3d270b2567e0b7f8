"""`mailgate password`: a line for the file of `[auth.NAME]` of kind file."""

from __future__ import annotations

import sys
from unicodedata import category

import click

from mailgate.auth.file import check_name
from mailgate.auth.secrets import make_forms
from mailgate.cli.common import FailedError

__all__ = ["command"]

#: The longest password, in octets: a line of an exchange must hold it.
_LONGEST = 1024


@click.command("password")
@click.argument("user")
@click.option("--scram/--no-scram", default=True, help="Whether the line serves SCRAM, too; it does by default.")
def command(user: str, scram: bool) -> None:
    """Print the line for USER in the file of an [auth.NAME] of kind file.

    The password is asked for on the terminal, twice, or else read from the standard input, one line. The line holds
    hashes of it: of Argon2, and for SCRAM-SHA-256.
    """
    try:
        check_name(user)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="USER") from None
    password = _ask() if sys.stdin.isatty() else _read()
    if not password:
        raise FailedError("the password is empty")
    if any(category(one) in ("Cc", "Cs") for one in password):
        raise FailedError("the password has control characters in it, or is no UTF-8")
    if len(password.encode()) > _LONGEST:
        raise FailedError(f"the password is longer than {_LONGEST} octets")
    try:
        forms = make_forms(password, scram=scram)
    except ValueError as error:
        raise FailedError(f"the password cannot be used: {error}") from None
    click.echo(f"{user}:{forms}")


def _ask() -> str:
    password = click.prompt(
        "Password", hide_input=True, confirmation_prompt="Once more", err=True, default="", show_default=False
    )
    return str(password)


def _read() -> str:
    octets = sys.stdin.buffer.readline(_LONGEST + 3)
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise FailedError("the password is no UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
