"""The fields of a call in JSON, apart: what is large must be a text or a list of the few that may be large.

Whatever has room for more is looked at by nobody: values in JSON take many times their octets in memory, and time in
which nothing else gets its turn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from mailgate.web.injection.models import MOST_TAGS, MOST_TEXT, Order
from mailgate.web.injection.problems import CallError

__all__ = ["check_counts", "check_small", "parts_of"]

#: Octets of a field that is no text, of one of the recipients, and of a call whose fields may have any name.
_SMALL = 1024**2
_LARGEST_TEMPLATE = 5 * _SMALL
#: Files of one call.
_MOST_FILES = 100
_TEXTS = ("text", "html")
_ADDRESSES = ("to", "cc", "bcc", "reply_to")
#: A character may be written with six octets.
_LARGEST_TEXT = 6 * MOST_TEXT + 2
_NAMES = [field.alias or name for name, field in Order.model_fields.items()]
_top = msgspec.json.Decoder(dict[str, Raw])
_named: Any = msgspec.json.Decoder(
    msgspec.defstruct(
        "Named",
        [(f"field_{name}", Raw, Raw(b"")) for name in _NAMES],  # "from" is no name of an attribute
        rename={f"field_{name}": name for name in _NAMES},
        forbid_unknown_fields=True,
    )
)
_list = msgspec.json.Decoder(list[Raw])


def _once(pairs: list[tuple[str, object]]) -> None:
    """Of one object, of which nothing is kept."""
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise CallError.bad("", f"has an object in which {twice[:80]!a} stands twice")


#: Goes through all of it and keeps nothing.
_names = json.JSONDecoder(object_pairs_hook=_once, parse_int=len, parse_float=len)
#: Lists that stop to be read at the first thing that is none of theirs.
_with_to: Any = msgspec.json.Decoder(list[msgspec.defstruct("WithTo", [("to", Raw)])])  # type: ignore[misc]  # made here
_with_content: Any = msgspec.json.Decoder(list[msgspec.defstruct("WithContent", [("content", Raw)])])  # type: ignore[misc]  # made here


def parts_of(content: bytes, most: int) -> tuple[dict[str, Raw], Sequence[Raw]]:
    """The fields but for `recipients`, and those, of which there may be so many. CallError where it is no object, or a
    field cannot be right, or a name stands twice in one object."""
    try:
        if len(content) > _SMALL:
            named = _named.decode(content)
            given = {name: getattr(named, f"field_{name}") for name in _NAMES}
            top = {name: value for name, value in given.items() if len(memoryview(value))}
        else:
            top = dict(_top.decode(content))
        if len(content) > _SMALL:
            _check(top, most)
        # Which of two counts others may see otherwise (RFC 8259 section 4).
        _names.decode(content.decode())
        personal = _items("recipients", top.pop("recipients")) if "recipients" in top else []
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CallError.bad("", f"is no JSON object: {error}") from None
    return top, personal


def check_counts(top: dict[str, Raw], addresses: int) -> None:
    """CallError where a list has more than it may, `addresses` those of addresses: for each thing that is wrong in it
    there would be an error, and all of them would be made in one step."""
    bounds = {**dict.fromkeys(_ADDRESSES, addresses), "tags": MOST_TAGS, "attachments": _MOST_FILES}
    for name, most in bounds.items():
        value = top.get(name)
        if value is not None and bytes(value).startswith(b"[") and len(_items(name, value)) > most:
            raise CallError.bad(name, f"are more than {most}")


def check_small(path: str, value: Raw) -> None:
    """CallError where it is large."""
    if len(memoryview(value)) > _SMALL:
        raise CallError.bad(path, f"has more than {_SMALL} octets")


def _check(top: dict[str, Raw], most: int) -> None:
    for name, value in top.items():
        if name == "recipients":
            _check_list(name, value, b'"to"', most, _with_to)
        elif name == "attachments":
            _check_list(name, value, b'"content"', _MOST_FILES, _with_content)
            _check_files(_items(name, value))
        elif name == "template":
            if len(memoryview(value)) > _LARGEST_TEMPLATE:
                raise CallError.bad(name, f"has more than {_LARGEST_TEMPLATE} octets")
            for part, text in _top.decode(value).items():
                _check_text(f"template.{part}", text)
        elif name in _TEXTS:
            _check_text(name, value)
            if len(memoryview(value)) > _LARGEST_TEXT:
                raise CallError.bad(name, f"has more than {MOST_TEXT} characters")
        else:
            check_small(name, value)


def _items(path: str, value: Raw) -> Sequence[Raw]:
    try:
        return _list.decode(value)
    except msgspec.ValidationError as error:
        raise CallError.bad(path, str(error)) from None


def _check_list(path: str, value: Raw, name: bytes, most: int, decoder: Any) -> None:
    """A list of so many objects that have this name; some of what is in them may have it as well."""
    if bytes(value).count(name) > 2 * most + _MOST_FILES:
        raise CallError.bad(path, f"are more than {most}")
    try:
        decoder.decode(value)
    except msgspec.ValidationError as error:
        raise CallError.bad(path, str(error)) from None


def _check_files(files: Sequence[Raw]) -> None:
    for number, one in enumerate(files):
        for name, value in _top.decode(one).items():
            if name == "content":
                _check_text(f"attachments.{number}.content", value)
            else:
                check_small(f"attachments.{number}.{name}", value)


def _check_text(path: str, value: Raw) -> None:
    if not bytes(value).startswith(b'"'):
        check_small(path, value)
