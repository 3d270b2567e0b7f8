"""Files in TOML, read as they stand: text, and the document that it is."""

from __future__ import annotations

import tomllib
from pathlib import Path

from mailgate.config.problems import one_line
from mailgate.config.syntax import explained

__all__ = ["ConfigError", "parse_source", "read_source"]


class ConfigError(Exception):
    """The file cannot be used. `errors` are lines `FILE:LINE: key: what is wrong (valid values are: ...)`."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def read_source(path: Path) -> str:
    """The text of a file. ConfigError where it cannot be read or is not UTF-8."""
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


def parse_source(path: Path, source: str) -> dict[str, object]:
    """The document. ConfigError, with the line, where it is not TOML."""
    try:
        return tomllib.loads(source)
    except RecursionError:
        raise ConfigError((one_line(f"{path}:1: lists and tables are nested too deeply"),)) from None
    except ValueError as error:
        line, text = explained(source, str(error))
        raise ConfigError((one_line(f"{path}:{line}: syntax: {text}"),)) from None
