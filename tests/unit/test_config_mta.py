"""`[milters.NAME]`: what is refused, what is warned of, and what a reload may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.config.load import ConfigError, Loaded
from mailgate.config.openings import openings
from mailgate.config.reload import as_running, needs_restart
from tests.unit.config_file import load_text

HEAD = """
[gateway]
hostname = "gate.example.org"
state_dir = "state"

[pipelines.in]
filters = ["headers"]

[routes.back]
transport = "smtp"
hosts = ["127.0.0.1:10026"]

[routes.away]
transport = "discard"

[routing]
default = "back"
"""
MILTER = '[milters.front]\nendpoints = ["tcp:8891:interface=127.0.0.1"]\npipeline = "in"\n'
LISTENER = '[[listeners]]\nname = "mx"\nendpoints = ["tcp:2525:interface=127.0.0.1"]\npipeline = "in"\n'


def loaded(folder: Path, more: str) -> Loaded:
    return load_text(folder, HEAD + more)


def test_a_milter_needs_no_listener(tmp_path: Path) -> None:
    config = loaded(tmp_path, MILTER).config
    assert [one.name for one in openings(config)] == ["front"]
    section = config.milters["front"]
    assert (section.quarantine, section.role, section.route) == ("hold", "hybrid", None)
    assert [str(one) for one in section.mail_servers] == ["127.0.0.0/8", "::1/128"]
    # Below what Postfix waits for a command, and for the end of a message.
    assert section.command_timeout < 30
    assert section.message_timeout < 300


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("", "listeners: is missing"),
        (MILTER + 'route = "bak"\n', 'milters.front.route: there is no route "bak", did you mean back?'),
        (MILTER.replace('"in"', '"im"'), 'milters.front.pipeline: there is no pipeline "im", did you mean in?'),
        (MILTER + 'trusted_pipeline = "im"\n', 'trusted_pipeline: there is no pipeline "im"'),
        (MILTER + 'quarantine = "own"\n', "nothing could leave it: it needs route"),
        (MILTER + 'command_timeout = "30s"\n', "must be less than 30s, which is what Postfix waits"),
        (MILTER + 'message_timeout = "5m"\n', "must be less than 5m"),
        (MILTER + 'idle_timeout = "1s"\n', "must be at least 1m"),
        (MILTER + 'max_message_size = "1KiB"\n', "must be at least 64KiB"),
        (MILTER + "endpoint = 1\n", "unknown key, did you mean endpoints?"),
        (MILTER + LISTENER.replace('"mx"', '"front"'), "each way in has a name of its own"),
        (MILTER + LISTENER.replace("2525", "8891"), "stands in line"),
        (MILTER + MILTER.replace("front", "back"), "stands in line"),
        (MILTER + '[http]\nendpoints = ["tcp:8891:interface=127.0.0.1"]\n', "stands in line"),
    ],
)
def test_mistakes(tmp_path: Path, more: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, more)
    assert any(text in line for line in caught.value.errors), caught.value.errors


def test_a_list_of_no_listeners_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="listeners: must not be empty"):
        load_text(tmp_path, "listeners = []\n" + HEAD)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ('mail_servers = ["0.0.0.0/0"]\n', "may tell us anything about who sends mail"),
        ('trusted_networks = ["0.0.0.0/0"]\n', "counts as your own users"),
        ('refused_for_some = "report"\n', "has no effect"),
        ('route = "away"\n', "away throws away what leaves the quarantine"),
        ('\n[filters.headers]\nonly_for = ["example.org"]\n', "messages to others as well are deferred"),
    ],
)
def test_warnings(tmp_path: Path, more: str, text: str) -> None:
    assert any(text in line for line in loaded(tmp_path, MILTER + more).warnings)


def test_a_filter_that_can_do_nothing_there_is_told(tmp_path: Path) -> None:
    text = HEAD.replace('filters = ["headers"]', 'filters = ["early-talker", "headers"]')
    for more, count in ((MILTER, 1), (LISTENER, 0)):
        warnings = load_text(tmp_path, text + more).warnings
        assert sum("early-talker has no effect" in one for one in warnings) == count


def test_a_route_of_a_milter_is_used(tmp_path: Path) -> None:
    text = MILTER + 'route = "away"\n'
    assert not any("routes.away" in line for line in loaded(tmp_path, text).warnings)
    assert any("routes.away" in line for line in loaded(tmp_path, MILTER).warnings)


def test_where_it_listens_waits_for_a_restart_and_the_rest_does_not(tmp_path: Path) -> None:
    old = loaded(tmp_path, MILTER).config
    moved = loaded(tmp_path, MILTER.replace("8891", "8892") + "max_connections = 7\n").config
    assert needs_restart(old, moved) == ("milters.front",)
    running = as_running(old, moved).milters["front"]
    assert running.endpoints == old.milters["front"].endpoints
    assert running.max_connections == 7
    more = loaded(tmp_path, MILTER + MILTER.replace("front", "rear").replace("8891", "8892")).config
    assert needs_restart(old, more) == ("milters.rear",)
    assert needs_restart(more, old) == ("milters.rear",)
    assert needs_restart(old, loaded(tmp_path, MILTER + "max_connections = 7\n").config) == ()
