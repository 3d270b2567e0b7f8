"""What lists in DNS have said, as evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailgate.findings import Finding

__all__ = ["ListedResult", "SilentResult"]


@dataclass(frozen=True, slots=True)
class ListedResult(Finding):
    """A hit. `zone` is the list's name, `subject` the address or domain that it lists, `codes` its answers that count.

    `weight` is what the hit adds to the filter's sum, negative for an allow list (`is_allow`); `text` is what the list
    says of it, never to be trusted; `number` the list's place among the filter's options.
    """

    zone: str
    subject: str
    codes: tuple[str, ...]
    weight: float
    text: str = ""
    is_allow: bool = False
    number: int = 0

    def summary(self) -> str:
        return f"{self.subject} is listed by {self.zone} ({', '.join(self.codes)})"

    def facts(self) -> Sequence[str]:
        fact = f"{'dnswl' if self.is_allow else 'dnsbl'}.{self.zone}"
        return (fact, *(f"{fact}.{code}" for code in self.codes))


@dataclass(frozen=True, slots=True)
class SilentResult(Finding):
    """A list that could not tell, and why.

    `is_temporary` where its answer did not come, and may the next time; else it cannot be believed.
    """

    zone: str
    reason: str
    is_temporary: bool = False

    def summary(self) -> str:
        return f"{self.zone} does not count: {self.reason}"

    def facts(self) -> Sequence[str]:
        return ("dnsbl-silent", f"dnsbl-silent.{self.zone}")
