"""What would happen to a mail: every stage of the configured pipeline; nothing is accepted, nothing delivered."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from mailgate.address import Address
from mailgate.envelope import Recipient, Session, TraceStep, Transaction
from mailgate.interfaces import IPipeline, IRouting, Placed
from mailgate.message import Content, Message
from mailgate.verdict import Accept, Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from mailgate.web.words import described

__all__ = ["RecipientFate", "Rehearsal", "rehearse"]


@dataclass(frozen=True, slots=True)
class RecipientFate:
    """What would become of one recipient: `outcome` is taken, refused, deferred, quarantined or discarded."""

    address: str
    outcome: str
    route: str = ""
    reply: str = ""
    reason: str = ""


@dataclass(slots=True)
class Rehearsal:
    """The whole account: the trace in order, the fate of each recipient, the header edits."""

    steps: list[TraceStep] = field(default_factory=list)
    recipients: list[RecipientFate] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)

    @property
    def all_taken(self) -> bool:
        """Whether every recipient would get the mail."""
        return all(fate.outcome == "taken" for fate in self.recipients)


async def rehearse(
    pipeline: IPipeline,
    routing: IRouting,
    session: Session,
    transaction: Transaction,
    helo: str,
    recipients: Sequence[Address],
    content: Content,
    fault: Reject | Disconnect | None = None,
) -> Rehearsal:
    """Play the mail through; a refusal at a stage ends it there, as it would in a session.

    `fault` is what the session itself says to the content, once it has come.
    """
    rehearsal = Rehearsal()

    def end(verdict: Verdict) -> Rehearsal:
        rehearsal.recipients += [_fate(address, verdict) for address in recipients]
        return _closed(rehearsal, session, transaction)

    verdict = await _now(pipeline.connect(session))
    if _stops(verdict):
        return end(verdict)
    session.helo = helo
    verdict = await _now(pipeline.helo(session))
    if _stops(verdict):
        return end(verdict)
    verdict = await _now(pipeline.mail(session, transaction))
    if _stops(verdict):
        return end(verdict)
    fates: dict[int, RecipientFate] = {}
    taken: list[int] = []
    for number, address in enumerate(recipients):
        found = routing.route(session, transaction, address)
        placed: Placed = await found if isinstance(found, Awaitable) else found
        if isinstance(placed, Reject | Defer):
            fates[number] = _fate(address, placed)
            continue
        recipient = Recipient(address=address)
        if isinstance(placed, str):
            recipient.route = placed
        else:
            recipient.targets = placed
        verdict = await _now(pipeline.rcpt(session, transaction, recipient))
        if _stops(verdict):
            fates[number] = _fate(address, verdict)
        else:
            transaction.recipients.append(recipient)
            taken.append(number)
    if taken:
        verdicts = await _verdicts(pipeline, session, transaction, content, fault)
        for number, recipient, verdict in zip(taken, transaction.recipients, verdicts, strict=True):
            fates[number] = _fate(recipient.address, verdict, _routes_of(recipient))
    rehearsal.recipients = [fates[number] for number in range(len(recipients))]
    return _closed(rehearsal, session, transaction)


async def _verdicts(
    pipeline: IPipeline, session: Session, transaction: Transaction, content: Content, fault: Reject | Disconnect | None
) -> Sequence[Verdict]:
    """For each recipient, from DATA on."""
    verdict = await _now(pipeline.data(session, transaction))
    if not _stops(verdict) and fault is None:
        votes = pipeline.message(session, transaction, Message(content))
        return await votes if isinstance(votes, Awaitable) else votes
    return [fault if fault is not None and not _stops(verdict) else verdict] * len(transaction.recipients)


def _routes_of(recipient: Recipient) -> str:
    """Where its mail goes: the route, or whom the address stands for, and the route of each."""
    if not recipient.targets:
        return recipient.route
    return ", ".join(f"{one.address} by {recipient.route or one.route}" for one in recipient.targets)


async def _now(verdict: Verdict | Awaitable[Verdict]) -> Verdict:
    return await verdict if isinstance(verdict, Awaitable) else verdict


def _stops(verdict: Verdict) -> bool:
    return isinstance(verdict, Reject | Defer | Disconnect)


def _fate(address: Address, verdict: Verdict, route: str = "") -> RecipientFate:
    match verdict:
        case Continue() | Accept():
            return RecipientFate(str(address), "taken", route)
        case Quarantine(reason):
            return RecipientFate(str(address), "quarantined", route, reason=reason)
        case Discard(reason):
            return RecipientFate(str(address), "discarded", route, reason=reason)
        case Reject(reply, reason) | Disconnect(reply, reason) | Defer(reply, reason):
            outcome = "deferred" if reply.code // 100 == 4 else "refused"
            return RecipientFate(str(address), outcome, route, str(reply), reason)


def _closed(rehearsal: Rehearsal, session: Session, transaction: Transaction) -> Rehearsal:
    rehearsal.steps = [*session.trace, *transaction.trace]
    rehearsal.edits = [described(edit) for edit in transaction.edits]
    return rehearsal
