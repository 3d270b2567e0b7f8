"""All that accepts connections for us, by names of which no two are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailgate.config.schema import Config

__all__ = ["Opening", "openings"]


class Opening(NamedTuple):
    """Where the part of this name listens, as endpoint strings."""

    name: str
    endpoints: Sequence[str]


def openings(config: Config) -> list[Opening]:
    """Those of listeners, by the listener's name, and those of services for mail servers."""
    found = [Opening(one.name, one.endpoints) for one in config.listeners]
    services = (config.milters, config.policy_services, config.socketmaps)
    return found + [Opening(name, section.endpoints) for those in services for name, section in those.items()]
