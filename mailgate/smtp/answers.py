"""What a client is told of the verdicts about its message, and of what it asked for that it may not have."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from mailgate.address import Address
from mailgate.config.schema import ListenerSection
from mailgate.envelope import MailParameters, Session, Transaction
from mailgate.message import Message
from mailgate.observe.refusal import RefusalTeller
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.verdict import Defer, Disconnect, Quarantine, Reject, Verdict

__all__ = ["WITH_THE_OTHERS", "answers_to", "may_report", "of_a_stranger", "settled", "tell_refusals"]

#: The private reason for those whom nobody objects to.
WITH_THE_OTHERS = "deferred because another recipient is: SMTP has one answer for all"

_Refusal = Reject | Defer | Disconnect


def of_a_stranger(parameters: MailParameters) -> tuple[MailParameters, bytes]:
    """What a client that may not relay gets of what its MAIL asked for, and the reply to it.

    It has no place before others (RFC 6710 section 5), its word on who submitted the message is worth nothing (RFC 4954
    section 5), and reports carry no content of its choice to a sender that it may have forged.
    """
    answer = replies.SENDER_OK
    if parameters.priority is not None and parameters.priority > 0:
        parameters = replace(parameters, priority=0)
        answer = replies.PRIORITY_LOWERED
    if parameters.auth is not None:
        parameters = replace(parameters, auth="<>")
    if parameters.ret == "FULL":
        parameters = replace(parameters, ret="HDRS")
    return parameters, answer


def may_report(listener: ListenerSection, session: Session) -> bool:
    """Whether a sender may get a report of what is refused for some recipients only: one whom we know, or where the
    listener says so."""
    is_known = session.identity is not None and not listener.judge_origin  # otherwise it is another mail server of ours
    return listener.refused_for_some == "report" or is_known


def settled(verdicts: Sequence[Verdict], *, may_report: bool) -> Sequence[Verdict]:
    """The verdicts that one answer can carry out: where some recipients are refused and others not, what is refused
    goes into quarantine unless its sender may get a report of it, which in mail from strangers goes to a forged one."""
    if may_report or not any(map(_is_rejected, verdicts)):
        return verdicts
    if all(isinstance(one, _Refusal) for one in verdicts) or any(map(_is_deferred, verdicts)):
        return verdicts  # one answer tells all of it
    return [
        Quarantine(f"refused: {one.reply} ({one.reason})", evidence=one.evidence)
        if isinstance(one, Reject | Disconnect)
        else one
        for one in verdicts
    ]


def answers_to(verdicts: Sequence[Verdict], *, is_lmtp: bool) -> list[Reply | None] | None:
    """What each recipient's part of the message is refused with, None for those that the intake may have; None at all
    where nobody objects.

    SMTP has one reply. One that is deferred defers all. One that is refused while another is taken is left to the
    intake, which owes the sender a report (see `settled`).
    """
    refusals = [verdict if isinstance(verdict, _Refusal) else None for verdict in verdicts]
    told = [one.reply for one in refusals if one is not None]
    if not told:
        return None
    if is_lmtp:
        return [None if one is None else one.reply for one in refusals]
    deferred = next((reply for reply in told if reply.is_transient), None)
    return [deferred if deferred is not None or len(told) < len(refusals) else told[0]] * len(refusals)


def tell_refusals(
    teller: RefusalTeller,
    transaction: Transaction,
    message: Message,
    verdicts: Sequence[Verdict],
    told: Sequence[Reply | None],
) -> None:
    """One event for each reason, about all whom it concerns."""
    message_id = next(iter(message.values("Message-ID")), "")
    concerned: dict[tuple[Reply, str], list[Address]] = {}
    for recipient, verdict, reply in zip(transaction.recipients, verdicts, told, strict=True):
        if isinstance(verdict, _Refusal):
            concerned.setdefault((reply or verdict.reply, verdict.reason), []).append(recipient.address)
        elif reply is not None:
            concerned.setdefault((reply, WITH_THE_OTHERS), []).append(recipient.address)
    for (reply, reason), recipients in concerned.items():
        teller.tell(
            "message",
            reply,
            reason,
            trace=transaction.trace,
            transaction=transaction,
            recipients=recipients,
            message_id=message_id,
        )


def _is_rejected(verdict: Verdict) -> bool:
    return isinstance(verdict, _Refusal) and verdict.reply.is_permanent


def _is_deferred(verdict: Verdict) -> bool:
    return isinstance(verdict, _Refusal) and verdict.reply.is_transient
