"""Fixtures of the unit tests that serve here too."""

from __future__ import annotations

from tests.unit.conftest import make_stand

__all__ = ["make_stand"]
