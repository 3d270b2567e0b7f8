"""Scripts of this folder as processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from parts import Part, free_port

__all__ = ["Script"]


class Script(Part):
    """The script NAME.py, with a port of its own as its first argument and these behind it."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.arguments = arguments

    def prepare(self) -> Sequence[str]:
        script = Path(__file__).with_name(f"{self.name}.py").resolve()
        return [sys.executable, str(script), str(self.port), *map(str, self.arguments)]
