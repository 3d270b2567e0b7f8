"""Tests name the programs they need; with MAILGATE_NEED_ALL set (as in CI) a missing one is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts import folder, missing


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs): programs that the test starts; 'root' for the superuser")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        absent = missing(*(name for name in marker.args if name != "root"))
        if "root" in marker.args and os.getuid() != 0:
            absent.append("root")
        if absent and os.environ.get("MAILGATE_NEED_ALL"):
            pytest.fail(f"not installed: {', '.join(absent)}", pytrace=False)
        if absent:
            pytest.skip(f"not installed: {', '.join(absent)}")


@pytest.fixture
def base(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for this test that daemons with users of their own may enter."""
    with folder("test") as path:
        yield path
