"""What is told of an entry in quarantine: what the spool's row says, and what its message says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailgate.envelope import Envelope, Kept, TraceStep
from mailgate.interfaces import EntryView
from mailgate.message import Message
from mailgate.mime.subject import decoded
from mailgate.quarantine.entries import decided_by
from mailgate.web.quarantine_models import KeptEntry

__all__ = ["Beginning", "Found", "field_of"]

#: Characters of a subject and an author that a list shows.
_LONGEST = 500
_NOTHING = Kept()


class Found(NamedTuple):
    """An entry, and the trace of its message."""

    entry: KeptEntry
    steps: Sequence[TraceStep]


class Beginning:
    """Envelope, subject and author of a message; None and "" where it cannot be read."""

    def __init__(self, envelope: Envelope | None = None, subject: str = "", author: str = "") -> None:
        self._subject = subject
        self._author = author
        self.kept = (envelope.kept if envelope is not None else None) or _NOTHING
        recipients = envelope.recipients if envelope is not None else ()
        self._reasons = {one.number: one.quarantine for one in recipients}
        self._decided: dict[str, str] = {}

    def entry(self, view: EntryView, retention: float) -> KeptEntry:
        """What is told of one of its recipients. `retention` in seconds."""
        written = self._reasons.get(view.number, "")
        reason = view.waits or written
        since = view.next_attempt or view.received
        return KeptEntry(
            queue_id=view.queue_id,
            number=view.number,
            sender=view.sender,
            recipient=view.recipient,
            subject=self._subject,
            from_=self._author,
            size=view.size,
            reason=reason,
            filter=self._filter(written if written.startswith(reason) else reason),
            received=view.received,
            since=since,
            expires=since + retention,
            has_original=self.kept.has_original,
            facts=self.kept.facts,
        )

    def _filter(self, reason: str) -> str:
        """The filter that gave this reason, which is that of many recipients as a rule."""
        if reason not in self._decided:
            self._decided[reason] = decided_by(self.kept, reason)
        return self._decided[reason]


def field_of(message: Message, name: str) -> str:
    """The first field of a name, decoded, as much of it as is told; "" where there is none."""
    return decoded(next(iter(message.values(name)), ""))[:_LONGEST]
