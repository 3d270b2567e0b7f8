"""A route's fallback: mail that its own hosts do not take goes another way, in time and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailgate.config.load import ConfigError
from mailgate.events import Bounced, Deferred, Delivered
from mailgate.relay.attempt import ConnectFailedError, Target
from mailgate.relay.service import REPORTS
from tests.unit.config_file import load_text
from tests.unit.relaying import LATER, NO, by_domain, refuse
from tests.unit.test_relay_service import Bench

SMART = "192.0.2.99"
RETRY = {"first": "5m", "longest": "10m", "expire": "2h"}


def routes(**own: Any) -> dict[str, Any]:
    out = {"transport": "smtp", "hosts": ["192.0.2.1"], "fallback": "smart", "retry": RETRY, **own}
    return {"out": out, "smart": {"transport": "smtp", "hosts": [SMART], "retry": RETRY}}


def down(*addresses: str) -> Any:
    def connecting(target: Target) -> ConnectFailedError | None:
        return refuse(target) if target.address in addresses else None

    return connecting


def ways(bench: Bench) -> list[str]:
    """The routes of the attempts so far."""
    kinds = (Deferred, Delivered, Bounced)
    return [one.route for one in bench.events.events if isinstance(one, kinds)]


def test_mail_goes_by_the_fallback_when_it_is_late() -> None:
    bench = Bench(routes=routes())
    bench.hop.connecting = down("192.0.2.1")
    bench.accept()
    bench.pump(360)  # the second attempt: too early
    assert ways(bench) == ["out", "out"]
    bench.pump(900)
    assert ways(bench) == ["out", "out", "smart"]
    assert bench.hop.targets[-1] == SMART
    assert bench.view() == []


def test_mail_that_was_not_tried_is_not_late() -> None:
    bench = Bench(routes=routes())
    bench.accept(received=bench.clock.seconds() - 3600)
    assert ways(bench) == ["out"]


def test_each_recipient_has_its_own_way() -> None:
    bench = Bench(routes=routes(fallback_after="0s"))
    bench.hop.answer = by_domain({"a.test": LATER, "c.test": NO})
    bench.accept("bob@a.test", "eve@b.test", "joe@c.test")
    assert sorted(ways(bench)) == ["out", "out", "out"]
    bench.pump(360)
    assert [way for way in ways(bench)[3:] if way != REPORTS] == ["smart"]
    assert bench.states() == {"bob@a.test": "queued"}


def test_after_both_have_had_their_chance_it_is_given_up() -> None:
    bench = Bench(routes=routes(fallback_after="0s"))
    bench.hop.connecting = down("192.0.2.1", SMART)
    bench.accept(sender="")
    for _ in range(40):
        bench.pump(300)
    assert len(bench.events.of(Bounced)) == 1
    assert set(ways(bench)[1:]) == {"smart"}


def test_without_one_all_is_as_ever() -> None:
    bench = Bench(routes=routes(fallback=None))
    bench.hop.connecting = down("192.0.2.1")
    bench.accept()
    bench.pump(3600)
    assert set(ways(bench)) == {"out"}


def test_a_reload_that_takes_it_away(tmp_path: Path) -> None:
    bench = Bench(routes=routes(fallback_after="0s"))
    bench.hop.connecting = down("192.0.2.1")
    bench.accept()
    bench.reload(routes={"out": routes(fallback=None)["out"]})
    bench.pump(360)
    assert ways(bench) == ["out", "out"]


TEXT = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "in"

[pipelines.in]
filters = ["headers"]

[routes.out]
transport = "smtp"
fallback = "out"

[routes.other]
transport = "smtp"
fallback = "smrt"

[routes.smart]
transport = "smtp"
hosts = ["smart.example.net"]
"""


def test_a_fallback_is_a_use_of_a_route(tmp_path: Path) -> None:
    text = TEXT.replace('"out"', '"smart"').replace('"smrt"', '"smart"')
    told = [line for line in load_text(tmp_path, text).warnings if "names this route" in line]
    assert [line.partition("routes.")[2].partition(":")[0] for line in told] == ["out", "other"]


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_text(tmp_path, TEXT)
    told = "\n".join(error.value.errors)
    assert "routes.out.fallback: a route is no fallback of its own" in told
    assert 'routes.other.fallback: there is no route "smrt"' in told
