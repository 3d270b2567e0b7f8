"""Where in HTML something can be put in: a small scanner of tags, in time linear in the text."""

from __future__ import annotations

import re

__all__ = ["bottom_of", "top_of"]

_OPENING = re.compile(rb"<(?:(!--)|(/?)([A-Za-z][^\s/>]*+)|[!?])")
#: The rest of a tag: a ">" in a quoted value does not end it.
_REST = re.compile(rb"""(?:[^>"']++|"[^"]*+"|'[^']*+')*+>""")
#: What stands in these elements is text, whatever it looks like, up to their own end tag.
_RAW = {
    name: re.compile(rb"</" + name + rb"(?=[\s/>])", re.IGNORECASE)
    for name in (b"script", b"style", b"textarea", b"title", b"xmp", b"iframe", b"noembed", b"noframes", b"template")
}
#: Tags with an odd quotation mark that are looked at to the end of the text. Then the scan is given up.
_MAX_BROKEN = 8


def top_of(html: bytes) -> int:
    """The offset at which the visible text begins: behind <body>, or, without it, behind the head."""
    tags = _tags(html)
    for name in (b"body", b"/head", b"html"):
        if name in tags:
            return tags[name][0][1]
    return 0


def bottom_of(html: bytes) -> int:
    """The offset at which it ends: before the last </body> or </html>, or at the end of all."""
    tags = _tags(html)
    for name in (b"/body", b"/html"):
        if name in tags:
            return tags[name][-1][0]
    return len(html)


def _tags(html: bytes) -> dict[bytes, list[tuple[int, int]]]:
    """Start and end of the first and the last of those tags that make the frame of a page, by name."""
    found: dict[bytes, list[tuple[int, int]]] = {}
    at = broken = 0
    while (opening := _OPENING.search(html, at)) is not None:
        if opening[1]:
            at = html.find(b"-->", opening.end()) + 3
            if at < 3:
                break  # a comment to the end
            continue
        rest = _REST.match(html, opening.end())
        if rest is not None:
            end = rest.end()
        else:
            broken += 1
            end = html.find(b">", opening.end()) + 1
            if not end or broken > _MAX_BROKEN:
                break
        name = (opening[3] or b"").lower()
        if name in (b"body", b"head", b"html"):
            found.setdefault(opening[2] + name, [(opening.start(), end)])[1:] = [(opening.start(), end)]
        elif name in _RAW and not opening[2]:
            closing = _RAW[name].search(html, end)
            if closing is None:
                break
            end = closing.start()
        at = end
    return found
