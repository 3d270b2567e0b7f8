"""Writes docs/reference/options.md from the classes that check the configuration (`make reference`)."""

from __future__ import annotations

from pathlib import Path

from mailgate.config.reference import reference
from mailgate.plugins import builtin

PAGE = Path(__file__).parent / "reference" / "options.md"


def page() -> str:
    """The page as it should be: with our own filters, whatever else is installed here."""
    return reference([getattr(builtin, name) for name in builtin.__all__])


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
