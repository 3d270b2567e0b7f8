"""For every test: what is left out is told, and where MAILGATE_NEED_ALL is set, as in CI, nothing may be left out."""

from __future__ import annotations

import os
from ctypes.util import find_library
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure, and what one run has tried, the next one tries again. To try something else each time:
# --hypothesis-profile=explore.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")

_NEEDS_ALL = bool(os.environ.get("MAILGATE_NEED_ALL"))

#: Modules that look into files by libraries of the system, which pip does not bring.
_NATIVE = {
    "test_content_archives.py",
    "test_content_text.py",
    "test_content_worker.py",
    "test_corpus.py",
    "test_filter_attachments.py",
    "test_filter_signatures.py",
    "test_filter_uribl.py",
    "test_hostile_content.py",
    "test_signatures_survive.py",
}
_MISSING = [
    package for name, package in (("archive", "libarchive13"), ("magic", "libmagic1")) if not find_library(name)
]

#: Texts of more characters are no part of a test's name.
_LONGEST_ID = 40

_skipped: list[str] = []


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out modules whose libraries are not installed; where all is needed, they fail."""
    return True if _MISSING and not _NEEDS_ALL and collection_path.name in _NATIVE else None


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Octets and long texts are told by their parameter's name: archives, keys and hashes differ between processes."""
    is_long = isinstance(val, bytes) or (isinstance(val, str) and len(val) > _LONGEST_ID)
    return argname if is_long else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and _NEEDS_ALL:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MISSING and not _NEEDS_ALL:
        names = ", ".join(sorted(_NATIVE))
        terminalreporter.write_line(f"left out, without {' and '.join(_MISSING)}: {names}", yellow=True)
    if _skipped and _NEEDS_ALL:
        terminalreporter.write_line(f"{len(_skipped)} tests were skipped, which is a failure here", red=True)
