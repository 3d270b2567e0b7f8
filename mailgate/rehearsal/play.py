"""What would happen to a mail: every stage of the configured pipeline; nothing is accepted, nothing delivered."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mailgate.address import Address
from mailgate.awaiting import answered
from mailgate.envelope import Recipient, Session, TraceStep, Transaction
from mailgate.interfaces import IPipeline, IRouting, Placed
from mailgate.message import Content, Message, release
from mailgate.message.words import described
from mailgate.smtp.answers import WITH_THE_OTHERS, answers_to, settled
from mailgate.verdict import Accept, Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict

__all__ = ["GoOn", "RecipientFate", "Rehearsal", "rehearse"]

GoOn = Literal["never", "deferred", "always"]
"""Behind which answers the later stages are asked all the same: behind none, behind those that are for now only, or
behind all of them."""


@dataclass(frozen=True, slots=True)
class RecipientFate:
    """What would become of one recipient: `outcome` is taken, refused, deferred, quarantined or discarded, or open
    where that is for the content to say.

    `targets` are those that the address stands for, each with its route; `route` is then "".
    `then` is what would become of it but for this refusal.
    """

    address: str
    outcome: str
    route: str = ""
    targets: tuple[str, ...] = ()
    reply: str = ""
    reason: str = ""
    then: RecipientFate | None = None


@dataclass(slots=True)
class Rehearsal:
    """The whole account: the trace in order, the fate of each recipient, the edits. Edits for some recipients say whom
    they are for."""

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
    content: Content | None,
    fault: Reject | Disconnect | None = None,
    go_on: GoOn = "never",
    may_report: bool = False,
) -> Rehearsal:
    """Play the mail through; a refusal at a stage ends it there, as it would in a session.

    `fault` is what the session itself says to the content, once it has come. Where later stages are asked all the same
    (`go_on`) the first refusal is what counts, and what comes `then` is told with it. `may_report`: what is refused
    for some and taken for others is reported to the sender, not put into quarantine. Without a `content` it ends before
    DATA, and those that nobody has refused are "open".
    """
    fates: dict[int, RecipientFate] = {}

    def connect() -> Verdict | Awaitable[Verdict]:
        return pipeline.connect(session)

    def greet() -> Verdict | Awaitable[Verdict]:
        session.helo = helo
        return pipeline.helo(session)

    def mail() -> Verdict | Awaitable[Verdict]:
        return pipeline.mail(session, transaction)

    def end() -> Rehearsal:
        edits = [described(edit) for edit in transaction.edits]
        for some in transaction.edits_for:
            whom = ", ".join(map(str, some.recipients))
            edits += [f"for {whom}: {described(edit)}" for edit in some.edits]
        release([*transaction.edits, *transaction.edits_for])
        return Rehearsal(
            steps=[*session.trace, *transaction.trace],
            recipients=[fates[number] for number in range(len(recipients))],
            edits=edits,
        )

    def note(number: int, fate: RecipientFate) -> None:
        fates[number] = replace(fates[number], then=fate) if number in fates else fate

    for ask in (connect, greet, mail):
        verdict: Verdict = await answered(ask())
        if _stops(verdict):
            for number, address in enumerate(recipients):
                note(number, _fate(address, verdict))
        if _ends(verdict, go_on):
            return end()
    asked: list[int] = []
    for number, address in enumerate(recipients):
        placed: Placed = await answered(routing.route(session, transaction, address))
        if isinstance(placed, Reject | Defer):
            note(number, _fate(address, placed))
            continue
        recipient = Recipient(address=address)
        if isinstance(placed, str):
            recipient.route = placed
        else:
            recipient.targets = placed
        verdict = await answered(pipeline.rcpt(session, transaction, recipient))
        if _stops(verdict):
            note(number, _fate(address, verdict))
        if not _ends(verdict, go_on):
            transaction.recipients.append(recipient)
            asked.append(number)
    if content is None:
        for number in asked:
            note(number, RecipientFate(str(recipients[number]), "open"))
    elif asked:
        verdicts = await _verdicts(pipeline, session, transaction, content, fault, go_on)
        is_lmtp = "LMTP" in session.protocol
        if not is_lmtp:
            verdicts = settled(verdicts, may_report=may_report)
        told = answers_to(verdicts, is_lmtp=is_lmtp) or [None] * len(verdicts)
        for number, recipient, verdict, reply in zip(asked, transaction.recipients, verdicts, told, strict=True):
            fate = _fate(recipient.address, verdict, recipient)
            if reply is not None and reply.is_transient and fate.outcome != "deferred":
                fate = RecipientFate(fate.address, "deferred", reply=str(reply), reason=WITH_THE_OTHERS, then=fate)
            note(number, fate)
    return end()


async def _verdicts(
    pipeline: IPipeline,
    session: Session,
    transaction: Transaction,
    content: Content,
    fault: Reject | Disconnect | None,
    go_on: GoOn,
) -> Sequence[Verdict]:
    """For each recipient, from DATA on."""
    verdict: Verdict = await answered(pipeline.data(session, transaction))
    refusal = verdict if _stops(verdict) else fault
    if refusal is None or not _ends(refusal, go_on):
        verdicts = await answered(pipeline.message(session, transaction, Message(content)))
        if refusal is None:
            return verdicts
    return [refusal] * len(transaction.recipients)


def _stops(verdict: Verdict) -> bool:
    return isinstance(verdict, Reject | Defer | Disconnect)


def _ends(verdict: Verdict, go_on: GoOn) -> bool:
    """Whether no later stage is asked."""
    match verdict:
        case Reject(reply) | Disconnect(reply) | Defer(reply):
            return go_on == "never" or (go_on == "deferred" and not reply.is_transient)
        case _:
            return False


def _targets_of(recipient: Recipient) -> tuple[str, ...]:
    """Those that it stands for; a filter that names a route names it for all of them."""
    return tuple(f"{one.address} by route {recipient.route or one.route}" for one in recipient.targets)


def _fate(address: Address, verdict: Verdict, recipient: Recipient | None = None) -> RecipientFate:
    targets = _targets_of(recipient) if recipient is not None else ()
    route = recipient.route if recipient is not None and not targets else ""
    match verdict:
        case Continue() | Accept():
            return RecipientFate(str(address), "taken", route, targets)
        case Quarantine(reason):
            return RecipientFate(str(address), "quarantined", route, targets, reason=reason)
        case Discard(reason):
            return RecipientFate(str(address), "discarded", route, targets, reason=reason)
        case Reject(reply, reason) | Disconnect(reply, reason) | Defer(reply, reason):
            outcome = "deferred" if reply.is_transient else "refused"
            return RecipientFate(str(address), outcome, route, targets, str(reply), reason)
