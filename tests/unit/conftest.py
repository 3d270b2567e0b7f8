"""What unit tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

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
