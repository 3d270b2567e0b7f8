"""What people read in a report: what has become of their message, why, and what they can do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from mailgate.interfaces import Outcome
from mailgate.relay.reports.fields import Action, Subject, action_of, to_date

__all__ = ["text_for_people", "title"]

#: Recipients that the text names of each kind; the part for programs names all.
_MAX_NAMED = 50

#: The subject of a report, by the worst that it tells.
_TITLES = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.RELAYED: "Your message was passed on",
    Action.DELIVERED: "Your message was delivered",
}

_HEADINGS = {
    Action.FAILED: "could not be delivered to:",
    Action.DELAYED: "is delayed, and has not been delivered yet to:",
    Action.RELAYED: "was passed on to another mail system for:",
    Action.DELIVERED: "was delivered to:",
}

#: Where a message comes back although there is time left (RFC 2852 section 4).
_NOT_IN_TIME = (
    "The recipient's mail system cannot promise to deliver it by the time that you have set. "
    "Please send it again without such a time."
)
#: The statuses of mail that was to go by TLS only and cannot (RFC 8689 section 4.2.1), and what the sender can do.
_NO_TLS_ALL_THE_WAY = ("5.7.10", "5.7.30")
_REQUIRE_TLS = (
    "You have asked that it travels by verified TLS only, all the way (REQUIRETLS), and the way to this recipient does "
    "not offer that. Please send it again without asking for that, if it may be read on its way."
)
#: What the sender can do, by the beginning of the status; the first that fits.
_ADVICE = (
    ("4.4.7", "Delivery was tried again and again until the time for it was over. Please try again later."),
    ("5.1.8", "Your own address was not accepted. Please check how it is written in your mail program."),
    ("5.1.7", "Your own address was not accepted. Please check how it is written in your mail program."),
    ("5.1.", "Please check how the address is written; it may have a typing error or may no longer exist."),
    ("5.2.2", "The mailbox is full. Please reach the recipient in another way, or try again later."),
    ("5.2.3", "The message is too large for this mailbox. Please send a smaller one."),
    ("5.3.4", "The message is too large. Please send a smaller one, or share large files in another way."),
    ("5.4.7", "The time in which it was to be delivered is over."),
    (
        "5.4.",
        "The recipient's mail system cannot be found. Please check the part of the address behind the @.",
    ),
    ("5.6.", "The recipient's mail system cannot take this form of message. Please send it as plain text."),
    (
        "5.7.",
        "A mail system has a rule against this message. The text above may say which one it is.",
    ),
    ("", "The text above says why. If it does not help you, please ask your postmaster and show this report."),
)


def title(about: Subject) -> str:
    """The subject of the report."""
    if about.is_report:
        return "A report could not be delivered"
    return _TITLES[min(map(action_of, about.outcomes), key=list(Action).index)]


def text_for_people(about: Subject, *, is_whole: bool) -> str:
    """The text, with CRLF; `is_whole` tells whether the whole message is returned behind it."""
    lines = [f"This is the mail system at {about.hostname}."]
    for action in Action:
        outcomes = [one for one in about.outcomes if action_of(one) is action]
        if outcomes:
            lines += _section(about, action, outcomes)
    attached = about.original if is_whole else f"The header of {about.original.lower()}"
    lines += ["", f"{attached} is attached.", f"Its id here was {about.envelope.queue_id}.", ""]
    return "\r\n".join(lines)


def _section(about: Subject, action: Action, outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield ""
    message = "A report" if about.is_report else "Your message"
    yield f"{message} of {to_date(about.envelope.received)} {_HEADINGS[action]}"
    for outcome in outcomes[:_MAX_NAMED]:
        yield ""
        yield f"  <{outcome.recipient.address}>"
        if action in (Action.FAILED, Action.DELAYED):
            yield from _wrapped(_answer(about, outcome, action), "    ")
        if action is Action.FAILED and not about.is_report:
            yield from _wrapped(_advice(about, about.status(outcome)), "    ")
    if len(outcomes) > _MAX_NAMED:
        yield ""
        yield f"and to {len(outcomes) - _MAX_NAMED} more, which the report attached to this message names."
    yield ""
    yield from _wrapped(_closing(about, action))


def _answer(about: Subject, outcome: Outcome, action: Action) -> str:
    diagnostic = about.diagnostic(outcome)
    answer = f"{outcome.host} said: {diagnostic}" if outcome.host else diagnostic
    if action is Action.DELAYED:
        return f"the last answer: {answer}"
    if outcome.reply.is_transient:
        return f"given up after {_span(about.now - about.envelope.received)}; the last answer: {answer}"
    return answer


def _advice(about: Subject, status: str) -> str:
    if status == "5.4.7" and not about.is_out_of_time:
        return _NOT_IN_TIME
    if status in _NO_TLS_ALL_THE_WAY and about.envelope.parameters.require_tls:
        return _REQUIRE_TLS
    return next(advice for start, advice in _ADVICE if status.startswith(start))


def _closing(about: Subject, action: Action) -> str:
    match action:
        case Action.FAILED if about.is_report:
            return "Nobody else hears of this: the sender's own address does not take it."
        case Action.FAILED:
            return "No more attempts will be made for these recipients."
        case Action.RELAYED:
            return "That system may not confirm that it has delivered it: you may hear no more of it."
        case Action.DELIVERED:
            return "You get this report because you have asked for it."
    until = f" Delivery will be tried until {to_date(about.retry_until)}." if about.retry_until else ""
    due = about.envelope.parameters.deliver_by
    asked = f" You have asked to be told if it is not delivered by {to_date(due)}." if about.is_overdue else ""
    return f"You need not send it again.{until}{asked}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 76, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def _span(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = round(seconds / length)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return "less than a minute"
