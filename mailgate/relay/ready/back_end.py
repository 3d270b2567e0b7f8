"""Delivery to a back end of a known kind (`preset` of a route), whose answers are not always about the mail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from mailgate.awaiting import as_deferred
from mailgate.config.routes import Preset, Route, SmtpRoute
from mailgate.envelope import EnvelopeRecipient
from mailgate.events import BackEndRefuses, Event
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, Result, Target
from mailgate.relay.ready.host_watch import HostWatch
from mailgate.relay.ready.job import Job, LedJob
from mailgate.relay.ready.tools import Served, SiteTools
from mailgate.relay.replies.back_ends import Meaning, meaning
from mailgate.relay.sources import Source
from mailgate.reply import Reply

__all__ = ["BackEnd", "Way", "way_to"]

#: Messages in a row whose connector is refused, none being taken between, after which the route rests.
_IN_A_ROW = 3
#: Seconds for which a domain that was served shows that the connector is right, and another domain wrong there; and
#: domains that are remembered.
_LATELY, _MOST_DOMAINS = 86400.0, 1000
#: Transactions in one attempt by which a message finds its way to the recipients that are taken, and octets of all of
#: them; the others wait.
_MOST_APART, _MOST_OCTETS = 40, 256 * 1024**2
_UNASKED = Reply.of(451, "4.3.0", "The next hop has not been asked for this recipient alone")
#: Seconds between events that tell of the same.
_QUIET = 300.0


class BackEnd:
    """What the hosts of one site say, understood as their `preset` means it. `alarm` has the route rest for a while,
    and is given the reason; `served` as in SiteTools: without it, who has been served is a result of the job."""

    def __init__(
        self,
        preset: Preset,
        *,
        site: str,
        route: str,
        seconds: Callable[[], float],
        publish: Callable[[Event], None],
        alarm: Callable[[str, str], None],
        served: Served | None = None,
    ) -> None:
        self._preset = preset
        self._site = site
        self._route = route
        self._seconds = seconds
        self._publish = publish
        self._alarm = alarm
        self._served = served
        self._refusals = 0  # messages in a row
        self._refused: set[str] = set()  # domains of their recipients
        self._took: dict[str, float] = {}  # domains that were served, and when last
        self._told: dict[Meaning, float] = {}  # when of what

    async def deliver(self, job: Job, connection: IConnection) -> Sequence[Result]:
        """As `job.over(connection)`; recipients that have been served meanwhile are the job's already, and have no
        result here: even if this is cut, they are not served again."""
        if job.is_apart and len(job.remaining) > 1:
            unasked = [Result(one, OutcomeKind.DEFERRED, _UNASKED, again=True) for one in job.remaining]
            results = await self._apart(job, connection, unasked, [[one] for one in job.remaining])
        else:
            results = await job.over(connection)
            shared = _recipients(results, self._is_shared)
            if len(shared) > 1:
                job.is_apart = True
                results = await self._apart(job, connection, results, [shared])
        self._has_served((*results, *job.results))
        if job.is_apart:  # it took the content
            self._refusals = 0
        meanings = {one.reply: self._meaning(one) for one in results}
        if "connector" in meanings.values():
            self._refusals += 1
            refused = (one.recipient.address.domain for one in results if meanings[one.reply] == "connector")
            self._refused.update(islice(refused, _MOST_DOMAINS - len(self._refused)))
        return [self._understood(one, meanings[one.reply]) for one in results]

    def hear(self, results: Sequence[Result]) -> Sequence[Result]:
        """The same results: what a client leads is the client's to hear, and what is said before there is a session
        is about no mail. Whoever runs this is told all the same."""
        for one in results:
            what = self._meaning(one)
            if what in ("connector", "waits"):
                self._tell(what, one)
        return results

    # -- one recipient's refusal

    def _is_shared(self, result: Result) -> bool:
        """Whether this was said to the content, for all, and can only be about one of them."""
        return result.is_shared and result.kind is not OutcomeKind.DELIVERED and self._meaning(result) == "recipient"

    async def _apart(
        self,
        job: Job,
        connection: IConnection,
        results: Sequence[Result],
        groups: list[Sequence[EnvelopeRecipient]],
    ) -> Sequence[Result]:
        """Halve those who share such an answer, until each is taken or has one of its own. Nothing of a refused
        transaction was delivered, so nobody gets the message twice."""
        found = {one.recipient.number: one for one in results}
        # As many as lead to single recipients, however large it is: otherwise no attempt would come to anything.
        least = 2 * len(found).bit_length() + 2
        most = max(least, min(_MOST_APART, _MOST_OCTETS // max(job.lease.content.size, 1)))
        asked = 0
        while groups:
            group = groups.pop()
            halves = [group] if len(group) < 2 else [group[: len(group) // 2], group[len(group) // 2 :]]
            for half in halves:
                if asked >= most or not connection.is_usable:
                    for one in half:
                        found[one.number] = self._unasked(found[one.number], again=asked < most)
                    continue
                asked += 1
                answers = await connection.deliver(job.lease.envelope, half, job.lease.content)
                found.update((one.recipient.number, one) for one in answers)
                self._keep(job, connection, answers)
                shared = _recipients(answers, self._is_shared)
                if len(shared) > 1:
                    groups.append(shared)
        return [found[one.number] for one in job.remaining]

    def _keep(self, job: Job, connection: IConnection, answers: Sequence[Result]) -> None:
        """Whoever has been served is the job's from now on; what becomes of the others may take long, so that is
        written at once."""
        served = [
            replace(one, tls=connection.security or one.tls) for one in answers if one.kind is OutcomeKind.DELIVERED
        ]
        self._has_served(served)
        numbers = {one.recipient.number for one in served}
        job.remaining = tuple(one for one in job.remaining if one.number not in numbers)
        if not job.remaining or self._served is None:
            job.results += served
        elif served:
            recipients = tuple(one for one in job.recipients if one.number in numbers)
            job.recipients = tuple(one for one in job.recipients if one.number not in numbers)
            self._served(
                Job(
                    job.lease,
                    recipients,
                    job.route,
                    started=job.started,
                    results=served,
                    domain=job.domain,
                    site=job.site,
                    source=job.source,
                )
            )

    def _unasked(self, result: Result, *, again: bool) -> Result:
        """What an answer to many is to one who has not been asked for alone."""
        reason = "the message was refused because of some recipient, perhaps another one"
        return replace(result, kind=OutcomeKind.DEFERRED, reason=reason, again=again, is_shared=False)

    # -- what is not about the mail

    def _has_served(self, results: Sequence[Result]) -> None:
        served = {one.recipient.address.domain for one in results if one.kind is OutcomeKind.DELIVERED}
        if not served:
            return
        self._refusals = 0
        self._refused.clear()
        now = self._seconds()
        for domain in served:
            self._took.pop(domain, None)
            self._took[domain] = now
        while len(self._took) > _MOST_DOMAINS:
            del self._took[next(iter(self._took))]

    def _is_of_connector(self) -> bool:
        """Whether refusals in a row can be about nothing else: domains of which none was ever served, while others have
        been lately, are perhaps not set up there."""
        since = self._seconds() - _LATELY
        others = any(at >= since for domain, at in self._took.items() if domain not in self._refused)
        return self._refusals >= _IN_A_ROW and (not others or any(one in self._took for one in self._refused))

    def _meaning(self, result: Result) -> Meaning:
        if result.kind is OutcomeKind.DELIVERED or not result.host or result.again:
            return ""
        return meaning(self._preset, result.reply)

    def _understood(self, result: Result, what: Meaning) -> Result:
        if what == "connector":
            self._tell(what, result)
            if self._is_of_connector():
                self._alarm(self._route, f"{result.host} said: {result.reply}"[:300])
            reason = f"{result.host} refuses us, not this mail: its connector is not, or no longer, for this gateway"
            return replace(result, kind=OutcomeKind.DEFERRED, reason=reason)
        if what == "waits":
            self._tell(what, result)
            reason = f"{result.host} takes no mail for this domain: it is none of its accepted domains"
            return replace(result, kind=OutcomeKind.DEFERRED, reason=reason)
        # Where 421 came after the content, nobody knows how far that had got.
        if what == "busy" and result.kind is OutcomeKind.DEFERRED and result.reply.code != 421:
            return replace(result, next_host=True)
        return result

    def _tell(self, what: Meaning, result: Result) -> None:
        """An event, now and then."""
        now = self._seconds()
        if now - self._told.get(what, -_QUIET) >= _QUIET:
            self._told[what] = now
            recipient = str(result.recipient.address)
            self._publish(
                BackEndRefuses(
                    at=now,
                    route=self._route,
                    site=self._site,
                    host=result.host,
                    reply=str(result.reply),
                    recipient=recipient,
                )
            )


class Way:
    """How a site delivers: by itself, to its hosts in their order."""

    def over(self, job: Job, connection: IConnection) -> Awaitable[Sequence[Result]]:
        """Deliver to the remaining recipients of a job, as Job.over."""
        return job.over(connection)

    def order(self, targets: Sequence[Target], source: Source) -> Sequence[Target]:
        """The hosts in the order in which they are to be asked."""
        return targets

    def met(self, target: Target) -> None:
        """There is a session with a host."""

    def unmet(self, error: ConnectFailedError, job: Job) -> None:
        """There is none, for this job."""


class _BackEndWay(Way):
    """To a back end of a known kind. What clients lead is theirs to hear, as the back end says it."""

    def __init__(self, back_end: BackEnd, route: str, connector: IConnector, watch: HostWatch) -> None:
        self._back_end = back_end
        self._route = route
        self._connector = connector
        self._watch = watch

    def over(self, job: Job, connection: IConnection) -> Awaitable[Sequence[Result]]:
        if isinstance(job, LedJob):
            return as_deferred(job.over(connection)).addCallback(self._back_end.hear)
        return Deferred.fromCoroutine(self._deliver(job, connection))

    async def _deliver(self, job: Job, connection: IConnection) -> Sequence[Result]:
        results = await self._back_end.deliver(job, connection)
        if any(one.next_host and one.host for one in results):
            self._watch.unwell(self._route, str(connection.target))
        return results

    def order(self, targets: Sequence[Target], source: Source) -> Sequence[Target]:
        return self._watch.order(self._route, targets, partial(self._connector.connect, source=source))

    def met(self, target: Target) -> None:
        self._watch.well(self._route, str(target))

    def unmet(self, error: ConnectFailedError, job: Job) -> None:
        self._watch.unwell(self._route, str(error.target))
        if not error.is_ours and job.remaining:
            host, first = str(error.target), job.remaining[0]
            self._back_end.hear([Result(first, OutcomeKind.DEFERRED, error.reply, host)])


def way_to(route: Route, name: str, site: str, connector: IConnector, tools: SiteTools) -> Way:
    """The way that the hosts of a route ask for."""
    if not isinstance(route, SmtpRoute) or route.preset is None:
        return Way()
    back_end = BackEnd(
        route.preset,
        site=site,
        route=name,
        seconds=tools.clock.seconds,
        publish=tools.events.publish,
        alarm=tools.alarm,
        served=tools.served,
    )
    return _BackEndWay(back_end, name, connector, tools.watch or HostWatch(tools.clock.seconds))


def _recipients(results: Sequence[Result], chosen: Callable[[Result], bool]) -> Sequence[EnvelopeRecipient]:
    return [one.recipient for one in results if chosen(one)]
