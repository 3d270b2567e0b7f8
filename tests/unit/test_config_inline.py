"""What the file says of routes that are not queued."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.config.load import ConfigError, load
from mailgate.config.routes import SmtpRoute
from tests.unit.test_config import GOOD, find


def loaded(folder: Path, route: str) -> tuple[SmtpRoute, list[str]]:
    file = folder / "mailgate.toml"
    file.write_text(f"{GOOD}\n[routes.within]\n{route}\n")
    found = load(file, find)
    section = found.config.routes["within"]
    assert isinstance(section, SmtpRoute)
    return section, [line for line in found.warnings if "routes.within." in line]


def errors(folder: Path, route: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, route)
    return [line.partition("mailgate.toml:")[2].partition(": ")[2] for line in caught.value.errors]


def test_a_route_is_queued_unless_it_says_otherwise(tmp_path: Path) -> None:
    route, warnings = loaded(tmp_path, 'transport = "smtp"\nhosts = ["mail.example.org"]')
    assert (route.queue, route.when_unreachable, warnings) == (True, "defer", [])
    route, warnings = loaded(
        tmp_path,
        'transport = "smtp"\nhosts = ["mail.example.org"]\nqueue = false\n'
        'when_unreachable = "queue"\nrcpt_timeout = "20s"',
    )
    assert (route.queue, route.when_unreachable, route.rcpt_timeout, warnings) == (False, "queue", 20.0, [])


def test_a_route_by_mx_cannot_be_inline(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, 'transport = "smtp"\nqueue = false')
    assert error.startswith("routes.within.queue: false is for fixed hosts, and this route goes by MX: give it `hosts`")


@pytest.mark.parametrize("route", ['transport = "maildir"\npath = "/tmp/{domain}"', 'transport = "discard"'])
def test_where_nobody_answers_nothing_is_inline(tmp_path: Path, route: str) -> None:
    (error,) = errors(tmp_path, f"{route}\nqueue = false")
    assert error.startswith("routes.within.queue: is for smtp and lmtp: ")


def test_nothing_is_bounced_that_the_next_hop_refuses_at_rcpt(tmp_path: Path) -> None:
    route = 'transport = "smtp"\nhosts = ["mail.example.org"]\n'
    domain = '[domains."other.org"]\nroute = "within"\nrecipients = "any"'
    for queue, warned in (("", True), ("queue = false\n", False)):
        file = tmp_path / "mailgate.toml"
        file.write_text(f"{GOOD}\n[routes.within]\n{route}{queue}{domain}\n")
        assert any("has to be bounced" in line for line in load(file, find).warnings) is warned


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    _, warnings = loaded(tmp_path, 'transport = "smtp"\nhosts = ["mail.example.org"]\nrcpt_timeout = "20s"')
    assert any("routes.within.rcpt_timeout: has no effect without queue = false" in line for line in warnings)
