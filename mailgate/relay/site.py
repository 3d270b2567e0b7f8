"""One site: the hosts that take mail for a destination, and the connections to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mailgate.awaiting import as_deferred
from mailgate.config.schema import LmtpRoute, SmtpRoute
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Result
from mailgate.relay.jobs import Job, JobQueue, QueueOwner
from mailgate.relay.locate import Hosts, Locator, NoHosts
from mailgate.relay.schedule import HostState
from mailgate.reply import Reply

__all__ = ["Site"]

_NO_ANSWER = Reply.of(451, "4.4.2", "No host has given an answer")
#: Hosts whose failures are told of one attempt, and characters of each.
_MOST_TOLD, _LONGEST_TOLD = 8, 300


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why nobody could be connected to: `host` is who said so, "" where it is our own finding."""

    reply: Reply
    host: str
    reason: str

    @classmethod
    def of(cls, errors: Sequence[ConnectFailedError]) -> _Trouble:
        """What attempts to connect to one host after another came to, one at least: the reply of that which tells most,
        and the reasons of all. Among equals the last has the word."""
        error = max(reversed(errors), key=_tells)
        host = "" if error.is_ours else str(error.target)
        reason = error.reason if host and len(errors) == 1 else _told(errors)
        return cls(_for_now(error.reply), host, reason)


class Site(JobQueue):
    """Delivers over at most `connections` connections, which are used again; hosts are asked one after another.

    When none of them can be connected to, jobs that come in the next moments are deferred with that error at once.
    Where next hops are told of clients, a connection is opened for one message, and serves no other.
    """

    def __init__(
        self,
        hosts: Hosts,
        route: SmtpRoute | LmtpRoute,
        *,
        connector: IConnector,
        locator: Locator,
        clock: IReactorTime,
        random: Random,
        owner: QueueOwner,
    ) -> None:
        super().__init__(hosts.name, route.connections, clock, owner)
        self._hosts = hosts
        self._route = route
        self._connector = connector
        self._locator = locator
        self._keeps_connections = True
        self._one_message = route.xclient or route.proxy_protocol
        self._idle: list[tuple[IConnection, float]] = []  # the longest idle first
        self._idle_timer: IDelayedCall | None = None
        self._random = random
        self._state = HostState()
        self._trouble: _Trouble | None = None

    # -- JobQueue

    def start(self, job: Job) -> None:
        connection = self._take_idle(job)
        if connection is None:
            self.run(job, Deferred.fromCoroutine(self._ask_hosts(job)))
            return
        # The common way: an open connection, one answer, no coroutine.
        answer = connection.deliver(job.lease.envelope, job.remaining, job.lease.content)
        waited = as_deferred(answer)
        self.run(job, waited.addCallback(self._answered, job, connection))

    def refuses(self, job: Job) -> bool:
        trouble = self._trouble
        if trouble is None or self._state.may_try(job.started):
            return False
        job.settle(OutcomeKind.DEFERRED, trouble.reply, trouble.host, trouble.reason)
        return True

    def retry_now(self) -> None:
        self._trouble, self._state = None, HostState()
        self.tell_if_empty()

    def retire(self) -> None:
        self._keeps_connections = False
        super().retire()

    def stop(self) -> list[Job]:
        self._keeps_connections = False
        return super().stop()

    def is_empty(self) -> bool:
        return super().is_empty() and not self._idle and self._trouble is None

    # -- an attempt

    def _answered(self, results: Sequence[Result], job: Job, connection: IConnection) -> Deferred[None] | None:
        if self._take_over(job, connection, results):
            return None
        return Deferred.fromCoroutine(self._ask_hosts(job))

    async def _ask_hosts(self, job: Job) -> None:
        """Ask one host after another until each recipient has an answer that counts, or all hosts have been asked."""
        lmtp = isinstance(self._route, LmtpRoute)
        targets = await self._locator.targets(self._hosts, lmtp=lmtp, ipv6=self._route.ipv6)
        if isinstance(targets, NoHosts):
            kind = OutcomeKind.FAILED if targets.reply.is_permanent else OutcomeKind.DEFERRED
            job.settle(kind, targets.reply, "", targets.reason)
            return
        error = None  # why there was no session with the last host
        unreached: list[ConnectFailedError] = []
        origin = job.lease.envelope.origin if self._one_message else None
        found: dict[int, Result] = {}  # answers that another host, or another transaction, may better
        for target in targets:
            again = False
            # Whoever asks for another transaction has taken a recipient in this one, or was an idle connection.
            for _ in range(len(job.recipients) + self.limit):
                try:
                    connection = self._take_idle(job) if again else None
                    if connection is None:
                        connection = await self._connector.connect(target, origin, try_tls=_wants_tls(job))
                except ConnectFailedError as failure:
                    error = failure
                    unreached.append(failure)
                    break
                self._trouble, self._state, error = None, self._state.after_success(), None
                results = await connection.deliver(job.lease.envelope, job.remaining, job.lease.content)
                if self._take_over(job, connection, results):
                    return
                for one in results:
                    # A failure that another host may better counts for less than a deferral.
                    if (one.next_host or one.again) and not (
                        one.kind is OutcomeKind.FAILED and one.recipient.number in found
                    ):
                        found[one.recipient.number] = one
                again = any(one.again for one in results)
                if not again:
                    break
        if error is not None and not found and not (self._one_message and _is_about_client(error)):
            self._leave_alone(unreached)
        if unreached:
            # Whoever was not reached may offer what the others do not.
            found = {
                number: replace(one, reason=f"{one.reason or _said(one)}; {_told(unreached)}")
                for number, one in found.items()
                if one.kind is not OutcomeKind.FAILED
            }
        job.results += [found[one.number] for one in job.remaining if one.number in found]
        job.remaining = tuple(one for one in job.remaining if one.number not in found)
        if not unreached:
            job.settle(OutcomeKind.DEFERRED, _NO_ANSWER, "", "no host has given an answer")
        else:
            trouble = _Trouble.of(unreached)
            job.settle(OutcomeKind.DEFERRED, trouble.reply, trouble.host, trouble.reason)

    def _take_over(self, job: Job, connection: IConnection, results: Sequence[Result]) -> bool:
        """Keep the results that count, and the connection if it can serve again; whether all results count."""
        if connection.security:
            results = [replace(result, tls=connection.security) for result in results]
        job.results += [result for result in results if not (result.again or result.next_host)]
        job.remaining = tuple(result.recipient for result in results if result.again or result.next_host)
        is_good = connection.is_usable and connection.messages < self._route.messages_per_connection
        if is_good and not self._one_message and (self._keeps_connections or self.has_waiting):
            self._idle.append((connection, self.clock.seconds()))
            if self._idle_timer is None:
                self._idle_timer = self.clock.callLater(self._route.idle_timeout, self._look_at_idle)
        else:
            connection.close()
        return not job.remaining

    def _leave_alone(self, errors: Sequence[ConnectFailedError]) -> None:
        now = self.clock.seconds()
        self._trouble = _Trouble.of(errors)
        state = self._state.after_failure(now, self._random, self._route.retry.longest)
        if state is not self._state:
            self._state = state
            # Remembered for as long again as it rests, so that the rests can grow while nobody gets through.
            self.clock.callLater(2 * (state.not_before - now), self._forget, state)

    def _forget(self, state: HostState) -> None:
        if self._state is state:
            self._trouble, self._state = None, HostState()
            self.tell_if_empty()

    # -- idle connections

    def _take_idle(self, job: Job) -> IConnection | None:
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.is_usable and not (connection.is_fallback and _wants_tls(job)):
                return connection
            connection.close()
        return None

    def _look_at_idle(self) -> None:
        self._idle_timer = None
        self._close(self.clock.seconds() - self._route.idle_timeout)
        if self._idle:
            wait = self._idle[0][1] + self._route.idle_timeout - self.clock.seconds()
            self._idle_timer = self.clock.callLater(max(wait, 0.0), self._look_at_idle)
        self.tell_if_empty()

    def close_idle(self) -> None:
        self._close(float("inf"))
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _close(self, since: float) -> None:
        """Close what has been idle since then, or is good for nothing."""
        idle, self._idle = self._idle, []
        for connection, at in idle:
            if at <= since or not connection.is_usable:
                connection.close()
            else:
                self._idle.append((connection, at))


def _wants_tls(job: Job) -> bool:
    # Such mail goes without TLS, if at all, only where TLS has just been tried.
    return job.lease.envelope.parameters.require_tls


def _is_about_client(error: ConnectFailedError) -> bool:
    # A next hop that was told who the client is may refuse this one, and nobody else.
    return not error.is_ours and error.stage in ("greeting", "hello", "xclient")


def _tells(error: ConnectFailedError) -> tuple[bool, bool]:
    # That a host is down is less than what another one, which is there, does wrong or has against us.
    return error.stage != "connect", not error.reply.status[1:].startswith(".4.")


def _told(errors: Sequence[ConnectFailedError]) -> str:
    """What each host's failure was."""
    parts = [
        (one.reason if str(one.target) in one.reason else f"{one.target}: {one.reason}")[:_LONGEST_TOLD]
        for one in errors[:_MOST_TOLD]
    ]
    more = len(errors) - len(parts)
    return "; ".join([*parts, f"{more} more hosts failed"] if more else parts)


def _said(result: Result) -> str:
    return f"{result.host}: {result.reply}" if result.host else str(result.reply)


def _for_now(reply: Reply) -> Reply:
    # Even a greeting that refuses for good says nothing about the mail: another day, another host may take it.
    return reply if reply.is_transient else Reply(451, "4.4.1", (str(reply),))
