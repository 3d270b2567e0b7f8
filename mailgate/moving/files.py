"""Reading files of other servers, and naming sections after what stands in them."""

from __future__ import annotations

import os
import re
import stat
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

__all__ = ["ReadingError", "as_it_was", "is_everybody", "read_text", "slug"]

#: Octets of one file.
_LARGEST = 64 * 1024 * 1024
_WIDEST = 7
_LONGEST_VALUE = 160
_SECRET = re.compile(r"pass|secret|sasl|auth|key|token|credential|pw\b", re.IGNORECASE)


class ReadingError(Exception):
    """A file that cannot be read, or is not what it should be: one line that says where and what."""


def read_text(path: Path) -> str:
    """What a file holds; ReadingError where that is too much, or nothing that can be read."""
    try:
        # A pipe without a writer is not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8", errors="replace") as file:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise ReadingError(f"{path}: is no file")
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise ReadingError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # no name that a file can have
        raise ReadingError(f"{str(path)!r}: cannot be read: {error}") from None
    if len(text) > _LARGEST:
        raise ReadingError(f"{path}: is larger than {_LARGEST // 1024**2} MiB")
    return text


def is_everybody(network: IPv4Network | IPv6Network) -> bool:
    """Whether so large a network is nobody's own; the largest of those that are is fc00::/7."""
    return network.prefixlen < _WIDEST


def as_it_was(name: str, value: str) -> str:
    """A value for the list of what is left, as far as anybody may read it: nothing of what may be a secret."""
    return "" if _SECRET.search(name) else f"It was: {' '.join(value.split())}"[:_LONGEST_VALUE]


def slug(text: str) -> str:
    """A name for a section, made of any text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:48] or "unnamed"
