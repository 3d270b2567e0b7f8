"""Routes with a preset, and listeners that offer what next hops take: mistakes, and what is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailgate.config.load import ConfigError
from tests.unit.config_file import load_text

TEXT = """
[gateway]
hostname = "mx.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:2525"]
pipeline = "in"
{listener}

[pipelines.in]
filters = ["headers"]

[domains."example.org"]
route = "exchange"
recipients = "people"

[recipients.people]
kind = "list"
addresses = ["bob@example.org"]

[routes.boxes]
transport = "maildir"
path = "/var/mail/{{local_part}}"

[routes.exchange]
transport = "smtp"
{route}
"""
HOSTS = 'hosts = ["ex1.internal"]\n'


def warnings(folder: Path, route: str = HOSTS, listener: str = "") -> list[str]:
    loaded = load_text(folder, TEXT.format(route=route, listener=listener))
    return [one for one in loaded.warnings if "boxes: no" not in one]


@pytest.mark.parametrize("preset", ["exchange", "exchange-online"])
def test_what_is_in_order(tmp_path: Path, preset: str) -> None:
    plain = warnings(tmp_path)
    assert warnings(tmp_path, f'{HOSTS}preset = "{preset}"', 'size_of = ["exchange"]') == plain


@pytest.mark.parametrize(
    ("route", "listener", "expected"),
    [
        (f'{HOSTS}preset = "exchange"\nconnections = 50', "", "takes 20 from one address"),
        (f'{HOSTS}preset = "exchange"\ndata_timeout = "60s"', "", "giving up sooner makes duplicates"),
        ('hosts = [["x-org.mail.protection.outlook.com"]]\npreset = "exchange"', "", 'write "exchange-online"'),
        (HOSTS, 'size_of = ["exchange", "boxes"]', "boxes goes to no server"),
    ],
)
def test_warnings(tmp_path: Path, route: str, listener: str, expected: str) -> None:
    new = set(warnings(tmp_path, route, listener)) - set(warnings(tmp_path))
    assert any(expected in one for one in new)


@pytest.mark.parametrize(
    ("route", "listener", "expected"),
    [
        ('preset = "exchange"', "", "is for fixed hosts"),
        (f'{HOSTS}preset = "exchnage"', "", "valid values are: exchange, exchange-online"),
        (HOSTS, 'size_of = ["exchnage"]', 'there is no route "exchnage"'),
        ("", 'size_of = ["exchange"]', "exchange goes by MX: any host of the Internet"),
    ],
)
def test_mistakes(tmp_path: Path, route: str, listener: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        warnings(tmp_path, route, listener)
    assert expected in "\n".join(caught.value.errors)
