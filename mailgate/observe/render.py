"""Events as JSON: one line each, in ASCII, shared by the log and the history.

A line is `{"at": "2026-03-01T09:30:00.123Z", "event": "message_accepted", ...}` with the event's own fields behind;
fields that have their default ("" or empty) are left out. Whatever a peer sent is escaped: no text can end its line
or move a terminal's cursor.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from mailgate.events import Event

__all__ = ["Renderer", "event_name", "from_stamp", "to_stamp"]

#: Fields that are moments, beside `at`, where 0 is none; the others that are numbers of seconds are durations.
_MOMENTS = ("next_attempt", "rests_until", "until")
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
    """How events of one class are rendered: `start` comes behind the moment."""

    name: str
    start: bytes
    moments: tuple[str, ...]


class Renderer:
    """Renders events; for one thread."""

    def __init__(self) -> None:
        self._shapes: dict[type, _Shape] = {}
        self._encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
        self._second = -1
        self._stamp = b""

    def render(self, event: Event) -> bytes:
        """The event's line, without its line end. Never fails."""
        shape = self._shapes.get(type(event)) or self._learn(type(event))
        try:
            line = self._encode(_with_stamps(event, shape.moments) if shape.moments else event)
            if not line.isascii():
                line = _in_ascii(line)
            head = b'{"at":"%b%03dZ%b' % (*self._to_stamp(event.at), shape.start)
        except Exception:
            # Surrogates, moments that are no date, a field that JSON has no form for: seldom, and never a lost line.
            return _carefully(event, shape)
        if len(line) > _LONG_LINE:
            return _carefully(event, shape)
        # `at` comes first, as a number: what the head has instead.
        behind = line.find(b",")
        return head + (line[behind:] if behind > 0 else b"}")

    def _to_stamp(self, moment: float) -> tuple[bytes, int]:
        second, millis = divmod(round(moment * 1000), 1000)
        if second != self._second:
            self._stamp = to_stamp(second)[:20].encode()
            self._second = second
        return self._stamp, millis

    def _learn(self, kind: type[Event]) -> _Shape:
        name = event_name(kind)
        moments = tuple(one for one in _MOMENTS if one in kind.__struct_fields__)
        shape = self._shapes[kind] = _Shape(name, f'","event":"{name}"'.encode(), moments)
        return shape


def _with_stamps(event: Event, moments: tuple[str, ...]) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(event)
    for name in moments:
        moment = getattr(event, name)
        if moment:
            fields[name] = to_stamp(moment)
        else:
            fields.pop(name, None)
    return fields


def _in_ascii(line: bytes) -> bytes:
    return json.dumps(json.loads(line), separators=(",", ":")).encode()


def _carefully(event: Event, shape: _Shape) -> bytes:
    fields: dict[str, object] = {"at": event.at, "event": shape.name} | _told(event)
    for name in ("at", *shape.moments):
        moment = getattr(event, name)
        if name != "at" and not moment:
            fields.pop(name, None)
            continue
        try:
            fields[name] = to_stamp(moment)
        except (ValueError, OverflowError, OSError, TypeError):
            fields[name] = to_stamp(0.0)
    return json.dumps(_plain(fields), separators=(",", ":"), allow_nan=False).encode()


def _told(value: msgspec.Struct) -> dict[str, object]:
    """The fields that have not their default."""
    return {
        field.name: found
        for field in msgspec.structs.fields(value)
        if (found := getattr(value, field.name)) != field.default
    }


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
    if isinstance(value, msgspec.Struct):
        return {name: _plain(one) for name, one in _told(value).items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    text = value if isinstance(value, str) else str(value)
    if len(text) > _LONGEST_TEXT:
        text = text[:_LONGEST_TEXT] + "..."
    return text.encode("utf-8", "backslashreplace").decode()
