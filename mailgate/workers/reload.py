"""One configuration for all workers: read again by all or by none, and brought to those that come meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgate.awaiting import OneRun
from mailgate.config.source import ConfigError, read_source
from mailgate.workers.asking import LateError, all_of, in_time
from mailgate.workers.hand import SILENCE, Hand

__all__ = ["Reload"]

T = TypeVar("T")

_log = Logger()

#: Seconds that a worker may take to read a configuration, in which other programs may read tables for it. It serves
#: meanwhile, and is killed sooner where it does not.
_PREPARING = 600.0


class Reload:
    """`started` is the text of the file at the start of all, `running` what the workers go by.

    A worker that does not answer in time is killed: the others go on without it, and whoever takes its place begins
    with what they go by.
    """

    def __init__(self, clock: IReactorTime, file: Path, source: str, serving: Callable[[], Sequence[Hand]]) -> None:
        """`source` is the text of the file now; `serving` are the workers that serve at that moment."""
        self.started = self.running = source
        self._clock = clock
        self._file = file
        self._serving = serving
        self._reload = OneRun(self._run, lambda failure: _log.failure("the reload failed", failure))

    def begin(self) -> None:
        """Have all workers read the file again: all go by it, or none."""
        self._reload.begin()

    async def _run(self) -> None:
        hands = self._serving()
        source = ""
        try:
            source = read_source(self._file)
        except ConfigError as error:
            errors = "\n".join(error.errors)
        else:
            said = await all_of([self._answer(hand, hand.end.prepare(source), _PREPARING) for hand in hands])
            hands = [hand for hand, one in zip(hands, said, strict=True) if one is not None]
            errors = next((one for one in said if one), "")
            if not hands:
                _log.error("no worker could read the configuration, the old one stays")
                return
        if not errors:
            self.running = source
        await all_of([self._settle(hand, errors) for hand in hands])
        # Those that have begun to serve meanwhile.
        await all_of([self._catch_up(hand) for hand in self._serving() if hand.source != self.running])

    async def _settle(self, hand: Hand, errors: str) -> None:
        if not errors:
            hand.source = self.running
        await self._answer(hand, hand.end.settle(errors))

    async def _catch_up(self, hand: Hand) -> None:
        if errors := await self._answer(hand, self.bring(hand), _PREPARING):
            hand.dismiss(f"cannot use the configuration: {errors}")

    async def _answer(self, hand: Hand, answer: Coroutine[Any, Any, T], seconds: float = SILENCE) -> T | None:
        """None where it is gone, or was too slow, and then it goes."""
        try:
            return await in_time(self._clock, seconds, answer)
        except LateError:
            hand.kill(f"has not answered to a reload for {seconds:.0f} seconds, and was killed")
            return None

    async def bring(self, hand: Hand) -> str:
        """Have a worker go by what the others go by; the errors that it finds. It fails where the worker is gone."""
        while hand.source != self.running:
            source = self.running
            if errors := await hand.end.prepare(source):
                return errors
            await hand.end.settle("")
            hand.source = source
        return ""
