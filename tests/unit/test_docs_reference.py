"""The reference of options in docs/ is the one that the classes make."""

from __future__ import annotations

import runpy
from pathlib import Path

from mailgate.pipeline.registry import Registry

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/options.md"


def test_the_reference_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs/generate.py"))["page"]()
    if not PAGE.exists() or PAGE.read_text() != page:
        raise AssertionError("docs/reference/options.md is not current: run make reference")


def test_it_has_every_filter_of_ours() -> None:
    text = PAGE.read_text()
    ours = [one.name for one in Registry().all() if getattr(one, "module", "").startswith("mailgate.filters.")]
    assert len(ours) >= 5
    assert [name for name in ours if f"\n### {name}\n" not in text] == []
