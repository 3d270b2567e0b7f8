"""From the sections `[recipients.NAME]` to their sources, of which those go on whose sections have not changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

from mailgate.backends.keeping import Source, close_sources, made_of
from mailgate.config.schema import Config
from mailgate.recipients.source import ISource, SourceTools
from mailgate.stores.lists import FileError, LinesError

__all__ = ["DirectoryError", "make_sources"]

_MODULES = {
    "list": "mailgate.recipients.listed",
    "sql": "mailgate.recipients.sql",
    "http": "mailgate.recipients.http",
    "ldap": "mailgate.recipients.ldap",
    "callout": "mailgate.recipients.callout",
    "postfix": "mailgate.recipients.postfix",
}
#: The extra that brings the library of a kind, where it has another name.
_EXTRAS = {"sql": "postgresql", "postfix": "content"}


class DirectoryError(ValueError):
    """What is wrong with the sections: each text with its key, ("recipients", "people", "path")."""

    def __init__(self, errors: Sequence[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(f"{'.'.join(key)}: {text}" for key, text in errors))
        self.errors = tuple(errors)


def make_sources(
    config: Config,
    tools: SourceTools,
    known: Mapping[str, Source[ISource]] = MappingProxyType({}),
    kinds: Collection[str] | None = None,
) -> dict[str, Source[ISource]]:
    """A source for each section, by its name, or for each of these `kinds`; those `known` go on whose section and files
    are as they were when they were made. Those that are new have to be started when the configuration is in force, and
    closed otherwise.

    DirectoryError, with everything that is wrong, because of what its files hold now as well.
    """
    made: dict[str, Source[ISource]] = {}
    errors: list[tuple[tuple[str, ...], str]] = []
    for name, section in config.recipients.items():
        if kinds is not None and section.kind not in kinds:
            continue
        now = made_of(section)
        if name in known and known[name].made_of == now:
            made[name] = known[name]
            continue
        try:
            source: ISource = import_module(_MODULES[section.kind]).build(section, name, tools)
        except LinesError as error:
            errors += [(("recipients", name, "addresses"), str(one)) for one in error.errors]
        except FileError as error:
            key = "maps" if section.kind == "postfix" else "path"
            errors += [(("recipients", name, key), text) for text in error.errors]
        except ValueError as error:
            errors.append((("recipients", name), str(error)))
        except ImportError as error:
            extra = _EXTRAS.get(section.kind, section.kind)
            errors.append((("recipients", name, "kind"), f"needs the extra mailgate[{extra}]: {error}"))
        else:
            made[name] = Source(source, now)
    if errors:
        close_sources(one for name, one in made.items() if known.get(name) is not one)
        raise DirectoryError(errors)
    return made
