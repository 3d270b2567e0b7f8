"""What a milter's answer means for mail, at each stage, and what is kept of it as evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mailgate.address import Address
from mailgate.filters.scanning import fact_word
from mailgate.findings import Finding
from mailgate.reply import Reply
from mailgate.scanners.milter.conversation import Outcome
from mailgate.verdict import Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from mailgate.wire.milter.codec import HeaderAdded, HeaderInserted, Quarantined
from mailgate.wire.milter.words import Plain

__all__ = ["MilterResult", "Stage", "judged"]

Stage = Literal["connect", "helo", "mail", "rcpt", "data", "message"]

#: Names of header fields that evidence tells of, and characters of a milter's reason.
_MAX_NAMES, _MAX_REASON = 20, 200

_WORDS = {
    Plain.CONTINUE: "continue",
    Plain.SKIP: "continue",
    Plain.ACCEPT: "accept",
    Plain.REJECT: "reject",
    Plain.TEMPFAIL: "tempfail",
    Plain.DISCARD: "discard",
    Plain.SHUTDOWN: "shutdown",
    Plain.CONNECTION_FAILURE: "shutdown",
}


@dataclass(frozen=True, slots=True)
class MilterResult(Finding):
    """What a milter has said: its `word` ("continue", "accept", "reject", "tempfail", "discard", "shutdown",
    "quarantine"), and the names of header fields that it added."""

    server: str
    word: str
    added: tuple[str, ...] = ()
    changes: int = 0

    def summary(self) -> str:
        changes = f", {self.changes} changes" if self.changes else ""
        return f"milter={self.word} by {self.server}{changes}"

    def facts(self) -> Sequence[str]:
        return (f"milter.{self.word}", *(f"milter.added.{fact_word(name)}" for name in self.added))


def judged(
    outcome: Outcome, stage: Stage, server: str, late: Mapping[Address, Outcome] = MappingProxyType({})
) -> Verdict | None:
    """The verdict for an answer at a stage; None where there is nothing to tell.

    `late` are recipients that the milter refused when they had been accepted already, and could not be refused alone.
    """
    result = _result(outcome, server)
    evidence = (result,) if stage == "message" or outcome.is_final or outcome.changes else ()
    said = f"milter {server}: {result.word} at {stage}"
    if outcome.is_refusal:
        return _refusal(outcome, stage, said, evidence)
    if outcome.word is Plain.DISCARD:
        return Discard(said, evidence=evidence)
    reasons = [one.reason for one in outcome.changes if isinstance(one, Quarantined)]
    if reasons:
        why = reasons[-1].decode("utf-8", "replace")[:_MAX_REASON]
        return Quarantine(f"{said}: {why}", evidence=evidence)
    if late:
        said = f"milter {server} has refused recipients that had been accepted"
        first = _refusal(next(iter(late.values())), stage, said, evidence)
        named = tuple(late)
        if isinstance(first, Reject):
            return Reject(first.reply, first.reason, named, evidence)
        if isinstance(first, Defer):
            return Defer(first.reply, first.reason, named, evidence)
        return first
    return Continue(evidence) if evidence else None


def _refusal(outcome: Outcome, stage: Stage, reason: str, evidence: tuple[object, ...]) -> Verdict:
    reply = outcome.reply or _usual(outcome.word)
    if stage in ("connect", "helo"):  # they carry no enhanced status code (RFC 2034 section 3)
        reply = Reply(reply.code, "", reply.lines)
    ends = reply.code == 421 or outcome.word in (Plain.SHUTDOWN, Plain.CONNECTION_FAILURE)
    if ends or stage == "connect":
        if reply.is_transient and reply.code != 421:
            reply = Reply(421, reply.status, reply.lines)
        return Disconnect(reply, reason, evidence)
    if reply.is_permanent:
        return Reject(reply, reason, evidence=evidence)
    return Defer(reply, reason, evidence=evidence)


def _usual(word: Plain) -> Reply:
    """The reply where a milter gives none of its own."""
    match word:
        case Plain.REJECT:
            return Reply.of(550, "5.7.1", "Command rejected")
        case Plain.TEMPFAIL:
            return Reply.of(451, "4.7.1", "Service unavailable, try again later")
        case _:
            return Reply.of(421, "4.7.0", "Closing the connection, try again later")


def _result(outcome: Outcome, server: str) -> MilterResult:
    added = [one.name for one in outcome.changes if isinstance(one, HeaderAdded | HeaderInserted)]
    names = dict.fromkeys(name.decode("ascii", "replace").lower() for name in added)
    is_kept = any(isinstance(one, Quarantined) for one in outcome.changes) and not outcome.is_refusal
    word = "quarantine" if is_kept else _WORDS[outcome.word]
    count = len(outcome.changes) + outcome.has_body
    return MilterResult(server, word, tuple(names)[:_MAX_NAMES], count)
