"""Suites that others wrote: they lie in a folder of their own, which MAILGATE_SUITES names.

Without it nothing here is collected, so that nothing is skipped either.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SUITES = os.environ.get("MAILGATE_SUITES", "")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of this folder where there are no suites; what is named and not there is an error."""
    if SUITES and not Path(SUITES).is_dir():
        raise pytest.UsageError(f"MAILGATE_SUITES is no folder: {SUITES}")
    return None if SUITES or not collection_path.name.startswith("test_") else True
