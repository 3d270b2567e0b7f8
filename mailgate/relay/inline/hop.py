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
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.exchange import BrokenOffError, Words
from mailgate.relay.client.paths import reverse_path_of
from mailgate.relay.client.sending import UnsendableError
from mailgate.relay.client.session import LOST
from mailgate.relay.findings import LOCAL_ERROR
from mailgate.relay.inline.counting import is_full, one_too_many
from mailgate.relay.inline.results import TURNED_AWAY, is_unreached, lost, unreached
from mailgate.relay.inline.talk import Talk
from mailgate.relay.inline.whole import send_whole, whole_of, withdraw
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import LEASE_TIME

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
        self.refusal: Result | None = None  # of the sender: for everybody
        self._refused: list[Result] = []
        self._answer: Deferred[Result] | None = None  # to the first recipient
        self._connection: SmtpConnection | None = None  # while it is ours
        self._over: Deferred[Sequence[Result]] | None = None
        self._talk: Talk | None = None  # over the connection of now, or the last one
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
            self._has_let_go, self._talk = False, None
            self._first, self.job = recipient, self._make_job(recipient)
            result = await self.begin()
            # Where it is about this one, and not about the way, the others may be served in another session.
            self._has_let_go = self._connection is None and bool(self.accepted) and not is_unreached(result)
            return result
        connection, talk = self._connection, self._talk
        if connection is None or talk is None:
            return lost(recipient, BrokenOffError(LOST, "the session with the next hop is over"))
        try:
            return await self._ask(connection, talk, recipient)
        finally:
            self._hold_on()

    async def _ask(self, connection: SmtpConnection, talk: Talk, recipient: EnvelopeRecipient) -> Result:
        try:
            result = await talk.rcpt(recipient)
        except UnsendableError as error:
            [result] = error.results((recipient,), is_fallback=connection.is_fallback)
            return replace(result, next_host=False)
        except BrokenOffError as error:
            self._give_back()
            return lost(recipient, error)
        except CancelledError:
            self._give_back()
            raise
        return one_too_many(self.job, recipient) if result is None else self._heard(result)

    async def send(
        self, envelope: Envelope, recipients: Sequence[EnvelopeRecipient], content: Content
    ) -> Sequence[Result]:
        """Give it the content: a result for each of these recipients, who share a reverse-path. Where the envelope is
        not as it was told before, it is told anew. When it is there the connection has gone back. Cancelling ends it,
        with results of what is known by then."""
        self._stop_holding()
        if self._has_let_go or self._is_gone():
            return await self._send_whole(envelope, recipients, content)
        connection, talk = self._connection, self._talk
        if connection is None or talk is None:
            error = BrokenOffError(LOST, "the session with the next hop was over before the content")
            return [lost(one, error) for one in recipients]
        try:
            results = await talk.content(envelope, recipients, content)
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
            is_heard = self._talk is not None and self._talk.is_heard
            if result.kind is OutcomeKind.FAILED and is_heard:
                self.refusal = result
            elif result.kind is OutcomeKind.DEFERRED and not is_heard:
                # Whatever it is, it is about the way, and not about the mail.
                result = unreached(result)
            answer.callback(result)

    async def _begin(self, connection: SmtpConnection) -> None:
        talk = self._talk = Talk(connection, self._envelope, self._sender, self._clock)
        result = await talk.begin(self._first, self._size)
        if not talk.is_open:
            self._give_back([result])
            return
        self._heard(result)
        self._hold_on()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(result)

    def _heard(self, result: Result) -> Result:
        """An answer to RCPT."""
        if result.kind is OutcomeKind.DELIVERED:
            self.accepted.append(result.recipient)
        else:
            self._refused.append(result)
        return result

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
