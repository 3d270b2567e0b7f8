"""What is wrong with a call, and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import NamedTuple

from pydantic import ValidationError

__all__ = ["MOST_TOLD", "SOON", "CallError", "Fault", "faults_of"]

#: Faults that one answer tells of.
MOST_TOLD = 20
#: Seconds after which to come again.
SOON = 10


class Fault(NamedTuple):
    """`path` is the field, as "recipients.3.to"; "" is the call as a whole."""

    path: str
    text: str


class CallError(Exception):
    """The call is answered with this status, and these faults; `retry_after` in seconds, 0 where it is no matter of
    time."""

    def __init__(self, status: HTTPStatus, faults: Sequence[Fault], retry_after: int = 0) -> None:
        super().__init__("; ".join(f"{one.path}: {one.text}" if one.path else one.text for one in faults[:MOST_TOLD]))
        self.status = status
        self.faults = faults[:MOST_TOLD]
        self.retry_after = retry_after

    @classmethod
    def bad(cls, path: str, text: str) -> CallError:
        """The client's mistake in one field."""
        return cls(HTTPStatus.BAD_REQUEST, (Fault(path, text),))


def faults_of(error: ValidationError, prefix: Iterable[object] = ()) -> list[Fault]:
    """A fault for each field that is wrong."""
    return [
        Fault(".".join(map(str, (*prefix, *one["loc"]))), str(one["msg"]).removeprefix("Value error, "))
        for one in error.errors(include_url=False, include_input=False)
    ]
