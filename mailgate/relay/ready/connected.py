"""A ready queue over connections: how many it may have, and whether anything may begin now."""

from __future__ import annotations

from collections.abc import Sequence

from mailgate.config.routes import ServerRoute, SiteRoute
from mailgate.envelope import NO_ORIGIN
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import ConnectFailedError
from mailgate.relay.locate import Hosts
from mailgate.relay.ready.berths import Berths
from mailgate.relay.ready.health import Health
from mailgate.relay.ready.idle import Idle
from mailgate.relay.ready.jobs import Job, JobQueue, QueueOwner
from mailgate.relay.ready.pace import Pace
from mailgate.relay.ready.tools import SiteTools
from mailgate.relay.ready.trouble import is_pace_of_client
from mailgate.relay.ready.window import FIRST
from mailgate.relay.replies.limits import Limits
from mailgate.relay.sources import SYSTEM, Source
from mailgate.reply import Reply

__all__ = ["ConnectedQueue"]


class ConnectedQueue(JobQueue):
    """Its jobs go over connections, which are used again.

    There are never more connections than the limits, what was found out, and the slots that all workers share allow:
    each job under way and each idle connection holds one slot, of those of `key`. When no host can be connected to,
    jobs that come in the next moments are deferred with that error at once.
    """

    def __init__(
        self,
        name: str,
        hosts: Hosts,
        route: SiteRoute,
        *,
        route_name: str,
        limits: Limits,
        source: Source = SYSTEM,
        tools: SiteTools,
        owner: QueueOwner,
    ) -> None:
        # A session that a client leads shows only at its end that the site bears it.
        is_led = isinstance(route, ServerRoute) and not route.queue
        first = limits.connections if is_led else FIRST
        health = Health(limits.connections, limits.retry.longest, tools.clock, tools.random, self._changed, first=first)
        super().__init__(
            name,
            health.window.size,
            tools.clock,
            owner,
            retry=limits.retry,
            route=route_name,
            label=hosts.label,
            source=source.name,
        )
        self.hosts = hosts.names
        self.most_recipients = limits.recipients_per_message
        self._hosts = hosts
        self._limits = limits
        self._tools = tools
        self._keeps_connections = True
        self._one_message = isinstance(route, ServerRoute) and (route.xclient or route.proxy_protocol)
        self._idle = Idle(route.idle_timeout, tools.clock, self._closed_idle)
        self._health = health
        # Sites of one name may be others after a reload.
        self.key = f"{name} {hosts.label}" if hosts.is_fixed else name
        self._pace = Pace(
            self.key,
            limits,
            site=self.label,
            source=source.name,
            slots=tools.slots,
            clock=tools.clock,
            events=tools.events,
            changed=self._changed,
        )
        self._unconnected: set[Job] = set()  # under way, and without a session now
        self._berths = Berths(self.key, tools.slots, tools.clock, changed=self._slots_changed, wanted=self._wanted)
        self._is_wanted = False  # somebody else waits for a slot
        self.is_held = self._pace.is_held

    # -- JobQueue

    def may_begin(self) -> bool:
        if self._idle.connections:
            return self._pace.may_begin()
        return not self._berths.is_waiting and self._pace.may_begin() and self._pace.may_connect()

    def refuses(self, job: Job) -> bool:
        trouble = self._health.trouble
        if trouble is None or not self._health.is_resting(job.started):
            return False
        job.settle(OutcomeKind.DEFERRED, trouble.reply, trouble.host, trouble.reason)
        return True

    def retry_now(self) -> None:
        self._health.recovered()
        self._pace.forget()
        self._changed()

    def retire(self) -> None:
        self._keeps_connections = False
        super().retire()

    def stop(self) -> list[Job]:
        self._keeps_connections = False
        waiting = super().stop()
        self._pace.stop()
        self._berths.stop()
        return waiting

    def is_empty(self) -> bool:
        return (
            not self._idle.connections
            and super().is_empty()
            and self.trouble is None
            and (not self._pace.is_slowed or not self._keeps_connections)
            and not self._berths.is_waiting
        )

    def close_idle(self) -> None:
        self._idle.close()
        self._settle()

    @property
    def title(self) -> str:
        return self._hosts.title

    @property
    def connections(self) -> int:
        return self._berths.held

    @property
    def rests_until(self) -> float:
        now = self.clock.seconds()
        rests = self._health.state.not_before if self._health.is_resting(now) else 0.0
        until = max(self._pace.rests_until, rests)
        return until if until > now else 0.0

    def hindrance(self) -> str:
        title, waits = self.title, "all connections to it are in use" if self._berths.is_waiting else ""
        rests = self._health.hindrance(title, self.clock.seconds())
        return super().hindrance() or rests or self._pace.hindrance(title) or waits

    @property
    def slowed(self) -> str:
        return self._pace.slowed

    def put_back(self, job: Job) -> None:
        super().put_back(job)
        self._unconnected.discard(job)
        self._settle()

    # -- slots

    def _slots_changed(self) -> None:
        self._hold()
        self.pump()
        self._settle()

    def _hold(self) -> None:
        self.is_held = self._pace.is_held or self._berths.is_waiting

    def _wanted(self) -> None:
        """Somebody else waits for a slot: one that we keep for later use is given up, as soon as there is one."""
        if self._idle.connections:
            self._idle.close_one()
        else:
            self._is_wanted = True

    def _settle(self) -> None:
        """Give back the slots that nothing is for."""
        self._berths.release_but(len(self._active) + len(self._idle.connections))

    def _closed_idle(self) -> None:
        self._settle()
        self.tell_if_empty()

    # -- how much it bears

    def _resize(self) -> None:
        self.trouble = self._health.trouble
        self.limit = min(self._health.window.size, self._pace.connections)

    def _changed(self) -> None:
        self._resize()
        self._hold()
        self.pump()

    def _heed(self, reply: Reply, stage: str, job: Job) -> None:
        """An answer that is not 2yz may say something about our pace."""
        if self._one_message and job.lease.envelope.origin != NO_ORIGIN and is_pace_of_client(reply, stage):
            return
        signal = self._tools.shaping.signal(self._limits, reply, stage)
        if signal is not None:
            self._pace.slow(signal, job.started)

    # -- what attempts find out

    def _gives_up(self) -> bool:
        """Whether the connection that has just come free goes to somebody else who waits for one."""
        if self._berths.held < 2 and self.line.count:
            return False  # whoever has only one keeps it, as long as it may, while there is work
        self._is_wanted = False
        return True

    def _connected(self, job: Job) -> None:
        self._unconnected.discard(job)
        if self._health.state.failures:
            self._health.recovered()
            self._resize()

    def _stands(self, job: Job, errors: Sequence[ConnectFailedError]) -> bool:
        """Whether others have sessions: then they are as many as the site bears."""
        idle = sum(connection.is_usable for connection, _ in self._idle.connections)
        standing = len(self._active) - len(self._unconnected) + idle
        if standing < 1 or job.results or any(one.stage not in ("connect", "greeting") for one in errors):
            return False
        self._health.full(standing)
        self._resize()
        return True
