"""Giving up mail because an operator wants it: what a running relay and the command beside a stopped one share."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter

from twisted.internet.interfaces import IReactorTime

from mailgate.config.schema import RetrySection
from mailgate.interfaces import ISpool, Lease, OutcomeKind, Return, Selector, SpoolError
from mailgate.relay.outcomes import REPORT_RETRY, OutcomeWriter
from mailgate.relay.ready.jobs import LEASE_TIME, Job
from mailgate.reply import Reply

__all__ = ["give_up", "given_up"]

#: Recipients that are leased in one portion: between two of them the spool serves the mail.
_PORTION = 500
#: Characters of an operator's words that are told to senders.
_MAX_REASON = 300

_UNREPORTED = "the report of its failure cannot be made"
_UNWRITTEN = "what was given up cannot be written now"


def given_up(reason: str) -> Reply:
    """What senders are told; `reason` is what the operator has said, or ""."""
    said = " ".join(reason.split())[:_MAX_REASON]
    return Reply.of(550, "5.0.0", f"Returned by the administrator{f': {said}' if said else ''}")


def _settle(lease: Lease, reason: str, now: float) -> list[Job]:
    """Jobs, one for each route, in which every recipient of the lease has failed."""
    reply = given_up(reason)
    jobs = []
    for route, group in groupby(sorted(lease.recipients, key=attrgetter("route")), key=attrgetter("route")):
        recipients = tuple(group)
        job = Job(lease, recipients, route, started=now, remaining=recipients, is_untried=True)
        job.settle(OutcomeKind.FAILED, reply, "", "given up by an administrator")
        jobs.append(job)
    return jobs


async def give_up(
    spool: ISpool, writer: OutcomeWriter, selector: Selector, *, reason: str = "", clock: IReactorTime
) -> int:
    """Give up every recipient that is chosen and not leased; how many there were. Their reports are in the spool then.

    `writer` should have no other work: it is waited for until it rests. SpoolError where the spool does not take what
    became of them, which the writer goes on to try.
    """
    began = clock.seconds()
    done: set[tuple[str, int]] = set()
    while True:
        now = clock.seconds()
        leases = await spool.lease_selected(selector, _PORTION, now + LEASE_TIME)
        # A report of what has just been given up is not meant, and must not be given up in turn.
        meant = [lease for lease in leases if lease.envelope.sender or lease.envelope.received < began]
        chosen = [(lease.envelope.queue_id, one.number) for lease in meant for one in lease.recipients]
        returns = [Return(lease) for lease in leases if not lease.envelope.sender and lease.envelope.received >= began]
        is_all = done.issuperset(chosen)
        if is_all:
            # Whose report could not be made has been put off, and would be found again and again.
            returns += [Return(lease, now + REPORT_RETRY, _UNREPORTED) for lease in meant]
        if returns:
            await spool.release_leases(returns)
        if is_all:
            return len(done.difference(chosen))
        for lease in meant:
            for job in _settle(lease, reason, now):
                writer.record(job, RetrySection())
        await writer.when_idle()
        if any(writer.holds(lease.envelope.queue_id) for lease in meant):
            raise SpoolError(_UNWRITTEN)
        done.update(chosen)
