"""All that accepts connections for us, by names of which no two are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailgate.config.schema import Config

__all__ = ["HTTP", "Opening", "first_openings", "openings"]

HTTP = "[http]"
"""The name by which the endpoints of `[http]` go; no listener can have it."""


class Opening(NamedTuple):
    """Where the part of this name listens, as endpoint strings."""

    name: str
    endpoints: Sequence[str]


def openings(config: Config) -> list[Opening]:
    """Those of listeners, by the listener's name, and those of services for mail servers."""
    found = [Opening(one.name, one.endpoints) for one in config.listeners]
    services = (config.milters, config.policy_services, config.socketmaps)
    return found + [Opening(name, section.endpoints) for those in services for name, section in those.items()]


def first_openings(config: Config) -> list[Opening]:
    """Those that the first of several workers serves alone."""
    return [Opening(HTTP, config.http.endpoints)]
