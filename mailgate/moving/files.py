"""Reading files of other servers, and naming sections after what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ReadingError", "read_text", "slug"]

#: Octets of one file.
_LARGEST = 64 * 1024 * 1024


class ReadingError(Exception):
    """A file that cannot be read, or is not what it should be: one line that says where and what."""


def read_text(path: Path) -> str:
    """What a file holds; ReadingError where that is too much, or nothing that can be read."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ReadingError(f"{path}: is larger than {_LARGEST // 1024**2} MiB")
        return path.read_text("utf-8", "replace")
    except OSError as error:
        raise ReadingError(f"{path}: cannot be read: {error.strerror or error}") from None


def slug(text: str) -> str:
    """A name for a section, made of any text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:48] or "unnamed"
