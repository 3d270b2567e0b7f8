"""A configured filter as a pipeline keeps it, and the questions that can be put to one."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar, cast

from zope.interface import Interface

from mailgate.address import Address
from mailgate.interfaces import (
    IAuthFilter,
    IConnectFilter,
    IDataFilter,
    IDeliveryFilter,
    IHeloFilter,
    IMailFilter,
    IMessageFilter,
    IMessageModifier,
    IRecipientFilter,
    IRouter,
)
from mailgate.message import (
    AddHeader,
    AddRecipient,
    ChangeReturnPath,
    ChangeSender,
    Edit,
    For,
    HeaderField,
    RemoveHeader,
    RemoveRecipient,
    RenameHeader,
    ReplaceBody,
    Splice,
)
from mailgate.pipeline.breaker import Breaker
from mailgate.pipeline.scope import Scope
from mailgate.pipeline.votes import CONTINUE, STRENGTH, Ballot, Several
from mailgate.reply import Reply
from mailgate.verdict import Accept, Defer, Disconnect, Quarantine, Reject, Verdict

__all__ = [
    "ATTEMPT",
    "AUTH",
    "CONNECT",
    "DATA",
    "HELO",
    "MAIL",
    "MESSAGE",
    "MODIFY",
    "QUESTIONS",
    "RCPT",
    "ROUTE",
    "Asked",
    "Edits",
    "Member",
    "Question",
    "Reading",
    "asked_of",
    "named",
    "route_among",
    "stand_in",
]

_DEFER = Reply.of(451, "4.3.0", "Temporary failure, try again later")
_REJECT = Reply.of(550, "5.3.0", "Refused, a check could not be made")
_WORDS = {kind: kind.__name__.lower() for kind in STRENGTH}
_VERBS: dict[type, str] = {
    AddHeader: "add",
    RemoveHeader: "remove",
    RenameHeader: "rename",
    AddRecipient: "add recipient",
    RemoveRecipient: "remove recipient",
    ChangeSender: "change sender to",
    ChangeReturnPath: "return path",
}
#: Edits that the trace names one by one.
_MAX_NAMED = 50
#: Recipients that a step of the trace names.
_MAX_TOLD = 10
#: Verdicts of one filter about one message.
_MAX_VERDICTS = 1000

R = TypeVar("R")
"""The results of a question. Verdicts are always among them, for what stands in for an answer."""

Edits = tuple[Edit | For, ...]

Reading = tuple[str, str, R]
"""An answer, understood: the word for the trace, the private reason, and the result to act on."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One configured filter: made once for its name, and shared by the pipelines that name it.

    `scope` says which recipients it is for, None for all. `deadline` is in seconds. The breaker counts for all stages
    and all pipelines together.
    """

    name: str
    filter: object
    mode: Literal["enforce", "shadow"] = "enforce"
    deadline: float = 10.0
    on_failure: Literal["defer", "continue", "reject", "quarantine"] = "defer"
    scope: Scope | None = None
    breaker: Breaker = field(default_factory=Breaker, init=False)


@dataclass(frozen=True, slots=True, eq=False)
class Question(Generic[R]):
    """One method of one stage interface.

    `stage` is the trace's word; `neutral` the result of a filter that does not matter, and `missing` that of one that
    has failed and lets the mail go on, where it is another; `read` understands an answer, or raises. `has_content` says
    whether the message is there, and `once` that a transaction puts this question once, not at each recipient.
    """

    stage: str
    interface: type[Interface]
    method: str
    read: Callable[[object], Reading[R]]
    neutral: R
    has_content: bool = False
    once: bool = True
    missing: R | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Asked(Generic[R]):
    """A question as it is put to one member."""

    member: Member
    question: Question[R]
    call: Callable[..., object]
    enforced: bool


def asked_of(member: Member, question: Question[R]) -> Asked[R] | None:
    """How this member is asked; None where it does not take part."""
    # zope's providedBy has no type of its own, and a filter's method none before it is verified.
    if not question.interface.providedBy(member.filter):
        return None
    return Asked(member, question, getattr(member.filter, question.method), member.mode == "enforce")


def stand_in(on_failure: str, question: Question[R], reason: str) -> R:
    """What is acted on instead of the answer of a filter that failed."""
    if on_failure == "continue":
        return question.neutral if question.missing is None else question.missing
    verdict: Verdict
    if on_failure == "reject":
        verdict = Reject(_REJECT, reason)
    elif on_failure == "quarantine" and question.has_content:
        verdict = Quarantine(reason)
    else:
        verdict = Defer(_DEFER, reason)
    return cast(R, verdict)


def _read_verdict(answer: object) -> Reading[Verdict]:
    if answer is None:
        return "continue", "", CONTINUE
    word = _WORDS.get(type(answer))
    if word is None or not isinstance(answer, Verdict):
        raise TypeError(f"answered {reprlib.repr(answer)} where a verdict or None belongs")
    return word, getattr(answer, "reason", ""), answer


def _read_ballot(answer: object) -> Reading[Ballot]:
    if not isinstance(answer, list | tuple):
        return _read_verdict(answer)
    if len(answer) > _MAX_VERDICTS:
        raise ValueError(f"answered {len(answer)} verdicts, and {_MAX_VERDICTS} is the most")
    verdicts = tuple(_read_verdict(one)[2] for one in answer)
    if any(isinstance(one, Accept | Disconnect) for one in verdicts):
        raise TypeError("answered Accept or Disconnect among others, which are for the whole message")
    told = [one for one in verdicts if one is not CONTINUE]
    if len(told) < 2:
        return _read_verdict(told[0] if told else None)
    return "several", "", Several(tuple(told))


def _read_edits(answer: object) -> Reading[Edits | Verdict]:
    if type(answer) is not list and (not isinstance(answer, Sequence) or isinstance(answer, str | bytes)):
        raise TypeError(f"answered {reprlib.repr(answer)} where a sequence of edits belongs")
    edits = tuple(answer)
    words = list(map(_checked, edits))
    if len(words) > _MAX_NAMED:
        words[_MAX_NAMED:] = [f"{len(words) - _MAX_NAMED} more"]
    return ("edit" if edits else "continue"), "; ".join(words), edits


def _checked(edit: Edit | For) -> str:
    """What the edit does, for the trace. ValueError where it could not be applied when the message is sent on."""
    verb = _VERBS.get(type(edit), "")
    match edit:
        case AddHeader() | RemoveHeader() | RenameHeader() if isinstance(edit.name, str):
            if isinstance(edit, RenameHeader):
                HeaderField.of(edit.to, "")
            return f"{verb} {edit.name}"
        case AddRecipient() | RemoveRecipient() | ChangeSender() | ChangeReturnPath() if isinstance(
            edit.address, Address
        ):
            return f"{verb} <{edit.address}>"
        case Splice():
            return edit.note or f"put {len(edit.data)} octets for {edit.end - edit.start} at {edit.start}"
        case ReplaceBody():
            return edit.note or f"a new body of {edit.content.size} octets"
        case For() if not any(isinstance(one, For) for one in edit.edits):
            what = ", ".join(map(_checked, edit.edits)) or "nothing"
            return f"for {named(edit.recipients)}: {what}"
    raise TypeError(f"answered {reprlib.repr(edit)} where an edit belongs")


def named(recipients: Sequence[Address]) -> str:
    """The first of them, for the trace; "" for none."""
    more = f" and {len(recipients) - _MAX_TOLD} more" if len(recipients) > _MAX_TOLD else ""
    return ", ".join(map(str, recipients[:_MAX_TOLD])) + more


def _read_route(answer: object) -> Reading[str | Verdict | None]:
    if answer is None:
        return "continue", "", None
    if not isinstance(answer, str) or not answer:
        raise TypeError(f"answered {reprlib.repr(answer)} where a route's name or None belongs")
    return "route", answer, answer


CONNECT = Question("connect", IConnectFilter, "on_connect", _read_verdict, CONTINUE)
HELO = Question("helo", IHeloFilter, "on_helo", _read_verdict, CONTINUE)
AUTH = Question("auth", IAuthFilter, "on_auth", _read_verdict, CONTINUE)
MAIL = Question("mail", IMailFilter, "on_mail", _read_verdict, CONTINUE)
RCPT = Question("rcpt", IRecipientFilter, "on_rcpt", _read_verdict, CONTINUE, once=False)
DATA = Question("data", IDataFilter, "on_data", _read_verdict, CONTINUE)
MESSAGE: Question[Ballot] = Question("message", IMessageFilter, "on_message", _read_ballot, CONTINUE, has_content=True)
MODIFY: Question[Edits | Verdict] = Question(
    "modify", IMessageModifier, "modify", _read_edits, (), has_content=True, missing=CONTINUE
)
ROUTE: Question[str | Verdict | None] = Question("route", IRouter, "route", _read_route, None, once=False)
ATTEMPT = Question("attempt", IDeliveryFilter, "on_attempt", _read_verdict, CONTINUE)

#: Everything that a filter can be asked.
QUESTIONS: tuple[Question[Any], ...] = (
    CONNECT,
    HELO,
    AUTH,
    MAIL,
    RCPT,
    DATA,
    MESSAGE,
    MODIFY,
    ROUTE,
    ATTEMPT,
)


def route_among(routes: Collection[str]) -> Question[str | Verdict | None]:
    """ROUTE, where only these routes may be named."""

    def read(answer: object) -> Reading[str | Verdict | None]:
        reading = _read_route(answer)
        if answer is not None and answer not in routes:
            raise ValueError(f"named the route {answer!r}, which there is not (valid are: {', '.join(sorted(routes))})")
        return reading

    return replace(ROUTE, read=read)
