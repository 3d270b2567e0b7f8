"""Messages that are sent in place of those in quarantine: what came before it was changed, and copies to others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time

from msgspec.structs import replace

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import InThread, at_once
from mailgate.envelope import PLAIN_MAIL, Envelope, EnvelopeRecipient, new_id
from mailgate.events import MessageAccepted, OperatorActed
from mailgate.interfaces import (
    EntryView,
    IEvents,
    IRelay,
    ISpool,
    Lease,
    Outcome,
    OutcomeKind,
    Return,
    SpoolError,
)
from mailgate.message import Content, HeaderEdit, RenameHeader
from mailgate.quarantine.entries import MESSAGE, only
from mailgate.quarantine.originals import Originals, copied
from mailgate.reply import Reply

__all__ = ["Sending", "has_original"]

#: Seconds for which what is sent, or sent in place of it, is in our hands.
_LEASE = 60.0
#: What became of an entry whose mail goes on as another message.
_SENT = Reply.of(250, "2.0.0", "sent as it came")


class Sending:
    """Makes messages of their own. `route_of` names the route for a recipient of mail from a sender (ValueError where
    there is none), `incoming` is where content comes to lie that the spool is to take over."""

    def __init__(
        self,
        spool: ISpool,
        events: IEvents,
        relay: IRelay,
        *,
        originals: Originals,
        route_of: Callable[[Address, Address], str],
        incoming: Path,
        in_thread: InThread = at_once,
        now: Callable[[], float] = time,
    ) -> None:
        self._spool = spool
        self._events = events
        self._relay = relay
        self._originals = originals
        self._route_of = route_of
        self._incoming = incoming
        self._in_thread = in_thread
        self._now = now

    def check(self, to: Address) -> None:
        """ValueError where no mail can be sent there."""
        self._route_of(to, NULL_PATH)

    async def original(self, envelope: Envelope) -> Content:
        """What came of it, as the caller's own. OSError where it cannot be had."""
        content = await self._originals.copy(envelope.queue_id, self._incoming)
        if content is None:
            raise FileNotFoundError("its original is not there any more")
        return content

    async def copy(self, content: Content) -> Content:
        """The same, as the caller's own. OSError where it cannot be had."""
        return await self._in_thread(lambda: copied(content, self._incoming))

    async def send_original(
        self, envelope: Envelope, content: Content, views: Sequence[EntryView], by: str
    ) -> tuple[str, int]:
        """Send what came to the recipients of these entries, whose mail then leaves quarantine: the id of the message,
        and to how many, without those that somebody else has been at; "" where these are all. The content is ours."""
        claims = await self._claim(views, content)
        if not claims:
            content.discard()
            return "", 0
        there = {one.number for lease in claims for one in lease.recipients}
        new = replace(
            envelope,
            queue_id=new_id(),
            recipients=tuple(replace(one, quarantine="") for one in envelope.recipients if one.number in there),
            size=content.size,
            edits=tuple(edit for edit in envelope.edits if not _is_of_body(edit)),
            # As what is our own, it is not kept back again by filters that are asked about the queue.
            listener="",
            kept=None,
        )
        gone = [Outcome(one, OutcomeKind.DISCARDED, _SENT) for lease in claims for one in lease.recipients]
        try:
            # One commit has the new message, and ends the old one's stay.
            await self._spool.record(claims[0], gone, [(new, content)])
        except SpoolError:
            content.discard()
            await self._give_back(claims)
            raise
        self._taken(new, envelope.queue_id)
        recipients = tuple(view.recipient for view in views if view.number in there)
        self._tell("release", envelope.queue_id, recipients, f"as it came, as {new.queue_id}", by)
        return new.queue_id, len(recipients)

    async def _claim(self, views: Sequence[EntryView], content: Content) -> Sequence[Lease]:
        """Leases of those of these entries of one message that are in quarantine still: nobody else releases them
        meanwhile, and a process that dies leaves them where they are."""
        until = self._now() + _LEASE
        claims: list[Lease] = []
        try:
            for view in views:
                claims += await self._spool.lease_selected(only(view, "quarantined"), MESSAGE, until)
        except SpoolError:
            content.discard()
            await self._give_back(claims)
            raise
        return claims

    async def _give_back(self, claims: Sequence[Lease]) -> None:
        with contextlib.suppress(SpoolError):  # else they end by themselves
            await self._spool.release_leases([Return(one) for one in claims])

    async def send_copy(self, envelope: Envelope, content: Content, to: Address, by: str, *, is_original: bool) -> str:
        """Send a copy to somebody else, of whose failure nobody is told; the id of its message. The content is ours."""
        parameters = envelope.parameters
        edits = envelope.edits
        try:
            route = self._route_of(to, NULL_PATH)
        except ValueError:  # a reload has taken it away
            content.discard()
            raise
        new = Envelope(
            queue_id=new_id(),
            sender=NULL_PATH,
            recipients=(EnvelopeRecipient(0, to, route, notify=("NEVER",)),),
            received=self._now(),
            size=content.size,
            parameters=replace(PLAIN_MAIL, body=parameters.body, smtputf8=parameters.smtputf8),
            client=envelope.client,
            edits=tuple(edit for edit in edits if not _is_of_body(edit)) if is_original else edits,
        )
        lease = await self._spool.accept(new, content, self._now() + _LEASE)
        if lease.recipients:
            await self._spool.release_leases([Return(lease)])
        self._taken(new, envelope.queue_id)
        how = f"{'as it came, ' if is_original else ''}as {new.queue_id}"
        self._tell("copy", envelope.queue_id, (str(to),), how, by)
        return new.queue_id

    def _taken(self, envelope: Envelope, old: str) -> None:
        """The spool has it: tell of it, and have somebody deliver it."""
        self._events.publish(
            MessageAccepted(
                at=self._now(),
                queue_id=envelope.queue_id,
                session="",
                client=envelope.client,
                listener="",
                helo="",
                sender=str(envelope.sender),
                recipients=tuple(str(one.address) for one in envelope.recipients),
                size=envelope.size,
                split_from=old,
            )
        )
        self._relay.look()

    def _tell(self, action: str, queue_id: str, recipients: tuple[str, ...], detail: str, by: str) -> None:
        self._events.publish(
            OperatorActed(at=self._now(), action=action, queue_id=queue_id, recipients=recipients, detail=detail, by=by)
        )


def has_original(envelope: Envelope) -> bool:
    """Whether what came lies with the originals."""
    return envelope.kept is not None and envelope.kept.has_original


def _is_of_body(edit: HeaderEdit) -> bool:
    """Whether an edit of the header says what form the body has, and so belongs to the body that filters have made."""
    names = (edit.name, edit.to) if isinstance(edit, RenameHeader) else (edit.name,)
    return any(name.lower().startswith("content-") or name.lower() == "mime-version" for name in names)
