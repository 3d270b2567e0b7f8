"""What a reload changes, and what waits for the next start."""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.config.reload import as_running, needs_restart
from mailgate.config.schema import Config
from tests.unit.relaying import configuration

MX: dict[str, Any] = {"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in"}
SUBMISSION: dict[str, Any] = {"name": "submission", "role": "outbound", "endpoints": ["tcp:587"], "pipeline": "in"}
GATEWAY: dict[str, Any] = {"hostname": "gw.example.org", "state_dir": "state"}


def config(**sections: Any) -> Config:
    return configuration(**({"gateway": GATEWAY, "listeners": [MX]} | sections))


@pytest.mark.parametrize(
    ("sections", "waits"),
    [
        ({}, ()),
        ({"gateway": GATEWAY | {"hostname": "other.example.org"}}, ("gateway.hostname",)),
        ({"gateway": GATEWAY | {"state_dir": "elsewhere"}}, ("gateway.state_dir",)),
        ({"gateway": GATEWAY | {"drain_timeout": "5s", "memory_limit": "1MiB"}}, ()),
        ({"listeners": [MX | {"endpoints": ["tcp:26"]}]}, ("listeners.mx",)),
        ({"listeners": [MX | {"protocol": "lmtp"}]}, ("listeners.mx",)),
        ({"listeners": [MX | {"max_connections": 3, "role": "hybrid"}]}, ()),
        ({"listeners": [MX, SUBMISSION]}, ("listeners.submission",)),
        ({"listeners": [SUBMISSION]}, ("listeners.mx", "listeners.submission")),
        ({"spool": {"max_active": 500}}, ("spool",)),
        ({"dns": {"timeout": "1s"}, "log": {"path": "-"}}, ("dns", "log")),
        ({"counters": {"max_keys": 5000}, "history": {"keep": "1d"}}, ("counters", "history")),
        ({"routes": {"out": {"transport": "smtp"}}, "domains": {"a.test": {"route": "out"}}}, ()),
        ({"gateway": {"hostname": "gw.example.org", "state_dir": "state", "workers": 2}}, ("gateway.workers",)),
        ({"sources": {"a": {"address": "192.0.2.1"}}, "pools": {"p": {"sources": {"a": 1}}}}, ()),
        ({"shaping": {"slow": {"connections": 1}}, "bounces": {"double_to": "pm@example.org"}}, ()),
    ],
)
def test_what_waits_for_the_next_start(sections: dict[str, Any], waits: tuple[str, ...]) -> None:
    started, new = config(), config(**sections)
    assert needs_restart(started, new) == waits
    # The running gateway goes by a configuration that changes nothing of that, but for which listeners there are.
    running = as_running(started, new)
    assert set(needs_restart(started, running)) <= {one for one in waits if one.startswith("listeners")}


def test_what_runs_has_the_old_values_of_what_waits_and_the_new_of_the_rest() -> None:
    new = config(
        gateway={"hostname": "other.example.org", "state_dir": "elsewhere", "drain_timeout": "5s"},
        listeners=[MX | {"endpoints": ["tcp:26"], "max_errors": 3}, SUBMISSION],
        spool={"max_active": 500},
        routes={"out": {"transport": "smtp"}},
    )
    running = as_running(config(), new)
    assert (running.gateway.hostname, running.gateway.drain_timeout) == ("gw.example.org", 5.0)
    assert running.gateway.state_dir == config().gateway.state_dir
    assert (running.listeners[0].endpoints, running.listeners[0].max_errors) == (["tcp:25"], 3)
    assert running.listeners[1] == new.listeners[1]
    assert running.spool == config().spool
    assert running.routes == new.routes
    assert new.gateway.hostname == "other.example.org"  # it is no more than read
