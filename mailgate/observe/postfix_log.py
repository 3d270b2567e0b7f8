"""The log in Postfix's format, beside the one in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mailgate.observe.log import FileLog
from mailgate.observe.postfix_lines import PostfixLines
from mailgate.observe.recorder import Written

__all__ = ["PostfixLog"]


class PostfixLog(FileLog):
    """Several lines for most events, none for some; see PostfixLines."""

    def __init__(self, path: str, directory: Path, hostname: str) -> None:
        """OSError where the file cannot be opened."""
        super().__init__(path, directory)
        self._made = PostfixLines(hostname)

    def _lines(self, batch: Sequence[Written]) -> list[bytes]:
        return [line for one in batch for line in self._made.lines(one.event)]

    def _note(self, lost: int, error: str) -> bytes:
        return self._made.warning(f"{lost} lines of this log were lost: {error}")
