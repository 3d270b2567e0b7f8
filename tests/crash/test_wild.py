"""Lives by chance, each with a violent end, of a spool that is used in all its ways.

MAILGATE_CRASH=long: hundreds of them, others each time.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path

import pytest

from tests.crash.wild import Wild

IS_LONG = os.environ.get("MAILGATE_CRASH", "short") == "long"
SPOOLS, LIVES = (24, 12) if IS_LONG else (6, 6)


@pytest.fixture(autouse=True)
def _small_quick_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.spool.disk._RESERVE", 4096)
    monkeypatch.setattr("mailgate.spool.sqlite._RETEST", 0.01)
    monkeypatch.setattr("mailgate.spool.sqlite._PATIENCE", 0.0005)
    # A thread that ends by a CrashError is no news.
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "one of two workers"])
@pytest.mark.parametrize("part", range(6))
def test_what_was_asked_for_is_done_as_a_whole_or_not_at_all(tmp_path: Path, part: int, workers: int) -> None:
    first = random.SystemRandom().getrandbits(32) if IS_LONG else 0
    for seed in range(first + part, first + SPOOLS, 6):
        with pytest.MonkeyPatch.context() as patch:
            wild = Wild(patch, tmp_path / str(seed) / "spool", random.Random(seed), workers)
            wild.folder.parent.mkdir()
            try:
                ends = [wild.live(200) for _ in range(LIVES)]
            except BaseException as error:
                error.add_note(f"seed {seed}, after {wild.done[-3:]}")
                raise
            wild.end()
        assert any(ends)
        shutil.rmtree(tmp_path / str(seed))
