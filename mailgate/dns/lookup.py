"""One question under way: which servers are asked, in which order, for how long, and who waits for the answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mailgate.dns.answers import read_answer
from mailgate.dns.messages import Query, Response
from mailgate.dns.transport import NoAnswerError, Server, Transport
from mailgate.interfaces import Answer, DnsStatus

__all__ = ["Lookup", "Servers"]

#: Seconds for which a server that was silent is asked after the others.
_DEMOTED = 30.0


class Servers:
    """The servers in the order of the configuration, with those last that were silent a short while ago."""

    def __init__(self, servers: Sequence[Server], clock: IReactorTime) -> None:
        self._servers = servers
        self._clock = clock
        self._silent_until: dict[Server, float] = {}

    def in_order(self) -> deque[Server]:
        """Whom to ask first, second, and so on."""
        now = self._clock.seconds()
        return deque(sorted(self._servers, key=lambda server: self._silent_until.get(server, 0.0) > now))

    def was_silent(self, server: Server) -> None:
        """It gave no answer in time, or nobody listens there."""
        self._silent_until[server] = self._clock.seconds() + _DEMOTED

    def has_spoken(self, server: Server) -> None:
        """It answered, whatever it said."""
        self._silent_until.pop(server, None)


class Lookup:
    """Asks the servers in turn until one has an answer, all have said that they have none, or `timeout` is over.

    Each server gets a slice of the time, and all are asked at least twice (a single one three times); one that is
    slower than its slice may still answer while the next is asked. A server that says SERVFAIL or REFUSED is not
    asked again; nobody listening counts as silence, since a server may be restarting. `finished` is called once,
    unless the lookup is stopped before; the waiters then get the same answer. The time runs from construction.
    """

    def __init__(
        self,
        query: Query,
        servers: Servers,
        transport: Transport,
        clock: IReactorTime,
        timeout: float,
        finished: Callable[[Answer], None],
    ) -> None:
        self.is_running = False
        self.is_over = False
        self._query = query
        self._servers = servers
        self._transport = transport
        self._clock = clock
        self._timeout = timeout
        self._finished = finished
        self._waiters: dict[Deferred[Answer], None] = {}
        self._turns: deque[Server] = deque()
        self._slice = 0.0
        self._asked = 0
        self._tries: dict[Deferred[Response], Server] = {}
        self._has_refusal = False
        self._next: IDelayedCall | None = None
        self._end = clock.callLater(timeout, self._time_is_up)

    def wait(self, cancelled: Callable[[], None]) -> Deferred[Answer]:
        """The answer. When the last of those who wait has cancelled, `cancelled` is called."""

        def give_up(waiter: Deferred[Answer]) -> None:
            self._waiters.pop(waiter, None)
            if not self._waiters and not self.is_over:
                cancelled()

        waiter: Deferred[Answer] = Deferred(give_up)
        self._waiters[waiter] = None
        return waiter

    def begin(self) -> None:
        """Ask the first server."""
        self.is_running = True
        self._turns = self._servers.in_order()
        self._slice = self._timeout / max(3, 2 * len(self._turns))
        self._ask_next()

    def stop(self) -> None:
        """Ask nobody any more, and forget what was asked. Safe to call twice."""
        self.is_over = True
        for call in (self._end, self._next):
            if call is not None and call.active():
                call.cancel()
        tries, self._tries = self._tries, {}
        for attempt in tries:
            attempt.cancel()

    def finish(self, answer: Answer) -> None:
        """End with this answer."""
        if self.is_over:
            return
        self.stop()
        self._finished(answer)
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            waiter.callback(answer)

    def _ask_next(self) -> None:
        server = self._turns[0]
        self._turns.rotate(-1)
        self._asked += 1
        # The call is made before the question is put, since that may fail at once.
        self._next = self._clock.callLater(self._slice, self._slice_is_over, server)
        attempt = self._transport.exchange(server, self._query)
        self._tries[attempt] = server
        attempt.addCallbacks(self._answered, self._not_answered, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def _slice_is_over(self, server: Server) -> None:
        if server in self._tries.values():
            self._servers.was_silent(server)
        self._ask_next()

    def _answered(self, response: Response, attempt: Deferred[Response]) -> None:
        server = self._tries.pop(attempt, None)
        if server is None:
            return
        self._servers.has_spoken(server)
        answer = read_answer(response)
        if answer is not None:
            self.finish(answer)
            return
        self._has_refusal = True
        if server in self._turns:
            self._turns.remove(server)
        if not self._turns:
            self.finish(Answer(DnsStatus.SERVFAIL))
        elif not self._tries:
            self._ask_at_once()

    def _not_answered(self, failure: Failure, attempt: Deferred[Response]) -> None:
        server = self._tries.pop(attempt, None)
        if server is None:
            return
        failure.trap(NoAnswerError)
        self._servers.was_silent(server)
        # Once everybody has been asked, the next round waits for its time.
        if not self._tries and self._asked < len(self._turns):
            self._ask_at_once()

    def _ask_at_once(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._ask_next()

    def _time_is_up(self) -> None:
        self.finish(Answer(DnsStatus.SERVFAIL if self._has_refusal else DnsStatus.TIMEOUT))
