"""Viruses: clamd of ClamAV looks at the message as it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from zope.interface import implementer

from mailgate.config.units import Size, at_least, format_size
from mailgate.config.values import Host
from mailgate.envelope import Session, Transaction
from mailgate.filters.scanning import (
    Oversize,
    OwnResult,
    ScannerSection,
    Word,
    fact_word,
    own_result,
    said,
    server_pool,
    too_large,
)
from mailgate.findings import Finding
from mailgate.interfaces import Answered, FilterServices, IContentFilter, IMarkingModifier
from mailgate.message import AddHeader, Edit, Message, RemoveHeader
from mailgate.message.header import begins_with_field
from mailgate.scanners.clamd import Scan, Scanned
from mailgate.scanners.conversation import Line
from mailgate.verdict import Verdict

__all__ = ["Clamav", "Options", "VirusResult", "build"]

_PORT = 3310
_FIELD = "X-Virus-Status"

#: Names of what ClamAV only suspects, or finds unwanted, as its options turn it on.
_SUSPICIONS = ("Heuristics.", "PUA.", "Structured.")


class Options(ScannerSection):
    """`[filters.clamav]`: what clamd finds in a message is refused.

    clamd is given the message as it came, and finds attachments, archives and what lies in them itself; how deep it
    looks is its own configuration. Mail of one's own users is scanned as well.
    """

    servers: list[Host] = Field(default=["127.0.0.1:3310"], min_length=1)
    """where clamd listens: "host:port" (TCPSocket; the port is 3310 if not given) or "unix:/run/clamav/clamd.ctl"
    (LocalSocket). It must listen for us only: who reaches it can stop it"""
    found: Word = "reject"
    """what to do with a message in which a virus was found: reject, defer, quarantine, discard or continue"""
    suspicions: list[Annotated[str, Field(min_length=1)]] = Field(default=list(_SUSPICIONS))
    """beginnings of names that are no virus for certain; where only such a one was found, `suspected` says what to do.
    clamd names the first that it finds"""
    suspected: Word = "continue"
    """what to do where something is suspected; the field X-Virus-Status tells of it in any case"""
    max_size: Annotated[Size, at_least(1024, format_size)] = 25 * 1024 * 1024
    """larger messages are not scanned; no more than StreamMaxLength of clamd, which does not take more"""
    oversize: Oversize = "reject"
    """what to do with those: continue, defer, quarantine or reject (552)"""
    text: str = "Refused: this message contains a virus: {name}"
    """what the sender of a refused message is told; {name} is what ClamAV calls it"""


@dataclass(frozen=True, slots=True)
class VirusResult(Finding, OwnResult):
    """What ClamAV found: its name, "" where the message is clean; `is_scanned` is False for what is too large."""

    name: str = ""
    is_suspicion: bool = False
    is_scanned: bool = True
    by: object = field(default=None, repr=False, compare=False)

    def summary(self) -> str:
        if not self.is_scanned:
            return "clamav=oversize"
        if not self.name:
            return "clamav=clean"
        return f"clamav={'suspected' if self.is_suspicion else 'found'} {self.name}"

    def facts(self) -> Sequence[str]:
        if not self.is_scanned:
            return ("clamav.oversize",)
        if not self.name:
            return ("clamav.clean",)
        word = "suspected" if self.is_suspicion else "found"
        return f"clamav.{word}", f"clamav.{word}.{fact_word(self.name)}"


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where `text` has other braces than {name}."""
    return Clamav(options, services)


@implementer(IContentFilter, IMarkingModifier)
class Clamav:
    """One question for each message."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        try:
            options.text.format(name="")
        except (LookupError, ValueError, AttributeError):
            raise ValueError("text: {name} is the only thing that may stand in braces") from None
        self._options = options
        self._suspicions = tuple(options.suspicions)
        self._pool = server_pool(options, services, _PORT)
        self._by = object()

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Do what the options say about what was found."""
        if message.content.size > self._options.max_size:
            return self._too_large(message, self._options.max_size)
        return self._scan(message)

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """Tell of a suspicion, and of a virus that goes on, in a header field; remove those that came along."""
        edits = [*self.forged(message)]
        result = own_result(transaction.evidence, VirusResult, self._by)
        if result is not None and result.name:
            word = "Suspected" if result.is_suspicion else "Infected"
            edits.append(AddHeader(_FIELD, f"{word} ({result.name})"))
        return edits

    def forged(self, message: Message) -> Sequence[Edit]:
        """Whoever has sent it, we have not said it."""
        return [RemoveHeader(_FIELD)] if message.values(_FIELD) else []

    async def _scan(self, message: Message) -> Verdict:
        async def ask(line: Line) -> Scanned:
            content = message.content
            scanned = await line.ask(Scan(content))
            is_certain = bool(scanned.virus) and not scanned.virus.startswith(self._suspicions)
            if is_certain or scanned.is_too_large or not content.header or begins_with_field(content.header):
                return scanned
            # An odd line in the header to some programs, the beginning of the body to others: both must be clean.
            other = await line.ask(Scan(content, as_body=True))
            return other if other.virus or other.is_too_large else scanned

        scanned = await self._pool.ask(ask)
        if scanned.is_too_large:
            return self._too_large(message, None)
        name = scanned.virus
        is_suspicion = bool(name) and name.startswith(self._suspicions)
        evidence = (VirusResult(name, is_suspicion, by=self._by),)
        if not name:
            return said("continue", "", "", evidence)
        word = self._options.suspected if is_suspicion else self._options.found
        reason = f"ClamAV {'suspects' if is_suspicion else 'has found'} {name}"
        return said(word, self._options.text.format(name=name), reason, evidence)

    def _too_large(self, message: Message, limit: int | None) -> Verdict:
        evidence = (VirusResult(is_scanned=False, by=self._by),)
        return too_large(self._options.oversize, message.content.size, limit, evidence)
