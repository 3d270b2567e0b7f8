"""Taking responsibility: the message is durable, then the peer is told so."""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.awaiting import answered, as_deferred
from mailgate.envelope import Envelope, MailParameters, Recipient, Session, Target, Transaction, origin_of
from mailgate.events import Discarded, MessageAccepted, Quarantined
from mailgate.findings import stream_of
from mailgate.interfaces import IEvents, IIntake, IOriginals, ISpool, Lease, SpoolError
from mailgate.message import BodyEdit, Content, Message, body_edits, is_of_header, release
from mailgate.observe.asked import asked_for
from mailgate.observe.refusal import RefusalTeller
from mailgate.relay.editing import ContentEditor, NextHop, with_new_octets
from mailgate.relay.kept import kept_of
from mailgate.relay.parts import Part, change, fill, parts_of
from mailgate.relay.ready.jobs import LEASE_TIME
from mailgate.reply import Reply
from mailgate.verdict import Defer, Discard, Disconnect, Quarantine, Reject, Verdict

__all__ = ["Intake"]

_log = Logger()

# No repetition gives back what it has taken: the time for a header section is in proportion to its length, whatever it
# holds.
_MESSAGE_ID = re.compile(rb"\r\nmessage-id[ \t]*+:[ \t]*+(?:\r\n[ \t]++)?([^\r\n]++)", re.IGNORECASE)
_NO_ROOM = Reply.of(452, "4.3.1", "Insufficient system storage")
_OURS = Reply.of(451, "4.3.0", "Local error, try again later")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMOVED = "a filter has removed the recipient"


@implementer(IIntake)
class Intake:
    """IIntake into a spool. `deliver` is given each lease: the relay's first attempt reads nothing back. Where the
    lease has no recipients, all are kept back, or wait for the time at which they are to be released.

    `refusal` is the spool's: why it cannot take so many octets now, or "". What filters have changed about the body
    and the envelope is made so before the spool is asked: `editor` makes the content, and `next_hop` tells the route of
    recipients who are added. `originals` gets what came of a message that is changed and goes into quarantine.
    """

    def __init__(
        self,
        spool: ISpool,
        *,
        refusal: Callable[[int], str],
        deliver: Callable[[Lease], None],
        events: IEvents,
        clock: IReactorTime,
        editor: ContentEditor,
        next_hop: NextHop,
        originals: IOriginals,
    ) -> None:
        self._spool = spool
        self._refusal = refusal
        self._deliver = deliver
        self._events = events
        self._clock = clock
        self._editor = editor
        self._next_hop = next_hop
        self._originals = originals

    def refuse_before_data(self, size: int | None) -> Reply | None:
        return _NO_ROOM if self._refusal(size or 0) else None

    def take(
        self, session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Deferred[Sequence[Reply]]:
        parts = parts_of(transaction)
        if len(parts) > 1 or not all(map(is_of_header, parts[0].edits)):
            return Deferred.fromCoroutine(self._take_edited(session, transaction, content, verdicts, parts))
        going = fill(parts, transaction, verdicts, is_lmtp=_is_lmtp(session))
        if not going:
            _give_up(content)
            return succeed(self._none(session, transaction, verdicts, parts))
        drafts = [(self.envelope(session, transaction, going[0], content), content)]
        return self._accept(session, transaction, verdicts, parts, going, drafts)

    async def _take_edited(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        verdicts: Sequence[Verdict],
        parts: Sequence[Part],
    ) -> Sequence[Reply]:
        """Make what has been changed; `content` is that of the first of the parts that change nothing of it."""
        contents: list[Content] = []
        edits = [*transaction.edits, *transaction.edits_for]
        try:
            change(parts, transaction.sender, self._next_hop)
            going = fill(parts, transaction, verdicts, is_lmtp=_is_lmtp(session))
            if len(going) > 1 and self._refusal(content.size * len(going)):
                raise OSError(errno.ENOSPC, f"no room for it {len(going)} times")
            await self._make(going, content, contents)
            for part in going:
                if _is_kept_back(part) and body_edits(part.edits):
                    await self._originals.keep(part.queue_id, content)
            drafts = [
                (self.envelope(session, transaction, part, made), made)
                for part, made in zip(going, contents, strict=True)
            ]
        except Exception as error:  # nobody has been promised anything yet, and the client keeps its message
            for one in (content, *contents):
                _give_up(one)
            release(edits)
            return self._cannot_edit(session, transaction, verdicts, error)
        if content not in contents:
            _give_up(content)
        release(edits)
        if not going:
            return self._none(session, transaction, verdicts, parts)
        return await self._accept(session, transaction, verdicts, parts, going, drafts)

    async def _make(self, parts: Sequence[Part], content: Content, contents: list[Content]) -> None:
        """The content of each part, put into `contents` as it comes to be."""
        made: dict[tuple[BodyEdit, ...], Content] = {}
        for part in parts:
            edits = tuple(body_edits(part.edits))
            if edits in made:
                contents.append(await answered(self._editor.copy(made[edits])))
            else:
                contents.append(await answered(self._editor.edit(content, edits)) if edits else content)
                made[edits] = contents[-1]

    def envelope(self, session: Session, transaction: Transaction, part: Part, content: Content) -> Envelope:
        """What the spool is to keep of a part, beside its content."""
        parameters = (
            transaction.parameters if part.changes is None else with_new_octets(transaction.parameters, part.edits)
        )
        return Envelope(
            queue_id=part.queue_id,
            sender=transaction.sender if part.changes is None else part.changes.sender,
            recipients=tuple(part.recipients),
            received=self._clock.seconds(),
            size=content.size,
            parameters=_with_header(parameters, content),
            client=str(session.client),
            origin=transaction.origin or origin_of(session),
            edits=tuple(filter(is_of_header, part.edits)),
            listener=session.listener,
            mark=transaction.mark,
            kept=(
                kept_of(session, transaction, part, has_original=bool(body_edits(part.edits)))
                if _is_kept_back(part)
                else None
            ),
            stream=_stream_of(transaction),
        )

    def _accept(
        self,
        session: Session,
        transaction: Transaction,
        verdicts: Sequence[Verdict],
        parts: Sequence[Part],
        going: Sequence[Part],
        drafts: Sequence[tuple[Envelope, Content]],
    ) -> Deferred[Sequence[Reply]]:
        """Have the spool take all of the drafts, one for each part that is going, or none."""
        message_id = message_id_of(drafts[0][1])  # now: a file moves when it is taken over

        def durable(leases: Lease | Sequence[Lease]) -> Sequence[Reply]:
            for part, (envelope, content) in zip(going, drafts, strict=True):
                content.give_back()
                self.tell_accepted(session, transaction, envelope, part.named, message_id)
            self._tell_fates(transaction, verdicts, parts)
            for lease in (leases,) if isinstance(leases, Lease) else leases:
                self._deliver(lease)
            return _answers(session, transaction, verdicts, going)

        def failed(failure: Failure) -> Sequence[Reply]:
            for _, content in drafts:
                content.give_back()
            reply = _NO_ROOM
            if not failure.check(SpoolError):
                _log.failure("a message could not be taken", failure=failure)
                reply = _OURS
            return _all(reply, session, verdicts)

        until = self._clock.seconds() + LEASE_TIME
        spool = self._spool
        accepted: Awaitable[Lease | Sequence[Lease]] = (
            spool.accept(*drafts[0], until) if len(drafts) == 1 else spool.accept_all(drafts, until)
        )
        return as_deferred(accepted).addCallbacks(durable, failed)

    def _none(
        self, session: Session, transaction: Transaction, verdicts: Sequence[Verdict], parts: Sequence[Part]
    ) -> Sequence[Reply]:
        """Nobody gets anything of it, and that is well."""
        self._tell_fates(transaction, verdicts, parts)
        return _answers(session, transaction, verdicts, ())

    def _cannot_edit(
        self, session: Session, transaction: Transaction, verdicts: Sequence[Verdict], error: Exception
    ) -> Sequence[Reply]:
        """Tell of it, and the reply for each recipient: for now, it is refused."""
        if not isinstance(error, OSError | ValueError):
            _log.failure("a message could not be changed", failure=Failure(error))
        reply = _NO_ROOM if isinstance(error, OSError) and error.errno in _FULL else _OURS
        RefusalTeller(session, self._events, self._clock).tell(
            "content", reply, f"what filters have changed cannot be made so: {error}", transaction=transaction
        )
        return _all(reply, session, verdicts)

    def tell_accepted(
        self,
        session: Session,
        transaction: Transaction,
        envelope: Envelope,
        named: Sequence[Recipient],
        message_id: str,
    ) -> None:
        """Tell of a message that is durable for the recipients that are named, here or at the next hop."""
        identity, tls, proxy = session.identity, session.tls, session.proxy
        aliases = [one for one in named if one.targets]
        is_split = envelope.queue_id != transaction.id
        self._events.publish(
            MessageAccepted(
                at=self._clock.seconds(),
                queue_id=envelope.queue_id,
                session=session.id,
                client=envelope.client,
                listener=session.listener,
                helo=session.helo,
                sender=str(envelope.sender),
                recipients=tuple([str(one.address) for one in named]),
                size=envelope.size,
                message_id=message_id,
                protocol=session.protocol,
                identity="" if identity is None else f"{identity.name} by {identity.mechanism}",
                tls="" if tls is None else f"{tls.version} {tls.cipher}",
                proxy="" if proxy is None else str(proxy),
                asked=asked_for(envelope, transaction.recipients if aliases else None),
                aliases=tuple(map(_told, aliases)),
                split_from=transaction.id if is_split else "",
                stream=envelope.stream,
                ident=envelope.origin.ident,
                origin=transaction.origin.client if transaction.origin else "",
                origin_helo=transaction.origin.helo if transaction.origin else "",
                trace=() if is_split else (*session.trace, *transaction.trace),
            )
        )

    def _tell_fates(self, transaction: Transaction, verdicts: Sequence[Verdict], parts: Sequence[Part]) -> None:
        """An event for each policy that keeps a message from some of its recipients."""
        for part in parts:
            if not (part.has_fates or part.removed):
                continue
            gone = frozenset(part.removed)
            for kind, event in ((Discard, Discarded), (Quarantine, Quarantined)):
                concerned: dict[str, list[str]] = {}
                for place in part.places:
                    verdict, address = verdicts[place], transaction.recipients[place].address
                    if isinstance(verdict, kind) and (kind is Discard or address not in gone):
                        concerned.setdefault(verdict.reason, []).append(str(address))
                if kind is Discard and gone:
                    concerned.setdefault(_REMOVED, []).extend(map(str, part.removed))
                for one in part.added:
                    if kind is Quarantine and one.quarantine:
                        concerned.setdefault(one.quarantine, []).append(str(one.address))
                for reason, addresses in concerned.items():
                    self._events.publish(
                        event(
                            at=self._clock.seconds(),
                            queue_id=part.queue_id,
                            sender=str(transaction.sender),
                            recipients=tuple(addresses),
                            reason=reason,
                        )
                    )


def _is_lmtp(session: Session) -> bool:
    return "LMTP" in session.protocol


def _answers(
    session: Session, transaction: Transaction, verdicts: Sequence[Verdict], going: Sequence[Part]
) -> Sequence[Reply]:
    """What is told of each recipient, once all that is kept is durable: LMTP has a reply for each, with the id of its
    message, and SMTP one for all."""
    replies = [_queued(transaction.id)] * len(verdicts)
    if _is_lmtp(session):
        for part in going[1:]:
            for place in part.places:
                replies[place] = _queued(part.queue_id)
        for place, verdict in enumerate(verdicts):
            if isinstance(verdict, Reject | Defer | Disconnect):
                replies[place] = verdict.reply
    return replies


def _all(reply: Reply, session: Session, verdicts: Sequence[Verdict]) -> Sequence[Reply]:
    """This reply for every recipient; over LMTP those that are refused keep their own."""
    is_lmtp = _is_lmtp(session)
    return [
        verdict.reply if is_lmtp and isinstance(verdict, Reject | Defer | Disconnect) else reply for verdict in verdicts
    ]


def _queued(queue_id: str) -> Reply:
    return Reply(250, "2.0.0", (f"queued as {queue_id}",))


def _is_kept_back(part: Part) -> bool:
    """Whether it is in quarantine for anybody."""
    return part.has_fates and any(one.quarantine for one in part.recipients)


def _stream_of(transaction: Transaction) -> str:
    return stream_of(transaction.evidence)


def _give_up(content: Content) -> None:
    content.discard()
    content.give_back()


def _told(alias: Recipient) -> str:
    """What an address stood for, in words: "info@example.org: ann@example.org, bob@example.net"."""
    return f"{alias.address}: {', '.join(map(_told_target, alias.targets))}"


def _told_target(target: Target) -> str:
    return str(target.address) if target.return_path is None else f"{target.address} from {target.return_path}"


def _with_header(parameters: MailParameters, content: Content) -> MailParameters:
    """The parameters, with what the header says about TLS (RFC 8689 section 5); REQUIRETLS has the last word."""
    try:
        if parameters.require_tls or b"tls-required" not in content.header.lower():
            return parameters
        values = Message(content).values("TLS-Required")
    except OSError:
        return parameters
    return replace(parameters, tls_optional=True) if [one.lower() for one in values] == ["no"] else parameters


def message_id_of(content: Content) -> str:
    """The Message-ID field's value as it stands; "" where there is none, or the content cannot be read."""
    try:
        found = _MESSAGE_ID.search(b"\r\n" + content.header)
    except OSError:
        return ""
    return found[1].rstrip(b" \t").decode("utf-8", "replace")[:998] if found else ""
