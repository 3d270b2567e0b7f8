"""The guide for filter authors is true: its Python runs, its tests pass, its configuration loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mailgate.config.load import load
from mailgate.pipeline.member import QUESTIONS
from mailgate.pipeline.registry import FilterMaker, Registry
from mailgate.pipeline.votes import STRENGTH

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "writing-a-filter.md").read_text()
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BASE = """
[gateway]
hostname = "mx1.example.org"
state_dir = "state"
[[listeners]]
name = "mx"
endpoints = ["tcp:25"]
pipeline = "inbound"
[domains."example.org"]
route = "inside"
[routes.inside]
transport = "smtp"
hosts = ["10.0.0.5:25"]
"""


def blocks(language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(GUIDE) if found == language]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The guide's files, each block under the name that its first line gives."""
    for block in blocks("python"):
        name = block.partition("\n")[0].removeprefix("# ")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    return tmp_path


def test_the_files_of_the_guide_pass_the_tests_of_the_guide(folder: Path) -> None:
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_of_configuration_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    factory = FilterMaker("impostor", "impostor", "of the guide")
    registry = Registry()
    texts = blocks("toml")
    assert len(texts) == 2
    for text in texts:
        path = folder / "mailgate.toml"
        pipelines = "" if "[pipelines." in text else '[pipelines.inbound]\nfilters = ["impostor"]\n'
        path.write_text(_BASE + pipelines + text)
        loaded = load(path, lambda kind: factory if kind == "impostor" else registry.find(kind))
        assert "impostor" in loaded.options


def test_the_tables_name_every_stage_and_every_verdict() -> None:
    for question in QUESTIONS:
        assert f"| `{question.interface.__name__}` | `{question.method}(" in GUIDE
    for verdict in STRENGTH:
        assert f"`{verdict.__name__}(" in GUIDE
