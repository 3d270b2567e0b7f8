"""What pydantic found, in words for administrators, each at its path in the document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mailgate.config.locate import Path
from mailgate.config.problems import choices

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["field_types", "reworded", "unwrapped"]

_TEXT, _SWITCH = "must be text, in quotes", "must be true or false, without quotes"
_WHOLE, _NUMBER = "must be a whole number", "must be a number"
_LIST, _SECTION = "must be a list, in brackets", "must be a section or an inline table"
_UNKNOWN = "extra_forbidden"
_SIMPLE = {
    "missing": "is missing",
    "string_type": _TEXT,
    "path_type": _TEXT,
    "int_type": f"{_WHOLE}, without quotes",
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": f"{_NUMBER}, without quotes",
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "ip_any_address": "must be an IP address",
    "ip_v4_address": "must be an IPv4 address",
    "ip_v6_address": "must be an IPv6 address",
    "ip_any_network": "must be a network like 10.0.0.0/8",
    "ip_v4_network": "must be an IPv4 network like 10.0.0.0/8",
    "ip_v6_network": "must be an IPv6 network like 2001:db8::/32",
}
_BOUNDS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_long": "must have at most {max_length} entries",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "does not match the pattern {pattern}",
}


def reworded(root: type, data: object, error: ValidationError) -> Iterator[tuple[Path, str]]:
    """Each mistake once: its path in `data`, which was validated as `root`, and what is wrong there."""
    found: dict[Path, list[tuple[str, str]]] = {}
    for details in error.errors(include_url=False):
        path, annotation = _follow(root, data, details)
        found.setdefault(path, []).append((details["type"], _text(details, annotation)))
    for path, mistakes in found.items():
        # Where a value may be of several types, the one that it resembles has gone deeper than the others.
        is_other_type = all(kind.endswith("_type") for kind, _ in mistakes)
        if is_other_type and any(len(other) > len(path) and other[: len(path)] == path for other in found):
            continue
        texts = list(dict.fromkeys(text for _, text in mistakes))
        if all(text.startswith("must be ") for text in texts):
            texts[1:] = [text.removeprefix("must be ") for text in texts[1:]]
            yield path, " or ".join(texts)
        else:
            yield path, "; ".join(texts)


def field_types(model: object) -> Mapping[str, object]:
    """The fields of a section with their types; none for anything else."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    return {}


def unwrapped(annotation: object) -> tuple[object, ...]:
    """The types that a value may have, None left out, without the metadata around them."""
    if get_origin(annotation) is Annotated:
        return unwrapped(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for member in get_args(annotation) for kind in unwrapped(member) if kind is not type(None))
    return (annotation,)


def _follow(root: type, data: object, details: ErrorDetails) -> tuple[Path, object]:
    """The path without the names of union members that pydantic puts in, and the type of what holds the last key.

    For the key that chooses between sections, those sections take that type's place.
    """
    path: Path = ()
    kinds: tuple[object, ...] = (root,)
    holder: object = root
    value = data
    location = details["loc"]
    for index, step in enumerate(location):
        if step == "[key]":
            break
        holder = kinds[0] if len(kinds) == 1 else None
        is_end = index == len(location) - 1
        if isinstance(step, str) and (member := _member(kinds, step)) is not None:
            kinds = (member,)
            holder = member
            continue
        if not (
            isinstance(step, int)
            or field_types(holder)
            or get_origin(holder) is dict
            or (isinstance(value, dict) and (step in value or (is_end and details["type"] in ("missing", _UNKNOWN))))
        ):
            kinds = ()
            continue
        path = (*path, step)
        kinds = _inner(holder, step)
        value = _child(value, step)
    if details["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return (*path, details["ctx"]["discriminator"].strip("'")), kinds
    return path, holder


def _member(kinds: tuple[object, ...], step: str) -> object:
    """The section among several that a tag or class name stands for."""
    if len(kinds) < 2:
        return None
    for kind in kinds:
        types = field_types(kind)
        if types and (
            step == getattr(kind, "__name__", "")
            or any(get_origin(annotation) is Literal and step in get_args(annotation) for annotation in types.values())
        ):
            return kind
    return None


def _inner(holder: object, step: str | int) -> tuple[object, ...]:
    if types := field_types(holder):
        return unwrapped(types[str(step)]) if step in types else ()
    arguments = get_args(holder)
    if get_origin(holder) is dict:
        return unwrapped(arguments[1])
    return unwrapped(arguments[0]) if arguments and isinstance(step, int) else ()


def _child(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _text(details: ErrorDetails, holder: object) -> str:
    kind, context, given = details["type"], details.get("ctx", {}), details["input"]
    if kind == _UNKNOWN:
        return choices("unknown key", details["loc"][-1], sorted(field_types(holder)))
    if kind in ("literal_error", "enum"):
        return _not_among(given, context["expected"])
    if kind == "union_tag_invalid":
        return _not_among(context["tag"], context["expected_tags"])
    if kind == "union_tag_not_found":
        return choices("is missing", "", _tags(holder, context["discriminator"].strip("'")))
    if kind in ("too_short", "string_too_short"):
        what = "entries" if kind == "too_short" else "characters"
        smallest = context["min_length"]
        return "must not be empty" if smallest == 1 else f"must have at least {smallest} {what}"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    return _SIMPLE.get(kind) or _plain(details["msg"])


def _not_among(given: object, expected: str) -> str:
    valid = re.findall(r"'([^']*)'", expected) or [expected]
    if not isinstance(given, str):
        return choices(_TEXT, "", valid)
    return choices(f'"{given}" is not known', given, valid)


def _tags(members: object, discriminator: str) -> list[str]:
    """The values of the key by which a section's class is chosen."""
    kinds = members if isinstance(members, tuple) else ()
    return [tag for member in kinds for tag in get_args(field_types(member).get(discriminator))]


def _plain(message: str) -> str:
    """A message of pydantic that has no words of ours, made to follow on a key."""
    message = message.replace("Input should be a valid ", "must be a ").replace("Input should be ", "must be ")
    return message[:1].lower() + message[1:]
