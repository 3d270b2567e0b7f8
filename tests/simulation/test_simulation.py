"""The simulation in small: fair, near the ideal, and within its bounds."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.simulation.clock import VirtualClock
from tests.simulation.report import drawing, page, share
from tests.simulation.world import Measured, Plan, World

SMALL = Plan(
    messages=3000, sites=150, sending=300.0, seconds=900.0, list_size=4000, single_every=5.0, max_active=300, seed=3
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return World(SMALL, tmp_path_factory.mktemp("simulation") / "spool").run()


def test_a_list_does_not_delay_single_messages(measured: Measured) -> None:
    assert sum(measured.list_done) == 4000
    assert len(measured.single_busy) == len(measured.single_calm) > 40
    # One transaction before it, at most, and its own.
    assert max(measured.single_busy) < max(measured.single_calm) + 4.0


def test_slow_dead_and_throttling_sites_delay_nobody_elses_mail(measured: Measured) -> None:
    assert measured.delivered["fast"] == measured.sent["fast"]
    assert max(measured.fast) < 2.0


def test_what_could_be_delivered_is(measured: Measured) -> None:
    assert share(measured) > 0.95
    for kind in ("fast", "slow", "one connection", "greylisting", "busy"):
        assert measured.delivered[kind] == measured.sent[kind], kind
    assert measured.delivered["throttling"] > 0.8 * measured.ideal_by_kind["throttling"]
    assert measured.delivered["dead"] == 0
    assert measured.too_many_sessions == 0


def test_memory_is_bounded(measured: Measured) -> None:
    assert max(measured.jobs) <= SMALL.max_active


def test_the_report_is_whole(measured: Measured) -> None:
    text = page(SMALL, measured, 1.0)
    assert f"{share(measured):.1%}" in text
    root = ElementTree.fromstring(drawing(measured))  # noqa: S314  our own
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 5


def test_the_clock_calls_in_order_and_what_was_put_off_later() -> None:
    clock = VirtualClock(100.0)
    called: list[str] = []
    late = clock.callLater(1.0, called.append, "late")
    clock.callLater(2.0, called.append, "two")
    clock.callLater(2.0, lambda: clock.callLater(0, called.append, "at once"))
    gone = clock.callLater(1.5, called.append, "gone")
    late.reset(5.0)
    gone.cancel()
    assert len(clock.getDelayedCalls()) == 3
    clock.run(104.0)
    assert called == ["two", "at once"]
    assert clock.seconds() == 104.0
    clock.run(105.0)
    assert called[2:] == ["late"]
    assert clock.getDelayedCalls() == []
