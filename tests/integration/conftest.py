"""Tests name the programs they need; with MAILGATE_NEED_ALL set (as in CI) a missing one is a failure."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from failing_parts import Asked, all_asked
from parts import Gateway, end_all_in, folder, missing


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


@pytest.fixture(scope="session")
def scanners() -> Iterator[list[Asked]]:
    """Real scanners, which take long to start; whoever puts one out of order has to end that."""
    with folder("scanners") as directory, all_asked(directory) as asked:
        yield asked


@pytest.fixture
def base(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for this test that daemons with users of their own may enter.

    What the test has started there and left is ended with it, whatever becomes of the test.
    """
    with folder("test") as path:
        try:
            yield path
        finally:
            end_all_in(path)


@pytest.fixture
def build(base: Path) -> Iterator[Callable[[str, int], Gateway]]:
    """Makes a gateway from this text on this port, which is ended with the test, whatever becomes of that."""
    made: list[Gateway] = []

    def make(text: str, port: int) -> Gateway:
        made.append(Gateway(base / "gateway", text, [port]))
        return made[-1]

    yield make
    for gateway in made:
        if gateway.process is not None and gateway.process.poll() is None:
            gateway.stop(signal.SIGKILL)
