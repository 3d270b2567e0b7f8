"""Spools that are killed lie in memory where they can: what is on the disk, the tests know without one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")  # noqa: S108  the folder below it has a name of its own


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="mailgate-crash-", dir=_MEMORY) as folder:
        yield Path(folder)
