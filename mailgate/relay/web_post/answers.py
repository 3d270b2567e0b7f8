"""What an application's answer means for the recipients of a message (RFC 9110 section 15)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from mailgate.envelope import EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.reply import Reply

__all__ = ["Answer", "results_of"]

#: Statuses that are about this message, and would be the same another time; all others below 600 may change.
_FOR_GOOD: Mapping[int, tuple[int, str]] = {
    400: (554, "5.6.0"),
    410: (550, "5.1.1"),
    413: (552, "5.3.4"),
    415: (554, "5.6.1"),
    422: (554, "5.6.0"),
}
#: Statuses by which an application asks for a rest, the seconds of it where it says no number, and the most.
_REST_FOR, _REST, _LONGEST_REST = (429, 503), 30.0, 3600.0
#: Characters of an application's own words that become part of a reply.
_LONGEST_WORDS = 200
#: Statuses that are about our login, and not about the mail: the words that go with them may repeat what we have shown.
_OF_LOGIN = (401, 407)
_UNCLEAR = Reply.of(451, "4.3.0", "The application's answer is not understood")
_STRANGER = Reply.of(451, "4.3.0", "The application's answer is about somebody who is no recipient")
_Verdict = tuple[OutcomeKind, Reply]
_NO_VERDICT: _Verdict = (OutcomeKind.DEFERRED, _UNCLEAR)
_OF_STRANGER: _Verdict = (OutcomeKind.DEFERRED, _STRANGER)
_VERDICTS: Mapping[object, tuple[OutcomeKind, int, str, str]] = {
    "delivered": (OutcomeKind.DELIVERED, 250, "2.0.0", "Taken by the application"),
    "deferred": (OutcomeKind.DEFERRED, 451, "4.3.0", "Not now"),
    "refused": (OutcomeKind.FAILED, 550, "5.7.1", "Refused by the application"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; the fields as they came, "" where they did not. `now` is when, in seconds since the epoch;
    `is_whole`: it said itself where its body ends, and that is all of it."""

    status: int
    body: bytes
    content_type: str = ""
    retry_after: str = ""
    now: float = 0.0
    location: str = ""
    is_whole: bool = True


def results_of(answer: Answer, recipients: Sequence[EnvelopeRecipient], host: str, queue_id: str = "") -> list[Result]:
    """One result for each recipient: by what the answer says of it, or else by the status, which is for all. What is
    said and not understood delivers nothing: it may have been a refusal."""
    said = _said(answer)
    kind, reply = _by_status(answer, said or {})
    rest = _rest(answer)
    of_all = (kind, reply)
    verdicts: Mapping[int, _Verdict] = {}
    if 200 <= answer.status < 300:
        if said is None:
            of_all = _NO_VERDICT
        elif said.get("recipients") is not None:
            of_all, verdicts = _by_recipient(said["recipients"], of_all, _names(recipients, queue_id))
        elif _is_against(said.get("result")):
            of_all = _NO_VERDICT
    return [_result(one, verdicts.get(one.number, of_all), host, rest) for one in recipients]


def _by_recipient(own: object, of_all: _Verdict, names: Mapping[str, int]) -> tuple[_Verdict, Mapping[int, _Verdict]]:
    """The verdict on whoever is not named, and those on the others, by the numbers of `names`."""
    if not isinstance(own, dict):
        return _NO_VERDICT, {}
    found: dict[int, _Verdict] = {}
    for name, value in own.items():
        number = names.get(name, names.get(name.lower()))
        if number is None and of_all is _OF_STRANGER:
            continue
        verdict = _own(value) or _NO_VERDICT
        if number is None:
            if verdict[0] is not OutcomeKind.DELIVERED:
                of_all = _OF_STRANGER
        elif found.setdefault(number, verdict)[0] is not verdict[0]:  # by another of its names
            found[number] = _NO_VERDICT
    return of_all, found


def _result(one: EnvelopeRecipient, verdict: _Verdict, host: str, rest: float) -> Result:
    kind, reply = verdict
    if reply is _UNCLEAR or reply is _STRANGER:  # which is what we make of it
        return Result(one, kind, reply, reason=f"{host}: {reply.text}", rest=rest)
    return Result(one, kind, reply, host, rest=rest, answered_in="http")


def _names(recipients: Sequence[EnvelopeRecipient], queue_id: str) -> Mapping[str, int]:
    """By which names an answer may call each recipient: the address, in lower case too, and the id."""
    found = {str(one.address).lower(): one.number for one in recipients}
    for one in recipients:
        found[str(one.address)] = found[f"{queue_id}-{one.number}"] = one.number
    return found


def _said(answer: Answer) -> Mapping[str, object] | None:
    """The object of JSON that the answer is; an empty one where it is something else, None where nobody can tell, or
    where it may be verdicts in another form."""
    is_json = answer.content_type.lower().startswith("application/json")
    if not is_json or not answer.body.strip():
        # What ends with the connection may have been cut off before it began.
        return {} if answer.is_whole or not is_json else None
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        return found
    return None if (isinstance(found, list) and found) or _is_against(found) else {}


def _is_against(said: object) -> bool:
    """Whether this alone would be a verdict that is no delivery."""
    return isinstance(said, str) and said in ("refused", "deferred")


def _by_status(answer: Answer, said: Mapping[str, object]) -> tuple[OutcomeKind, Reply]:
    status = answer.status
    if 200 <= status < 300:
        return OutcomeKind.DELIVERED, Reply.of(250, "2.0.0", f"HTTP {_named(status)}")
    words = _words(said.get("reason"))
    if not words and answer.content_type.lower().startswith("text/plain"):
        words = _words(answer.body[: 4 * _LONGEST_WORDS].decode("utf-8", "replace"))
    text = f"HTTP {_named(status)}" + (f": {words}" if words and status not in _OF_LOGIN else "")
    if 300 <= status < 400:
        text += " (redirects are not followed)"
    code, enhanced = _FOR_GOOD.get(status, (451, "4.3.2" if status in _REST_FOR else "4.3.0"))
    return OutcomeKind.FAILED if code >= 500 else OutcomeKind.DEFERRED, Reply.of(code, enhanced, text)


def _own(said: object) -> _Verdict | None:
    """What is said of one recipient: {"result": "refused", "reason": "..."}, or the word alone; None where that is not
    understood."""
    word, reason = (said.get("result"), said.get("reason")) if isinstance(said, dict) else (said, "")
    found = _VERDICTS.get(word) if isinstance(word, str) else None
    if found is None:
        return None
    kind, code, enhanced, text = found
    return kind, Reply.of(code, enhanced, _words(reason) or text)


def _words(said: object) -> str:
    """Words of the application's as one line; "" where there are none."""
    return " ".join(said[: 4 * _LONGEST_WORDS].split())[:_LONGEST_WORDS] if isinstance(said, str) else ""


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _rest(answer: Answer) -> float:
    """Seconds for which it wants to be left alone (RFC 9110 section 10.2.3)."""
    if answer.status not in _REST_FOR:
        return 0.0
    text = answer.retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), _LONGEST_REST)
    try:
        seconds = parsedate_to_datetime(text[:100]).timestamp() - answer.now
    except (ValueError, TypeError, OverflowError, IndexError):
        return _REST
    return min(max(seconds, 0.0), _LONGEST_REST)
