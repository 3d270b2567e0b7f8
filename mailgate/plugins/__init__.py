"""Filters that can be configured. Any distribution may add modules here, without an `__init__.py` of its own."""

from __future__ import annotations

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
