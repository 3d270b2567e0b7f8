"""How checks are run: each ends, whatever becomes of it, and what it has found counts."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailgate.doctor.diagnosis import AREAS, Area, Check, Diagnosis, Notes, is_sound, run_checks
from tests.unit.remote_peer import outcome


def run(*checks: Check, clock: Clock | None = None) -> Deferred[list[Diagnosis]]:
    return Deferred.fromCoroutine(run_checks(checks, clock or Clock()))


async def well(notes: Notes) -> None:
    notes.ok("well")


async def silent(notes: Notes) -> None:
    notes.fail("this much was found")
    await Deferred()


async def broken(notes: Notes) -> None:
    raise ZeroDivisionError("oh")


def test_what_hangs_ends_at_its_deadline_and_is_no_ok() -> None:
    clock = Clock()
    asked = run(Check("dns", "a", silent, 5.0), Check("dns", "b", well), clock=clock)
    clock.advance(4.9)
    assert not asked.called
    clock.advance(0.2)
    first, second, third = outcome(asked)
    assert (first.severity, first.says) == ("fail", "this much was found")
    assert (second.severity, second.says) == ("warn", "not checked to the end: no answer within 5 s")
    assert (third.severity, third.subject) == ("ok", "b")


def test_an_error_of_ours_is_told_and_stops_nothing() -> None:
    told = outcome(run(Check("disk", "a", broken), Check("disk", "b", well)))
    assert [one.severity for one in told] == ["warn", "ok"]
    assert "ZeroDivisionError: oh" in told[0].says


def test_areas_come_in_their_order() -> None:
    areas: list[Area] = list(AREAS)
    told = outcome(run(*(Check(area, area, well) for area in reversed(areas))))
    assert [one.area for one in told] == areas


def test_only_so_many_run_at_one_time() -> None:
    running: list[Deferred[None]] = []

    async def one(notes: Notes) -> None:
        running.append(Deferred())
        await running[-1]

    asked = run(*(Check("hops", "x", one) for _ in range(40)))
    assert len(running) == 16
    while not asked.called:
        running.pop().callback(None)
    assert outcome(asked) == []


def test_what_others_say_is_cut() -> None:
    notes = Notes("hops", "x")
    notes.warn("a" * 10_000)
    assert len(notes.found[0].says) < 700


def test_only_a_failure_is_unsound() -> None:
    notes = Notes("hops", "x")
    notes.ok("a")
    notes.note("b")
    notes.warn("c")
    assert is_sound(notes.found)
    notes.fail("d", subject="y")
    assert not is_sound(notes.found)
    assert notes.found[-1].subject == "y"
