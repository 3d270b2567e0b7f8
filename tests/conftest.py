"""For every test: what is left out is told, and where MAILGATE_NEED_ALL is set, as in CI, nothing may be left out."""

from __future__ import annotations

import os
from ctypes.util import find_library
from pathlib import Path

import pytest

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

_skipped: list[str] = []
_left_out: list[str] = []


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out modules whose libraries are not installed; where all is needed, they fail."""
    if not _MISSING or _NEEDS_ALL or collection_path.name not in _NATIVE:
        return None
    _left_out.append(collection_path.name)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and _NEEDS_ALL:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left_out:
        terminalreporter.write_line(f"left out, without {' and '.join(_MISSING)}: {', '.join(_left_out)}", yellow=True)
    if _skipped and _NEEDS_ALL:
        terminalreporter.write_line(f"{len(_skipped)} tests were skipped, which is a failure here", red=True)
