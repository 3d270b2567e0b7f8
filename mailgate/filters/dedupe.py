"""Messages that come again, to those who have them already, and messages that go in circles."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.awaiting import answered, as_deferred
from mailgate.config.schema import Section
from mailgate.config.units import Timeout
from mailgate.envelope import Session, Transaction
from mailgate.events import Event, MessageAccepted
from mailgate.filters.together import together
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IEventObserver, IMessageFilter
from mailgate.message import Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Discard, Reject, Verdict

__all__ = ["Dedupe", "DuplicateResult", "Options", "build"]

#: Octets of a body that are part of its digest, beside its size: so that nobody waits for a large one.
_DIGEST_OF = 256 * 1024
#: Recipients of a message that is looked up; messages that were looked up and are not yet taken.
_MOST_RECIPIENTS, _MOST_PENDING = 100, 10_000


class Options(Section):
    """`[filters.dedupe]`: the same message again.

    A message is the same where its Message-ID, its From, Subject and Date, its envelope's sender and its body are. Only
    what mailgate has taken (250) counts, and for each recipient alone: a sender who was refused, or has got no answer,
    may try again as often as it likes. Stand it last in the pipeline.
    """

    window: Timeout = 3600.0
    """how long a message is remembered"""
    verdict: Literal["discard", "continue"] = "continue"
    """what is done for recipients that have it already. discard: they do not get it again, and an event says so;
    continue: the fact `dedupe.duplicate` is left"""
    max_passes: Annotated[int, Field(strict=True, ge=1, le=100)] = 5
    """a message that has passed this gateway more often, by its Received fields, goes in circles and is refused
    (554 5.4.6)"""


@dataclass(frozen=True, slots=True)
class DuplicateResult(Finding):
    """A message that some recipients have already; `first` is the queue id with which it was taken."""

    recipients: tuple[Address, ...]
    first: str

    def summary(self) -> str:
        return f"the same as {self.first} for {len(self.recipients)} recipients"

    def facts(self) -> Sequence[str]:
        return ("dedupe.duplicate",)


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Dedupe(options, services)


@implementer(IMessageFilter, IEventObserver)
class Dedupe:
    """Remembers a message when it has been taken, and not before: what is lost on the way must come again."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._counters = services.counters
        name = re.escape(services.hostname)
        self._own = re.compile(rf"\bby\s+{name}(?![\w.-])", re.IGNORECASE)
        self._pending: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def on_message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Verdict | Awaitable[Verdict | None] | None:
        """Refuse what goes in circles; look up the rest."""
        passes = sum(1 for value in message.values("Received") if self._own.search(value[:2000]))
        if passes > self._options.max_passes:
            reply = Reply.of(554, "5.4.6", "This message goes in circles")
            return Reject(reply, f"{passes} Received fields are ours")
        ids = message.values("Message-ID")
        if len(ids) != 1 or not ids[0] or not 0 < len(transaction.recipients) <= _MOST_RECIPIENTS:
            return None
        return self._look_up(transaction, message)

    async def _look_up(self, transaction: Transaction, message: Message) -> Verdict | None:
        digest = _digest(transaction, message)
        addresses = [one.address for one in transaction.recipients]
        keys = [_key(digest, address) for address in addresses]
        found = await together([self._counters.get(key) for key in keys])
        firsts = [
            (address, value)
            for address, value in zip(addresses, found, strict=True)
            if value is not None and value != transaction.id.encode()
        ]
        self._pending[transaction.id] = tuple(key for key, value in zip(keys, found, strict=True) if value is None)
        while len(self._pending) > _MOST_PENDING:
            self._pending.popitem(last=False)
        if not firsts:
            return None
        recipients = tuple(address for address, _ in firsts)
        result = DuplicateResult(recipients, firsts[0][1].decode("ascii", "replace"))
        if self._options.verdict == "continue":
            return Continue(evidence=(result,))
        everybody = len(recipients) == len(addresses)
        return Discard(result.summary(), () if everybody else recipients, evidence=(result,))

    def observe(self, event: Event) -> None:
        """Remember what has been taken."""
        if isinstance(event, MessageAccepted) and (keys := self._pending.pop(event.queue_id, None)):
            for key in keys:
                put = answered(self._counters.put(key, event.queue_id.encode(), self._options.window))
                as_deferred(put).addErrback(lambda _: None)  # what is not remembered comes twice, and is not lost


def _digest(transaction: Transaction, message: Message) -> bytes:
    digest = hashlib.sha256()
    fields = [value for name in ("Message-ID", "From", "Subject", "Date") for value in message.values(name)]
    for part in (str(transaction.sender), *fields, str(message.content.size - len(message.content.header))):
        digest.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    skip, left = len(message.content.header), _DIGEST_OF
    for chunk in message.content.chunks():
        piece = chunk[skip : skip + left]
        skip = max(0, skip - len(chunk))
        left -= len(piece)
        digest.update(piece)
        if not left:
            break
    return digest.digest()


def _key(digest: bytes, address: Address) -> str:
    return f"dedupe:{hashlib.sha256(digest + str(address).lower().encode()).hexdigest()}"
