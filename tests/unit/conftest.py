"""What unit tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.cli_machine import DaemonThread, Machine
from tests.unit.smtp_stand import Stand


@pytest.fixture
def make_stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """Makes listeners in memory, each of which must leave nothing behind; for the arguments see Stand."""
    with ExitStack() as stack:
        count = iter(range(100))

        def make(settings: dict[str, object] | None = None, **services: object) -> Stand:
            incoming = tmp_path / f"incoming-{next(count)}"
            incoming.mkdir()
            return stack.enter_context(Stand(incoming, settings, **services).watched())

        yield make


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@pytest.fixture(params=["stopped", "running"])
def gateway(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Machine]:
    """A machine with three mails, whose daemon runs or does not."""
    machine.add_three()
    if request.param == "stopped":
        machine.close()
        yield machine
    else:
        daemon = DaemonThread(machine)
        yield machine
        daemon.stop()
