"""What a sender asked for with the envelope, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, Envelope, EnvelopeRecipient, Recipient

__all__ = ["asked_for"]

#: Recipients whose wishes are told of.
_MOST_RECIPIENTS = 50


def asked_for(
    envelope: Envelope, recipients: Sequence[Recipient] | Sequence[EnvelopeRecipient] | None = None
) -> tuple[str, ...]:
    """What MAIL and RCPT asked for beside the body's form, a text each; empty for most mail, at no cost.

    `recipients` are those that the client named, where the envelope has others in their place.
    """
    asked = envelope.parameters
    wishes: list[str] = []
    if asked is not PLAIN_MAIL and asked is not EIGHT_BIT_MAIL:
        wishes += _of_mail(envelope)
    # What is asked for one recipient, mostly nothing.
    told = [one for one in recipients or envelope.recipients if one.notify or one.orcpt]
    for one in told[:_MOST_RECIPIENTS]:
        words = [f"NOTIFY={','.join(one.notify)}"] * bool(one.notify) + [f"ORCPT={one.orcpt}"] * bool(one.orcpt)
        wishes.append(f"reports about {one.address}: {' '.join(words)} (DSN)")
    if len(told) > _MOST_RECIPIENTS:
        wishes.append(f"reports about {len(told) - _MOST_RECIPIENTS} more (DSN)")
    return tuple(wishes)


def _of_mail(envelope: Envelope) -> Iterator[str]:
    asked = envelope.parameters
    if asked.release_at:
        yield f"to be sent not before {_when(asked.release_at)} (FUTURERELEASE)"
    if asked.deliver_by:
        what = "returned" if asked.by_mode == "R" else "reported as late"
        yield f"to be delivered by {_when(asked.deliver_by)}, or else {what} (DELIVERBY)"
    if asked.priority is not None:
        yield f"priority {asked.priority} (MT-PRIORITY)"
    if asked.require_tls:
        yield "to go over verified TLS only (REQUIRETLS)"
    if asked.tls_optional:
        yield "TLS is not required (TLS-Required: no)"
    if asked.smtputf8:
        yield "internationalized (SMTPUTF8)"
    if asked.ret or asked.envid:
        words = [f"RET={asked.ret}"] * bool(asked.ret) + [f"ENVID={asked.envid}"] * bool(asked.envid)
        yield f"reports: {' '.join(words)} (DSN)"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
