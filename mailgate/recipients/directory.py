"""Which of our recipients exist, by the domains of the configuration and the sources that they name."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import run
from mailgate.config.schema import Config
from mailgate.interfaces import IRecipientDirectory, RecipientStatus
from mailgate.recipients.source import ISource
from mailgate.stores.domains import DomainTable, canonical

__all__ = ["Directory"]

#: In `[domains]`: whatever the local part, the address counts as known.
_ANY = ["any"]
#: Answers that decide.
_EXISTS = (RecipientStatus.KNOWN, RecipientStatus.RESTRICTED)

_Steps = Generator[Awaitable[Any], Any, RecipientStatus]


@dataclass(frozen=True, slots=True)
class _Domain:
    """Who knows its addresses, in their order; `delimiter` stands before an extension, "" where there are none."""

    sources: Sequence[ISource]
    delimiter: str


@implementer(IRecipientDirectory)
class Directory:
    """Knows recipients by `[domains]` and `[recipients.NAME]`.

    Local parts compare without regard to case, which mail systems expect and RFC 5321 leaves to the receiver. An
    address that is not known is looked for without its extension too: user+tag is known where user is. The postmaster
    of each of our domains is always known (RFC 5321 section 4.5.1).

    Of several sources the first in their order that knows an address decides. It is unknown where all say so, and
    UNAVAILABLE where none knows it and one of them cannot be asked. What is at hand counts before anybody is asked.
    """

    def __init__(self, config: Config, sources: Mapping[str, ISource]) -> None:
        """`sources` by the names of their sections. ValueError, in words for an administrator, where a domain's name is
        malformed."""
        self._domains: DomainTable[_Domain | None] = DomainTable(
            {
                name: None
                if section.recipients == _ANY
                else _Domain([sources[one] for one in section.recipients], section.delimiter)
                for name, section in config.domains.items()
            }
        )

    def is_local(self, domain: str) -> bool:
        """Whether mail for this domain is ours to take from anyone."""
        return self._domains.has(domain)

    def lookup(self, address: Address) -> RecipientStatus | Awaitable[RecipientStatus]:
        ours = self._domains.match(address.domain)
        if ours is None:
            return RecipientStatus.KNOWN
        local_part, domain = address.local_part.lower(), canonical(address.domain)
        base = local_part.partition(ours.delimiter)[0] if ours.delimiter else local_part
        if base == "postmaster":
            return RecipientStatus.KNOWN
        names = (local_part, base) if base and base != local_part else (local_part,)
        return run(_decide([_Question(source, names, domain) for source in ours.sources]))


class _Question:
    """One source about one address: by its whole local part, and then without its extension."""

    def __init__(self, source: ISource, names: Sequence[str], domain: str) -> None:
        self.source = source
        self._names = names[:1] if source.takes_whole else names
        self._domain = domain

    def at_hand(self) -> RecipientStatus | None:
        """What is known of it without asking anybody."""
        status: RecipientStatus | None = RecipientStatus.UNKNOWN
        for name in self._names:
            found = self.source.at_hand(name, self._domain)
            if found in _EXISTS:
                return found
            # one name that must be asked about leaves it open
            status = found if status is RecipientStatus.UNKNOWN else status
        return status

    def ask(self) -> _Steps:
        status = RecipientStatus.UNKNOWN
        for name in self._names:
            found = self.source.at_hand(name, self._domain)
            if found is None:
                found = yield self.source.ask(name, self._domain)
            if found is not RecipientStatus.UNKNOWN:
                status = found
            if status in _EXISTS:
                break
        return status


def _decide(questions: Sequence[_Question]) -> _Steps:
    answers = [question.at_hand() for question in questions]
    for question, answer in zip(questions, answers, strict=True):
        if answer in _EXISTS:
            return answer
        if answer is None and question.source.restricts:
            break  # it may know better than those behind it
    is_away = False
    for question, answer in zip(questions, answers, strict=True):
        status = (yield from question.ask()) if answer is None else answer
        if status in _EXISTS:
            return status
        is_away = is_away or status is RecipientStatus.UNAVAILABLE
    return RecipientStatus.UNAVAILABLE if is_away else RecipientStatus.UNKNOWN
