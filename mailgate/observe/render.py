"""Events as JSON: one line each, in ASCII, shared by the log and the history.

A line is `{"at": "2026-03-01T09:30:00.123Z", "event": "message_accepted", ...}` with the event's own fields behind;
fields that have their default ("" or empty) are left out. Whatever a peer sent is escaped: no text can end its line
or move a terminal's cursor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import TypeAdapter

from mailgate.events import Event

__all__ = ["Renderer", "event_name", "from_stamp", "to_stamp"]

#: Fields that are moments, beside `at`; the others that are numbers of seconds are durations.
_MOMENTS = ("next_attempt",)
#: A line that is longer has its texts cut to `_LONGEST_TEXT` characters.
_LONG_LINE = 64 * 1024
_LONGEST_TEXT = 1000

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def event_name(kind: type) -> str:
    """The event's name in lines: `MessageAccepted` is "message_accepted"."""
    return _WORD.sub("_", kind.__name__).lower()


def to_stamp(moment: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the millisecond; stamps sort as the moments do."""
    millis = round(moment * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(millis // 1000))}.{millis % 1000:03d}Z"


def from_stamp(stamp: str) -> float:
    """Seconds since the epoch; ValueError where it is no stamp."""
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """How events of one class are rendered."""

    name: str
    adapter: TypeAdapter[Event] | None
    moments: tuple[str, ...]
    without: set[str] | None


class Renderer:
    """Renders events; for one thread."""

    def __init__(self) -> None:
        self._shapes: dict[type, _Shape] = {}
        self._second = -1
        self._stamp = ""

    def render(self, event: Event) -> bytes:
        """The event's line, without its line end. Never fails."""
        shape = self._shapes.get(type(event)) or self._learn(type(event))
        try:
            head = f'{{"at":"{self._to_stamp(event.at)}","event":"{shape.name}"'
            for name in shape.moments:
                head += f',"{name}":"{to_stamp(getattr(event, name))}"'
            if shape.adapter is None:
                return _carefully(event, shape)
            # Compiled for the class: several times as fast as the encoder of the standard library.
            line = shape.adapter.dump_json(
                event, exclude=shape.without, exclude_defaults=True, ensure_ascii=True, warnings=False
            )
        except Exception:
            # Surrogates, moments that are no date, a field that pydantic cannot write: seldom, and never a lost line.
            return _carefully(event, shape)
        if len(line) > _LONG_LINE:
            return _carefully(event, shape)
        # `at` comes first, as a number: what the head has instead.
        behind = line.find(b",")
        return head.encode() + (line[behind:] if behind > 0 else b"}")

    def _to_stamp(self, moment: float) -> str:
        millis = round(moment * 1000)
        if millis // 1000 != self._second:
            self._stamp = to_stamp(moment)[:20]
            self._second = millis // 1000
        return f"{self._stamp}{millis % 1000:03d}Z"

    def _learn(self, kind: type) -> _Shape:
        adapter: TypeAdapter[Event] | None = None
        # Without an adapter: a third party's event whose fields pydantic has no schema for.
        with contextlib.suppress(Exception):
            adapter = TypeAdapter(kind)
        names = {field.name for field in dataclasses.fields(kind)}
        moments = tuple(name for name in _MOMENTS if name in names)
        shape = self._shapes[kind] = _Shape(event_name(kind), adapter, moments, set(moments) or None)
        return shape


def _carefully(event: Event, shape: _Shape) -> bytes:
    fields: dict[str, object] = {"at": event.at, "event": shape.name}
    fields |= {name: getattr(event, name) for name in shape.moments}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.name not in fields and value != field.default:
            fields[field.name] = value
    for name in ("at", *shape.moments):
        try:
            fields[name] = to_stamp(getattr(event, name))
        except (ValueError, OverflowError, OSError, TypeError):
            fields[name] = to_stamp(0.0)
    return json.dumps(_plain(fields), separators=(",", ":"), allow_nan=False).encode()


def _plain(value: object) -> object:
    """The value as JSON has it, with bounded texts in valid Unicode."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {str(_plain(str(key))): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(one)
            for field in dataclasses.fields(value)
            if (one := getattr(value, field.name)) != field.default
        }
    text = value if isinstance(value, str) else str(value)
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "..."
    return text.encode("utf-8", "backslashreplace").decode()
