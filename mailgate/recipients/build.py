"""From the sections `[recipients.NAME]` to their sources, of which those go on whose sections have not changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.config.schema import Config, RecipientsSection
from mailgate.recipients.source import ISource, SourceTools
from mailgate.stores.lists import FileError, LinesError

__all__ = ["DirectoryError", "Source", "close_sources", "make_sources"]

_log = Logger()

_MODULES = {
    "list": "mailgate.recipients.listed",
    "sql": "mailgate.recipients.sql",
    "http": "mailgate.recipients.http",
    "ldap": "mailgate.recipients.ldap",
    "callout": "mailgate.recipients.callout",
}
#: The extra that brings the library of a kind.
_EXTRAS = {"ldap": "ldap", "sql": "postgresql"}


class DirectoryError(ValueError):
    """What is wrong with the sections: each text with its key, ("recipients", "people", "path")."""

    def __init__(self, errors: Sequence[tuple[tuple[str, ...], str]]) -> None:
        super().__init__("; ".join(f"{'.'.join(key)}: {text}" for key, text in errors))
        self.errors = tuple(errors)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One of them; another that is `made_of` equal things would do the same."""

    source: ISource
    made_of: object


def make_sources(
    config: Config, tools: SourceTools, known: Mapping[str, Source] = MappingProxyType({})
) -> dict[str, Source]:
    """A source for each section, by its name; those `known` go on whose section and files are as they were when they
    were made. Those that are new have to be started when the configuration is in force, and closed otherwise.

    DirectoryError, with everything that is wrong, because of what its files hold now as well.
    """
    made: dict[str, Source] = {}
    errors: list[tuple[tuple[str, ...], str]] = []
    for name, section in config.recipients.items():
        made_of = (section, _digests(section))  # read first: a file that changes now is seen next time
        if name in known and known[name].made_of == made_of:
            made[name] = known[name]
            continue
        try:
            source: ISource = import_module(_MODULES[section.kind]).build(section, name, tools)
        except LinesError as error:
            errors += [(("recipients", name, "addresses"), str(one)) for one in error.errors]
        except FileError as error:
            errors += [(("recipients", name, "path"), text) for text in error.errors]
        except ValueError as error:
            errors.append((("recipients", name), str(error)))
        except ImportError as error:
            extra = _EXTRAS.get(section.kind, section.kind)
            errors.append((("recipients", name, "kind"), f"needs the extra mailgate[{extra}]: {error}"))
        else:
            made[name] = Source(source, made_of)
    if errors:
        close_sources(one for name, one in made.items() if known.get(name) is not one)
        raise DirectoryError(errors)
    return made


def close_sources(sources: Iterable[Source]) -> Deferred[list[Any]]:
    """Retire and close them all at the same time. It does not fail: what goes wrong is logged."""

    def failed(failure: Failure) -> None:
        if not failure.check(CancelledError):  # there was no time to wait for it
            _log.failure("a source of recipients cannot be closed", failure)

    def close(one: Source) -> Deferred[Any]:
        one.source.retire()
        return maybeDeferred(one.source.close).addErrback(failed)

    return gatherResults([close(one) for one in sources])


def _digests(section: RecipientsSection) -> tuple[bytes, ...]:
    """What the files that a section names hold: lists, secrets of ours, authorities. b"" for what cannot be read."""
    return tuple(_digest(value) for _, value in section if isinstance(value, Path))


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
