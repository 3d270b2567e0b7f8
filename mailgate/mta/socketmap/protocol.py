"""A connection of a mail server to our tables."""

from __future__ import annotations

from collections.abc import Callable

from mailgate.awaiting import answered
from mailgate.mta.door import Door
from mailgate.mta.interview import Interview
from mailgate.mta.socketmap.services import SocketmapServices
from mailgate.wire.socketmap import Query, QueryReader, not_now, refused

__all__ = ["SocketmapServer"]


class SocketmapServer(Interview[Query]):
    """Of one door; `current` gives what new questions go by."""

    def __init__(self, door: Door, current: Callable[[], SocketmapServices]) -> None:
        services = current()
        super().__init__(door, QueryReader(), services.clock, services.section)
        self._current = current

    async def answer(self, question: Query) -> bytes:
        """What stands under the key."""
        maps = self._current().maps
        if question.map not in maps:
            return refused(f"there is no map {question.map[:60]}: there are {', '.join(maps)}")
        return await answered(maps[question.map](question.key))

    def no_answer(self) -> bytes:
        """Nobody knows: it is asked again."""
        return not_now("no answer, see the log of mailgate")
