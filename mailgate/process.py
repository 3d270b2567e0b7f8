"""What the process needs of the system that it runs on."""

from __future__ import annotations

import os
import pwd
import resource
import secrets
from pathlib import Path

__all__ = ["own_secret", "raise_descriptor_limit", "user_name"]

#: File descriptors that the process asks for: a connection each, at both ends.
_DESCRIPTORS = 65536
#: Octets of the gateway's own secret.
_SECRET = 32


def own_secret(path: Path) -> bytes:
    """A secret of this gateway that stays the same, in a file that is made where there is none. OSError."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = b""
    if len(found) != _SECRET:
        found = secrets.token_bytes(_SECRET)
        new = path.with_name(f"{path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(found)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    return found


def user_name(user: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def raise_descriptor_limit() -> None:
    """Ask for as many file descriptors as there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
