"""`[policy_services.NAME]` and `[socketmaps.NAME]`: what is refused, what is warned of, what a reload may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.cli.check import findings
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
"""
POLICY = '[policy_services.front]\nendpoints = ["tcp:10040:interface=127.0.0.1"]\npipeline = "in"\n'
TABLES = '[socketmaps.tables]\nendpoints = ["tcp:10041:interface=127.0.0.1"]\n'


def loaded(folder: Path, more: str) -> Loaded:
    return load_text(folder, HEAD + more)


def test_neither_needs_a_listener(tmp_path: Path) -> None:
    config = loaded(tmp_path, POLICY + TABLES).config
    assert [one.name for one in openings(config)] == ["front", "tables"]
    assert [one.name for one in openings(loaded(tmp_path, TABLES).config)] == ["tables"]
    section = config.policy_services["front"]
    assert (section.role, section.prepend) == ("hybrid", "nothing")
    assert [str(one) for one in section.mail_servers] == ["127.0.0.0/8", "::1/128"]
    # Below what Postfix waits.
    assert section.timeout < 100
    assert config.socketmaps["tables"].timeout < 100
    assert len(config.socketmaps["tables"].maps) == 6


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("", "listeners: is missing"),
        (POLICY.replace('"in"', '"im"'), 'policy_services.front.pipeline: there is no pipeline "im", did you mean in?'),
        (POLICY + 'trusted_pipeline = "im"\n', 'trusted_pipeline: there is no pipeline "im"'),
        (POLICY + 'timeout = "100s"\n', "must be less than 1m40s, which is what Postfix waits"),
        (POLICY + 'idle_timeout = "1s"\n', "must be at least 1m"),
        (POLICY + 'prepend = "received-spf"\n', "policy_services.front.prepend"),
        (TABLES + 'timeout = "100s"\n', "must be less than 1m40s"),
        (TABLES + "maps = []\n", "socketmaps.tables.maps"),
        (TABLES + 'maps = ["recipient"]\n', "socketmaps.tables.maps"),
        (POLICY + TABLES.replace("tables]", "front]"), "each way in has a name of its own"),
        (POLICY + TABLES.replace("10041", "10040"), "stands in line"),
    ],
)
def test_mistakes(tmp_path: Path, more: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, more)
    assert any(text in line for line in caught.value.errors), caught.value.errors


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (POLICY + 'mail_servers = ["0.0.0.0/0"]\n', "may tell us anything about who sends mail"),
        (POLICY + 'trusted_networks = ["0.0.0.0/0"]\n', "counts as your own users"),
        (TABLES + 'mail_servers = ["0.0.0.0/0"]\n', "may find out who your recipients are"),
    ],
)
def test_warnings(tmp_path: Path, more: str, text: str) -> None:
    assert any(text in line for line in loaded(tmp_path, more).warnings)


def test_a_filter_that_can_do_nothing_there_is_told(tmp_path: Path) -> None:
    more = POLICY.replace('"in"', '"early"') + '[pipelines.early]\nfilters = ["early-talker"]\n'
    assert any("early-talker has no effect" in one for one in loaded(tmp_path, more).warnings)


@pytest.mark.parametrize(
    ("text", "kind", "name"), [(POLICY, "policy_services", "front"), (TABLES, "socketmaps", "tables")]
)
def test_where_it_listens_waits_for_a_restart_and_the_rest_does_not(
    tmp_path: Path, text: str, kind: str, name: str
) -> None:
    old = loaded(tmp_path, text).config
    moved = loaded(tmp_path, text.replace("1004", "1005") + "max_connections = 7\n").config
    assert needs_restart(old, moved) == (f"{kind}.{name}",)
    running = getattr(as_running(old, moved), kind)[name]
    assert running.endpoints == getattr(old, kind)[name].endpoints
    assert running.max_connections == 7
    assert needs_restart(old, loaded(tmp_path, text + "max_connections = 7\n").config) == ()


def test_filters_that_look_at_the_content_are_told_to_have_no_effect(tmp_path: Path) -> None:
    file = tmp_path / "mailgate.toml"
    (tmp_path / "access").touch()
    more = POLICY.replace('"in"', '"mixed"') + '[pipelines.mixed]\nfilters = ["access", ["spf", "headers"]]\n'
    file.write_text(HEAD + more + '[filters.access]\nfiles = ["access"]\n')
    told = "policy_services.front: pipeline mixed: not asked before the content: headers"
    assert findings(file) == ((), (told,))


def test_what_nobody_has_named_is_not_told_to_have_no_effect(tmp_path: Path) -> None:
    file = tmp_path / "mailgate.toml"
    file.write_text(HEAD + POLICY.replace('"in"', '"bare"') + '[pipelines.bare]\nfilters = ["spf"]\n')
    assert findings(file) == ((), ())
