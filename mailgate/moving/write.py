"""A draft as text: TOML with the origin of each line behind it, and the list of what is left."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Sequence

from mailgate.moving.draft import Draft, Leftover, Section, Value, Weight

__all__ = ["leftovers", "toml"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 116
_MOST_ALIKE, _MOST_ITEMS = 30, 1000
#: The order of the document; sections of other names stand at the end.
_ORDER = ("gateway", "tls", "listeners", "auth", "domains", "recipients", "aliases", "senders", "routes", "routing")
_LAST = ("sources", "shaping", "tls_policies", "pipelines", "filters")
_TITLES: dict[Weight, str] = {
    "decide": "To be decided by you (marked DECIDE in the file)",
    "missing": "Without an equivalent",
    "differs": "There, and not quite the same",
    "covered": "Nothing to do: always so, done by other means, or about the inside of the other server",
}


def toml(draft: Draft, title: str) -> str:
    """The document, with the leftovers as comments at its end."""
    order = {name: number for number, name in enumerate((*_ORDER, *_LAST))}
    sections = sorted(draft.sections, key=lambda one: order.get(one.path[0], len(order)))
    lines = [*_comment(title), *_comment("Behind each line stands the setting that it comes from."), ""]
    # A table above others is only needed where it has something of its own to say.
    for section in sections:
        if section.values or section.comments or section.path[0] in ("gateway",):
            lines += [*_section(section), ""]
    for title_of, text in _groups(draft.leftovers):
        lines += [*_comment(f"{title_of}:"), *(f"# {line}".rstrip() for line in text), ""]
    return "\n".join(lines).rstrip() + "\n"


def leftovers(draft: Draft, *, with_covered: bool = True) -> Iterator[str]:
    """The list of what is left, for people; what needs nothing done may be left out."""
    for title, lines in _groups([one for one in draft.leftovers if with_covered or one.weight != "covered"]):
        yield f"{title}:"
        yield from lines
        yield ""


def _groups(found: Sequence[Leftover]) -> Iterator[tuple[str, list[str]]]:
    for weight, title in _TITLES.items():
        chosen = [one for one in found if one.weight == weight]
        if chosen:
            yield title, list(_items(chosen))


def _items(found: Sequence[Leftover]) -> Iterator[str]:
    """Of many that have the same reason the first are enough, and of very many reasons, too."""
    counts: dict[str, int] = {}
    told = 0
    for one in found:
        counts[one.why] = counts.get(one.why, 0) + 1
        if counts[one.why] <= _MOST_ALIKE and told < _MOST_ITEMS:
            told += 1
            yield from _item(one)
    alike = {why: count - _MOST_ALIKE for why, count in counts.items() if count > _MOST_ALIKE}
    for why, count in list(alike.items())[:_MOST_ALIKE]:
        yield f"- and {count} more: {_plain(why)}"
    rest = len(found) - told - sum(list(alike.values())[:_MOST_ALIKE])
    if rest > 0:
        yield f"- and {rest} more, for other reasons: look at the tables that are named above"


def _item(one: Leftover) -> Iterator[str]:
    text = f"{one.setting}: {one.why}" + (f". {one.advice}" if one.advice else "")
    yield from textwrap.wrap(
        _plain(text), _WIDTH - 2, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )


def _section(section: Section) -> Iterator[str]:
    for text in section.comments:
        yield from _comment(text)
    name = ".".join(_key(part) for part in section.path)
    yield f"[[{name}]]" if section.is_entry else f"[{name}]"
    for key, value in section.values.items():
        origin = _plain(section.origins.get(key, ""))
        line = f"{_key(key)} = {_value(value)}"
        if len(line) > _WIDTH and isinstance(value, Sequence) and not isinstance(value, str):
            yield from _comment(f"from {origin}") if origin else ()
            yield f"{_key(key)} = ["
            yield from (f"    {_value(one)}," for one in value)
            yield "]"
        elif origin and len(line) + len(origin) > _WIDTH:
            yield from _comment(f"from {origin}")
            yield line
        else:
            yield f"{line}  # {origin}" if origin else line


def _comment(text: str) -> list[str]:
    return textwrap.wrap(_plain(text), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _plain(text: str) -> str:
    """Text of the files that were read, which may hold anything, for a comment and for a terminal."""
    return "".join(one if one.isprintable() else " " for one in text)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return f"[{', '.join(_value(one) for one in value)}]"


def _string(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # names of files may be no text
    # JSON's escapes are among those of TOML, but for the characters that JSON leaves alone and TOML does not.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
