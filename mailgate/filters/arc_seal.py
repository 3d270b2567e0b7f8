"""An ARC seal on what is handed on (RFC 8617): what we have found out about it, for hosts that cannot any more."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from typing import Literal

from zope.interface import implementer

from mailgate.config.values import Flag
from mailgate.envelope import Session, Transaction
from mailgate.filters.sealing import Sealer, SealOptions
from mailgate.filters.seven_bit import seven_bit
from mailgate.filters.signing import Threads, forwards
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.mailauth.dkim.canonical import split_header
from mailgate.mailauth.dkim.sign import OVERSIGNED, SIGNED
from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.message import (
    Content,
    Edit,
    Message,
    RenameHeader,
    ReplaceBody,
    Splice,
    apply_edits,
    is_of_header,
    release,
)

__all__ = ["ArcSeal", "Options", "build"]

_COVERED = frozenset(name.lower() for name in (*OVERSIGNED, *SIGNED))


class Options(SealOptions):
    """`[filters.arc-seal]`: mail from outside is handed on with a seal on what spf, dkim, arc and dmarc found out.

    SPF does not survive being forwarded, and DKIM not a change; who trusts our seals still knows what was true when
    the mail came here. The filter stands behind all that find something out and all that change the message, and
    behind `dkim-sign`. What was sent by clients that have logged in or are trusted is not sealed: nothing was checked
    of it. A chain that has failed for good, or of which DNS could not tell now whether it holds, is not gone on with.
    """

    when: Literal["forwarded", "changed", "always"] = "forwarded"
    """forwarded: what aliases send on to domains that are not ours. changed: that, and what filters have changed in the
    body or in fields that signatures cover, for a list server or a next hop that checks again. always: all mail from
    outside"""
    convert: Flag = True
    """whether content beyond US-ASCII that nobody has signed yet is made US-ASCII before it is sealed, as `dkim-sign`
    does"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where the key cannot be read."""
    return ArcSeal(options, services)


@implementer(IMessageModifier)
class ArcSeal:
    """Reads content that lies in a file, or is large, in a thread."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._when = options.when
        self._sealer = Sealer(options, services)
        self._is_local = services.local_domains
        self._convert = options.convert
        self._incoming = services.incoming
        self._threads = Threads(services.clock)

    def modify(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
        """The three fields of a set, or none."""
        if session.identity is not None:
            return []
        content, edits = message.content, tuple(transaction.edits)
        if not (
            self._when == "always"
            or forwards(transaction, self._is_local)
            or (self._when == "changed" and _changes(edits))
        ):
            return []
        work = partial(self._seal, session, transaction, content, edits)
        asked = transaction.parameters.body if self._convert else None
        return self._threads.call(work, content, edits, at_once=True, converts=asked)

    def _seal(
        self, session: Session, transaction: Transaction, content: Content, edits: Sequence[Edit]
    ) -> Sequence[Edit]:
        converted: Sequence[Edit] = []
        fields: Sequence[Edit] = []
        try:
            if self._convert:
                header = HeaderFields(split_header(apply_edits(content.header, edits)))
                converted = seven_bit(transaction.parameters.body, content, edits, header, self._incoming)
            fields = self._sealer.whatever_passed(session, transaction, content, (*edits, *converted))
        except ValueError:  # nobody knows where the body begins, so nobody could check the seal
            return []
        finally:
            if not fields:
                release(converted)
        return [*converted, *fields]


def _changes(edits: Iterable[Edit]) -> bool:
    """Whether one of the edits breaks what a signature covers, as most do."""
    for edit in edits:
        if isinstance(edit, Splice | ReplaceBody):
            return True
        if is_of_header(edit):
            names = (edit.name, edit.to) if isinstance(edit, RenameHeader) else (edit.name,)
            if any(name.lower() in _COVERED for name in names):
                return True
    return False
