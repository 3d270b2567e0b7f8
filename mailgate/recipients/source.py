"""What every kind of `[recipients.NAME]` is made of: the contract of a source, and what it is built with.

A kind is a module with `build(section, name, tools) -> ISource`, named in `mailgate.recipients.build`. `build` connects
to nothing: ValueError, in words for an administrator, where the section or a file that it names cannot be used;
ImportError where a library is missing that an extra brings.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from mailgate.backends.questions import IBackendReactor
from mailgate.interfaces import ICounters, IEvents, IProber, RecipientStatus

__all__ = ["ISource", "SourceTools"]


class ISource(Interface):
    """Knows addresses of ours. Called in the reactor's thread, which it never blocks.

    A local part is in lower case and unquoted, a domain in lower case and A-labels.
    """

    takes_whole: bool = Attribute(
        "whether it must be given the address as it came: it knows by itself what an extension (user+tag) means"
    )
    restricts: bool = Attribute("whether it may say RESTRICTED, so that it is to be asked before those behind it count")

    def at_hand(local_part: str, domain: str) -> RecipientStatus | None:  # noqa: N805  (an interface has no self)
        """What it knows without asking anybody; None where `ask` may know more."""

    def ask(local_part: str, domain: str) -> Awaitable[RecipientStatus]:  # noqa: N805
        """UNAVAILABLE where that cannot be found out now. It ends within a time of its own, and fails with nothing but
        what counters fail with. Equal questions are asked once at a time; cancelling ends the waiting only."""

    def start() -> None:
        """Begin what it does by itself. Called once, when its configuration is in force."""

    def retire() -> None:
        """End what it does by itself: it goes on with sessions that have begun, and is closed later."""

    def close() -> Deferred[None] | None:
        """End connections and threads. Called once, after `retire`; what is asked then is UNAVAILABLE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTools:
    """What a source is built with. `leads`: of several processes, this is the one that does what one is enough for."""

    reactor: IBackendReactor
    events: IEvents
    counters: ICounters
    prober: IProber
    state_dir: Path
    leads: bool = True
