"""The story of a mail as text, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mailgate.cli.common import columns, printable, size, span, trace_table, when
from mailgate.cli.entries import last_reply, state_of
from mailgate.observe.history import Story
from mailgate.observe.render import from_stamp
from mailgate.web.models import Entry

__all__ = ["tell"]

Fields = Mapping[str, Any]

#: How far what belongs to an event stands to the right.
_INDENT = 6


def tell(story: Story, waiting: Sequence[Entry], now: float) -> Iterator[str]:
    """The lines of a story; `waiting` are its recipients that are in the queue at this moment."""
    yield f"{story.id}{_summary(story, waiting)}"
    if story.about:
        yield f"  a report about {printable(story.about)}"
    for fields in story.entries:
        first, *others = _event(fields)
        yield f"  {when(from_stamp(fields['at']))}  {first}"
        yield from (f"{'':{_INDENT}}{line}" for line in others)
    for entry in waiting:
        said = f" ({last_reply(entry)})" if entry.last_reply else ""
        yield f"  still in the queue   {printable(entry.recipient)}: {state_of(entry, now)}{said}"


def _summary(story: Story, waiting: Sequence[Entry]) -> str:
    """Whom it is from, and how each recipient fared last."""
    senders = (fields["sender"] for fields in story.entries if fields.get("sender") and _is_of_mail(fields))
    sender = next(senders, "")
    # The queue has addresses in lower case; events tell of them as they were given.
    names: dict[str, str] = {}
    fates: dict[str, str] = {}
    for fields in story.entries:
        for recipient in fields.get("recipients") or [fields.get("recipient", "")]:
            key = recipient.lower()
            if key and (fate := _fate(fields, fates.get(key, ""))):
                names.setdefault(key, recipient)
                fates[key] = fate
    fates = {entry.recipient: entry.state for entry in waiting if entry.recipient not in fates} | fates
    for alias in (text for fields in story.entries for text in fields.get("aliases", ())):
        # Its mail goes on as that of those whom it stands for.
        if len(fates) > 1 and fates.get(key := alias.partition(": ")[0].lower()) == "accepted":
            del fates[key]
    told = [f"{printable(names.get(one, one))} {fate}" for one, fate in fates.items()]
    told += dict.fromkeys(_refusal(fields) for fields in story.entries if _is_about_nobody(fields))
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    origin = f"  from {printable(sender)}" if sender else ""
    return f"{origin}: {', '.join(told[:5])}{more}" if told else origin


def _is_of_mail(fields: Fields) -> bool:
    return bool(fields.get("queue_id") or fields.get("session"))


#: What was refused where it is about no recipient, by the stage.
_REFUSALS = {
    "connect": "a connection was refused",
    "tls": "a handshake failed",
    "auth": "a login was refused",
    "helo": "a greeting was refused",
    "rcpt": "a recipient was refused",
    "content": "the content was refused",
    "message": "the message was refused",
    "session": "the session was broken off",
}


def _is_about_nobody(fields: Fields) -> bool:
    return fields["event"] == "refused" and not (fields.get("recipients") or fields.get("recipient"))


def _refusal(fields: Fields) -> str:
    stage = str(fields.get("stage", ""))
    return _REFUSALS.get(stage) or f"{printable(stage.upper())} was refused"


_FATES = {
    "refused": "refused",
    "message_accepted": "accepted",
    "delivered": "delivered",
    "deferred": "deferred",
    "bounced": "bounced",
    "discarded": "discarded",
    "quarantined": "quarantined",
    "judged": "judged",
}
#: What a mail server was told about a message that it keeps.
_ANSWERS = {
    "continue": "left to the mail server in front",
    "quarantine": "put into quarantine at the mail server in front",
    "discard": "discarded at the mail server in front",
}

#: What the detail of an action is.
_DETAILS = {"reroute": "to route", "release": "how", "copy": "how"}
#: What filters say that are asked again.
_AGAIN = {"pass": "none objects", "objects": "there is an objection", "unknown": "one could not tell, so it stays"}

#: What a report to the sender tells, by its kind.
_REPORTS = {"delayed": "delay", "relayed": "relaying", "delivered": "success"}


def _fate(fields: Fields, before: str) -> str:
    """What an event makes of a recipient whose fate was `before`; "" where it decides nothing."""
    match fields["event"], fields.get("action"):
        case "operator_acted", "delete":
            return "deleted"
        case "operator_acted", "release":
            return "released" if before == "quarantined" else ""
        case "quarantine_expired", _:
            return "deleted after its time in quarantine"
        case event, _:
            return _FATES.get(event, "")


def _event(fields: Fields) -> Iterator[str]:
    """An event: one line, and what belongs to it."""
    text = _Texts(fields)
    match fields["event"]:
        case "message_accepted":
            yield f"accepted from {text('client')} (helo {text('helo')}) by listener {text('listener')}"
            told = (("as", "identity"), ("under", "tls"), ("through", "proxy"))
            how = ", ".join(f"{word} {text(key)}" for word, key in told if text(key))
            if how:
                yield f"{text('protocol')} {how}"
            message_id = f", Message-ID {text('message_id')}" if text("message_id") else ""
            yield f"from {text('sender') or '<>'} to {_list(fields)}, {size(fields.get('size', 0))}{message_id}"
            for wish in fields.get("asked", ()):
                yield f"asked for: {printable(wish)}"
            for alias in fields.get("aliases", ()):
                yield f"stands for others: {printable(alias)}"
            yield from _in_front(text)
            if text("split_from"):
                yield f"split from {text('split_from')}, as filters have changed it for some recipients only"
            yield from _trace(fields)
        case "judged":
            yield f"{_ANSWERS.get(text('answer'), text('answer'))}, where it is {text('ident') or 'without an id'}"
            yield f"{text('client')} (helo {text('helo') or 'not said'}) at {text('listener')}"
            yield f"from {text('sender') or '<>'} to {_list(fields)}, {size(fields.get('size', 0))}"
            if text("reason"):
                yield f"because: {text('reason')}"
            for change in fields.get("changes", ()):
                yield f"to be changed: {printable(change)}"
            yield from _trace(fields)
        case "refused":
            whom = text("recipient") or _list(fields)
            by = f"filter {text('filter')}" if text("filter") else "the gateway itself"
            yield f"refused at {text('stage')} by {by}{f': {whom}' if whom else ''}"
            sender = f", sender {text('sender')}" if text("sender") else ""
            yield f"{text('client')} (helo {text('helo') or 'not said'}) at listener {text('listener')}{sender}"
            if text("user"):
                yield f"as user {text('user')}"
            yield f"the client was told: {text('reply') or 'nothing'}"
            yield from _in_front(text)
            if text.cause:
                yield f"because: {text.cause}"
            yield from _trace(fields)
        case "delivered":
            yield f"delivered to {text('recipient')}{_attempt(fields)}"
            yield f"{_host(fields)}{text('reply')}, {_seconds(fields.get('delay', 0.0))} after it came"
            if text("tls"):
                yield f"under {text('tls')}"
        case "deferred":
            yield f"deferred for {text('recipient')}{_attempt(fields)}"
            yield f"{_host(fields)}{text('reply')}"
            if text.cause:
                yield f"because: {text.cause}"
            next_attempt = from_stamp(fields["next_attempt"])
            yield f"next attempt at {when(next_attempt)}, {span(next_attempt - from_stamp(fields['at']))} later"
        case "bounced":
            yield f"given up for {text('recipient')}{_attempt(fields)}"
            yield f"{_host(fields)}{text('reply')}"
            whom = text("report_to") or "the sender"
            report = f"report to {whom}: {text('report')}" if text("report") else "no report is owed"
            yield f"because: {text.cause}; {report}" if text.cause else report
        case "reported":
            what = _REPORTS.get(text("kind"), text("kind"))
            yield f"a report of {what} was sent to {text('sender')} as {text('report')}, for {_list(fields)}"
        case "discarded" | "quarantined" as kept:
            yield f"{kept} for {_list(fields)}"
            yield f"because: {text('reason')}"
        case "operator_acted":
            whom = f"to {_list(fields)}" if text("action") == "copy" else _list(fields)
            yield f"{text('by') or 'an administrator'} asked: {text('action')} {whom}"
            if text("detail"):
                yield f"{_DETAILS.get(text('action'), 'because')}: {text('detail')}"
        case "rescanned":
            yield f"filters were asked again for {_list(fields)}: {_AGAIN.get(text('result'), text('result'))}"
            if text("filter"):
                yield f"{text('filter')}: {text('reason')}"
        case "quarantine_expired":
            yield f"deleted after {span(fields.get('seconds', 0.0))} in quarantine: {_list(fields)}"
            yield f"it was there because: {text('reason')}"
        case "limit_near":
            what = "is used up" if fields.get("is_reached") else "is nearly used up"
            yield f"the limit of {text('subject')} {what}: {text('rule')}, {text('count')} of {text('limit')}"
        case "account_suspected" if fields.get("action") == "release":
            by = f", says {text('by')}" if text("by") else ""
            yield f"the account {text('user')} is not suspected any more{by}"
        case "account_suspected":
            yield f"the account {text('user')} is suspected: {text('action')}"
            for signal in fields.get("signals", ()):
                yield printable(signal)
        case "bounced_back" | "complained" as kind:
            what = "a bounce came back" if kind == "bounced_back" else "a complaint came"
            yield f"{what} for {text('recipient')}, which {text('proof')} proves"
            if text("reason"):
                yield f"because: {text('reason')}"
        case "suppressed":
            by = f", says {text('by')}" if text("by") else ""
            yield f"{text('recipient')} gets no more mail{_of_scope(fields)}: {text('reason')}{by}"
            if text("detail"):
                yield f"because: {text('detail')}"
            if text("until"):
                yield f"until {when(from_stamp(fields['until']))}"
        case "unsubscribed":
            scope = {"scope": fields.get("stream") or fields.get("sender", "")}
            yield f"{text('recipient')} has unsubscribed, and gets no more mail{_of_scope(scope)}"
        case "unsuppressed":
            yield f"{text('recipient')} gets mail{_of_scope(fields)} again, says {text('by')}"
            yield f"it was suppressed because: {text('reason')}"
        case "entry_set_aside":
            yield f"set aside, because it cannot be read: {text('reason')}"
            yield f"it lies in {text('where')}"
        case "filter_failed":
            yield f"filter {text('filter')} failed at {text('stage')}: {text('error')}"
            yield f"instead of its verdict: {text('on_failure')}"
        case other:
            yield printable(str(other))


def _in_front(text: _Texts) -> Iterator[str]:
    """What the system in front of us has told."""
    if text("ident"):
        yield f"the system in front of us has it as {text('ident')}"
    if text("origin") and text("origin") != text("client"):
        greeting = f" (helo {text('origin_helo')})" if text("origin_helo") else ""
        yield f"the system in front of us has it from {text('origin')}{greeting}"


def _trace(fields: Fields) -> Iterator[str]:
    yield from trace_table(fields.get("trace", ()), max(0, columns() - _INDENT))


def _of_scope(fields: Fields) -> str:
    """Which mail is meant: "" for all."""
    scope = printable(str(fields.get("scope", "")))
    return f" of the stream {scope}" if scope and "@" not in scope else f" of {scope}" if scope else ""


class _Texts:
    """The fields as printable texts; "" for those that are not there."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def __call__(self, name: str) -> str:
        return printable(str(self._fields.get(name, "")))

    @property
    def cause(self) -> str:
        """The private reason; "" where the reply, which is told before, is made of it."""
        reason = self("reason")
        return "" if reason in self("reply") else reason


def _list(fields: Fields) -> str:
    recipients = [printable(one) for one in fields.get("recipients", ())]
    return ", ".join(recipients[:20]) + (f" and {len(recipients) - 20} more" if len(recipients) > 20 else "")


def _attempt(fields: Fields) -> str:
    route = f" by route {printable(fields['route'])}" if fields.get("route") else ""
    source = f" from {printable(fields['source'])}" if fields.get("source") else ""
    category = f": {printable(fields['category'])}" if fields.get("category") else ""
    attempt = f"attempt {number}" if (number := fields.get("attempt", 0)) else "no attempt"
    return f"{route}{source}, {attempt} ({_seconds(fields.get('seconds', 0.0))}){category}"


def _host(fields: Fields) -> str:
    return f"{printable(fields['host'])}: " if fields.get("host") else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 60 else span(seconds)
