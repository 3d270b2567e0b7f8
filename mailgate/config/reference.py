"""The reference of all options, as Markdown, from the classes that check them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailgate.config.schema import Config, FilterCommon, FilterSection
from mailgate.config.units import Form
from mailgate.config.wording import unwrapped
from mailgate.interfaces import IFilterFactory

__all__ = ["reference"]

_WORDS: dict[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    IPv4Address: "IPv4 address",
    IPv6Address: "IPv6 address",
    IPv4Network: "IPv4 network",
    IPv6Network: "IPv6 network",
}
_LISTS = (list, tuple, set, frozenset)
_HEAD = """# Options

Every option of the configuration file, with its type, its default and its meaning. This page is generated from the
classes that check the file. Durations are written like `"30s"`, `"5m"`, `"1h30m"` or `"5d"`, sizes like `"64KiB"` or
`"25MiB"`, always with their unit and in quotes. Relative paths are relative to the folder of the file.
"""


def reference(factories: Sequence[IFilterFactory]) -> str:
    """The whole page: each section in the order of the classes, then the options of each filter, by name."""
    parts = [_HEAD]
    for name, field in Config.model_fields.items():
        # A section that several share (`retry` of the routes) stands once, behind the last of them.
        headings = list(_headings(name, field))
        parts += [_section(*entry) for index, entry in enumerate(headings) if entry not in headings[index + 1 :]]
    parts.append(
        "## Filters\n\nEach filter takes these options beside those above (`kind`, `mode`, `deadline`, `on_failure`).\n"
    )
    for factory in sorted(factories, key=lambda factory: factory.name):
        body = _table(factory.options) or "No options of its own.\n"
        text = [f"### {factory.name}\n", f"{_sentence(factory.summary)}\n", *_about(factory.options)]
        parts.append("\n".join([*text, body]))
        parts += [_section(heading, model, 4) for heading, model in _nested(f"filters.{factory.name}", factory.options)]
    return "\n".join(parts)


def _headings(name: str, field: FieldInfo) -> Iterator[tuple[str, type[BaseModel]]]:
    """The headings of a top-level key, and the class under each."""
    annotation: Any = field.annotation
    if get_origin(annotation) is list:
        name, annotation = f"[{name}]", get_args(annotation)[0]
    elif get_origin(annotation) is dict:
        name, annotation = f"{name}.NAME", get_args(annotation)[1]
    for model in unwrapped(annotation):
        if _is_section(model):
            yield f"[{name}]{_variant(model)}", model
            yield from _nested(name, model)


def _variant(model: type[BaseModel]) -> str:
    """Which of several sections it is, by the key that tells."""
    for key in ("transport", "kind"):
        values = get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
        if len(values) == 1:
            return f", {key} {values[0]}"
    return ""


def _nested(name: str, model: type) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections inside a section."""
    for key, field in _fields(model).items():
        for heading, inner in _inner(f"{name}.{key}", field.annotation):
            yield f"[{heading}]", inner
            yield from _nested(heading.strip("[]"), inner)


def _inner(name: str, annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    for kind in unwrapped(annotation):
        if _is_section(kind):
            yield name, kind
        elif get_origin(kind) in _LISTS:
            yield from ((f"[{inner}]", model) for inner, model in _inner(name, get_args(kind)[0]))
        elif get_origin(kind) is dict:
            yield from _inner(f"{name}.NAME", get_args(kind)[1])


def _about(model: type) -> list[str]:
    """What the class of a filter's options says of them, where it says something."""
    text = inspect.cleandoc(vars(model).get("__doc__") or "")
    lead, _, rest = text.partition(": ")
    text = rest if lead.startswith("`") else text
    return [f"{_sentence(text)}\n"] if text else []


def _section(heading: str, model: type[BaseModel], level: int = 2) -> str:
    text = inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0]
    lead, colon, rest = text.partition(": ")
    text = rest if colon and lead.startswith(("`", "What every")) else text
    if model is FilterSection:
        text = inspect.cleandoc(FilterCommon.__doc__ or "")
    return "\n".join([f"{'#' * level} `{heading}`\n", f"{_sentence(text)}\n", _table(model) or "No options.\n"])


def _table(model: type) -> str:
    rows = [
        f"| `{field.alias or key}` | {_cell(_words(field.annotation, field.metadata))} | {_cell(_default(field))} "
        f"| {_cell(field.description or '')} |"
        for key, field in _fields(model).items()
        if not any(_is_section(inner) for inner in unwrapped(field.annotation))
    ]
    return "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]) if rows else ""


def _words(annotation: Any, metadata: Sequence[object] = ()) -> str:
    """A type as an administrator would say it."""
    form = next((entry for entry in reversed(metadata) if isinstance(entry, Form)), None)
    if form is not None:
        return form.words
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return _either(f"`{_toml(value)}`" for value in arguments)
    if origin in _LISTS:
        return f"list: {_words(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"table: {_words(arguments[0])} = {_words(arguments[1])}"
    members = [member for member in arguments if member is not NoneType]
    if origin is not None and members:
        return _either(dict.fromkeys(_words(member, metadata) for member in members))
    if _is_section(annotation):
        return "table, see below"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _either(f"`{_toml(member.value)}`" for member in annotation)
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation))) + _bounds(metadata)


def _either(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _bounds(metadata: Sequence[object]) -> str:
    plain = [inner for entry in metadata for inner in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    words = [
        f"{word} {bound}"
        for entry in plain
        for name, word in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
        if (bound := getattr(entry, name, None)) is not None
    ]
    return f", {', '.join(words)}" if words else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{_written(value, field.annotation, field.metadata)}`"


def _written(value: object, annotation: Any, metadata: Sequence[object]) -> str:
    """A default as it would stand in the file."""
    if get_origin(annotation) is Annotated:
        return _written(value, get_args(annotation)[0], [*get_args(annotation)[1:], *metadata])
    if isinstance(value, BaseModel):
        given = [(key, getattr(value, key)) for key in type(value).model_fields if key in value.model_fields_set]
        fields = type(value).model_fields
        pairs = (f"{key} = {_written(entry, fields[key].annotation, fields[key].metadata)}" for key, entry in given)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple | set | frozenset):
        inner = get_args(annotation)[0] if get_origin(annotation) in _LISTS else None
        return f"[{', '.join(_written(entry, inner, ()) for entry in value)}]"
    if get_origin(annotation) in (Union, UnionType):
        present = [member for member in get_args(annotation) if member is not NoneType]
        if len(present) == 1:
            return _written(value, present[0], metadata)
    form = next((entry for entry in reversed(metadata) if isinstance(entry, Form)), None)
    return json.dumps(form.write(value)) if form else _toml(value)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(str(key))} = {_toml(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, Enum):
        return _toml(value.value)
    return json.dumps(value if isinstance(value, bool | int | float) else str(value), ensure_ascii=False)


def _fields(model: type) -> dict[str, FieldInfo]:
    return model.model_fields if _is_section(model) else {}


def _is_section(model: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(model, type) and issubclass(model, BaseModel)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) or not text else ".")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*.", "\\*.")
