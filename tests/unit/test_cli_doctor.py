"""`mailgate doctor`: what it prints, and how it ends. No reactor runs."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from mailgate.awaiting import at_once
from mailgate.cli import doctor
from mailgate.cli.main import main
from mailgate.doctor import examination, owner
from mailgate.doctor.diagnosis import AREAS, Check, Notes
from mailgate.doctor.site import Site

CONFIG = """\
[gateway]
hostname = "gw.example.org"
state_dir = "state"
[[listeners]]
name = "mx"
endpoints = ["tcp:0:interface=127.0.0.1"]
pipeline = "in"
[domains."example.org"]
route = "inside"
[routes.inside]
transport = "smtp"
hosts = ["127.0.0.1:25"]
[pipelines.in]
filters = []
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mailgate.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What is checked, in the place of all that there is."""
    these: list[Check] = []

    def of(site: Site) -> Iterator[Check]:
        yield from these

    monkeypatch.setattr(doctor, "checks_of", of)
    monkeypatch.setattr(examination, "in_threads_of_their_own", lambda reactor: at_once)
    return these


def run(config: Path, *arguments: str) -> Result:
    def react(body: Any) -> None:
        ended: list[Any] = []
        reactor = MemoryReactorClock()
        Deferred.fromCoroutine(body(reactor)).addBoth(ended.append)
        for _ in range(200):
            reactor.advance(1.0)
        assert ended == [None]

    return CliRunner().invoke(main, ["doctor", "--config", str(config), *arguments], obj=react)


async def well(notes: Notes) -> None:
    notes.ok("all is well")


async def ill(notes: Notes) -> None:
    notes.fail("it is\x1b[31m broken", "mend it")


async def doubtful(notes: Notes) -> None:
    notes.warn("it looks odd", "look")


def test_all_is_well(config: Path, checks: list[Check]) -> None:
    checks += [Check("dns", "example.org", well)]
    result = run(config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "all is well" not in result.stdout
    assert (
        "0 failures, 0 warnings, 0 notes, 1 in order: nothing was found that would lose or refuse mail" in result.stdout
    )
    assert "  ok    example.org: all is well" in run(config, "--all").stdout


def test_something_is_ill(config: Path, checks: list[Check]) -> None:
    checks += [Check("disk", "/x", ill), Check("dns", "example.org", doubtful)]
    result = run(config)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"dns: {AREAS['dns']}",
        "  WARN  example.org: it looks odd",
        "        -> look",
        f"disk: {AREAS['disk']}",
        "  FAIL  /x: it is\\x1b[31m broken",
        "        -> mend it",
        "",
        "1 failures, 1 warnings, 0 notes, 0 in order",
    ]


def test_a_warning_is_no_failure(config: Path, checks: list[Check]) -> None:
    checks += [Check("dns", "example.org", doubtful)]
    assert run(config).exit_code == 0


def test_json(config: Path, checks: list[Check]) -> None:
    checks += [Check("disk", "/x", ill), Check("dns", "example.org", well)]
    result = run(config, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert told["counts"] == {"ok": 1, "note": 0, "warn": 0, "fail": 1}
    assert told["findings"][1] == {
        "severity": "fail",
        "area": "disk",
        "subject": "/x",
        "says": "it is\x1b[31m broken",
        "fix": "mend it",
    }


def test_one_area(config: Path, checks: list[Check]) -> None:
    checks += [Check("disk", "/x", ill), Check("dns", "example.org", well)]
    result = run(config, "--only", "dns")
    assert (result.exit_code, "all is well" in result.stdout, "broken" in result.stdout) == (0, True, False)
    assert run(config, "--only", "weather").exit_code == 2


def test_a_configuration_that_is_wrong(config: Path) -> None:
    config.write_text(CONFIG.replace("filters = []", 'filters = ["nonsense"]'))
    result = run(config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "mailgate.toml:14: " in result.stderr
    told = json.loads(run(config, "--json").stdout)
    assert [(one["area"], one["severity"]) for one in told["findings"]] == [("config", "fail")]
    assert run(config.with_name("none.toml")).exit_code == 1


def test_what_cannot_be_built_is_found_beside_the_rest(
    config: Path, monkeypatch: pytest.MonkeyPatch, checks: list[Check]
) -> None:
    config.write_text(f"{CONFIG}\n[filters.dkim-sign]\n".replace("filters = []", 'filters = ["dkim-sign"]'))
    real = examination.checks_of
    monkeypatch.setattr(doctor, "checks_of", lambda site: (one for one in real(site) if one.area == "config"))
    result = run(config)
    assert result.exit_code == 1
    assert "there is nothing to sign with" in result.stdout


def test_the_whole_of_it_is_made(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    areas: list[str] = []

    def of(site: Site) -> Iterator[Check]:
        areas.extend(one.area for one in examination.checks_of(site))
        return iter(())

    monkeypatch.setattr(doctor, "checks_of", of)
    assert run(config).exit_code == 0
    assert set(areas) == {"config", "dns", "hops", "recipients", "relay", "clock", "disk", "files", "ports"}


def test_one_domain(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(CONFIG.replace("[routes.", '[domains."two.test"]\nroute = "inside"\n[routes.', 1))
    seen: list[tuple[str, ...]] = []

    def of(site: Site) -> list[Check]:
        seen.append(site.domains)
        return []

    monkeypatch.setattr(doctor, "checks_of", of)
    assert run(config, "--domain", "Two.test").exit_code == 0
    assert run(config).exit_code == 0
    assert seen == [("two.test",), ("example.org", "two.test")]
    assert "three.test is none of our [domains]" in run(config, "--domain", "three.test").stderr


def test_of_very_many_domains_some_are_looked_at(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = "".join(f'[domains."d{number}.test"]\nroute = "inside"\n' for number in range(600))
    config.write_text(CONFIG.replace("[routes.", f"{more}[routes.", 1))
    real = examination.checks_of
    monkeypatch.setattr(doctor, "checks_of", lambda site: (one for one in real(site) if one.area == "config"))
    assert "of 601 domains 500 are looked at" in run(config).stdout


@pytest.mark.parametrize("problem", ["", "/root/.venv/bin/python: Permission denied"])
def test_root_becomes_the_owner_of_the_state_where_that_user_can_run_it(
    config: Path, monkeypatch: pytest.MonkeyPatch, checks: list[Check], problem: str
) -> None:
    (config.parent / "state").mkdir()
    checks += [Check("dns", "example.org", well)]
    monkeypatch.setattr(owner, "cannot_run", lambda user, group, groups: problem)
    became: list[Any] = []
    real = Path.stat

    def stat(path: Path, **more: Any) -> os.stat_result:
        values = list(real(path, **more))
        if path.name == "state":
            values[4:6] = [1234, 5678]
        return os.stat_result(values)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getgrouplist", lambda user, group: [group])
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda value, name=name: became.append((name, value)))
    result = run(config, "--only", "dns")
    assert "  ok    example.org: all is well" in result.stdout
    if problem:
        assert (became, result.exit_code) == ([], 1)
        assert f"1234 cannot run it ({problem})" in " ".join(result.stdout.split())
    else:
        assert (became, result.exit_code) == ([("setgroups", [5678]), ("setgid", 5678), ("setuid", 1234)], 0)


def test_who_can_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.getuid(), os.getgid(), os.getgroups()
    monkeypatch.setattr(subprocess, "run", functools.partial(_run_as_oneself, subprocess.run))
    assert owner.cannot_run(*ours) == ""
    monkeypatch.setattr(owner, "_TRIAL", "import no_such_package_of_ours")
    assert owner.cannot_run(*ours) == "ModuleNotFoundError: No module named 'no_such_package_of_ours'"
    hidden = tmp_path / "python"
    hidden.touch(mode=0o600)
    monkeypatch.setattr(sys, "executable", str(hidden))
    assert owner.cannot_run(*ours) == f"{hidden}: Permission denied"


def _run_as_oneself(
    real: Any, command: list[str], *, user: int, group: int, extra_groups: list[int], **more: Any
) -> Any:
    """Nobody but a superuser may name a user at all."""
    return real(command, **more)


# -- exchange


def test_powershell_is_printed_and_nobody_asked(config: Path) -> None:
    def nobody(body: Any) -> None:
        raise AssertionError("the reactor was wanted")

    arguments = ["doctor", "exchange", "--print", "--config", str(config)]
    result = CliRunner().invoke(main, arguments, obj=nobody)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "New-ReceiveConnector -Name 'From gw.example.org'" in result.stdout
    before = CliRunner().invoke(main, ["doctor", "--config", str(config), "exchange", "--print"], obj=nobody)
    assert before.stdout == result.stdout


def test_a_route_that_there_is_not(config: Path) -> None:
    result = run(config, "exchange", "other", "--print")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "other is no route with transport smtp and hosts (there are: inside)" in result.stderr


def test_exchange_is_looked_at(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "exchange_checks", lambda site, routes: [Check("exchange", ",".join(routes), well)])
    result = run(config, "exchange")
    assert result.exit_code == 0
    assert "  ok    inside: all is well" in result.stdout
