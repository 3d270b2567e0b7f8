"""Options of the commands that choose entries of the queue."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from pydantic import ValidationError

from mailgate.cli.common import duration, not_empty, span
from mailgate.web.selection import Selection

__all__ = ["conditions", "selecting", "usage_error", "within"]

_CONDITIONS = [name for name in Selection.model_fields if name not in ("ids", "everything")]


def selecting(function: Callable[..., None]) -> Callable[..., None]:
    """Ids and conditions; the function gets them as a Selection."""

    @click.argument("ids", nargs=-1, callback=not_empty, metavar="[ID]...")
    @click.option("--id", "more_ids", multiple=True, callback=not_empty, metavar="ID", help="A queue id.")
    @conditions
    @wraps(function)
    def chosen(selection: Selection, ids: tuple[str, ...], more_ids: tuple[str, ...], **others: Any) -> None:
        if ids or more_ids:
            selection = _selection(selection.model_dump(exclude_defaults=True) | {"ids": (*ids, *more_ids)})
        everything = others.pop("everything", False)
        if everything and not selection.is_empty:
            raise click.UsageError("--all stands for every entry: give it without ids and conditions")
        function(selection=selection.model_copy(update={"everything": everything}), **others)

    return chosen


def conditions(function: Callable[..., None]) -> Callable[..., None]:
    """Conditions; the function gets them as a Selection."""

    @click.option("--sender", callback=not_empty, help='The sender\'s address; "<>" for the null sender.')
    @click.option("--recipient", callback=not_empty, help="The recipient's address.")
    @click.option("--domain", callback=not_empty, help="The recipient's domain.")
    @click.option("--site", callback=not_empty, metavar="HOST", help="A host of the site of the last attempt.")
    @click.option("--route", callback=not_empty, help="The route that it takes.")
    @click.option("--source", callback=not_empty, help="The source of the last attempt.")
    @click.option(
        "--reason",
        callback=not_empty,
        metavar="WORDS",
        help="The category of the last failure, or a part of the last reply or of why it waits.",
    )
    @click.option("--state", type=click.Choice(["queued", "leased", "held", "quarantined"]), help="How it stands.")
    @click.option("--older-than", callback=duration, metavar="AGE", help="Arrived longer ago than this, like 2h.")
    @wraps(function)
    def chosen(**others: Any) -> None:
        given = {name: value for name in _CONDITIONS if (value := others.pop(name))}
        function(selection=_selection(given), **others)

    return chosen


def within(selection: Selection) -> str:
    """The conditions, for people, in the words of the command."""
    given = selection.model_dump(exclude_defaults=True)
    if selection.older_than:
        given["older_than"] = span(selection.older_than).replace(" ", "")
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in given.items())


def _selection(given: dict[str, Any]) -> Selection:
    try:
        return Selection(**given)
    except ValidationError as error:
        raise usage_error(error) from None


def usage_error(error: ValidationError) -> click.UsageError:
    """What is wrong with the options."""
    lines = (f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
    return click.UsageError("; ".join(line.removeprefix(": ") for line in lines))
