"""What the filters that look into messages have in common: worker processes, their limits, and what cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mailgate.config.schema import Section
from mailgate.config.units import Size, Timeout, at_least, format_duration, format_size
from mailgate.content.models import Examination, Limits, Problem, Question, Rule
from mailgate.content.worker import make_examiner
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices
from mailgate.message import Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

__all__ = ["Examining", "ExaminingSection", "UnreadResult", "Word", "stated"]

Word = Literal["reject", "quarantine", "defer", "continue"]

#: What the worker processes import; they bring native libraries, so here it is only looked whether they are installed.
_LIBRARIES = ("magic", "libarchive", "olefile", "re2")

#: A filter's deadline is 10 seconds, unless it is configured.
_LONGEST = 9.5
_MEBIBYTE = 1024 * 1024


def _timeout(seconds: float) -> float:
    if seconds > 600:
        raise ValueError(f"must be at most {format_duration(600)}")
    return seconds


class ExaminingSection(Section):
    """The options about how messages are looked into: by worker processes, so that a hostile file cannot hurt the
    gateway."""

    processes: Annotated[int, Field(strict=True, ge=1, le=64)] = 2
    """how many messages are looked into at the same time, each by a process of its own, which ends when there is
    nothing to do for a minute"""
    timeout: Annotated[Timeout, AfterValidator(_timeout)] = 8.0
    """how long a process may take for one message; it is ended then. Shorter than the filter's `deadline`"""
    memory: Annotated[Size, at_least(256 * _MEBIBYTE, format_size)] = 1024 * _MEBIBYTE
    """how much memory a process may have, with the libraries that it loads"""
    max_size: Size = 64 * _MEBIBYTE
    """messages that are larger are not looked into"""
    unreadable: Word = "quarantine"
    """what is done with messages that cannot be looked into: they are too large, a process has died over them, or taken
    too much time or memory"""


@dataclass(frozen=True, slots=True)
class UnreadResult(Finding):
    """A message that could not be looked into; `filter_kind` is the kind of the filter, `kind` why: "size", "time",
    "memory", "crash" or "error"."""

    filter_kind: str
    kind: str
    detail: str = ""

    def summary(self) -> str:
        return f"{self.filter_kind} could not look into it: {self.kind}{f' ({self.detail})' if self.detail else ''}"

    def facts(self) -> Sequence[str]:
        return (f"{self.filter_kind}.unreadable", f"{self.filter_kind}.unreadable.{self.kind}")


class Examining:
    """The options of `ExaminingSection`, made ready for one filter. ValueError where libraries are not installed."""

    def __init__(self, options: ExaminingSection, services: FilterServices, kind: str) -> None:
        if not all(map(find_spec, _LIBRARIES)):
            raise ValueError(f"the filter {kind} needs: pip install 'mailgate[content]'")
        self._examiner = make_examiner(
            services.clock, processes=options.processes, timeout=options.timeout, memory=options.memory
        )
        self._options = options
        self._kind = kind

    async def ask(
        self,
        message: Message,
        limits: Limits,
        *,
        archives: bool = False,
        links: bool = False,
        bare_hosts: bool = False,
        rules: tuple[Rule, ...] = (),
    ) -> Examination:
        """What is in the message. WorkerError where no process can be had, which is the filter's failure."""
        content = message.content
        if content.size > self._options.max_size:
            return Examination(failure=Problem("size", format_size(content.size)))
        path = "" if content.in_memory or content.path is None else str(content.path.absolute())
        return await self._examiner.ask(
            Question(
                data=b"" if path else content.read(),
                path=path,
                limits=limits,
                archives=archives,
                links=links,
                bare_hosts=bare_hosts,
                rules=rules,
            )
        )

    def unread(self, problem: Problem) -> Verdict:
        """What is done with a message that could not be looked into."""
        result = UnreadResult(self._kind, problem.kind, problem.where)
        text = "This message cannot be examined"
        return stated(self._options.unreadable, text, result.summary(), (result,), detail="6.0")


def stated(word: Word, text: str, reason: str, evidence: tuple[object, ...] = (), *, detail: str = "7.1") -> Verdict:
    """The verdict for a word of an option; `detail` is the enhanced status code without its class."""
    if word == "reject":
        return Reject(Reply.of(550, f"5.{detail}", text), reason, evidence=evidence)
    if word == "defer":
        return Defer(Reply.of(451, f"4.{detail}", f"{text}, try again later"), reason, evidence=evidence)
    if word == "quarantine":
        return Quarantine(reason, evidence=evidence)
    return Continue(evidence=evidence)
