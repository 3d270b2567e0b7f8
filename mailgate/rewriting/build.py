"""From the configuration to what knows the aliases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from types import MappingProxyType

from twisted.internet.interfaces import IReactorTime

from mailgate.backends.keeping import Source, close_sources, made_of
from mailgate.config.aliases import AliasSection, MapAliases, PatternAliases
from mailgate.config.schema import Config
from mailgate.config.senders import SenderSection
from mailgate.interfaces import IRecipientDirectory
from mailgate.rewriting.aliases import Aliases, DomainAliases
from mailgate.rewriting.source import AliasSource, AliasTools
from mailgate.rewriting.srs import Srs
from mailgate.rewriting.tables import AliasMap, PatternRules
from mailgate.stores.lists import FileError

__all__ = ["AliasError", "make_alias_sources", "make_aliases", "make_sender_sources"]

_Key = tuple[str | int, ...]

#: Kinds with a module of their own.
_MODULES = {
    "sql": "mailgate.rewriting.sql",
    "http": "mailgate.rewriting.http",
    "ldap": "mailgate.rewriting.ldap",
    "postfix": "mailgate.rewriting.postfix",
}
#: The extra that brings the library of a kind, where it has another name.
_EXTRAS = {"sql": "postgresql", "postfix": "content"}

#: Octets of a secret at least.
_LEAST = 16


class AliasError(ValueError):
    """What is wrong with the aliases: each text with its key, ("aliases", "virtual", "path")."""

    def __init__(self, errors: Sequence[tuple[_Key, str]]) -> None:
        super().__init__("; ".join(text for _, text in errors))
        self.errors = tuple(errors)


def make_alias_sources(
    config: Config,
    tools: AliasTools,
    known: Mapping[str, Source[AliasSource]] = MappingProxyType({}),
    kinds: Collection[str] | None = None,
) -> dict[str, Source[AliasSource]]:
    """A source for each `[aliases.NAME]`, or for each of these `kinds`; those `known` go on whose section and files are
    as they were. AliasError, with everything that is wrong."""
    wanted = {name: one for name, one in config.aliases.items() if kinds is None or one.kind in kinds}
    return _make("aliases", wanted, tools, known)


def make_sender_sources(
    config: Config, tools: AliasTools, known: Mapping[str, Source[AliasSource]] = MappingProxyType({})
) -> dict[str, Source[AliasSource]]:
    """The same for each `[senders.NAME]`, whose targets are the identities that may use an address."""
    return _make("senders", config.senders, replace(tools, kind="senders"), known)


def _make(
    kind: str,
    sections: Mapping[str, AliasSection | SenderSection],
    tools: AliasTools,
    known: Mapping[str, Source[AliasSource]],
) -> dict[str, Source[AliasSource]]:
    made: dict[str, Source[AliasSource]] = {}
    errors: list[tuple[_Key, str]] = []
    for name, section in sections.items():
        now = made_of(section)
        if name in known and known[name].made_of == now:
            made[name] = known[name]
            continue
        try:
            made[name] = Source(_source(section, name, tools), now)
        except FileError as error:
            key = "maps" if section.kind == "postfix" else "path"
            errors += [((kind, name, key), text) for text in error.errors]
        except ValueError as error:
            errors.append(((kind, name), str(error)))
        except ImportError as error:
            extra = _EXTRAS.get(section.kind, section.kind)
            errors.append(((kind, name, "kind"), f"needs the extra mailgate[{extra}]: {error}"))
    if errors:
        close_sources(one for name, one in made.items() if known.get(name) is not one)
        raise AliasError(errors)
    return made


def make_aliases(
    config: Config,
    sources: Mapping[str, AliasSource],
    *,
    directory: IRecipientDirectory,
    is_local: Callable[[str], bool],
    clock: IReactorTime,
) -> Aliases | None:
    """By the sources of make_alias_sources; None where no address can stand for another. AliasError where a secret
    cannot be used."""
    srs = None
    if config.forwarding.srs_domain is not None:
        try:
            srs = _srs(config, clock)
        except ValueError as error:
            raise AliasError([(("forwarding", "srs_secrets"), str(error))]) from None
    domains = {
        name: DomainAliases(tuple(sources[one] for one in section.aliases), section.catch_all or "", section.delimiter)
        for name, section in config.domains.items()
        if section.aliases or section.catch_all
    }
    if not domains and srs is None:
        return None
    return Aliases(domains, directory, is_local, srs, clock)


def _source(section: AliasSection | SenderSection, name: str, tools: AliasTools) -> AliasSource:
    if isinstance(section, MapAliases):
        return AliasMap(section.entries, section.path, tools.reactor)
    if isinstance(section, PatternAliases):
        return PatternRules([(rule.match, rule.to) for rule in section.rules])
    source: AliasSource = import_module(_MODULES[section.kind]).build(section, name, tools)
    return source


def _srs(config: Config, clock: IReactorTime) -> Srs:
    forwarding = config.forwarding
    if forwarding.srs_domain is None or forwarding.srs_secrets is None:
        raise ValueError("srs_domain and srs_secrets go together")
    path = forwarding.srs_secrets
    try:
        lines = [line.strip() for line in path.read_bytes().splitlines()]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    # a comment that served as a secret would be one that can be guessed
    secrets = [line for line in lines if line and not line.startswith(b"#")]
    if not secrets:
        raise ValueError(f"{path}: holds no secret")
    if any(len(one) < _LEAST for one in secrets):
        raise ValueError(f"{path}: a secret has less than {_LEAST} octets: others could make our addresses")
    return Srs(forwarding.srs_domain, secrets, forwarding.srs_max_age, clock.seconds)
