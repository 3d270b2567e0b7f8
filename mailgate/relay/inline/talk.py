"""What is said to a next hop in one session about one message, recipient by recipient, and the content in the end."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import Result
from mailgate.relay.client.carriage import PLAIN, carriage_of, handover_of
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.exchange import BrokenOffError, Octets, Words
from mailgate.relay.client.paths import check_size, reverse_path_of, xforward_of
from mailgate.relay.client.sending import UnsendableError, prepare
from mailgate.relay.client.transaction import HOST_IS_BUSY, kind_of
from mailgate.relay.inline.counting import Count
from mailgate.relay.inline.results import NO_ANSWER, asleep, broken, lost
from mailgate.relay.inline.words import mail_command, rcpt_command, said_of

__all__ = ["Talk"]


class Talk:
    """Over `connection`, with MAIL from `sender`; `envelope` is what is known of the message at its beginning.

    `is_heard`: MAIL has been answered; `is_open`: the host has taken it. `told` are the recipients whom the host has
    accepted.
    """

    def __init__(self, connection: SmtpConnection, envelope: Envelope, sender: Address, clock: IReactorTime) -> None:
        self._connection = connection
        self._envelope = envelope
        self._sender = sender
        self._clock = clock
        self._peer = str(connection.target)
        self._carriage = PLAIN
        self._utf8 = False  # whether SMTPUTF8 has been said
        self._count = Count(connection.extensions.limits)
        self.is_heard = self.is_open = False
        self.told: list[EnvelopeRecipient] = []

    async def begin(self, first: EnvelopeRecipient, size: int | None) -> Result:
        """Name the sender, and the first recipient; `size` is what the client has declared. Cancelling drops the
        connection."""
        connection, peer = self._connection, self._peer
        is_reused = connection.messages > 0
        try:
            self._carriage = carriage_of(connection.hop, self._envelope, Content(b""), self._clock.seconds)
            needs_utf8 = self._carriage.utf8 or not (self._sender.is_ascii and first.address.is_ascii)
            self._utf8 = needs_utf8 and connection.hop.extensions.utf8
            mail = mail_command(connection.hop, self._sender, size, self._carriage, utf8=self._utf8)
            rcpt = rcpt_command(connection.hop, first, self._carriage, utf8=self._utf8)
            if not await connection.wake():
                return asleep(first, peer)
            before = [b"RSET\r\n"] if connection.needs_reset else []
            before += xforward_of(connection.hop, self._envelope)
            self._count.add(first)
            words = Words(peer, [*before, mail, rcpt], pipelining=connection.extensions.pipelining, vital=len(before))
            connection.begin()
            replies = (await connection.say(words))[len(before) :]
        except UnsendableError as error:
            [result] = error.results((first,), is_fallback=connection.is_fallback)
            return result
        except BrokenOffError as error:
            return replace(lost(first, error), again=is_reused and not (error.replies or error.host))
        self.is_heard = True
        if replies[0].code >= 400:
            return Result(first, kind_of(replies[0]), replies[0], peer, replies[0].status in HOST_IS_BUSY)
        self.is_open = True
        return self._heard(Result(first, kind_of(replies[1]), replies[1], peer))

    async def rcpt(self, recipient: EnvelopeRecipient) -> Result | None:
        """What becomes of one more; None where it is one more than the host takes. BrokenOffError, UnsendableError.
        Cancelling drops the connection."""
        connection = self._connection
        if not self._count.add(recipient):
            return None
        rcpt = rcpt_command(connection.hop, recipient, self._carriage, utf8=self._utf8)
        [reply] = await connection.say(Words(self._peer, [rcpt], pipelining=False))
        return self._heard(Result(recipient, kind_of(reply), reply, self._peer))

    def _heard(self, result: Result) -> Result:
        if result.kind is OutcomeKind.DELIVERED:
            self.told.append(result.recipient)
        return result

    async def content(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Sequence[Result] | None:
        """Give it the content: a result for each of these. Where the envelope is not as it was told before, it is told
        anew; None where that takes another session. Cancelling ends it, with results of what is known by then."""
        connection, peer = self._connection, self._peer
        hop = connection.hop
        octets: Octets | None = None
        try:
            carriage = carriage_of(hop, envelope, content, self._clock.seconds)
            is_told = carriage == self._carriage and reverse_path_of(envelope, recipients) == self._sender
            if not (is_told and said_of(hop, recipients) == said_of(hop, self.told)):
                if not connection.is_usable:
                    return None
                return await self._anew(envelope, recipients, content)
            fit, by_chunks = carriage.fit, carriage.by_chunks
            payload = (
                prepare(content, envelope.edits, by_chunks=by_chunks)
                if fit is None
                else await connection.convert(content, envelope.edits, fit)
            )
            check_size(hop, payload.size)
            if not by_chunks:
                [reply] = await connection.say(Words(peer, [b"DATA\r\n"], pipelining=False))
                if not reply.is_intermediate:
                    return [Result(one, kind_of(reply), reply, peer) for one in recipients]
            octets = Octets(peer, recipients=len(recipients), lmtp=hop.target.lmtp, by_chunks=by_chunks)
            replies = await connection.send(payload, octets)
        except UnsendableError as error:
            return error.results(recipients, is_fallback=connection.is_fallback)
        except BrokenOffError as error:
            return broken(recipients, error, peer)
        except CancelledError:
            cut = BrokenOffError(NO_ANSWER, "the client could not be kept waiting any longer")
            if octets is not None:
                cut.end_sent, cut.replies = octets.end_sent, tuple(octets.replies)
            return broken(recipients, cut, peer)
        if len(replies) < len(recipients):
            replies = replies * len(recipients)
        handover = handover_of(hop.extensions.dsn, lmtp=hop.target.lmtp, relayed=carriage.relayed)
        return [
            Result(one, kind_of(reply), reply, peer, handover=handover)
            for one, reply in zip(recipients, replies, strict=True)
        ]

    async def _anew(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Sequence[Result]:
        connection = self._connection
        try:
            return await connection.deliver(envelope, recipients, content)
        except CancelledError:
            if not connection.left:
                raise
            return connection.left
