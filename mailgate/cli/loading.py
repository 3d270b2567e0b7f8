"""The whole configuration, for commands that need it: slower than all the rest of a command."""

from __future__ import annotations

from pathlib import Path

from mailgate.cli.common import BadConfigError
from mailgate.config.load import ConfigError, Loaded, load
from mailgate.pipeline.registry import Registry

__all__ = ["load_whole"]


def load_whole(path: Path, registry: Registry | None = None) -> Loaded:
    """It, with the filters that are installed; BadConfigError, with every line, where it cannot be used."""
    try:
        return load(path, (registry or Registry()).find)
    except ConfigError as error:
        raise BadConfigError("\n".join(error.errors)) from None
