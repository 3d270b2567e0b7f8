"""Files with a secret a line: the first makes what we sign, all prove it, so that a secret can be replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from mailgate.stores.lists import LineError, WatchedFile

__all__ = ["SecretFile"]

#: Octets of a secret at least, and secrets of a file.
_LEAST, _MOST = 16, 20


class SecretFile:
    """The secrets of a file, read again when it changes. FileError, at construction, where it cannot be used; later
    such a file leaves the secrets before in force, and is logged."""

    def __init__(self, path: Path, clock: IReactorTime) -> None:
        self._file = WatchedFile(path, _parse, clock)

    def __call__(self) -> Sequence[bytes]:
        """One at least, the newest first."""
        return self._file.value


def _parse(lines: Iterable[tuple[int, str]]) -> tuple[bytes, ...]:
    secrets: list[bytes] = []
    for number, line in lines:
        if len(line.encode()) < _LEAST:
            raise LineError(number, f"a secret has less than {_LEAST} octets: others could guess it")
        secrets.append(line.encode())
    if not secrets:
        raise ValueError("holds no secret")
    if len(secrets) > _MOST:
        raise ValueError(f"holds more than {_MOST} secrets")
    return tuple(secrets)
