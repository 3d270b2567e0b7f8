"""For every test: where MAILGATE_NEED_ALL is set, as in CI, a skipped test is a failure of the run."""

from __future__ import annotations

import os

import pytest

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and os.environ.get("MAILGATE_NEED_ALL"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("MAILGATE_NEED_ALL"):
        terminalreporter.write_line(f"{len(_skipped)} tests were skipped, which is a failure here", red=True)
