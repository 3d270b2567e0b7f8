"""What becomes of the content of an inline transaction, and what the client is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.address import Address
from mailgate.awaiting import answered, surely
from mailgate.config.routes import Preset
from mailgate.envelope import Envelope, Session, Transaction, new_id
from mailgate.interfaces import IEvents, Lease, OutcomeKind
from mailgate.message import Content, body_edits, is_of_header, release
from mailgate.observe.refusal import RefusalTeller
from mailgate.relay.attempt import Result
from mailgate.relay.editing import ContentEditor, NextHop
from mailgate.relay.inline.answers import public, with_id
from mailgate.relay.inline.back_end import is_of_one, understood
from mailgate.relay.inline.hop import HopTransaction
from mailgate.relay.inline.results import is_unreached
from mailgate.relay.intake import Intake, message_id_of
from mailgate.relay.outcome_events import event_of
from mailgate.relay.outcomes import is_owed, outcome_of
from mailgate.relay.parts import Part, change, fill, parts_of
from mailgate.relay.ready.job import Job
from mailgate.reply import Reply
from mailgate.verdict import Accept, Continue, Defer, Disconnect, Quarantine, Reject, Verdict

__all__ = ["Ending"]

_log = Logger()

#: Seconds from the end of the client's content to our answer: less than the 10 minutes after which it gives up and
#: sends the message once more (RFC 5321 section 4.5.3.2.6).
_PATIENCE = 570.0
#: Seconds that it waits at most until a report about the delivery is durable. It is written in any case.
_REPORT_PATIENCE = 20.0

_OK = Reply.of(250, "2.0.0", "OK")
_CONTINUE = Continue()


class Ending:
    """Has the next hop given the content, and tells of it. `record` writes what became of a job, with the reports that
    are owed, and fires when that is durable.

    What one answer cannot tell, or the next hop is not to have, is the intake's: messages that filters have split, keep
    back or throw away, or that are for others than the next hop was asked about.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        editor: ContentEditor,
        next_hop: NextHop,
        record: Callable[[Job], Deferred[None]],
        events: IEvents,
        clock: IReactorTime,
    ) -> None:
        self._intake = intake
        self._editor = editor
        self._next_hop = next_hop
        self._record = record
        self._events = events
        self._clock = clock

    async def end(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        verdicts: Sequence[Verdict],
        *,
        hop: HopTransaction | None,
        may_report: bool,
        may_queue: bool,
        since: float,
        preset: Preset | None = None,
    ) -> Sequence[Reply]:
        """A reply for each recipient, as IInline.send. `hop` is None where the transaction is the spool's. `may_queue`:
        so it is where the next hop breaks off before it has the content; so it always is where the next hop, which is
        of the kind `preset`, refuses it for all because of one recipient. `since`: when the client began to wait."""
        if hop is None:
            return await self._intake.take(session, transaction, content, verdicts)
        part = self._whole(session, transaction, verdicts, hop.route)
        made: Content | None = None
        if part is not None:
            made = await self._made(part, content)
        if part is None or made is None:
            hop.abandon()
            return await self._intake.take(session, transaction, content, verdicts)
        envelope = self._intake.envelope(session, transaction, part, made)
        message_id = message_id_of(made)
        left = max(since + _PATIENCE - self._clock.seconds(), 0.0)
        sending = Deferred.fromCoroutine(hop.send(envelope, envelope.recipients, made))
        results = [understood(preset, one) for one in await sending.addTimeout(left, self._clock)]
        if (may_queue and all(map(is_unreached, results))) or is_of_one(preset, results):
            if made is not content:
                _give_up(made)
            return await self._intake.take(session, transaction, content, verdicts)
        by_place = dict(_by_place(transaction, part, results))
        taken = [place for place, one in by_place.items() if one.kind is OutcomeKind.DELIVERED]
        if taken:
            try:
                named = [transaction.recipients[place] for place in taken]
                self._intake.tell_accepted(session, transaction, envelope, named, message_id)
                await self._tell_delivered(hop.job, envelope, results, made)
            except Exception:  # the client must not send again what the next hop has taken
                _log.failure("what became of {queue_id} could not be told", queue_id=envelope.queue_id)
        if made is not content:
            _give_up(made)
        is_lmtp = "LMTP" in session.protocol
        rest = {place: one for place, one in by_place.items() if one.kind is not OutcomeKind.DELIVERED}
        if taken and rest and not is_lmtp:
            kept = await self._keep(session, transaction, content, rest, may_report=may_report)
            if not kept.is_positive:
                # What the next hop has taken, the client will send once more: that is better than to lose the rest.
                self._tell_refused(session, transaction, rest, message_id)
                return [kept] * len(transaction.recipients)
        else:
            _give_up(content)
            release([*transaction.edits, *transaction.edits_for])
            self._tell_refused(session, transaction, rest, message_id)
        return _replies(transaction, verdicts, by_place, is_lmtp=is_lmtp)

    def _whole(
        self, session: Session, transaction: Transaction, verdicts: Sequence[Verdict], route: str
    ) -> Part | None:
        """The one message that the transaction is, for recipients whom the next hop may have; None where it is not."""
        is_lmtp = "LMTP" in session.protocol
        may_be = (Continue, Accept, Reject, Defer, Disconnect) if is_lmtp else (Continue, Accept)
        parts = parts_of(transaction)
        if len(parts) > 1 or not all(isinstance(one, may_be) for one in verdicts):
            return None
        if not all(map(is_of_header, parts[0].edits)):
            try:
                change(parts, transaction.sender, self._next_hop)
            except ValueError:  # the intake finds the same, and tells of it
                return None
        going = fill(parts, transaction, verdicts, is_lmtp=is_lmtp)
        if len(going) != 1 or going[0].added:
            return None
        recipients = going[0].recipients
        paths = {one.return_path for one in recipients}
        return going[0] if len(paths) == 1 and all(one.route == route for one in recipients) else None

    async def _made(self, part: Part, content: Content) -> Content | None:
        """The content after its edits; None where it cannot be made."""
        edits = body_edits(part.edits)
        if not edits:
            return content
        try:
            return await answered(self._editor.edit(content, edits))
        except (OSError, ValueError):  # the intake finds the same, and tells of it
            return None

    async def _keep(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        rest: Mapping[int, Result],
        *,
        may_report: bool,
    ) -> Reply:
        """Take responsibility for those whom the next hop has not taken, as one answer tells of all."""
        verdicts: list[Verdict] = []
        for one in rest.values():
            reason = one.reason or f"the next hop {one.host} said: {one.reply}"
            if one.kind is not OutcomeKind.FAILED:
                verdicts.append(_CONTINUE)
            elif may_report:
                verdicts.append(Reject(one.reply, reason))
            else:
                verdicts.append(Quarantine(f"refused: {one.reply} ({reason})"))
        left = replace(transaction, id=new_id(), recipients=[transaction.recipients[place] for place in rest])
        replies = await self._intake.take(session, left, content, verdicts)
        return next((one for one in replies if not one.is_positive), replies[0])

    async def _tell_delivered(self, job: Job, envelope: Envelope, results: Sequence[Result], content: Content) -> None:
        taken = [one for one in results if one.kind is OutcomeKind.DELIVERED]
        recipients = tuple(one.recipient for one in taken)
        done = Job(
            Lease(envelope, recipients, content, 0.0, {}),
            recipients,
            job.route,
            started=job.started,
            results=taken,
            site=job.site,
            source=job.source,
        )
        outcomes = [outcome_of(done, one) for one in taken]
        if any(is_owed(envelope, one) for one in outcomes):
            await surely(self._record(done).addTimeout(_REPORT_PATIENCE, self._clock))
            return
        now = self._clock.seconds()
        for one in outcomes:
            self._events.publish(event_of(done, one, now, ""))

    def _tell_refused(
        self, session: Session, transaction: Transaction, rest: Mapping[int, Result], message_id: str
    ) -> None:
        concerned: dict[tuple[Reply, str], list[Address]] = {}
        for place, one in rest.items():
            reason = one.reason or f"the next hop {one.host} said: {one.reply}"
            concerned.setdefault((public(one), reason), []).append(transaction.recipients[place].address)
        teller = RefusalTeller(session, self._events, self._clock)
        for (reply, reason), recipients in concerned.items():
            teller.tell("message", reply, reason, transaction=transaction, recipients=recipients, message_id=message_id)


def _by_place(transaction: Transaction, part: Part, results: Sequence[Result]) -> Iterator[tuple[int, Result]]:
    """The result of each recipient that the client has named, by its place; nothing for those whom a filter has
    removed or refused."""
    by_address = {one.recipient.address: one for one in results}
    for place in part.places:
        recipient = transaction.recipients[place]
        address = recipient.targets[0].address if recipient.targets else recipient.address
        if address in by_address:
            yield place, by_address[address]


def _replies(
    transaction: Transaction, verdicts: Sequence[Verdict], by_place: Mapping[int, Result], *, is_lmtp: bool
) -> Sequence[Reply]:
    found = list(by_place.values())
    if not is_lmtp:
        order = (OutcomeKind.DELIVERED, OutcomeKind.DEFERRED)
        kinds = [kind for kind in order if any(one.kind is kind for one in found)]
        told = next((one for one in found if kinds and one.kind is kinds[0]), found[0])
        return [_reply(told, transaction.id)] * len(transaction.recipients)
    replies: list[Reply] = []
    for place, verdict in enumerate(verdicts):
        if isinstance(verdict, Reject | Defer | Disconnect):
            replies.append(verdict.reply)
        else:
            replies.append(_reply(by_place[place], transaction.id) if place in by_place else _OK)
    return replies


def _reply(result: Result, queue_id: str) -> Reply:
    return with_id(result.reply, queue_id) if result.kind is OutcomeKind.DELIVERED else public(result)


def _give_up(content: Content) -> None:
    content.discard()
    content.give_back()
