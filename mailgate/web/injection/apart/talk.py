"""What is said to a process that reads calls, and what it answers: a length of four octets, big-endian, and a value in
MessagePack, behind which stand the octets that it tells of, as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, BinaryIO, TypeVar

import msgspec
from msgspec import Struct

from mailgate.web.injection.composing import Draft
from mailgate.web.injection.problems import CallError, Fault

__all__ = ["Answer", "Ask", "Drafted", "GoneError", "Head", "Outline", "Refused", "as_refused", "octets", "say", "take"]

T = TypeVar("T", bound=Struct)

#: Octets of a value: a call's answer has a line for each of a few messages.
_LONGEST = 4 * 1024**2
_encoder = msgspec.msgpack.Encoder()


class GoneError(Exception):
    """Nobody is at the other end any more, or it says what cannot be."""


class Head(Struct, frozen=True, tag=True):
    """A call of `size` octets, which stand behind it. `section` has the values of the InjectionSection."""

    kind: str
    query: Mapping[str, Sequence[str]]
    fields: Mapping[str, Sequence[str]]
    section: dict[str, Any]
    hostname: str
    now: float
    size: int


class Ask(Struct, frozen=True, tag=True):
    """For the messages of the call from one number up to another. From 0 up to 0: the call is over, and that has no
    answer."""

    start: int = 0
    stop: int = 0


class Outline(Struct, frozen=True):
    """A Call without its messages."""

    count: int
    digest: str
    key: str | None
    stream: str
    tags: tuple[str, ...]
    is_list: bool


class Refused(Struct, frozen=True):
    """A CallError."""

    status: int
    faults: tuple[Fault, ...]
    retry_after: int

    def error(self) -> CallError:
        """The same, to be raised."""
        return CallError(HTTPStatus(self.status), self.faults, self.retry_after)


class Drafted(Struct, frozen=True):
    """A message: its draft, of which `size` octets of content stand behind the answer; or why there is none."""

    number: int
    draft: Draft | None = None
    size: int = 0
    refused: Refused | None = None


class Answer(Struct, frozen=True):
    """To a Head the call's outline with its first message, or why it is refused; to an Ask messages. `broken` is what
    an error of ours says."""

    call: Outline | None = None
    drafts: tuple[Drafted, ...] = ()
    refused: Refused | None = None
    broken: str = ""


def as_refused(error: CallError) -> Refused:
    """The error in a form in which it can be told."""
    return Refused(error.status, tuple(error.faults), error.retry_after)


def say(sink: BinaryIO, value: Struct, *behind: bytes) -> None:
    """Write a value, and the octets behind it. GoneError."""
    data = _encoder.encode(value)
    try:
        sink.write(len(data).to_bytes(4, "big") + data)
        for one in behind:
            sink.write(one)
        sink.flush()
    except OSError as error:
        raise GoneError(str(error)) from None


def take(source: BinaryIO, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    """The next value; None where there is none any more. GoneError where it is no value."""
    length = octets(source, 4, may_end=True)
    if not length:
        return None
    size = int.from_bytes(length, "big")
    if size > _LONGEST:
        raise GoneError(f"a value of {size} octets")
    try:
        return decoder.decode(octets(source, size))
    except msgspec.DecodeError as error:
        raise GoneError(f"it makes no sense: {error}") from None


def octets(source: BinaryIO, size: int, *, may_end: bool = False) -> bytes:
    """So many octets, or none where it `may_end`. GoneError where there are fewer."""
    found = source.read(size) if size else b""
    if len(found) != size and (found or not may_end):
        raise GoneError("it ends too early")
    return found
