"""The sessions that are open, for filters which learn from events how their mail fared."""

from __future__ import annotations

import re
from collections import OrderedDict

from mailgate.envelope import Session, Transaction
from mailgate.events import Event, MessageAccepted, Refused, SessionClosed

__all__ = ["OpenSession", "OpenSessions", "is_unknown_recipient"]

#: Sessions that are known at one time; more than a gateway has open.
_MOST = 20_000
#: RFC 3463 section 3.2.
_UNKNOWN = re.compile(r"5\d\d 5\.1\.1(?: |$)")


def is_unknown_recipient(refused: Refused) -> bool:
    """Whether it was refused because the recipient does not exist."""
    return _UNKNOWN.match(refused.reply) is not None


class OpenSession:
    """A session and its present transaction, None before the first and when it is over; `ended` is the queue id of the
    last one that is."""

    __slots__ = ("ended", "session", "transaction")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.transaction: Transaction | None = None
        self.ended = ""


class OpenSessions:
    """Sessions by their ids, from when a filter is first asked about them until they are closed; at most `most`.

    Events of sessions that the filter was never asked about, those of other pipelines, find none.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._sessions: OrderedDict[str, OpenSession] = OrderedDict()
        self._by_queue_id: dict[str, OpenSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def note(self, session: Session, transaction: Transaction | None = None) -> None:
        """A filter is asked about this."""
        known = self._sessions.get(session.id)
        if known is not None and known.session is not session:
            # With `judge_origin` each message of a connection has a client of its own.
            self.end(known)
            known = self._sessions[session.id] = OpenSession(session)
        if known is None:
            if len(self._sessions) >= self._most:
                self.end(self._sessions.popitem(last=False)[1])
            known = self._sessions[session.id] = OpenSession(session)
        if transaction is not None and transaction is not known.transaction:
            self.end(known)
            known.transaction = transaction
            self._by_queue_id[transaction.id] = known

    def find(self, event: Event) -> OpenSession | None:
        """The session that an event is about, unless it is about a transaction that has ended. One that is closed is
        forgotten."""
        if isinstance(event, SessionClosed):
            closed = self._sessions.pop(event.session, None)
            if closed is not None:
                self.end(closed)
            return None
        queue_id = getattr(event, "queue_id", "")
        if isinstance(event, Refused | MessageAccepted):
            known = self._sessions.get(event.session)
        else:
            known = self._by_queue_id.get(queue_id)
        return None if known is not None and queue_id and queue_id == known.ended else known

    def end(self, known: OpenSession) -> None:
        """Nothing more is of interest about the present transaction."""
        if known.transaction is not None:
            known.ended = known.transaction.id
            self._by_queue_id.pop(known.ended, None)
            known.transaction = None
