"""Evidence that explains itself: what a filter found out, in words for the trace and for rules that weigh it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Finding", "Points", "Remembered", "Stream", "stream_of"]


class Finding:
    """Base of typed evidence. Anything may be evidence; what derives from this appears in the trace and in scores."""

    __slots__ = ()

    def summary(self) -> str:
        """One line for people, as the trace shows it: "spf=fail smtp.mailfrom=example.org". "" says nothing there."""
        return ""

    def facts(self) -> Sequence[str]:
        """What is so, as words that a score may weigh, the general before the special: "spf.fail".

        Words are lower case, of letters, digits, dots, hyphens and underscores; the first part names the filter's kind.
        """
        return ()


@dataclass(frozen=True, slots=True)
class Points(Finding):
    """Points that a filter gives by itself, beside all facts: positive against the mail, negative for it."""

    points: float
    reason: str

    def summary(self) -> str:
        return f"{self.points:+g} points: {self.reason}"


@dataclass(frozen=True, slots=True)
class Stream(Finding):
    """Which kind of mail a message is for its sender: the first that is found counts, everywhere (`stream_of`)."""

    name: str

    def summary(self) -> str:
        return f"stream {self.name}"

    def facts(self) -> Sequence[str]:
        return (f"stream.{self.name.lower()}",)


def stream_of(evidence: Iterable[object]) -> str:
    """The name of the stream among all that was found out about a message; "" where there is none."""
    return next((one.name for one in evidence if isinstance(one, Stream)), "")


@dataclass(frozen=True, slots=True)
class Remembered(Finding):
    """Facts that were found when the message came, for filters that are asked about it again."""

    found: tuple[str, ...]

    def facts(self) -> Sequence[str]:
        return self.found
