"""Milters at their servers: which one a session talks to, and connections that are kept for the next session."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory

from mailgate.config.hosts import HostPort
from mailgate.scanners.milter.conversation import Conversation, Patience
from mailgate.scanners.milter.error import MilterError
from mailgate.scanners.milter.link import MilterLink
from mailgate.scanners.pool import IScannerReactor, Pool, endpoint_of
from mailgate.wire.milter.codec import SMALL
from mailgate.wire.milter.negotiation import NEWEST, offer

__all__ = ["MilterClient", "Settings"]

#: Conversations that begin at one time; the others wait.
_BEGINNINGS = 200
#: Seconds for which a connection waits for another session.
_KEPT_FOR = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a milter is met. Seconds and octets; `idle` is for how long a session may have nothing to say, `keep` how
    many connections may wait for another session."""

    servers: Sequence[HostPort]
    in_turns: bool = False
    connect_timeout: float = 3.0
    patience: Patience = field(default=Patience(8.0, 8.0, 8.0))
    version: int = NEWEST
    max_data: int = SMALL
    idle: float = 3600.0
    keep: int = 0
    more_macros: Sequence[str] = ()


class MilterClient:
    """Begins conversations. A server that cannot be reached, or does not agree, gives way to the next one."""

    def __init__(self, settings: Settings, reactor: IScannerReactor) -> None:
        self._settings = settings
        self._reactor = reactor
        self._offered = offer(settings.version, settings.max_data)
        self._kept: deque[tuple[Conversation, float]] = deque()
        self._pool = Pool(
            {str(one): one for one in settings.servers},
            reactor,
            in_turns=settings.in_turns,
            limit=_BEGINNINGS,
            timeout=settings.connect_timeout * len(settings.servers),
        )

    def take(self) -> Conversation | None:
        """A connection that is kept, whose milter knows nothing of a session; None where there is none."""
        self._forget_old()
        while self._kept:
            conversation, _ = self._kept.pop()
            if conversation.is_open:
                return conversation
        return None

    async def begin(self) -> Conversation:
        """A new conversation; ScannerError where no server has one."""
        return await self._pool.ask(self._begin)

    async def end(self, conversation: Conversation) -> None:
        """A session is over: its connection is kept, where there is room, or closed. Raises nothing but
        CancelledError."""
        self._forget_old()
        can_keep = conversation.is_open and conversation.agreement.version >= NEWEST
        if not can_keep or len(self._kept) >= self._settings.keep:
            conversation.close()
            return
        try:
            await conversation.renew()
        except MilterError:
            return
        self._kept.append((conversation, self._reactor.seconds()))

    def _forget_old(self) -> None:
        while self._kept and self._reactor.seconds() - self._kept[0][1] >= _KEPT_FOR:
            self._kept.popleft()[0].close()

    async def _begin(self, server: HostPort) -> Conversation:
        settings, reactor = self._settings, self._reactor
        endpoint = endpoint_of(server, reactor, settings.connect_timeout)
        try:
            link = cast(MilterLink, await endpoint.connect(_Links(reactor, settings.idle)))
        except (ConnectError, ConnectionClosed, OSError) as error:
            raise MilterError(f"{type(error).__name__}: {error}") from None
        return await Conversation.begin(
            link, self._offered, settings.patience, reactor, str(server), settings.more_macros
        )


class _Links(Factory):
    noisy = False

    def __init__(self, clock: IReactorTime, idle: float) -> None:
        self._clock = clock
        self._idle = idle

    def buildProtocol(self, addr: object) -> MilterLink:
        return MilterLink(self._clock, self._idle)
