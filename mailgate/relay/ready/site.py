"""One site from one source: the hosts that take mail for a destination, and the connections to them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailgate.awaiting import as_deferred
from mailgate.config.routes import LmtpRoute, SiteRoute
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Result
from mailgate.relay.locate import Hosts, NoHosts
from mailgate.relay.ready.back_end import way_to
from mailgate.relay.ready.connected import ConnectedQueue
from mailgate.relay.ready.job import LedJob
from mailgate.relay.ready.jobs import Job, QueueOwner
from mailgate.relay.ready.tools import SiteTools, account_nothing
from mailgate.relay.ready.trouble import Trouble, is_about_client, said, told
from mailgate.relay.replies.limits import Limits, Signal
from mailgate.relay.sources import SYSTEM, Source
from mailgate.reply import Reply

__all__ = ["Site"]

_NO_ANSWER = Reply.of(451, "4.4.2", "No host has given an answer")
#: Times that a job waits again because its site bears no more connections; then it is deferred.
_POSTPONED = 3


class Site(ConnectedQueue):
    """Delivers over connections, which are used again; hosts are asked one after another. Where next hops are told of
    clients, a connection is opened for one message, and serves no other."""

    def __init__(
        self,
        name: str,
        hosts: Hosts,
        route: SiteRoute,
        *,
        route_name: str,
        limits: Limits,
        source: Source = SYSTEM,
        connector: IConnector,
        tools: SiteTools,
        owner: QueueOwner,
    ) -> None:
        super().__init__(
            name, hosts, route, route_name=route_name, limits=limits, source=source, tools=tools, owner=owner
        )
        self._source = source
        self._route = route
        self._connector = connector
        self._account = account_nothing if hosts.wanted is None or hosts.is_fixed else tools.account
        self._way = way_to(route, route_name, hosts.label, connector, tools)

    # -- JobQueue

    def start(self, job: Job) -> None:
        connection = self._idle.take(tries_tls=job.tries_tls)
        if connection is None:
            berths = self._berths
            needed = len(self._active) + len(self._idle.connections)
            if berths.held < needed and not berths.take(self._pace.connections):
                self._hold()
                self.put_back(job)
                return
            self._pace.begun()
            self._ask(job)
            return
        if self.is_held:
            self._pace.begun()
        # The common way: an open connection, one answer, no coroutine.
        answer = self._way.over(job, connection)
        waited = as_deferred(answer)
        self._active[job] = waited
        waited.addCallbacks(self._answered, self.failed, callbackArgs=(job, connection), errbackArgs=(job,))

    def finish(self, job: Job) -> None:
        active, idle = self._active, self._idle.connections
        active.pop(job, None)
        if self._unconnected:
            self._unconnected.discard(job)
        if self._berths.held > len(active) + len(idle):
            self._settle()
        self.owner.finished(job, self.retry)
        if self.line.count or self.has_backlog:
            self.pump()
        elif not active and not idle:
            self.tell_if_empty()

    # -- an attempt

    def _ask(self, job: Job, *, again: bool = False) -> None:
        self.run(job, Deferred.fromCoroutine(self._ask_hosts(job, again=again)))

    def _answered(self, results: Sequence[Result], job: Job, connection: IConnection) -> None:
        try:
            is_done = self._take_over(job, connection, results)
        except Exception:
            self.failed(Failure(), job)
            return
        if is_done:
            self.finish(job)
        else:
            self._ask(job, again=any(one.again for one in results))

    async def _ask_hosts(self, job: Job, *, again: bool) -> bool:
        """Ask one host after another until each recipient has an answer that counts, or all hosts have been asked.

        False: the site bears no more connections than it has, and nothing has been asked. `again`: whoever has answered
        wants another transaction.
        """
        self._unconnected.add(job)
        found: dict[int, Result] = {}  # answers that another host, or another transaction, may better
        # Whoever asks for another transaction has taken a recipient in this one, or was an idle connection.
        transactions = len(job.recipients) + self._limits.connections
        for _ in range(transactions):
            # Before DNS is asked: the slot of an idle connection is ours, and nobody else is to have it meanwhile.
            connection = self._idle.take(tries_tls=job.tries_tls) if again else None
            if connection is None:
                break
            again = await self._transact(job, connection, found)
        if not job.remaining:
            return True
        lmtp, ipv6 = isinstance(self._route, LmtpRoute), self._route.ipv6
        targets = await self._tools.locator.targets(self._hosts, lmtp=lmtp, ipv6=ipv6, domain=job.domain)
        if isinstance(targets, NoHosts):
            job.settle(targets.kind, targets.reply, "", targets.reason)
            return True
        error = None  # why there was no session with the last host
        unreached: list[ConnectFailedError] = []
        origin = job.lease.envelope.origin if self._one_message else None
        for target in self._way.order(targets, self._source):
            again = False
            for _ in range(transactions):
                try:
                    connection = self._idle.take(tries_tls=job.tries_tls) if again else None
                    if connection is None:
                        self._pace.connecting()
                        connection = await self._connector.connect(
                            target, origin, try_tls=job.tries_tls, source=self._source
                        )
                        self._account(job.domain, connection, self._source)
                        self._tools.learn(self.route, str(target), connection.max_size)
                        self._way.met(target)
                except ConnectFailedError as failure:
                    self._account(job.domain, failure, self._source)
                    self._way.unmet(failure, job)
                    unreached.append(error := failure)
                    break
                error = None
                again = await self._transact(job, connection, found)
                if not job.remaining:
                    return True
                if not again:
                    break
        if error is not None and not found and not (self._one_message and is_about_client(error)):
            if not self._stands(job, unreached):
                self._health.failed(unreached)
                self._resize()
            elif job.postponed < _POSTPONED:
                job.postponed += 1
                return False
        for one_unreached in unreached:
            if not one_unreached.is_ours:
                self._heed(one_unreached.reply, one_unreached.stage, job)
        if unreached:
            # Whoever was not reached may offer what the others do not.
            found = {
                number: replace(one, reason=f"{one.reason or said(one)}; {told(unreached)}")
                for number, one in found.items()
                if one.kind is not OutcomeKind.FAILED
            }
        job.results += [found[one.number] for one in job.remaining if one.number in found]
        job.remaining = tuple(one for one in job.remaining if one.number not in found)
        if not unreached:
            job.settle(OutcomeKind.DEFERRED, _NO_ANSWER, "", "no host has given an answer")
        else:
            trouble = Trouble.of(unreached)
            job.settle(OutcomeKind.DEFERRED, trouble.reply, trouble.host, trouble.reason)
        return True

    async def _transact(self, job: Job, connection: IConnection, found: dict[int, Result]) -> bool:
        """Deliver what remains; whether another transaction is asked for. What may be bettered goes to `found`."""
        self._connected(job)
        results = await self._way.over(job, connection)
        if self._take_over(job, connection, results):
            return False
        self._unconnected.add(job)
        for one in results:
            # A failure that another host may better counts for less than a deferral.
            if (one.next_host or one.again) and not (one.kind is OutcomeKind.FAILED and one.recipient.number in found):
                found[one.recipient.number] = one
        return any(one.again for one in results)

    def _take_over(self, job: Job, connection: IConnection, results: Sequence[Result]) -> bool:
        """Keep the results that count, and the connection if it can serve again; whether all results count."""
        if connection.security:
            results = [replace(result, tls=connection.security) for result in results]
        again = False
        remaining = []
        for result in results:
            if result.again or result.next_host:
                again = again or result.again
                remaining.append(result.recipient)
            else:
                job.results.append(result)
            if result.rest:
                self._pace.slow(Signal(result.rest, result.rest, "its Retry-After"), job.started)
            elif result.kind is not OutcomeKind.DELIVERED and result.host:
                self._heed(result.reply, "", job)
        job.remaining = tuple(remaining)
        if self.limit < self._limits.connections and not remaining:
            self._health.window.succeeded(self.clock.seconds())
            self._resize()
        # Who goes on to another host needs the slot for that.
        if (
            connection.is_usable
            and connection.messages < self._limits.messages_per_connection
            and not (self._one_message or (self._hosts.wanted is not None and connection.is_for_domain))
            and (self._keeps_connections or self.line.count)
            and (again or not remaining)
            and not (self._is_wanted and self._gives_up())
            and self._berths.held <= self.limit
        ):
            self._idle.put(connection)
        else:
            if again and isinstance(job, LedJob) and not connection.is_usable:
                # Those that have rested for longer are dead, too, and whoever waits has no time to try each of them.
                self.close_idle()
            connection.close()
        return not remaining
