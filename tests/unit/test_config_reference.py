"""The configuration files that we ship, and the reference of all options."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from twisted.plugin import IPlugin
from zope.interface import implementer

from mailgate.config.load import load
from mailgate.config.reference import reference
from mailgate.config.schema import (
    Config,
    FilterCommon,
    PoolSection,
    Section,
    ShapingSection,
    SlowDownSection,
    SmtpRoute,
    SourceSection,
    WarmUpSection,
)
from mailgate.config.units import ConfigPath, Duration, Size
from mailgate.interfaces import FilterServices, IFilterFactory

ROOT = Path(__file__).parents[2]
KINDS = {"early-talker", "access", "rate-limit", "recipients", "headers"}
KINDS |= {"helo", "spf", "resolvable", "dkim", "arc", "dmarc", "authentication-results", "submission"}
SHIPPED = sorted([ROOT / "etc/mailgate.toml", ROOT / "etc/demo.toml", *(ROOT / "etc/examples").glob("*.toml")])


class Zone(Section):
    """One zone."""

    name: str
    """its name"""
    weight: Annotated[int, Field(ge=1)] = 1
    """what it counts"""


class Options(Section):
    """`[filters.dnsbl]`: which lists are asked.

    In this order.
    """

    zones: list[Zone] = Field([])
    """the lists | in order"""
    wait: Duration = 1.5
    """how long"""
    cache: ConfigPath | None = None
    """where answers are kept"""
    limit: Annotated[int, Field(ge=1, le=9)] | None = None
    """how many"""
    required: bool
    """no default"""


@implementer(IFilterFactory, IPlugin)
class Factory:
    """A factory as a plugin would be."""

    def __init__(self, name: str, options: type = Section) -> None:
        self.name = name
        self.summary = f"the filter {name}"
        self.options = options

    def build(self, options: object, services: FilterServices) -> object:
        raise AssertionError("nothing is built here")


def find(kind: str) -> IFilterFactory:
    """The built-in kinds, which need no options."""
    if kind not in KINDS:
        raise LookupError(kind)
    return Factory(kind)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_sound(path: Path) -> None:
    result = load(path, find)
    assert result.warnings == ()
    assert set(result.options) <= KINDS


def test_the_commented_options_are_the_defaults(tmp_path: Path) -> None:
    path = ROOT / "etc/mailgate.toml"
    text, count = re.subn(r"(?m)^# (\w+ = (?:[\[\"\d]|true|false))", r"\1", path.read_text())
    (tmp_path / "all.toml").write_text(text)
    plain, full = load(path, find).config, load(tmp_path / "all.toml", find).config
    assert count > 30
    assert full.model_dump() == plain.model_dump()


def test_the_default_file_shows_every_option_of_its_sections() -> None:
    config = load(ROOT / "etc/mailgate.toml", find).config
    text = (ROOT / "etc/mailgate.toml").read_text()
    shown = set(re.findall(r"(?m)^#? ?(\w+) = ", text))
    route = config.routes["inside"]
    assert isinstance(route, SmtpRoute)
    sections: list[Section] = [config.gateway, config.listeners[0], route, route.retry, config.dns, config.spool]
    kinds = [type(section) for section in (*sections, config.history, config.bounces)]
    kinds += [SourceSection, WarmUpSection, PoolSection, ShapingSection, SlowDownSection]
    for kind in kinds:
        assert set(kind.model_fields) - shown <= {"retry", "trusted_pipeline", "slow_down", "warm_up"}


def test_the_commented_examples_of_sources_and_shaping_are_sound(tmp_path: Path) -> None:
    path = ROOT / "etc/mailgate.toml"
    text = path.read_text()
    start, end = text.index("#[sources."), text.index("# What refusals mean")
    examples = re.sub(r"(?m)^#(\[|\w+ = )", r"\1", text[start:end])
    used = text[:start].replace("#pool = ", "pool = ") + examples + text[end:]
    (tmp_path / "mailgate.toml").write_text(used)
    loaded = load(tmp_path / "mailgate.toml", find)
    assert set(loaded.config.sources) == {"first", "second"}
    (shaping,) = loaded.config.shaping.values()
    assert shaping.model_fields_set == set(ShapingSection.model_fields)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_commented_examples_of_filters_suit_the_filters(path: Path) -> None:
    lines = path.read_text().splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("#[filters.")), len(lines))
    examples = "\n".join(line[1:] for line in lines[start:] if re.match(r"#(\[|\w+ = )", line))
    for name, section in tomllib.loads(examples).get("filters", {}).items():
        module = importlib.import_module(f"mailgate.filters.{name.replace('-', '_')}")
        own = {key: value for key, value in section.items() if key not in FilterCommon.model_fields}
        assert own
        assert module.Options.model_validate(own, context={"base": path.parent}) != module.Options()


def test_the_reference_has_every_key_once() -> None:
    text = reference([Factory("headers"), Factory("dnsbl", Options)])
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    assert len(headings) == len(set(headings))
    for heading in ("`[gateway]`", "`[[listeners]]`", "`[domains.NAME]`", "`[routes.NAME.retry]`", "`[log]`", "dnsbl"):
        assert heading in headings
    for transport in ("smtp", "lmtp", "maildir", "discard"):
        assert f"`[routes.NAME], transport {transport}`" in headings
    for name, field in Config.model_fields.items():
        assert f"[{name}" in text, field
    assert "`dnsbl`" not in text
    assert text.index("### dnsbl") < text.index("### headers")
    assert "No options of its own." in text
    assert "The filter dnsbl.\n\nWhich lists are asked.\n\nIn this order.\n" in text


@pytest.mark.parametrize(
    "row",
    [
        "| `hostname` | host name | **required** |",
        '| `drain_timeout` | duration, like "30s" | `"30s"` |',
        '| `memory_limit` | size, like "25MiB" | `"256KiB"` |',
        '| `role` | `"inbound"`, `"outbound"` or `"hybrid"` | `"inbound"` |',
        '| `trusted_networks` | list: network, like "10.0.0.0/8" | `[]` |',
        "| `trusted_pipeline` | name | none |",
        "| `max_recipients` | whole number, at least 100 | `1000` |",
        "| `resolve_clients` | true or false | `true` |",
        "| `hosts` | list: host or list of hosts | `[]` |",
        "| `port` | whole number, at least 1, at most 65535 | `24` |",
        "| `factor` | number, at least 1, at most 10 | `2.0` |",
        "| `recipients` | table: address or domain = name | `{}` |",
        "| `zones` | list: table, see below | `[]` | the lists \\| in order |",
        '| `wait` | duration, like "30s" | `"1s500ms"` | how long |',
        "| `cache` | path | none | where answers are kept |",
        "| `limit` | whole number, at least 1, at most 9 | none |",
        "| `required` | true or false | **required** | no default |",
    ],
)
def test_rows_of_the_reference(row: str) -> None:
    assert row in reference([Factory("dnsbl", Options)])


def test_every_option_of_ours_is_explained() -> None:
    rows = [line for line in reference([]).splitlines() if line.startswith("| `")]
    assert rows
    assert [line for line in rows if line.rstrip("| ").count(" | ") < 3] == []


def test_sections_can_be_written_as_defaults() -> None:
    class Limits(Section):
        """Limits."""

        rules: list[Zone] = Field([Zone(name="a"), Zone(name="b", weight=3)])
        """the rules"""
        sizes: tuple[Size, ...] = (1024, 2**20)
        """sizes"""

    text = reference([Factory("limits", Limits)])
    assert '`[{ name = "a" }, { name = "b", weight = 3 }]`' in text
    assert '`["1KiB", "1MiB"]`' in text
    assert "#### `[[filters.limits.rules]]`" in text
