"""Links between our pages lead somewhere, and the files that they name exist."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for folder in ("docs", "etc", "examples", "bench") for page in (ROOT / folder).rglob("*.md")),
        ROOT / "tests" / "dialogues" / "README.md",
    ],
    key=lambda page: page.parts,
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_OURS = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|sql|toml|cfg|service|md)|[a-z_]+/)`")


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"^( *)```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What may stand behind the # of a link: headings as GitHub makes them anchors."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_there_are_pages_and_links() -> None:
    assert len(PAGES) > 10
    assert sum(len(_LINK.findall(prose(page))) for page in PAGES) > 30


def test_every_page_of_docs_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in _LINK.findall(prose(page))
        if not re.match(r"[a-z]+:|#", link)
    }
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "adr" and page.name != "README.md"]
    assert [str(page.relative_to(ROOT)) for page in pages if page not in linked] == []


@pytest.mark.parametrize(
    "page", [ROOT / "docs/architecture.md", *sorted((ROOT / "docs/adr").glob("*.md"))], ids=lambda page: page.name
)
def test_modules_that_are_named_exist(page: Path) -> None:
    names = _OURS.findall(prose(page))
    assert len(names) > (30 if page.name == "architecture.md" else -1)
    assert [name for name in names if not ((ROOT / "mailgate" / name).exists() or (ROOT / name).exists())] == []


def test_the_layers_are_those_that_are_checked() -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    layers = set(re.findall(r"\w+", settings["importlinter:contract:layers"]["layers"]))
    table = prose(ROOT / "docs/architecture.md").partition("| layer | holds |")[2].partition("\n\n")[0]
    shown = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert shown == layers
