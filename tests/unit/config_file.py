"""A configuration in the file of a test."""

from __future__ import annotations

from pathlib import Path

from mailgate.config.load import Loaded, load
from mailgate.pipeline.registry import Registry

__all__ = ["load_text"]


def load_text(folder: Path, text: str) -> Loaded:
    """This text as the `mailgate.toml` of the folder, with the filters that are installed; ConfigError where it is
    wrong."""
    file = folder / "mailgate.toml"
    file.write_text(text)
    return load(file, Registry().find)
