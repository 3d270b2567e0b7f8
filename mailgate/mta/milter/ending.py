"""The end of a message: it is judged, and the mail server is told what becomes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.awaiting import answered, as_deferred
from mailgate.envelope import Session, Transaction
from mailgate.events import Discarded, Judged
from mailgate.interfaces import IPipeline
from mailgate.message import Content, Message, behind_header, body_edits, release
from mailgate.mta.milter.changes import CannotChangeError, check_right, envelope_changes, header_changes, told
from mailgate.mta.milter.deciding import Decision, Terms, decide
from mailgate.mta.milter.named import Named, is_by_hand
from mailgate.mta.milter.services import LOCAL_ERROR, MilterServices, judged
from mailgate.observe.refusal import RefusalTeller
from mailgate.reply import Reply
from mailgate.smtp.answers import answers_to, tell_refusals
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from mailgate.wire.milter.codec import (
    SMALL,
    Answer,
    BodyReplaced,
    Change,
    Quarantined,
    RecipientAdded,
    RecipientRemoved,
    ReplyGiven,
)
from mailgate.wire.milter.negotiation import Agreement
from mailgate.wire.milter.words import Actions, Plain

__all__ = ["Ending", "farewell"]

T = TypeVar("T")

_log = Logger()

#: Seconds after which the mail server is told that we are still at work; it waits for the next word, not for the end.
_PROGRESS = 10.0
_MAX_REASON = 200
_REMOVED = "a filter has removed the recipient"


def farewell(reply: Reply) -> Reply:
    """The reply with which a mail server lets its client go: it does so at 421."""
    return Reply(421, reply.status, reply.lines) if reply.is_transient else reply


class Ending:
    """Of one message. `content` is owned from the beginning, and `say` as in MilterSession."""

    def __init__(
        self,
        services: MilterServices,
        agreement: Agreement,
        session: Session,
        transaction: Transaction,
        content: Content,
        named: Named,
        say: Callable[[Answer], Awaitable[None]],
    ) -> None:
        self._services = services
        self._agreement = agreement
        self._session = session
        self._transaction = transaction
        self._named = named
        self._message = Message(content)
        self._message_id = ""
        self._is_with_intake = False  # which has the edits, too
        self._size = content.size
        self._owned: list[Content] = [content]
        self._say = say
        self._teller = RefusalTeller(session, services.events, services.clock)

    async def conclude(self, pipeline: IPipeline) -> Reply | None:
        """Judge it, and answer; the reply where the client has to go as well."""
        try:
            return await self._conclude(pipeline)
        finally:
            for content in self._owned:
                _let_go(content)
            if not self._is_with_intake:
                self._release()

    async def _conclude(self, pipeline: IPipeline) -> Reply | None:
        transaction = self._transaction
        verdicts = await self._verdicts(pipeline)
        replies = answers_to(verdicts, is_lmtp=False)
        if replies and replies[0] is not None:
            leaves = any(isinstance(verdict, Disconnect) for verdict in verdicts)
            reply = farewell(replies[0]) if leaves else replies[0]
            tell_refusals(self._teller, transaction, self._message, verdicts, [reply] * len(verdicts))
            await self._say(ReplyGiven(reply))
            return reply if leaves else None
        self._message_id = next(iter(self._message.values("Message-ID")), "")[:998]  # as long as it is here
        decision = decide(transaction, verdicts, self._terms())
        if decision.reply is not None:
            await self._give_up(decision.reply, decision.reason)
            return None
        try:
            changes = self._changes(decision)
            body = await self._body(decision)
        except (CannotChangeError, OSError, ValueError) as error:
            await self._give_up(LOCAL_ERROR, f"what filters have changed cannot be made so: {error}")
            return None
        refusal = await self._take_ours(decision, verdicts)
        if refusal is not None:
            await self._give_up(refusal, "what does not stay with the mail server could not be taken over")
            return None
        await self._tell(decision, changes, body)
        return None

    async def _verdicts(self, pipeline: IPipeline) -> Sequence[Verdict]:
        """About each recipient; those who have been refused before come last."""
        services, transaction, refused = self._services, self._transaction, self._named.refused
        answer: Sequence[Verdict] | Defer = ()
        if transaction.recipients or not refused:
            answer = await self._at_work(
                judged(
                    pipeline.message(self._session, transaction, self._message),
                    services.clock,
                    services.section.message_timeout,
                )
            )
        verdicts = [answer] * len(transaction.recipients) if isinstance(answer, Defer) else answer
        transaction.recipients += [recipient for recipient, _ in refused]
        return [*verdicts, *(verdict for _, verdict in refused)]

    def _terms(self) -> Terms:
        section, session = self._services.section, self._session
        is_known = session.identity is not None and session.role != "inbound"
        return Terms(
            keeps=section.quarantine == "own",
            has_route=section.route is not None,
            may_report=section.refused_for_some == "report" or is_known,
            can_part=not is_by_hand(session.client),
        )

    def _changes(self, decision: Decision) -> list[Change]:
        """What the mail server has to change beside the body; CannotChangeError where it does not let us."""
        transaction = self._transaction
        people = [one.address for one in transaction.recipients]
        gone = [people[place] for place in sorted([*decision.discarded, *decision.ours])]
        changes = envelope_changes(
            decision.edits, transaction.sender, [people[place] for place in decision.theirs], gone, self._named.written
        )
        if decision.theirs or not people:
            changes = [
                *header_changes(self._message.fields, decision.edits, keeps_space=self._agreement.keeps_space),
                *changes,
            ]
            check_right(changes, self._agreement)
            if decision.hold and not self._agreement.actions & Actions.QUARANTINE:
                raise CannotChangeError("the mail server does not let us put mail into its quarantine")
            if body_edits(decision.edits) and not self._agreement.actions & Actions.CHANGE_BODY:
                raise CannotChangeError("the mail server does not let us change the body")
        return changes

    async def _body(self, decision: Decision) -> Content | None:
        """The content with another body; None where that stays as it is."""
        edits = body_edits(decision.edits)
        if not edits or not decision.theirs:
            return None
        making = answered(self._services.edit(self._message.content, edits))
        made = await self._at_work(_shielded(making, _let_go))
        self._owned.append(made)
        return made

    async def _take_ours(self, decision: Decision, verdicts: Sequence[Verdict]) -> Reply | None:
        """Take over what does not stay with the mail server; the reply where that cannot be."""
        if not decision.ours:
            return None
        services, transaction = self._services, self._transaction
        refused = [one if isinstance(one, Reject | Disconnect) else Continue() for one in verdicts]
        refused = [one if place in decision.ours else Continue() for place, one in enumerate(refused)]
        if any(isinstance(one, Reject | Disconnect) for one in refused):
            tell_refusals(self._teller, transaction, self._message, refused, [None] * len(refused))
        route = services.section.route or ""
        people = [replace(transaction.recipients[place], route=route, targets=()) for place in decision.ours]
        part = replace(transaction, recipients=people)
        content = self._owned.pop(0)
        taking = as_deferred(services.intake.take(self._session, part, content, list(decision.ours.values())))
        taking.addBoth(self._intake_is_done)
        try:
            replies = await self._at_work(_shielded(taking, lambda _: None))
        except CancelledError:
            self._is_with_intake = True
            raise
        return next((reply for reply in replies if not reply.is_positive), None)

    def _intake_is_done(self, result: T) -> T:
        if self._is_with_intake:
            self._release()
        return result

    async def _tell(self, decision: Decision, changes: Sequence[Change], body: Content | None) -> None:
        """The answer where nothing is refused."""
        answer: Plain = Plain.CONTINUE
        if self._transaction.recipients and not self._is_for_anybody(decision, changes):
            answer = Plain.DISCARD
        else:
            for change in changes:
                await self._say(change)
            if body is not None:
                for piece in _pieces(body):
                    await self._say(BodyReplaced(piece))
            if decision.hold:
                text = f"mailgate {self._transaction.id}: {decision.hold}"[:_MAX_REASON]
                await self._say(Quarantined(_plain(text)))
        self._publish(decision, changes, answer, has_body=body is not None)
        await self._say(answer)

    def _is_for_anybody(self, decision: Decision, changes: Sequence[Change]) -> bool:
        """Whether the mail server has a recipient left: filters may have removed all."""
        if any(isinstance(one, RecipientAdded) for one in changes):
            return bool(decision.theirs)
        removed = {one.address for one in changes if isinstance(one, RecipientRemoved)}
        return any(f"<{one.address}>".encode() not in removed for one in self._transaction.recipients)

    def _publish(self, decision: Decision, changes: Sequence[Change], answer: Plain, *, has_body: bool) -> None:
        services, session, transaction = self._services, self._session, self._transaction
        people = [str(one.address) for one in transaction.recipients]
        identity, tls = session.identity, session.tls
        now = services.clock.seconds()
        reasons: dict[str, list[str]] = {}
        for place, reason in decision.discarded.items():
            reasons.setdefault(reason, []).append(people[place])
        removed = {one.address.decode("utf-8", "replace") for one in changes if isinstance(one, RecipientRemoved)}
        for place in decision.theirs:
            if f"<{people[place]}>" in removed:
                reasons.setdefault(_REMOVED, []).append(people[place])
        word = "discard" if answer is Plain.DISCARD else "quarantine" if decision.hold else "continue"
        services.events.publish(
            Judged(
                at=now,
                queue_id=transaction.id,
                ident=transaction.origin.ident if transaction.origin else "",
                session=session.id,
                client=str(session.client),
                listener=session.listener,
                helo=session.helo,
                sender=str(transaction.sender),
                recipients=tuple(people),
                size=self._size,
                answer=word,
                reason=decision.hold,
                changes=() if answer is Plain.DISCARD else tuple(told(changes, has_body=has_body)),
                taken=tuple([people[place] for place in decision.ours]),
                message_id=self._message_id,
                protocol=session.protocol,
                identity="" if identity is None else f"{identity.name} by {identity.mechanism}",
                tls="" if tls is None else f"{tls.version} {tls.cipher}",
                trace=(*session.trace, *transaction.trace),
            )
        )
        for reason, addresses in reasons.items():
            services.events.publish(
                Discarded(
                    at=now,
                    queue_id=transaction.id,
                    sender=str(transaction.sender),
                    recipients=tuple(addresses),
                    reason=reason,
                )
            )

    def _release(self) -> None:
        release([*self._transaction.edits, *self._transaction.edits_for])

    async def _give_up(self, reply: Reply, reason: str) -> None:
        """Refuse for a reason of our own."""
        self._teller.tell("content", reply, reason, trace=self._transaction.trace, transaction=self._transaction)
        await self._say(ReplyGiven(reply))

    async def _at_work(self, work: Awaitable[T]) -> T:
        """Do it, and tell the mail server now and then that it is being done."""
        clock = self._services.clock
        calls: list[IDelayedCall] = []

        def tell() -> None:
            calls[:] = [clock.callLater(_PROGRESS, tell)]
            as_deferred(self._say(Plain.PROGRESS)).addErrback(lambda _: None)

        calls.append(clock.callLater(_PROGRESS, tell))
        try:
            return await work
        finally:
            calls[0].cancel()


async def _shielded(work: Awaitable[T], late: Callable[[T], object]) -> T:
    """What it comes to. It goes on where whoever waits for it gives up, and `late` is given what it comes to then."""
    waited: Deferred[T] = Deferred()
    is_given_up = False

    def done(result: T) -> None:
        if is_given_up:
            late(result)
        else:
            waited.callback(result)

    def failed(failure: Failure) -> None:
        if is_given_up:
            _log.failure("what a lost connection has left behind failed", failure=failure)
        else:
            waited.errback(failure)

    as_deferred(work).addCallbacks(done, failed)
    try:
        return await waited
    except CancelledError:
        is_given_up = True
        raise


def _let_go(content: Content) -> None:
    content.discard()
    content.give_back()


def _pieces(content: Content) -> Iterator[bytes]:
    """The body in pieces that fit a packet; one at least."""
    skip, is_empty = 2, True  # the empty line
    for chunk in behind_header(content):
        data = chunk[skip:]
        skip = max(skip - len(chunk), 0)
        for at in range(0, len(data), SMALL):
            is_empty = False
            yield data[at : at + SMALL]
    if is_empty:
        yield b""


def _plain(text: str) -> bytes:
    return "".join(one if one.isprintable() else "?" for one in text).encode("utf-8", "replace")
