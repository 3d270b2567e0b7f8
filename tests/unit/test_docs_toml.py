"""Every piece of configuration in the documentation can be used: alone, or with what it leaves out."""

from __future__ import annotations

import json
import random
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ConfigDict
from twisted.internet.task import Clock
from twisted.plugin import IPlugin
from zope.interface import implementer

from mailgate import events
from mailgate.addressing import make_users
from mailgate.assembly import assemble
from mailgate.auth.checker import IAuthReactor
from mailgate.config.categories import CATEGORIES
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.rules import read_rules
from mailgate.config.schema import Config, Section
from mailgate.filters.access_rules import RuleTable, parse_rule
from mailgate.interfaces import FilterServices, IFilterFactory, IMailFilter
from mailgate.observe.hub import EventHub
from mailgate.observe.render import event_name
from mailgate.pipeline.registry import FilterNotFoundError, Registry
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import MemoryResolver
from tests.unit.certificates import authority, issue
from tests.unit.dkim_parts import pem
from tests.unit.geo_parts import write_database

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Filters that the documentation has readers write or install.
STRANGERS = {"impostor", "noreply"}
#: What a fragment stands in.
AROUND = """
[gateway]
hostname = "mx1.example.org"
state_dir = "state"
[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "inbound"
[domains."example.org"]
route = "inside"
[routes.inside]
transport = "smtp"
hosts = ["10.0.0.5:25"]
[pipelines.inbound]
filters = ["access", "recipients", "headers"]
"""
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class AnyOptions(Section):
    """Those of a stranger."""

    model_config = ConfigDict(frozen=True, extra="allow")


@implementer(IFilterFactory, IPlugin)
class Stranger:
    """Stands in for a filter that is not installed here."""

    summary = "a filter of somebody else"
    options = AnyOptions

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, options: object, services: FilterServices) -> object:
        return NoOpinion()


@implementer(IMailFilter)
class NoOpinion:
    """Says nothing."""

    def on_mail(self, session: object, transaction: object) -> None:
        return None


class Shelf(Registry):
    """The installed filters, and the strangers."""

    def find(self, kind: str) -> IFilterFactory:
        try:
            return super().find(kind)
        except FilterNotFoundError:
            if kind in STRANGERS:
                return Stranger(kind)
            raise


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The blocks of a page with the number of their first line."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start()) + 2, textwrap.dedent(match[3]))
        for match in _FENCE.finditer(text)
        if match[2] == language
    ]


def places(language: str) -> list[Any]:
    return [
        pytest.param(page, text, id=f"{page.relative_to(ROOT)}:{line}")
        for page in PAGES
        for line, text in blocks(page, language)
    ]


def with_surroundings(text: str) -> str:
    """The text as it stands where it is a whole file, else with what it leaves out."""
    fragment = tomllib.loads(text)
    if {"gateway", "listeners", "pipelines"} <= fragment.keys():
        return text
    whole = merged(tomllib.loads(AROUND), fragment)
    # A name that only the text around the fragment explains.
    for listener in whole["listeners"]:
        for key in ("pipeline", "trusted_pipeline"):
            if key in listener:
                whole["pipelines"].setdefault(listener[key], {"filters": ["headers"]})
    routing = whole.get("routing", {})
    routes = [section["route"] for section in whole["domains"].values()]
    routes += [*routing.get("recipients", {}).values(), *routing.get("senders", {}).values()]
    for name in [*routes, *([routing["default"]] if "default" in routing else [])]:
        whole["routes"].setdefault(name, {"transport": "smtp", "hosts": ["10.0.0.5:25"]})
    for section in whole["domains"].values():
        if section.get("recipients", "any") != "any":
            people = {"kind": "list", "addresses": ["ann@example.org"]}
            whole.setdefault("recipients", {}).setdefault(section["recipients"], people)
    return "".join(f"{json.dumps(key)} = {written(value)}\n" for key, value in whole.items())


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of both; `over` counts where they differ, and a `transport` of its own begins a route anew."""
    result = dict(base)
    for key, value in over.items():
        old = base.get(key)
        both = isinstance(value, dict) and isinstance(old, dict) and "transport" not in value
        result[key] = merged(old, value) if both and isinstance(old, dict) else value
    return result


def written(value: object) -> str:
    """A value as TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def built(path: Path) -> Loaded:
    """The configuration, of which everything has been built that a start would build."""
    registry = Shelf()
    loaded = load(path, registry.find)
    files = [getattr(section, "path", None) for section in loaded.config.recipients.values()]
    files += [file for options in loaded.options.values() for file in getattr(options, "files", ())]
    for file in files:
        if file is not None:
            file.parent.mkdir(exist_ok=True)
            file.touch()
    _lay_out(loaded.config, loaded.options.values())
    clock = Clock()
    users = make_users(loaded, cast(IAuthReactor, clock))  # nobody logs in here
    assemble(
        loaded,
        registry,
        clock=clock,
        resolver=MemoryResolver({}),
        counters=MemoryCounters(clock, 1000),
        events=EventHub(),
        random=random.Random(1),
        users=users,
    )
    return loaded


def _lay_out(config: Config, options: Iterable[object]) -> None:
    """Put the files there that sections and filters name."""
    sections: list[Any] = [config.tls, *config.auth.values(), *config.recipients.values(), *config.routes.values()]
    sections += [*config.aliases.values(), config.forwarding, config.reports.dkim, config.tls_reports.dkim]
    sections += config.webhooks.values()
    sections += [one for one in options if isinstance(one, Section)]
    files = {
        (key, value)
        for section in (*sections, *_of_logins(sections))
        for key, value in (section or ())
        if isinstance(value, Path)
    }
    for key, path in files:
        if key == "certificate" and path.suffix != ".pem":
            path.mkdir(exist_ok=True)
            issue(None, config.gateway.hostname).write(path / "ours.pem")
        elif key == "certificate":
            issue(None, config.gateway.hostname).write(path)
        elif key in ("client_ca", "tls_ca", "ca"):
            authority().write_certificate(path)
        elif key == "path":
            path.touch()
        elif key == "country":
            write_database(path, {"192.0.2.0/24": {"country": {"iso_code": "AT"}}})
        elif key == "asn":
            write_database(path, {"192.0.2.0/24": {"autonomous_system_number": 64496}}, "GeoLite2-ASN")
        elif key == "key":
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pem(2048))
        else:
            path.write_text("a secret that nobody guesses\n")


def _of_logins(routes: Iterable[Any]) -> list[Any]:
    logins = [auth for route in routes if (auth := getattr(route, "auth", None)) is not None]
    return [*logins, *(login.oauth for login in logins)]


def _lay_out_keys(directory: Path, text: str) -> None:
    """Put the keys there that dkim-sign is to sign with: their paths are patterns."""
    for domain, section in tomllib.loads(text).get("filters", {}).get("dkim-sign", {}).get("domains", {}).items():
        for key in section["keys"]:
            path = directory / key["path"].format(domain=domain, selector=key["selector"])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pem(2048))


def _with_tables(text: str, directory: Path) -> str:
    """The text, with tables of Postfix that lie in this folder, and that no program has to print."""

    def table(match: re.Match[str]) -> str:
        kind, path = match[1], directory / match[2]
        path.touch()
        return f'"{"texthash" if kind == "hash" else kind}:{path}"'

    return re.sub(r'"(\w+):/etc/postfix/([\w.]+)"', table, text)


def is_rules(text: str) -> bool:
    """Whether a block is a file of its own: that of bounces.rules."""
    return "rules" in tomllib.loads(text)


@pytest.mark.parametrize(("page", "text"), places("toml"))
def test_configuration_can_be_used(page: Path, text: str, tmp_path: Path) -> None:
    path = tmp_path / "mailgate.toml"
    if is_rules(text):
        path.write_text(text)
        assert read_rules(path).rules
        return
    (tmp_path / "replies.toml").touch()
    (tmp_path / "digest-de").symlink_to(ROOT / "examples/digest-de")
    # What a real site has in /etc lies beside the file here.
    path.write_text(_with_tables(with_surroundings(text).replace("/etc/mailgate/", ""), tmp_path))
    _lay_out_keys(tmp_path, text)
    loaded = built(path)
    for name, section in tomllib.loads(text).get("filters", {}).items():
        assert loaded.config.filter(name).model_dump(exclude_unset=True).keys() == section.keys()


def test_whole_files_have_no_warnings(tmp_path: Path) -> None:
    whole = [text for page in PAGES for _, text in blocks(page, "toml") if "[gateway]" in text and "[routes." in text]
    assert whole
    for text in whole:
        (tmp_path / "mailgate.toml").write_text(text)
        assert load(tmp_path / "mailgate.toml", Shelf().find).warnings == ()


def test_the_files_of_rules_in_the_guide_can_be_used() -> None:
    texts = [text for _, text in blocks(ROOT / "docs/guide/filters.md", "text")]
    assert texts
    for text in texts:
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
        rules = [parse_rule(line, "blocked", number) for number, line in enumerate(lines, 1) if line]
        assert {rule.action for rule in rules} == {"deny", "defer"}
        RuleTable(rules)


def test_a_fragment_with_a_mistake_is_found(tmp_path: Path) -> None:
    (tmp_path / "mailgate.toml").write_text(with_surroundings('[filters.access]\nrules = ["deny client"]\n'))
    with pytest.raises(ConfigError, match="a rule is written"):
        built(tmp_path / "mailgate.toml")


def test_every_category_is_in_the_guide() -> None:
    text = (ROOT / "docs/guide/deliverability.md").read_text()
    assert dict(re.findall(r"(?m)^\| `([a-z-]+)` \| (.*) \|$", text)).items() >= CATEGORIES.items()


def test_every_event_is_in_the_guide_with_its_fields() -> None:
    text = (ROOT / "docs/guide/why.md").read_text()
    shown: dict[str, str] = {}
    for names, _, fields in re.findall(r"(?m)^\| (`[a-z_]+`[^|]*) \|([^|]*)\|(.*)\|$", text):
        shown |= dict.fromkeys(re.findall(r"`([a-z_]+)`", names), fields)
    shown = {
        name: fields + (shown["delivered"] if "as `delivered`" in fields else "") for name, fields in shown.items()
    }
    kinds = [one for one in vars(events).values() if isinstance(one, type) and issubclass(one, events.Event)]
    kinds = [one for one in kinds if one is not events.Event and not one.__name__.startswith("_")]
    assert len(kinds) > 20
    missing = [
        f"{event_name(kind)}.{field}"
        for kind in kinds
        for field in set(kind.__struct_fields__) - {"at"}
        if f"`{field}`" not in shown.get(event_name(kind), "") and kind is not events.DmarcEvaluated
    ]
    assert missing == []
    assert "dmarc_evaluated" in shown  # some of its fields are the domain's record, and are not named one by one
