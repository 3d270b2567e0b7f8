"""What every kind of `[aliases.NAME]` is made of: the contract of a source, and what it is built with.

The kinds that ask a system are modules with `build(section, name, tools) -> AliasSource`, named in
`mailgate.rewriting.build`. `build` connects to nothing: ValueError, in words for an administrator, where the section or
a file that it names cannot be used; ImportError where a library is missing that an extra brings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailgate.backends.keeping import IRuns
from mailgate.backends.questions import IBackendReactor
from mailgate.interfaces import IEvents

__all__ = ["MAX_TARGETS", "AliasSource", "AliasTools"]

#: Addresses that one alias stands for at most, and all that it leads to.
MAX_TARGETS = 1000


class AliasSource(IRuns, Protocol):
    """Knows what addresses stand for. Called in the reactor's thread, which it never blocks."""

    def find(self, key: str) -> Sequence[str] | Awaitable[Sequence[str] | None] | None:
        """The targets of an address (in lower case), or of "@domain", as they are written; None where it has none.

        BackendError says that the source cannot be asked now. Cancelling ends the waiting only.
        """


@dataclass(frozen=True, slots=True)
class AliasTools:
    """What a source is built with. `kind` is what the configuration calls its sections, for events."""

    reactor: IBackendReactor
    events: IEvents
    kind: str = "aliases"
