"""What programs read in a report: the fields of a delivery status (RFC 3464, RFC 6533)."""

from __future__ import annotations

import enum
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from mailgate.address import Address
from mailgate.envelope import Envelope
from mailgate.interfaces import AnsweredIn, Handover, Outcome, OutcomeKind
from mailgate.message import HeaderField
from mailgate.reply import Reply
from mailgate.wire.xtext import utf8_addr_xtext, xtext_decode

__all__ = ["Action", "Subject", "action_of", "delivery_status", "status_of", "to_date", "to_fields"]

#: Characters of a reply that a report carries.
_MAX_DIAGNOSTIC = 900
#: Octets of a field's value that cannot be folded.
_MAX_VALUE = 900

#: The types of answers (RFC 3464 section 2.3.6); there is none registered for what is not mail.
_KINDS: Mapping[AnsweredIn, str] = {"smtp": "smtp", "http": "x-http"}

_UNPRINTABLE = re.compile(r"[^ -~]")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")

#: The enhanced status that stands in for a reply without one, by code (RFC 3463, RFC 5248); X.0.0 for others.
_STATUS = {
    421: "4.3.2",
    450: "4.2.0",
    452: "4.3.1",
    455: "4.5.4",
    500: "5.5.2",
    501: "5.5.4",
    502: "5.5.1",
    503: "5.5.1",
    504: "5.5.4",
    521: "5.3.2",
    530: "5.7.0",
    535: "5.7.8",
    551: "5.1.6",
    552: "5.2.2",
    553: "5.1.3",
    555: "5.5.4",
    556: "5.1.10",
}


class Action(enum.Enum):
    """What has become of a recipient (RFC 3464 section 2.3.3), the worst first."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a report is about: these outcomes of this message.

    `retry_until` is when a delayed one is given up. `is_utf8`: the report may have addresses as they are written, as
    its own envelope needs SMTPUTF8. `is_report`: the message is itself a report of ours, and this is told to somebody
    who has not sent it (a double bounce).
    """

    envelope: Envelope
    outcomes: Sequence[Outcome]
    hostname: str
    now: float
    retry_until: float
    is_utf8: bool
    is_report: bool = False

    @property
    def original(self) -> str:
        """The message, as its report calls it at the beginning of a sentence."""
        return "The report" if self.is_report else "Your message"

    @property
    def is_overdue(self) -> bool:
        """Whether it was to be delivered by now, or the sender to be told (RFC 2852)."""
        parameters = self.envelope.parameters
        return parameters.by_mode == "N" and self.now >= parameters.deliver_by

    @property
    def is_out_of_time(self) -> bool:
        """Whether less than a second is left of the time in which it was to be delivered, or to come back."""
        parameters = self.envelope.parameters
        return parameters.by_mode != "R" or self.now > parameters.deliver_by - 1

    def status(self, outcome: Outcome) -> str:
        """The enhanced status of an outcome, of the class that its action has."""
        status = status_of(outcome.reply)
        match action_of(outcome):
            case Action.FAILED:
                return "4.4.7" if outcome.reply.is_transient else status
            case Action.DELAYED if self.is_overdue:
                return "4.4.7"
            case Action.DELAYED:
                return status if status[0] == "4" else "4.0.0"
        return status if status[0] == "2" else "2.0.0"

    def diagnostic(self, outcome: Outcome) -> str:
        """The answer, of a length that fits."""
        return outcome.said[:_MAX_DIAGNOSTIC]


def action_of(outcome: Outcome) -> Action:
    """What a report says of this outcome."""
    if outcome.kind is OutcomeKind.DEFERRED:
        return Action.DELAYED
    if outcome.kind is OutcomeKind.DELIVERED:
        return Action.DELIVERED if outcome.handover is Handover.FINAL else Action.RELAYED
    return Action.FAILED


def status_of(reply: Reply) -> str:
    """The enhanced status of a reply; one made from its code where it has none."""
    return reply.status or _STATUS.get(reply.code) or f"{reply.code // 100}.0.0"


def delivery_status(about: Subject) -> bytes:
    """The content of message/delivery-status, in ASCII, or of message/global-delivery-status, in UTF-8."""
    envelope = about.envelope
    parameters = envelope.parameters
    fields = [
        ("Reporting-MTA", f"dns; {about.hostname}"),
        ("X-Mailgate-Queue-Id", envelope.queue_id),
        ("Arrival-Date", to_date(envelope.received)),
    ]
    if parameters.envid:
        fields.insert(0, ("Original-Envelope-Id", _ascii(_decoded(parameters.envid))))
    if parameters.deliver_by:
        fields.append(("Deliver-By-Date", to_date(parameters.deliver_by)))
    groups = [fields, *(_recipient(about, outcome) for outcome in about.outcomes)]
    return b"\r\n".join(to_fields(group) for group in groups)


def to_fields(fields: Sequence[tuple[str, str]]) -> bytes:
    """Header fields as octets, in their order."""
    return b"".join(HeaderField.of(name, value).raw for name, value in fields)


def to_date(at: float) -> str:
    """The moment as RFC 5322 writes it, in UTC."""
    return format_datetime(datetime.fromtimestamp(at, UTC))


def _recipient(about: Subject, outcome: Outcome) -> list[tuple[str, str]]:
    recipient, host, action = outcome.recipient, outcome.host, action_of(outcome)
    fields = [
        ("Final-Recipient", _final_recipient(recipient.address, about.is_utf8)),
        ("Action", action.value),
        ("Status", about.status(outcome)),
    ]
    original = _original_recipient(recipient.orcpt, about.is_utf8) if recipient.orcpt else ""
    if 0 < len(original.encode()) <= _MAX_VALUE:
        fields.insert(0, ("Original-Recipient", original))
    if host:
        fields.append(("Remote-MTA", _ascii(_remote(outcome))))
    diagnostic = f"{_KINDS[outcome.answered_in] if host else 'x-mailgate'}; {_ascii(about.diagnostic(outcome))}"
    folded = textwrap.wrap(diagnostic, 70, break_long_words=False, break_on_hyphens=False)
    fields += [("Diagnostic-Code", "\r\n\t".join(folded)), ("Last-Attempt-Date", to_date(about.now))]
    if action is Action.DELAYED and about.retry_until:
        fields.append(("Will-Retry-Until", to_date(about.retry_until)))
    return fields


def _remote(outcome: Outcome) -> str:
    """Who has answered (RFC 3464 section 2.3.5); the type dns is for mail servers."""
    host = outcome.host
    if host.startswith("/"):
        return f"x-unix; {host}"
    kind = "dns" if outcome.answered_in == "smtp" else _KINDS[outcome.answered_in]
    return f"{kind}; {host.partition('[')[0] or host}"


def _final_recipient(address: Address, is_utf8: bool) -> str:
    text = str(address)
    return f"rfc822; {text}" if text.isascii() else f"utf-8; {_utf8(text, is_utf8)}"


def _original_recipient(orcpt: str, is_utf8: bool) -> str:
    """The value of ORCPT as a field has it (RFC 3464 section 2.3.1): not in xtext any more."""
    kind, _, value = orcpt.partition(";")
    if kind.lower() == "utf-8":
        return f"utf-8; {_utf8(_EMBEDDED.sub(_embedded, value), is_utf8)}"
    return _ascii(f"{kind}; {_decoded(value)}")


def _utf8(text: str, is_utf8: bool) -> str:
    """An address of type utf-8: as it is written, or in the form that is all ASCII (RFC 6533 section 3)."""
    text = "".join(one if one.isprintable() else "?" for one in text)
    return text if is_utf8 else utf8_addr_xtext(text)


def _embedded(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if number <= 0x10FFFF else match[0]


def _decoded(xtext: str) -> str:
    try:
        return xtext_decode(xtext)
    except ValueError:  # it was taken before anybody looked so closely
        return xtext


def _ascii(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)
