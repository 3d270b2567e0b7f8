"""Lives of a spool by chance: what is asked of it, in which order, and when it is killed; and a model that knows what
must be there afterwards.

Each thing that is asked for is done as a whole or not at all: when it is killed, what is found is what the model says
it was before the last call, or what it would have been after it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient, MailParameters, new_id
from mailgate.interfaces import Destination, Lease, Outcome, OutcomeKind, Return, Selector, Suspension
from mailgate.message import Content, ContentWriter
from mailgate.reply import Reply
from tests.crash.disk import CrashError, Disk
from tests.crash.life import Bench, Key, StoppedError

__all__ = ["Wild"]

#: More recipients than are leased in one piece.
_MANY = 120
_ROUTES, _DOMAINS = ("out", "in", "far"), ("a.test", "b.test", "c.test")
_LATER = Reply.of(451, "4.2.2", "full")


@dataclass
class Row:
    """What the spool has to know of a recipient. `state` is what it is when nobody has a lease."""

    route: str
    state: str = "queued"
    attempts: int = 0
    site: str = ""
    source: str = ""
    category: str = ""


@dataclass
class Model:
    """What there must be."""

    rows: dict[Key, Row] = field(default_factory=dict)
    suspensions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Wild:
    """One spool through its lives. With more than one worker, one of them is killed, and the others live on."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, chance: random.Random, workers: int = 1) -> None:
        self.folder = folder
        self.chance = chance
        self.workers = workers
        # What may be: that a message is held does not show while somebody has a lease of it.
        self._models = [Model()]
        self._after: list[Model] = []
        self.contents: dict[str, bytes] = {}
        self.done: list[str] = []
        self._patch = patch
        self._disk: Disk | None = None
        self._benches: list[Bench] = []
        self._leases: list[list[Lease]] = [[] for _ in range(workers)]

    @property
    def model(self) -> Model:
        """What there must be, but for what does not show."""
        return self._models[0]

    # -- lives

    def live(self, most: int) -> bool:
        """Live until it is killed, at the latest at moment `most`, and see what is left. False where it was not."""
        self.done.clear()
        if self.workers == 1:
            return self._live_alone(self.chance.randint(1, most))
        if self._disk is None:
            self._disk = Disk(self._patch, self.folder)
            self._benches = [self._open(number, self._disk) for number in range(self.workers)]
        self._disk.arm(self.chance.randint(1, most))
        with contextlib.suppress(StoppedError, CrashError):
            for _ in range(60):
                self._do_something(self.chance.randrange(self.workers))
        is_over, self._disk.is_over = self._disk.is_over, True
        dead = [number for number in range(self.workers) if not self._benches[number].spool._thread.is_alive()]
        assert len(dead) == is_over
        for number in dead:
            # The others go on before there is another in its place.
            other = self._benches[(number + 1) % self.workers]
            self._benches[number].drop()
            other.wait(other.spool.retry(Selector()))
            self._leases[number].clear()
            self._benches[number] = self._open(number, self._disk)
            self._look(self._benches[number])
        return is_over

    def _live_alone(self, moment: int) -> bool:
        disk = Disk(self._patch, self.folder, stop_at=moment)
        try:
            self._benches = [self._open(0, disk)]
            for _ in range(60):
                self._do_something(0)
        except (StoppedError, CrashError):
            pass
        self._leases[0].clear()
        for bench in self._benches:
            bench.drop()
        self._patch.undo()
        if disk.is_over:
            self.folder = disk.image(self.chance.choice(["killed", "unplugged"]))
        bench = self._open(0, None)
        self._look(bench)
        bench.close()
        self._benches = []
        return disk.is_over

    def end(self) -> None:
        """Close what is open."""
        for bench in self._benches:
            bench.close()

    def _open(self, number: int, disk: Disk | None) -> Bench:
        bench = Bench(self.folder, disk, worker=number, workers=self.workers)
        try:
            report = bench.wait(bench.spool.sweep())
        except BaseException:
            bench.drop()
            raise
        assert report.set_aside == ()
        return bench

    # -- what is left

    def _look(self, bench: Bench) -> None:
        spool = bench.spool
        leased = {key for leases in self._leases for lease in leases for key in _keys(lease)}
        found = Model()
        for one in bench.wait(spool.view(Selector(), 100_000)):
            key = one.queue_id, one.number
            found.rows[key] = Row(one.route, one.state, one.attempts, one.site, one.source, one.category)
            assert (one.state == "leased") == (key in leased), key
        found.suspensions = {f"{one.kind} {one.name}": one.reason for one in bench.wait(spool.suspensions())}
        counts = bench.wait(spool.counts("20"))
        # A release is noted among them, for re-scans; the model counts what it has asked for.
        found.counts = {key: amount for key, amount in counts.items() if "/released/" not in key}
        may_be = [*self._models, *self._after]
        fits = [model for model in may_be if _shown(model, leased) == found]
        assert fits, (self.done[-1:], _differences(_shown(may_be[0], leased), _shown(may_be[-1], leased), found))
        self._models = [model for number, model in enumerate(fits) if model not in fits[:number]]
        self._after = []
        here = {queue_id for queue_id, _ in found.rows}
        in_files = set()
        for queue_id in here:
            message = bench.wait(spool.content(queue_id))
            assert message is not None
            assert message[1].read() == self.contents[queue_id]
            if message[1].path is not None:
                in_files.add(queue_id)
        for queue_id in self.contents.keys() - here:
            del self.contents[queue_id]
        if self.workers == 1:
            assert {path.name for path in (self.folder / "content").iterdir()} == in_files
            assert [path for path in (self.folder / "incoming").rglob("*") if path.is_file()] == []
        assert list((self.folder / "set-aside").iterdir()) == []

    # -- what is asked for

    def _do_something(self, number: int) -> None:
        what: Callable[[int], None] = self.chance.choices(
            [self._accept, self._lease, self._record, self._give_back, self._operate, self._suspend, self._count],
            [6, 4, 8, 3, 3, 1, 1],
        )[0]
        what(number)

    def _ask(self, number: int, name: str, ask: Callable[[Any], Deferred[Any]], change: Callable[[Model], None]) -> Any:
        """Ask a worker's spool, and change the model when it has answered."""
        self.done.append(name)
        self._after = deepcopy(self._models)
        for model in self._after:
            change(model)
        answer = self._benches[number].wait(ask(self._benches[number].spool))
        self._models, self._after = self._after, []
        return answer

    def _message(self, recipients: int, size: int, **more: Any) -> tuple[Envelope, Content]:
        envelope = Envelope(
            queue_id=new_id(),
            recipients=tuple(
                EnvelopeRecipient(
                    number,
                    Address(f"u{number}", self.chance.choice(_DOMAINS)),
                    self.chance.choice(_ROUTES),
                    self.chance.choice(["", "", "", "", "a virus"]) if recipients < _MANY else "",
                )
                for number in range(recipients)
            ),
            received=time.time(),
            size=size,
            **{"sender": Address("ann", "client.test"), **more},
        )
        self.contents[envelope.queue_id] = data = self.chance.randbytes(size)
        return envelope, Content(data)

    def _accept(self, number: int) -> None:
        recipients = self.chance.choice([1, 1, 1, 2, 3, _MANY])
        size = self.chance.choice([50, 800, 1500, 4000])
        envelope, content = self._message(
            recipients, size, parameters=MailParameters(priority=self.chance.choice([0, 0, 3]))
        )
        if self.chance.random() < 0.4:
            writer = ContentWriter(self._benches[number].spool.incoming, 10)
            writer.write(self.contents[envelope.queue_id])
            content = writer.finish()
        lease = self._ask(
            number,
            f"accept of {recipients}",
            lambda spool: spool.accept(envelope, content, time.time() + 3600),
            lambda model: _add(model, envelope),
        )
        self._keep(number, [lease])

    def _lease(self, number: int) -> None:
        until, limit = time.time() + 3600, self.chance.choice([1, 5, 1000])
        here = Destination(self.chance.choice(_ROUTES), self.chance.choice(_DOMAINS))
        queue_id = self.chance.choice([queue_id for queue_id, _ in self.model.rows] or [""])
        calls: list[tuple[str, Callable[[Any], Deferred[Any]]]] = [
            ("lease", lambda spool: spool.lease(limit, until)),
            ("lease, some full", lambda spool: spool.lease(limit, until, {here})),
            ("lease in turn", lambda spool: spool.lease_in_turn(here, limit, until)),
            ("lease of one", lambda spool: spool.lease_selected(Selector(queue_id=queue_id), limit, until)),
        ]
        name, call = self.chance.choice(calls)
        self._keep(number, self._ask(number, name, call, lambda model: None))

    def _record(self, number: int) -> None:
        lease = self._take(number)
        if lease is None:
            return
        outcomes: list[Outcome] = []
        ended: list[Key] = []
        later: list[Key] = []
        is_later = self.chance.random() < 0.4
        for one in lease.recipients:
            kind = OutcomeKind.DEFERRED if is_later else self.chance.choice([*OutcomeKind])
            due = time.time() + self.chance.choice([-1, 3600])
            outcomes.append(
                Outcome(one, kind, _LATER, next_attempt=due, site="out:mx", source="s1", category="mailbox-full")
            )
            (later if kind is OutcomeKind.DEFERRED else ended).append((lease.envelope.queue_id, one.number))
        reports = [self._message(1, self.chance.choice([300, 3000]), sender=NULL_PATH)] * (self.chance.random() < 0.3)

        def change(model: Model) -> None:
            for key in ended:
                del model.rows[key]
            for key in later:
                row = model.rows[key]
                model.rows[key] = replace(
                    row, attempts=row.attempts + 1, site="out:mx", source="s1", category="mailbox-full"
                )
            for envelope, _ in reports:
                _add(model, envelope)

        self._ask(number, "record", lambda spool: spool.record(lease, outcomes, reports), change)

    def _give_back(self, number: int) -> None:
        leases = [lease for lease in (self._take(number), self._take(number)) if lease is not None]
        returns = [
            Return(lease, time.time() + self.chance.choice([0, 60]), "suspended: route out", self.chance.random() < 0.5)
            for lease in leases
        ]
        self._ask(number, "giving back", lambda spool: spool.release_leases(returns), lambda model: None)

    def _operate(self, number: int) -> None:
        selector = self.chance.choice(
            [
                Selector(route=self.chance.choice(_ROUTES)),
                Selector(domain=self.chance.choice(_DOMAINS)),
                Selector(queue_id=self.chance.choice([queue_id for queue_id, _ in self.model.rows] or ["x"])),
                Selector(site="mx"),
                Selector(reason="mailbox-full"),
            ]
        )
        for bench in self._benches:
            bench.wait(bench.spool.expand_fresh())
        bench = self._benches[number]
        keys = [(one.queue_id, one.number) for one in bench.wait(bench.spool.view(selector, 100_000))]
        leased = {key for leases in self._leases for lease in leases for key in _keys(lease)}
        free = [key for key in keys if key not in leased]
        new = self.chance.choice(_ROUTES)

        def delete(model: Model) -> None:
            for key in free:
                del model.rows[key]

        def reroute(model: Model) -> None:
            for key in free:
                if model.rows[key].route != new:
                    model.rows[key] = replace(model.rows[key], route=new, source="")

        def hold(model: Model) -> None:
            for key in keys:
                if model.rows[key].state == "queued":
                    model.rows[key].state = "held"

        def release(model: Model) -> None:
            for key in keys:
                model.rows[key].state = "queued"

        calls: list[tuple[str, Callable[[Any], Deferred[Any]], Callable[[Model], None]]] = [
            ("hold", lambda spool: spool.hold(selector), hold),
            ("release", lambda spool: spool.release(selector), release),
            ("release", lambda spool: spool.release(selector), release),
            ("retry", lambda spool: spool.retry(selector), lambda model: None),
            ("reroute", lambda spool: spool.reroute(selector, new), reroute),
            ("delete", lambda spool: spool.delete(selector), delete),
        ]
        self._ask(number, *self.chance.choice(calls))

    def _suspend(self, number: int) -> None:
        name, reason = self.chance.choice(_DOMAINS), str(self.chance.random())
        one = Suspension(kind="domain", name=name, since=time.time(), reason=reason)
        if self.chance.random() < 0.6:
            self._ask(
                number,
                "suspend",
                lambda spool: spool.suspend(one),
                lambda model: model.suspensions.update({f"domain {name}": reason}),
            )
        else:
            self._ask(
                number,
                "resume",
                lambda spool: spool.resume("domain", name),
                lambda model: _forget(model, f"domain {name}"),
            )

    def _count(self, number: int) -> None:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        amounts = {f"{day}/{name}": self.chance.randint(1, 9) for name in self.chance.sample("abcd", 2)}

        def change(model: Model) -> None:
            for key, amount in amounts.items():
                model.counts[key] = model.counts.get(key, 0) + amount

        self._ask(number, "counting", lambda spool: spool.add_counts(amounts), change)

    # -- leases

    def _keep(self, number: int, leases: Iterable[Lease]) -> None:
        for lease in leases:
            if lease.recipients:
                assert lease.content.read() == self.contents[lease.envelope.queue_id]
                for one in lease.recipients:
                    assert one.route == self.model.rows[lease.envelope.queue_id, one.number].route
                others = {key for held in self._leases for other in held for key in _keys(other)}
                assert not others & set(_keys(lease)), "leased twice"
                self._leases[number].append(lease)

    def _take(self, number: int) -> Lease | None:
        leases = self._leases[number]
        return leases.pop(self.chance.randrange(len(leases))) if leases else None


def _keys(lease: Lease) -> list[Key]:
    return [(lease.envelope.queue_id, one.number) for one in lease.recipients]


def _add(model: Model, envelope: Envelope) -> None:
    for one in envelope.recipients:
        state = "quarantined" if one.quarantine else "queued"
        model.rows[envelope.queue_id, one.number] = Row(one.route, state)


def _forget(model: Model, suspension: str) -> None:
    model.suspensions.pop(suspension, None)


def _shown(model: Model, leased: set[Key]) -> Model:
    """The model as the spool shows it while there are these leases."""
    shown = deepcopy(model)
    for key in leased & shown.rows.keys():
        shown.rows[key].state = "leased"
    return shown


def _differences(before: Model, after: Model, found: Model) -> list[object]:
    keys = before.rows.keys() | after.rows.keys() | found.rows.keys()
    rows = [(key, *(model.rows.get(key) for model in (before, after, found))) for key in sorted(keys)]
    odd = [row for row in rows if row[3] not in row[1:3] or row[1] != row[2]]
    return [*odd[:20], before.suspensions, found.suspensions, before.counts, found.counts]
