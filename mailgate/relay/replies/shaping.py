"""How hard each destination may be pushed, and which answers mean "not so fast": `[shaping]` and what is built in."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Literal, NamedTuple

from mailgate.config.routes import HopRoute, SmtpRoute
from mailgate.config.schema import Config, ShapingSection, SlowDownSection
from mailgate.config.section import Section
from mailgate.relay.replies.limits import Limits, Signal
from mailgate.relay.replies.patterns import Pattern, Said
from mailgate.reply import Reply

__all__ = ["Shaping"]

#: Replies of which is remembered what they mean.
_REMEMBERED = 512
#: Recipients in one transaction, where nothing else is said (RFC 5321 section 4.5.3.1.8).
_RECIPIENTS = 100


class _BuiltInRule(SlowDownSection):
    """One of the file slow_down.toml."""

    never: bool = False
    stage: Literal["", "greeting"] = ""


class _BuiltInRules(Section):
    """That file."""

    rules: list[_BuiltInRule]


class _Published(Section):
    """The file destinations.toml."""

    shaping: dict[str, ShapingSection]


class _Rule(NamedTuple):
    """Answers that mean `signal`, at this stage ("": at any); None: that mean nothing of the kind."""

    patterns: tuple[Pattern, ...]
    stage: str
    signal: Signal | None


class _Section(NamedTuple):
    """A section that is for something, with its patterns taken apart: exact names, and the ends of names."""

    name: str
    section: ShapingSection
    domains: frozenset[str]
    below: tuple[str, ...]
    hosts: frozenset[str]
    hosts_below: tuple[str, ...]

    def is_for(self, route: str, domain: str, hosts: Sequence[str], source: str) -> bool:
        """Whether all that it asks for is so; `domains` and `mx` are two ways to be meant."""
        section = self.section
        if (section.routes and route not in section.routes) or (section.sources and source not in section.sources):
            return False
        if not (section.domains or section.mx):
            return True
        return (domain in self.domains or domain.endswith(self.below)) or any(
            host in self.hosts or host.endswith(self.hosts_below) for host in hosts
        )


class _BuiltIn(NamedTuple):
    rules: tuple[_Rule, ...]
    destinations: tuple[_Section, ...]
    endings: tuple[str, ...]  # of the hosts of any of these


class Shaping:
    """The limits and signals of one configuration."""

    def __init__(self, config: Config) -> None:
        self._sections = [_taken_apart(name, section) for name, section in config.shaping.items()]
        self._rules = {name: _own_rules(name, one.slow_down) for name, one in config.shaping.items() if one.slow_down}
        self._by_words = lru_cache(_REMEMBERED)(self._find)
        self._plain: dict[str, tuple[HopRoute, Limits]] = {}  # by route, where nothing else is known

    def limits(self, route_name: str, route: HopRoute, domain: str, hosts: Sequence[str], source: str = "") -> Limits:
        """What holds for this route, domain (lower case; "" where it does not matter), hosts (their names) and source
        ("": as the system chooses)."""
        found: Sequence[_Section] = ()
        if self._sections:
            found = [one for one in self._sections if one.is_for(route_name, domain, hosts, source)]
        published = self._published(hosts) if isinstance(route, SmtpRoute) and not route.hosts else ()
        if found or published:
            return _limits(route, found, published)
        known = self._plain.get(route_name)
        if known is None or known[0] is not route:
            known = self._plain[route_name] = (route, _limits(route, (), ()))
        return known[1]

    def _published(self, hosts: Sequence[str]) -> Sequence[_Section]:
        """The sections of those who publish what they want; of most hosts nobody does."""
        for host in hosts:
            if host.endswith(_BUILT_IN.endings):
                return [one for one in _BUILT_IN.destinations if one.is_for("", "", hosts, "")]
        return ()

    def signal(self, limits: Limits, reply: Reply, stage: str = "") -> Signal | None:
        """What the answer of a host that is not 2yz says about our pace, where anything; not for findings of our own.

        `limits` are those that it was asked under; `stage` is that of ConnectFailedError, "" in a session. The rules of
        the last of their sections are asked first, the built-in ones last.
        """
        return self._by_words(limits.rules, Said.by(reply), stage)

    def _find(self, names: Sequence[str], said: Said, stage: str) -> Signal | None:
        for name in reversed(names):
            rules = self._rules.get(name)
            if rules and (rule := _first(rules, said, stage)):
                return rule.signal
        rule = _first(_BUILT_IN.rules, said, stage)
        return None if rule is None else rule.signal


def _limits(route: HopRoute, sections: Sequence[_Section], published: Sequence[_Section]) -> Limits:
    """What the route says, if the destination does not want less, and over it each section in turn what it gives."""
    connections, per_connection, retry = route.connections, route.messages_per_connection, route.retry
    recipients, message_rate, connection_rate = _RECIPIENTS, 0.0, 0.0
    for one in published:
        connections = min(connections, one.section.connections or connections)
        per_connection = min(per_connection, one.section.messages_per_connection or per_connection)
        recipients = min(recipients, one.section.recipients_per_message or recipients)
    for one in sections:
        section = one.section
        connections = section.connections or connections
        per_connection = section.messages_per_connection or per_connection
        recipients = section.recipients_per_message or recipients
        message_rate = section.message_rate or message_rate
        connection_rate = section.connection_rate or connection_rate
        retry = section.retry or retry
    names = tuple(one.name for one in (*published, *sections))
    return Limits(connections, per_connection, retry, recipients, message_rate, connection_rate, names)


def _taken_apart(name: str, section: ShapingSection) -> _Section:
    (domains, below), (hosts, hosts_below) = _split(section.domains), _split(section.mx)
    return _Section(name, section, domains, below, hosts, hosts_below)


def _split(patterns: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    exact = frozenset(one for one in patterns if not one.startswith("*."))
    return exact, tuple(one[1:] for one in patterns if one.startswith("*."))


def _first(rules: Sequence[_Rule], said: Said, stage: str) -> _Rule | None:
    for rule in rules:
        if rule.stage in ("", stage) and any(pattern.is_in(said) for pattern in rule.patterns):
            return rule
    return None


def _own_rules(name: str, sections: Sequence[SlowDownSection]) -> tuple[_Rule, ...]:
    return tuple(_rule(one, f"shaping.{name}") for one in sections)


def _rule(section: SlowDownSection, reason: str) -> _Rule:
    rest = section.rest if section.action == "rest" else 0.0
    return _Rule(Pattern.all(section.replies), "", Signal(rest, section.recovery, reason))


def _built_in() -> _BuiltIn:
    folder = files("mailgate.relay.replies") / "data"
    rules = _BuiltInRules.model_validate(tomllib.loads((folder / "slow_down.toml").read_text("utf-8"))).rules
    published = _Published.model_validate(tomllib.loads((folder / "destinations.toml").read_text("utf-8"))).shaping
    # No section of a configuration can have such a name.
    destinations = [_taken_apart(f"({name})", section) for name, section in published.items()]
    endings = {ending for one in destinations for ending in (*one.hosts, *one.hosts_below)}
    return _BuiltIn(tuple(map(_built_in_rule, rules)), tuple(destinations), tuple(endings))


def _built_in_rule(section: _BuiltInRule) -> _Rule:
    rule = _rule(section, "built in")
    return rule._replace(stage=section.stage, signal=None if section.never else rule.signal)


# Read with the module: a process that has changed its user may not reach the files, nor what reads them.
_BUILT_IN = _built_in()
