"""Every `mailgate` command that a page or an example shows exists, with the options that stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mailgate.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"),  # which names commands of before
        *(page for folder in ("docs", "etc") for page in (ROOT / folder).rglob("*.md")),
        ROOT / "etc" / "mailgate.toml",
    ],
    key=lambda page: page.parts,
)
#: In the text between backticks, or as a line of a shell.
_INLINE = re.compile(r"`(?:[\w./-]*/)?mailgate ([a-z][^`\n]*)`")
_SHELL = re.compile(r"^ *[#$] (?:[\w./-]*/)?mailgate ([a-z].*)$", re.MULTILINE)
#: What ends the command: a redirection, the next command, an explanation behind several spaces, an ellipsis.
_END = re.compile(r" +(?:>|\||&&|<) .*|  +#.*|   .*| ?\.\.\.$")


def commands(page: Path) -> list[str]:
    """The commands of a page, without the word mailgate."""
    text = page.read_text()
    found = _INLINE.findall(text) + (_SHELL.findall(text) if page.suffix == ".md" else [])
    return sorted({_END.sub("", one) for one in found} - {""})


def mistake(words: list[str]) -> str:
    """What is wrong with a command, "" if nothing."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no command {words[0]}"
        command, words = found, words[1:]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    wrong = [one for one in words if one.startswith("--") and one.partition("=")[0] not in options]
    return f"there is no {', '.join(wrong)}" if wrong else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    wrong = {one: mistake(shlex.split(one, comments=True)) for one in commands(page)}
    assert {one: text for one, text in wrong.items() if text} == {}


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 150


@pytest.mark.parametrize(
    ("command", "text"),
    [("quue list", "quue"), ("queue lst", "lst"), ("queue list --sendr ann@example.org", "--sendr")],
)
def test_what_does_not_exist_is_found(command: str, text: str) -> None:
    assert text in mistake(shlex.split(command))
