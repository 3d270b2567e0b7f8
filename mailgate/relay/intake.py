"""Taking responsibility: the message is durable, then the peer is told so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import as_deferred
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
from mailgate.events import Discarded, MessageAccepted, Quarantined
from mailgate.interfaces import IEvents, IIntake, ISpool, Lease, SpoolError
from mailgate.message import Content, Message
from mailgate.observe.asked import asked_for
from mailgate.relay.ready.jobs import LEASE_TIME
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from mailgate.wire.xtext import xtext_encode

__all__ = ["Intake"]

_log = Logger()

# No repetition gives back what it has taken: the time for a header section is in proportion to its length, whatever it
# holds.
_MESSAGE_ID = re.compile(rb"\r\nmessage-id[ \t]*+:[ \t]*+(?:\r\n[ \t]++)?([^\r\n]++)", re.IGNORECASE)
_NO_ROOM = Reply.of(452, "4.3.1", "Insufficient system storage")
_OURS = Reply.of(451, "4.3.0", "Local error, try again later")


@implementer(IIntake)
class Intake:
    """IIntake into a spool. `deliver` is given each lease: the relay's first attempt reads nothing back. Where the
    lease has no recipients, all are kept back, or wait for the time at which they are to be released.

    `refusal` is the spool's: why it cannot take so many octets now, or "".
    """

    def __init__(
        self,
        spool: ISpool,
        *,
        refusal: Callable[[int], str],
        deliver: Callable[[Lease], None],
        events: IEvents,
        clock: IReactorTime,
    ) -> None:
        self._spool = spool
        self._refusal = refusal
        self._deliver = deliver
        self._events = events
        self._clock = clock

    def refuse_before_data(self, size: int | None) -> Reply | None:
        return _NO_ROOM if self._refusal(size or 0) else None

    def take(
        self, session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Deferred[Sequence[Reply]]:
        now = self._clock.seconds()
        is_lmtp = "LMTP" in session.protocol
        taken = Reply(250, "2.0.0", (f"queued as {transaction.id}",))
        replies = [taken] * len(verdicts)
        recipients: list[EnvelopeRecipient] = []
        has_fates = has_aliases = False
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
            if recipient.targets:
                has_aliases = True
                recipients += _targets_of(recipient, len(transaction.recipients) + len(recipients), quarantine, refusal)
                continue
            recipients.append(
                EnvelopeRecipient(
                    number, recipient.address, recipient.route, quarantine, refusal, recipient.notify, recipient.orcpt
                )
            )
        if not recipients:
            content.discard()
            content.give_back()
            self._tell_fates(transaction, verdicts)
            return succeed(replies)
        if has_aliases:
            recipients = _without_doubles(recipients)
        envelope = Envelope(
            queue_id=transaction.id,
            sender=transaction.sender,
            recipients=tuple(recipients),
            received=now,
            size=content.size,
            parameters=_with_header(transaction.parameters, content),
            client=str(session.client),
            origin=transaction.origin or origin_of(session),
            edits=tuple(transaction.edits),
        )
        message_id = message_id_of(content)  # now: a file moves when it is taken over

        def durable(lease: Lease) -> Sequence[Reply]:
            content.give_back()
            self._tell_accepted(session, transaction, envelope, message_id)
            if has_fates:
                self._tell_fates(transaction, verdicts)
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

    def _tell_accepted(self, session: Session, transaction: Transaction, envelope: Envelope, message_id: str) -> None:
        identity, tls, proxy = session.identity, session.tls, session.proxy
        aliases = tuple([one for one in transaction.recipients if one.targets])
        addresses = [one.address for one in envelope.recipients]
        self._events.publish(
            MessageAccepted(
                at=self._clock.seconds(),
                queue_id=envelope.queue_id,
                session=session.id,
                client=envelope.client,
                listener=session.listener,
                helo=session.helo,
                sender=str(envelope.sender),
                recipients=tuple(map(str, _as_written(aliases, addresses) if aliases else addresses)),
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

    def _tell_fates(self, transaction: Transaction, verdicts: Sequence[Verdict]) -> None:
        """An event for each policy that keeps the message from some of its recipients."""
        for kind, event in ((Discard, Discarded), (Quarantine, Quarantined)):
            concerned: dict[str, list[str]] = {}
            for recipient, verdict in zip(transaction.recipients, verdicts, strict=True):
                if isinstance(verdict, kind):
                    concerned.setdefault(verdict.reason, []).append(str(recipient.address))
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


def _as_written(aliases: Sequence[Recipient], addresses: Sequence[Address]) -> Iterable[Address]:
    """The addresses that the client has named, without those of whose targets none is left."""
    targets = {target.address for one in aliases for target in one.targets}
    taken = set(addresses)
    named = [one.address for one in aliases if any(target.address in taken for target in one.targets)]
    return dict.fromkeys([*named, *(one for one in addresses if one not in targets)])


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
    return f"rfc822;{xtext_encode(text)}" if text.isascii() else f"utf-8;{text}"


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
