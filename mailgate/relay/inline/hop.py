"""One transaction with a next hop that goes along with that of a client, recipient by recipient."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import Lease, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import IConnection, Result
from mailgate.relay.client.carriage import PLAIN, carriage_of, handover_of
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.exchange import BrokenOffError, Octets, Words
from mailgate.relay.client.paths import check_size, reverse_path_of, xforward_of
from mailgate.relay.client.sending import UnsendableError, prepare
from mailgate.relay.client.session import LOST
from mailgate.relay.client.transaction import HOST_IS_BUSY, kind_of
from mailgate.relay.findings import LOCAL_ERROR
from mailgate.relay.inline.counting import Count, is_full, one_too_many
from mailgate.relay.inline.results import NO_ANSWER, TURNED_AWAY, broken, is_unreached, lost, unreached
from mailgate.relay.inline.whole import send_whole, whole_of, withdraw
from mailgate.relay.inline.words import mail_command, rcpt_command, said_of
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import LEASE_TIME
from mailgate.reply import Reply
from mailgate.wire.extensions import NO_LIMITS

__all__ = ["HopTransaction"]

_log = Logger()

#: Seconds for the answer to RSET, after which the connection is not worth keeping.
_RESET_TIMEOUT = 10.0


class _Job(LedJob, kw_only=True):
    hop: HopTransaction

    def over(self, connection: IConnection) -> Awaitable[Sequence[Result]]:
        # a connector of a route opens no others
        return succeed([]) if self.is_withdrawn else self.hop.over(cast(SmtpConnection, connection))

    def ended(self) -> None:
        self.hop.ended(self, self.results)

    def turned_away(self, why: str) -> None:
        self.hop.ended(self, [Result(self.recipients[0], OutcomeKind.DEFERRED, TURNED_AWAY, reason=why)])


class HopTransaction:
    """It is a job for the ready queue of its destination, which finds it a connection, by its limits and its rules, and
    has that back in the end. Where a host cannot be reached, or breaks off before anything was told to the client, the
    queue asks the next one.

    A client that says nothing for `hold` seconds after an answer, which may be in the middle of its content, holds the
    connection no longer: the next hop gets RSET, and is asked anew when there is something to say.

    `envelope` is what is known at the first recipient, its only one; `size` is what the client has declared. `lead`
    puts jobs on their way.
    """

    def __init__(
        self,
        envelope: Envelope,
        size: int | None,
        route: str,
        *,
        lead: Callable[[LedJob], None],
        clock: IReactorTime,
        hold: float,
    ) -> None:
        first = envelope.recipients[0]
        self._envelope = envelope
        self._first = first
        self._sender = reverse_path_of(envelope, (first,))
        self._size = size
        self._lead = lead
        self._clock = clock
        self._hold = hold
        self._holding: IDelayedCall | None = None
        self.route = route
        self.job: LedJob = self._make_job(first)
        self.accepted: list[EnvelopeRecipient] = []
        self._told: list[EnvelopeRecipient] = []  # those of them that this session with the next hop has accepted
        self.refusal: Result | None = None  # of the sender: for everybody
        self._refused: list[Result] = []
        self._answer: Deferred[Result] | None = None  # to the first recipient
        self._connection: SmtpConnection | None = None  # while it is ours
        self._over: Deferred[Sequence[Result]] | None = None
        self._carriage = PLAIN
        self._utf8 = False  # whether SMTPUTF8 has been said
        self._count = Count(NO_LIMITS)
        self._is_heard = False  # MAIL has been answered
        self._has_let_go = False

    @property
    def is_open(self) -> bool:
        """Whether the next hop can be asked about another recipient, or be given the content."""
        return self._connection is not None or self._has_let_go

    @property
    def reverse_path(self) -> Address:
        """Whom MAIL has named."""
        return self._sender

    # -- what the client's session asks

    def begin(self) -> Deferred[Result]:
        """What became of the first recipient: DELIVERED where it is accepted. Cancelling gives it up."""
        answer = self._answer = Deferred(self._withdraw)
        self._lead(self.job)
        return answer

    def _make_job(self, first: EnvelopeRecipient) -> _Job:
        lease = Lease(self._envelope, (first,), Content(b""), self._clock.seconds() + LEASE_TIME, {})
        return _Job(lease, (first,), self.route, domain=first.address.domain, hop=self)

    async def rcpt(self, recipient: EnvelopeRecipient) -> Result:
        """The same of one more. Cancelling drops the connection."""
        if is_full(self.job, len(self.accepted)):
            return one_too_many(self.job, recipient)
        self._stop_holding()
        if self._has_let_go or self._is_gone():
            self._has_let_go = self._is_heard = False
            self._first, self.job = recipient, self._make_job(recipient)
            result = await self.begin()
            # Where it is about this one, and not about the way, the others may be served in another session.
            self._has_let_go = self._connection is None and bool(self.accepted) and not is_unreached(result)
            return result
        connection = self._connection
        if connection is None:
            return lost(recipient, BrokenOffError(LOST, "the session with the next hop is over"))
        try:
            return await self._ask(connection, recipient)
        finally:
            self._hold_on()

    async def _ask(self, connection: SmtpConnection, recipient: EnvelopeRecipient) -> Result:
        if not self._count.add(recipient):
            return one_too_many(self.job, recipient)
        try:
            rcpt = rcpt_command(connection.hop, recipient, self._carriage, utf8=self._utf8)
            [reply] = await connection.say(Words(str(connection.target), [rcpt], pipelining=False))
        except UnsendableError as error:
            [result] = error.results((recipient,), is_fallback=connection.is_fallback)
            return replace(result, next_host=False)
        except BrokenOffError as error:
            self._give_back()
            return lost(recipient, error)
        except CancelledError:
            self._give_back()
            raise
        return self._heard(connection, recipient, reply)

    async def send(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Sequence[Result]:
        """Give it the content: a result for each of these recipients, who share a reverse-path. Where the envelope is
        not as it was told before, it is told anew. When it is there the connection has gone back. Cancelling ends it,
        with results of what is known by then."""
        self._stop_holding()
        if self._has_let_go or self._is_gone():
            return await self._send_whole(envelope, recipients, content)
        connection = self._connection
        if connection is None:
            error = BrokenOffError(LOST, "the session with the next hop was over before the content")
            return [lost(one, error) for one in recipients]
        try:
            results = await self._send(connection, envelope, recipients, content)
        except Exception as error:  # nothing is known then of what the next hop has
            _log.failure("a next hop could not be given {queue_id}", queue_id=envelope.queue_id)
            connection.close()
            results = [Result(one, OutcomeKind.DEFERRED, LOCAL_ERROR, reason=repr(error)) for one in recipients]
        if results is None:
            self._give_back()
            return await self._send_whole(envelope, recipients, content)
        security = connection.security
        results = [replace(one, tls=security) for one in results] if security else results
        self._give_back([replace(one, next_host=False, again=False) for one in results])
        return results

    async def _send_whole(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Sequence[Result]:
        whole = self.job = whole_of(envelope, recipients, content, self.route, self._clock)
        return await send_whole(whole, self._lead)

    def abandon(self) -> None:
        """The client goes on with something else, or has gone: RSET, and the connection serves others."""
        self._stop_holding()
        self._has_let_go = False
        if self._answer is not None:
            self._answer.cancel()
        else:
            self._let_go()

    def _is_gone(self) -> bool:
        """Whether the next hop has closed the session while it was the client's turn. Nothing depends on it: there may
        be another."""
        is_gone = self._connection is not None and self._connection.is_closed
        if is_gone:
            self._give_back()
        return is_gone

    # -- while the client says nothing

    def _stop_holding(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None

    def _hold_on(self) -> None:
        """It is the client's turn."""
        if self._connection is not None:
            self._holding = self._clock.callLater(self._hold, self._held_for_long)

    def _held_for_long(self) -> None:
        self._holding = None
        self._has_let_go = self._connection is not None
        self._let_go()

    def _let_go(self) -> None:
        connection, over = self._connection, self._over
        self._connection = self._over = None
        self._told = []
        refused, self._refused = self._refused, []
        if connection is None or over is None:
            return

        def done(result: object) -> None:
            if isinstance(result, Failure):
                connection.close()
                if not result.check(BrokenOffError, DeferredTimeout, CancelledError):
                    _log.failure("RSET failed", failure=result)
            if not over.called:
                over.callback(refused)

        words = Words(str(connection.target), [b"RSET\r\n"], pipelining=False)
        connection.say(words).addTimeout(_RESET_TIMEOUT, self._clock).addBoth(done)

    # -- what the ready queue asks

    def over(self, connection: SmtpConnection) -> Deferred[Sequence[Result]]:
        """Use this connection until the results are there. Cancelling drops it."""
        self._connection = connection
        over = self._over = Deferred(partial(self._cut, connection))
        beginning = Deferred.fromCoroutine(self._begin(connection))
        beginning.addErrback(self._stumbled)
        return over

    def ended(self, job: LedJob, results: Sequence[Result]) -> None:
        """A job is over; it may be one that we had let go of."""
        if job is not self.job:
            return
        self._connection = self._over = None
        answer, self._answer = self._answer, None
        if answer is not None:
            result = next(iter(results), None) or Result(self._first, OutcomeKind.DEFERRED, LOST)
            if result.kind is OutcomeKind.FAILED and self._is_heard:
                self.refusal = result
            elif result.kind is OutcomeKind.DEFERRED and not self._is_heard:
                # Whatever it is, it is about the way, and not about the mail.
                result = unreached(result)
            answer.callback(result)

    # -- the dialogue

    async def _begin(self, connection: SmtpConnection) -> None:
        first, peer = self._first, str(connection.target)
        is_reused = connection.messages > 0
        self._count, self._is_heard, self._told = Count(connection.extensions.limits), False, []
        try:
            self._carriage = carriage_of(connection.hop, self._envelope, Content(b""), self._clock.seconds)
            needs_utf8 = self._carriage.utf8 or not (self._sender.is_ascii and first.address.is_ascii)
            self._utf8 = needs_utf8 and connection.hop.extensions.utf8
            mail = mail_command(connection.hop, self._sender, self._size, self._carriage, utf8=self._utf8)
            rcpt = rcpt_command(connection.hop, first, self._carriage, utf8=self._utf8)
            before = [b"RSET\r\n"] if connection.needs_reset else []
            before += xforward_of(connection.hop, self._envelope)
            self._count.add(first)
            words = Words(peer, [*before, mail, rcpt], pipelining=connection.extensions.pipelining, vital=len(before))
            connection.begin()
            replies = (await connection.say(words))[len(before) :]
        except UnsendableError as error:
            self._give_back(error.results((first,), is_fallback=connection.is_fallback))
            return
        except BrokenOffError as error:
            again = is_reused and not (error.replies or error.host)
            self._give_back([replace(lost(first, error), again=again)])
            return
        self._is_heard = True
        if replies[0].code >= 400:
            result = Result(first, kind_of(replies[0]), replies[0], peer, replies[0].status in HOST_IS_BUSY)
            self._give_back([result])
            return
        result = self._heard(connection, first, replies[1])
        self._hold_on()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(result)

    def _heard(self, connection: SmtpConnection, recipient: EnvelopeRecipient, reply: Reply) -> Result:
        """What the reply to RCPT comes to."""
        result = Result(recipient, kind_of(reply), reply, str(connection.target))
        if result.kind is OutcomeKind.DELIVERED:
            self.accepted.append(recipient)
            self._told.append(recipient)
        else:
            self._refused.append(result)
        return result

    async def _send(
        self,
        connection: SmtpConnection,
        envelope: Envelope,
        recipients: Sequence[EnvelopeRecipient],
        content: Content,
    ) -> Sequence[Result] | None:
        """None where it takes another session: the next hop has been told something else, and hears no more in this."""
        hop, peer = connection.hop, str(connection.target)
        octets: Octets | None = None
        has_gone = False
        try:
            carriage = carriage_of(hop, envelope, content, self._clock.seconds)
            is_told = carriage == self._carriage and reverse_path_of(envelope, recipients) == self._sender
            if not (is_told and said_of(hop, recipients) == said_of(hop, self._told)):
                if not connection.is_usable:
                    return None
                has_gone = True  # or may have
                return await connection.deliver(envelope, recipients, content)
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
            cut.end_sent = has_gone if octets is None else octets.end_sent
            cut.replies = () if octets is None else tuple(octets.replies)
            return broken(recipients, cut, peer)
        if len(replies) < len(recipients):
            replies = replies * len(recipients)
        handover = handover_of(hop.extensions.dsn, lmtp=hop.target.lmtp, relayed=carriage.relayed)
        return [
            Result(one, kind_of(reply), reply, peer, handover=handover)
            for one, reply in zip(recipients, replies, strict=True)
        ]

    # -- the end

    def _give_back(self, results: Sequence[Result] = ()) -> None:
        """The connection is the queue's again, with what the host has said to us."""
        over, self._over, self._connection = self._over, None, None
        self._stop_holding()
        if over is not None:
            over.callback([*results, *self._refused])

    def _withdraw(self, _answer: Deferred[Result]) -> None:
        self._answer = None
        withdraw(self.job)

    def _cut(self, connection: SmtpConnection, _over: Deferred[Sequence[Result]]) -> None:
        if self._connection is connection:
            self._connection = self._over = None
            self._stop_holding()
        connection.close()

    def _stumbled(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("a next hop could not be asked", failure=failure)
        connection = self._connection
        if connection is not None:
            connection.close()
        self._give_back([Result(self._first, OutcomeKind.DEFERRED, LOCAL_ERROR, reason=failure.getErrorMessage())])
