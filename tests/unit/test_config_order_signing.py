"""What `mailgate check` says about filters that change what others have signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailgate.config.load import load
from mailgate.interfaces import IFilterFactory
from mailgate.pipeline.registry import FilterMaker, Registry
from tests.unit.test_config_order import BASE, behind

MAKERS = {
    name: FilterMaker(name, f"mailgate.filters.{name.replace('-', '_')}", "under test")
    for name in ("arc-seal", "batv", "dkim-sign", "list-unsubscribe", "verp")
}
KEYS = '[filters.dkim-sign.domains."example.org"]\nkeys = [{ selector = "s", path = "s.pem" }]\n'
SEAL = '[filters.arc-seal]\ndomain = "example.org"\nselector = "s"\nkey = "s.pem"\n'
LINK = (
    '[filters.list-unsubscribe]\nsenders = ["news@example.org"]\n'
    'link = "https://x.example/{token}"\nsecrets = "s.txt"\n'
)
TAGS = '[filters.batv]\nsenders = ["example.org"]\nsecrets = "s.txt"\n'
PATHS = '[filters.verp]\nsenders = ["news@example.org"]\nsecrets = "s.txt"\n'
BANNER = '[filters.banner]\ntext = "x"\n'

Warnings = Callable[..., list[str]]


@pytest.fixture
def warnings(tmp_path: Path) -> Warnings:
    registry = Registry()

    def find(name: str) -> IFilterFactory:
        return MAKERS[name] if name in MAKERS else registry.find(name)

    def found(filters: str, more: str = "") -> list[str]:
        path = tmp_path / "mailgate.toml"
        path.write_text(f"{BASE}[pipelines.inbound]\nfilters = [{filters}]\n{more}")
        return [line.removeprefix(f"{path}:") for line in load(path, find).warnings]

    return found


@pytest.mark.parametrize(
    ("filters", "more"),
    [
        ('"recipients", "list-unsubscribe", "banner", "headers", "dkim-sign"', KEYS + LINK + BANNER),
        ('"recipients", "spf", ["dkim", "arc"], "dmarc", "banner", "dkim-sign", "arc-seal"', KEYS + SEAL + BANNER),
        ('"recipients", "dkim-sign", "headers"', f"{KEYS}[filters.headers]\nmax_received = 50\n"),
        ('"verp", "batv", "recipients", "dkim-sign"', KEYS + TAGS + PATHS),
    ],
)
def test_good_orders(warnings: Warnings, filters: str, more: str) -> None:
    assert warnings(filters, more) == []


BREAKS = "and may change what is signed, so that the signature fails"


@pytest.mark.parametrize(
    ("filters", "more", "expected"),
    [
        ('"recipients", "dkim-sign", "banner"', KEYS + BANNER, [f"[3]: banner stands behind dkim-sign, {BREAKS}"]),
        ('"recipients", ["dkim-sign", "banner"]', KEYS + BANNER, [f"[2][2]: banner stands behind dkim-sign, {BREAKS}"]),
        (
            '"recipients", "dkim-sign", "headers"',
            f'{KEYS}[filters.headers]\nadd_missing = ["Date"]\n',
            [f"[3]: headers stands behind dkim-sign, {BREAKS}"],
        ),
        (
            '"recipients", "dkim-sign", "http", "command"',
            f'{KEYS}[filters.http]\nurls = ["http://127.0.0.1/"]\n[filters.command]\ncommand = ["/bin/true"]\n',
            [f"[3]: http stands behind dkim-sign, {BREAKS}", f"[4]: command stands behind dkim-sign, {BREAKS}"],
        ),
        (
            '"recipients", "dkim-sign", "list-unsubscribe"',
            KEYS + LINK,
            [f"[3]: list-unsubscribe stands behind dkim-sign, {BREAKS}"],
        ),
        (
            '"recipients", "spf", "arc", "arc-seal", "dkim", "banner"',
            SEAL + BANNER,
            [
                "[4]: arc-seal does not stand behind dkim, whose results it seals",
                f"[6]: banner stands behind arc-seal, {BREAKS}",
            ],
        ),
        (
            '"recipients", "arc-seal"',
            SEAL,
            ["[2]: arc-seal has no arc before it in this pipeline: mail that has a chain already is not sealed"],
        ),
        (
            '"recipients", "list-unsubscribe"',
            LINK,
            [
                "[2]: list-unsubscribe has no dkim-sign behind it in this pipeline: nobody believes fields that are "
                "not signed"
            ],
        ),
        (
            '"batv", "verp", "recipients"',
            TAGS + PATHS,
            ["[1]: batv does not stand behind verp, whose return paths it leaves as they are"],
        ),
        (
            '"recipients", "batv"',
            TAGS,
            ["[2]: batv stands behind recipients, which does not know tagged addresses and refuses them"],
        ),
        (
            '"recipients", "dkim-sign"',
            KEYS.replace("[filters", '[filters.dkim-sign]\non_failure = "continue"\n[filters'),
            ['[2]: dkim-sign lets mail go without a signature where a key cannot be had: on_failure is "continue"'],
        ),
    ],
)
def test_wrong_orders(warnings: Warnings, filters: str, more: str, expected: list[str]) -> None:
    assert warnings(filters, more) == behind(*expected)
