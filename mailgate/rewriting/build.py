"""From the configuration to what knows the aliases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime

from mailgate.config.schema import Config, MapAliases
from mailgate.interfaces import IRecipientDirectory
from mailgate.rewriting.aliases import Aliases, DomainAliases
from mailgate.rewriting.srs import Srs
from mailgate.rewriting.tables import AliasMap, AliasSource, PatternRules
from mailgate.stores.lists import FileError

__all__ = ["AliasError", "make_aliases"]

_Key = tuple[str | int, ...]

#: Octets of a secret at least.
_LEAST = 16


class AliasError(ValueError):
    """What is wrong with the aliases: each text with its key, ("aliases", "virtual", "path")."""

    def __init__(self, errors: Sequence[tuple[_Key, str]]) -> None:
        super().__init__("; ".join(text for _, text in errors))
        self.errors = tuple(errors)


def make_aliases(
    config: Config, *, directory: IRecipientDirectory, is_local: Callable[[str], bool], clock: IReactorTime
) -> Aliases | None:
    """None where no address can stand for another. AliasError where a file, a pattern or a secret cannot be used."""
    sources: dict[str, AliasSource] = {}
    errors: list[tuple[_Key, str]] = []
    for name, section in config.aliases.items():
        try:
            if isinstance(section, MapAliases):
                sources[name] = AliasMap(section.entries, section.path, clock)
            else:
                sources[name] = PatternRules([(rule.match, rule.to) for rule in section.rules])
        except FileError as error:
            errors += [(("aliases", name, "path"), text) for text in error.errors]
        except ValueError as error:
            errors.append((("aliases", name), str(error)))
    srs = None
    if config.forwarding.srs_domain is not None:
        try:
            srs = _srs(config, clock)
        except (OSError, ValueError) as error:
            errors.append((("forwarding", "srs_secrets"), str(error)))
    if errors:
        raise AliasError(errors)
    domains = {
        name: DomainAliases(tuple(sources[one] for one in section.aliases), section.catch_all or "", section.delimiter)
        for name, section in config.domains.items()
        if section.aliases or section.catch_all
    }
    if not domains and srs is None:
        return None
    return Aliases(domains, directory, is_local, srs)


def _srs(config: Config, clock: IReactorTime) -> Srs:
    forwarding = config.forwarding
    if forwarding.srs_domain is None or forwarding.srs_secrets is None:
        raise ValueError("srs_domain and srs_secrets go together")
    path = forwarding.srs_secrets
    try:
        secrets = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if not secrets:
        raise ValueError(f"{path}: holds no secret")
    if any(len(one) < _LEAST for one in secrets):
        raise ValueError(f"{path}: a secret has less than {_LEAST} octets: others could make our addresses")
    return Srs(forwarding.srs_domain, secrets, forwarding.srs_max_age, clock.seconds)
