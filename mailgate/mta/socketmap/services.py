"""What the questions to one socketmap share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from mailgate.config.mta import SocketmapSection

__all__ = ["LookUp", "SocketmapServices"]

LookUp = Callable[[str], bytes | Awaitable[bytes]]
"""From a key to the octets of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketmapServices:
    """By one configuration: `maps` by their names."""

    name: str
    section: SocketmapSection
    clock: IReactorTime
    maps: Mapping[str, LookUp]
