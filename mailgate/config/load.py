"""Reads the configuration: a file to checked sections, or every error of it at once, each with its line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from mailgate.config.advice import advise
from mailgate.config.check import check, filter_options
from mailgate.config.document import Document
from mailgate.config.locate import Lines, locate
from mailgate.config.machine import check_machine
from mailgate.config.problems import Problems, one_line
from mailgate.config.schema import Config
from mailgate.config.slips import find_slips
from mailgate.config.syntax import explained
from mailgate.config.wording import reworded
from mailgate.interfaces import IFilterFactory

__all__ = ["ConfigError", "Loaded", "load"]


class ConfigError(Exception):
    """The file cannot be used. `errors` are lines `FILE:LINE: key: what is wrong (valid values are: ...)`."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that can be used: `options` by filter name, `warnings` in the form of errors."""

    config: Config
    path: Path
    options: Mapping[str, object]
    warnings: tuple[str, ...] = ()
    lines: Lines = field(default_factory=lambda: Lines({}), repr=False, compare=False)

    def error(self, where: tuple[str | int, ...], text: str) -> str:
        """A line of ConfigError about a key, for what shows only when parts are built: ("filters", "dnsbl")."""
        return Problems(str(self.path), {}, self.lines).format(where, text)


def load(path: Path, find: Callable[[str], IFilterFactory]) -> Loaded:
    """The configuration in `path`; `find` gives the factory of a kind of filter, or raises LookupError.

    Paths in the file are relative to its folder. ConfigError: everything that is wrong with it.
    """
    source = _read(path)
    document = _parse(path, source)
    lines = locate(source)
    problems = Problems(str(path), document, lines)
    base = path.absolute().parent
    shape = Document(document)
    slips = find_slips(shape, problems)
    config: Config | None = None
    try:
        config = Config.model_validate(document, context={"base": base})
    except ValidationError as error:
        for where, text in reworded(Config, document, error):
            if not any(where[: len(slip)] == slip for slip in slips):
                problems.error(where, text)
    check(shape, problems)
    check_machine(shape, base, problems)
    options = filter_options(shape, base, find, problems)
    if problems.errors or config is None:
        raise ConfigError(problems.errors)
    advise(config, shape, problems)
    return Loaded(config, path, options, problems.warnings, lines)


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError((one_line(f"{path}: cannot be read: {error.strerror or error}"),)) from error
    try:
        return raw.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        text = f"{path}:{line}: the file is not UTF-8 (octet 0x{error.object[error.start]:02X})"
        raise ConfigError((one_line(text),)) from None


def _parse(path: Path, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(source)
    except RecursionError:
        raise ConfigError((one_line(f"{path}:1: lists and tables are nested too deeply"),)) from None
    except ValueError as error:
        line, text = explained(source, str(error))
        raise ConfigError((one_line(f"{path}:{line}: syntax: {text}"),)) from None
