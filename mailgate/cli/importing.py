"""`mailgate import`: a configuration made from that of another mail server."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from mailgate.cli.check import findings
from mailgate.cli.common import FailedError, printable
from mailgate.moving.draft import Draft, Side
from mailgate.moving.files import ReadingError
from mailgate.moving.haraka.whole import read_haraka
from mailgate.moving.postfix.whole import read_postfix
from mailgate.moving.write import leftovers, toml

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., None])


@click.group("import")
def command() -> None:
    """Make a configuration from that of another mail server.

    Each line of it says which setting it comes from. What has no equivalent is listed at its end and on the standard
    error, with the reason and what to do; DECIDE marks what a person has to look at first. Nothing of the other server
    is changed.
    """


def _with_options(function: F) -> F:
    output = click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        help="A new folder for mailgate.toml and the files beside it; without it the document alone is printed.",
    )
    everything = click.option("--all", "shows_all", is_flag=True, help="List also what needs nothing done.")
    folder = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
    return folder(output(everything(function)))


@command.command("postfix")
@_with_options
def _postfix(folder: Path, output: Path | None, *, shows_all: bool) -> None:
    """Read main.cf, master.cf and the tables of a Postfix; DIR is mostly /etc/postfix.

    Sources of tables that are named below /etc/postfix are looked for in DIR, if it is a copy. Who exists among the
    users of this machine is asked of this machine: run it where Postfix runs.
    """
    try:
        draft = read_postfix(folder, _users, _dump)
    except ReadingError as error:
        raise FailedError(str(error)) from None
    _finish(draft, f"Made by mailgate import postfix {folder}", output, shows_all=shows_all)


@command.command("haraka")
@_with_options
def _haraka(folder: Path, output: Path | None, *, shows_all: bool) -> None:
    """Read the folder of a Haraka (the one that `haraka -i` has made) or its folder config."""
    try:
        draft = read_haraka(folder)
    except ReadingError as error:
        raise FailedError(str(error)) from None
    _finish(draft, f"Made by mailgate import haraka {folder}", output, shows_all=shows_all)


def _finish(draft: Draft, title: str, output: Path | None, *, shows_all: bool) -> None:
    text = toml(draft, title)
    for line in leftovers(draft, with_covered=shows_all):
        click.echo(printable(line), err=True)
    if output is None:
        click.echo(text, nl=False)
        if draft.files:
            names = ", ".join(sorted(draft.files))
            click.echo(f"It needs files beside it, which --output DIR writes: {names}", err=True)
        return
    _write(output, text, draft)
    errors, warnings = findings(output / "mailgate.toml")
    for line in (*errors, *(f"{one} (warning)" for one in warnings)):
        click.echo(printable(line), err=True)
    if errors:
        raise FailedError(f"{output / 'mailgate.toml'} is written, and cannot be used as it is: see above")
    click.echo(f"{output / 'mailgate.toml'}: ok")


def _write(output: Path, text: str, draft: Draft) -> None:
    """Write everything into a folder that is new or empty: nothing of anybody's is written over."""
    try:
        output.mkdir(mode=0o755, parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise FailedError(f"{output} is not empty: name a new folder")
        for name, side in draft.files.items():
            path = output / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _write_side(path, side)
        _write_side(output / "mailgate.toml", Side(tuple(text.removesuffix("\n").split("\n"))))
    except OSError as error:
        raise FailedError(f"{error.filename or output}: {error.strerror}") from None


def _write_side(path: Path, side: Side) -> None:
    if side.link_to:
        path.symlink_to(side.link_to)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if side.is_secret else 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in side.lines)


def _users() -> Sequence[str]:
    """The users of this machine, those of programs too: Postfix has mail for all of them."""
    return [one.pw_name for one in pwd.getpwall()]


def _dump(name: str) -> str | None:
    """The lines of a table whose source is not there, by Postfix's own postmap; None where there is none."""
    try:
        done = subprocess.run(  # noqa: S603  a program of the system, and a name without a shell
            ["postmap", "-s", name],  # noqa: S607  where the system has it
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
