"""Taking responsibility: the message is durable, then the peer is told so."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import answered, as_deferred
from mailgate.envelope import (
    Envelope,
    EnvelopeRecipient,
    MailParameters,
    Origin,
    Recipient,
    Session,
    Target,
    Transaction,
)
from mailgate.events import Discarded, MessageAccepted, Quarantined, Refused
from mailgate.interfaces import IEvents, IIntake, ISpool, Lease, SpoolError
from mailgate.message import Content, Message, body_edits, is_of_header, release
from mailgate.observe.asked import asked_for
from mailgate.relay.editing import ContentEditor, EnvelopeChanges, NextHop, with_new_octets
from mailgate.relay.ready.jobs import LEASE_TIME
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from mailgate.wire.xtext import utf8_addr_xtext, xtext_encode

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
    recipients who are added.
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
    ) -> None:
        self._spool = spool
        self._refusal = refusal
        self._deliver = deliver
        self._events = events
        self._clock = clock
        self._editor = editor
        self._next_hop = next_hop

    def refuse_before_data(self, size: int | None) -> Reply | None:
        return _NO_ROOM if self._refusal(size or 0) else None

    def take(
        self, session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Deferred[Sequence[Reply]]:
        if all(map(is_of_header, transaction.edits)):
            return self._take(session, transaction, content, verdicts)
        return Deferred.fromCoroutine(self._take_edited(session, transaction, content, verdicts))

    async def _take_edited(
        self, session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Sequence[Reply]:
        edits = transaction.edits
        edited = content
        try:
            changes = EnvelopeChanges(edits, transaction.sender, self._next_hop)
            if body_edits(edits):
                edited = await answered(self._editor.edit(content, edits))
        except Exception as error:  # nobody has been promised anything yet, and the client keeps its message
            _give_up(content)
            release(edits)
            return self._cannot_edit(session, transaction, verdicts, error)
        if edited is not content:
            _give_up(content)
            release(edits)
            transaction.parameters = with_new_octets(transaction.parameters, edits)
        return await self._take(session, transaction, edited, verdicts, changes)

    def _cannot_edit(
        self, session: Session, transaction: Transaction, verdicts: Sequence[Verdict], error: Exception
    ) -> Sequence[Reply]:
        """Tell of it, and the reply for each recipient: for now, it is refused."""
        if not isinstance(error, OSError | ValueError):
            _log.failure("a message could not be changed", failure=Failure(error))
        reply = _NO_ROOM if isinstance(error, OSError) and error.errno in _FULL else _OURS
        self._events.publish(
            Refused(
                at=self._clock.seconds(),
                session=session.id,
                client=str(session.client),
                listener=session.listener,
                helo=session.helo,
                stage="content",
                filter="",
                reason=f"what filters have changed cannot be made so: {error}",
                reply=str(reply),
                queue_id=transaction.id,
                sender=str(transaction.sender),
                recipients=tuple(str(one.address) for one in transaction.recipients),
                trace=(*session.trace, *transaction.trace),
            )
        )
        is_lmtp = "LMTP" in session.protocol
        return [
            verdict.reply if is_lmtp and isinstance(verdict, Reject | Defer | Disconnect) else reply
            for verdict in verdicts
        ]

    def _take(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        verdicts: Sequence[Verdict],
        changes: EnvelopeChanges | None = None,
    ) -> Deferred[Sequence[Reply]]:
        now = self._clock.seconds()
        is_lmtp = "LMTP" in session.protocol
        taken = Reply(250, "2.0.0", (f"queued as {transaction.id}",))
        replies = [taken] * len(verdicts)
        recipients: list[EnvelopeRecipient] = []
        named: list[Recipient] = []  # of whom something is kept
        has_fates = has_aliases = False
        removed: list[Address] = []
        for number, (recipient, verdict) in enumerate(zip(transaction.recipients, verdicts, strict=True)):
            quarantine = refusal = ""
            if type(verdict) is Continue:
                pass
            elif isinstance(verdict, Discard):
                has_fates = True
                continue
            elif isinstance(verdict, Quarantine):
                has_fates = True
                quarantine = verdict.reason
            elif isinstance(verdict, Reject | Defer | Disconnect):
                if is_lmtp:
                    replies[number] = verdict.reply  # its own tells it
                    continue
                refusal = str(verdict.reply)
            if changes is not None and not refusal and changes.removes(recipient.address):
                removed.append(recipient.address)
                continue
            named.append(recipient)
            if recipient.targets:
                has_aliases = True
                recipients += _targets_of(recipient, len(transaction.recipients) + len(recipients), quarantine, refusal)
                continue
            recipients.append(
                EnvelopeRecipient(
                    number, recipient.address, recipient.route, quarantine, refusal, recipient.notify, recipient.orcpt
                )
            )
        if changes is not None:
            removed += [one.address for one in recipients if not one.refusal and changes.removes(one.address)]
            recipients = [one for one in recipients if one.refusal or not changes.removes(one.address)]
            there = [one.address for one in transaction.recipients] + [one.address for one in recipients]
            recipients += changes.added(there, max((one.number for one in recipients), default=len(verdicts)) + 1)
        if not recipients:
            _give_up(content)
            self._tell_fates(transaction, verdicts, removed)
            return succeed(replies)
        if has_aliases:
            recipients = _without_doubles(recipients)
        envelope = Envelope(
            queue_id=transaction.id,
            sender=transaction.sender if changes is None else changes.sender,
            recipients=tuple(recipients),
            received=now,
            size=content.size,
            parameters=_with_header(transaction.parameters, content),
            client=str(session.client),
            origin=transaction.origin or origin_of(session),
            edits=tuple(filter(is_of_header, transaction.edits)),
        )
        message_id = message_id_of(content)  # now: a file moves when it is taken over

        def durable(lease: Lease) -> Sequence[Reply]:
            content.give_back()
            self._tell_accepted(session, transaction, envelope, named, message_id)
            if has_fates or removed:
                self._tell_fates(transaction, verdicts, removed)
            self._deliver(lease)
            return replies

        def failed(failure: Failure) -> Sequence[Reply]:
            content.give_back()
            reply = _NO_ROOM
            if not failure.check(SpoolError):
                _log.failure("a message could not be taken", failure=failure)
                reply = _OURS
            return [reply if told is taken else told for told in replies]

        accepted = self._spool.accept(envelope, content, now + LEASE_TIME)
        return as_deferred(accepted).addCallbacks(durable, failed)

    def _tell_accepted(
        self,
        session: Session,
        transaction: Transaction,
        envelope: Envelope,
        named: Sequence[Recipient],
        message_id: str,
    ) -> None:
        identity, tls, proxy = session.identity, session.tls, session.proxy
        aliases = [one for one in named if one.targets]
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
                trace=(*session.trace, *transaction.trace),
            )
        )

    def _tell_fates(self, transaction: Transaction, verdicts: Sequence[Verdict], removed: Sequence[Address]) -> None:
        """An event for each policy that keeps the message from some of its recipients."""
        gone = frozenset(removed)
        for kind, event in ((Discard, Discarded), (Quarantine, Quarantined)):
            concerned: dict[str, list[str]] = {}
            for recipient, verdict in zip(transaction.recipients, verdicts, strict=True):
                if isinstance(verdict, kind) and (kind is Discard or recipient.address not in gone):
                    concerned.setdefault(verdict.reason, []).append(str(recipient.address))
            if kind is Discard and removed:
                concerned.setdefault(_REMOVED, []).extend(map(str, removed))
            for reason, addresses in concerned.items():
                self._events.publish(
                    event(
                        at=self._clock.seconds(),
                        queue_id=transaction.id,
                        sender=str(transaction.sender),
                        recipients=tuple(addresses),
                        reason=reason,
                    )
                )


def _give_up(content: Content) -> None:
    content.discard()
    content.give_back()


def _told(alias: Recipient) -> str:
    """What an address stood for, in words: "info@example.org: ann@example.org, bob@example.net"."""
    return f"{alias.address}: {', '.join(map(_told_target, alias.targets))}"


def _told_target(target: Target) -> str:
    return str(target.address) if target.return_path is None else f"{target.address} from {target.return_path}"


def _targets_of(recipient: Recipient, number: int, quarantine: str, refusal: str) -> Iterator[EnvelopeRecipient]:
    """A recipient for each target. Reports name the address that the sender wrote to (RFC 3461 section 5.2.7.2)."""
    orcpt = recipient.orcpt or _original(recipient.address)
    for place, target in enumerate(recipient.targets):
        yield EnvelopeRecipient(
            number + place,
            target.address,
            recipient.route or target.route,
            quarantine,
            refusal,
            recipient.notify,
            orcpt,
            target.return_path,
        )


def _original(address: Address) -> str:
    text = str(address)
    return f"rfc822;{xtext_encode(text)}" if text.isascii() else f"utf-8;{utf8_addr_xtext(text)}"


def _without_doubles(recipients: Sequence[EnvelopeRecipient]) -> list[EnvelopeRecipient]:
    """One for each address: where several recipients stand for it, or it is one itself, the first that lets it through.

    Of those that are kept back or refused, the first.
    """
    found: dict[Address, EnvelopeRecipient] = {}
    for one in recipients:
        before = found.get(one.address)
        if before is None or ((before.quarantine or before.refusal) and not (one.quarantine or one.refusal)):
            found[one.address] = one
    return list(found.values())


def origin_of(session: Session) -> Origin:
    """Where the mail of a session comes from, as a next hop is told; who is known by its address only has no login."""
    client, identity, protocol = session.client, session.identity, session.protocol
    if protocol != "SMTP":
        protocol = "LMTP" if "LMTP" in protocol else "ESMTP"  # without what RFC 3848 and RFC 6531 add
    return Origin(
        address="" if client.address is None else str(client.address),
        port=client.port,
        name=client.name,
        helo=session.helo,
        protocol=protocol,
        login=identity.name if identity is not None and identity.mechanism != "network" else "",
    )


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
