"""Text and addresses of web pages out of HTML: one pass over it, in linear time, with no tree of it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Page", "read_html"]

_TAG = re.compile(r"<(?:(!--)|([/!?]?)([A-Za-z][^\s/>]*+)|[!?/])")
_ATTRIBUTE = re.compile(r"""[\s/]*+([^\s=>/]++)\s*+(?:=\s*+(?:"([^"]*+)"?|'([^']*+)'?|([^\s>]*+)))?""")
_STYLE_URL = re.compile(r"url\(\s*+['\"]?([^'\")\s]{1,2000})", re.IGNORECASE)
_REFRESH = re.compile(r"url\s*+=\s*+['\"]?([^'\"\s]{1,2000})", re.IGNORECASE)
_LINKING = frozenset(
    {"href", "src", "action", "background", "formaction", "poster", "data", "cite", "srcset", "xlink:href"}
)
_SKIPPED = ("script", "style")
#: Tags that do not divide words.
_INLINE = frozenset(
    {"a", "b", "i", "u", "em", "strong", "span", "font", "small", "big", "sub", "sup", "wbr", "tt", "code"}
)
#: Addresses and attributes of one page that are taken.
_MOST_LINKS, _MOST_ATTRIBUTES = 10_000, 200_000


@dataclass(slots=True)
class Page:
    """What a page shows as text, and the addresses in it, as they stand but for entities; `base` is its base."""

    text: str = ""
    links: list[str] = field(default_factory=list)
    base: str = ""
    is_cut: bool = False


def read_html(source: str) -> Page:
    """A page, whatever it holds."""
    page = Page()
    pieces: list[str] = []
    at, attributes = 0, 0
    add = page.links.append

    def link(url: str) -> None:
        if len(page.links) < _MOST_LINKS:
            add(html.unescape(url.strip()))
        else:
            page.is_cut = True

    while (tag := _TAG.search(source, at)) is not None:
        pieces.append(source[at : tag.start()])
        at = tag.end()
        if tag[1]:  # a comment, whose end may be missing
            end = source.find("-->", at)
            at = len(source) if end < 0 else end + 3
            continue
        if not tag[3]:
            end = source.find(">", at)
            at = len(source) if end < 0 else end + 1
            continue
        name = tag[3].lower()
        if name not in _INLINE:
            pieces.append(" ")
        values: dict[str, str] = {}
        while at < len(source) and source[at] != ">" and attributes < _MOST_ATTRIBUTES:
            match = _ATTRIBUTE.match(source, at)
            if match is None:
                at += 1
                continue
            attributes += 1
            at = match.end()
            value = next((one for one in match.group(2, 3, 4) if one is not None), "")
            values.setdefault(match[1].lower(), value)
        if attributes >= _MOST_ATTRIBUTES:
            page.is_cut = True
            break
        at += 1
        _take(name, values, link, page)
        if name in _SKIPPED and not tag[2]:
            at = _skipped(source, at, name, link)
    else:
        pieces.append(source[at:])
    page.text = html.unescape("".join(pieces))
    return page


def _take(name: str, values: dict[str, str], link: Callable[[str], None], page: Page) -> None:
    for key, value in values.items():
        if key == "srcset":
            for one in value.split(",")[:20]:
                link(one.strip().partition(" ")[0])
        elif key in _LINKING:
            link(value)
        elif key == "style":
            for match in _STYLE_URL.finditer(html.unescape(value)):
                link(match[1])
    if name == "base":
        page.base = page.base or html.unescape(values.get("href", "")).strip()
    elif name == "meta" and (found := _REFRESH.search(values.get("content", "")[:3000])):
        link(found[1])


def _skipped(source: str, at: int, name: str, link: Callable[[str], None]) -> int:
    """Behind what no one sees of a style or a script; its addresses count."""
    end = re.compile(f"</{name}", re.IGNORECASE).search(source, at)
    stop = len(source) if end is None else end.start()
    if name == "style":
        for match in _STYLE_URL.finditer(source, at, stop):
            link(match[1])
    return stop
