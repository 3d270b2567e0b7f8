"""Making refusals known: an event for each, with everything that `mailgate why` needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address
from mailgate.envelope import Session, TraceStep, Transaction
from mailgate.events import Refused
from mailgate.interfaces import IEvents
from mailgate.reply import Reply

__all__ = ["RefusalTeller"]

#: The words of a trace that tell of a refusal; "failure" where the filter's on_failure stood in for it.
_OBJECTIONS = frozenset({"reject", "defer", "disconnect", "failure"})
#: The sender in what stands behind MAIL, as far as people look for it.
_SENDER = re.compile(r"FROM: *<([^<>]{1,320})>", re.IGNORECASE)


class RefusalTeller:
    """Publishes what one session's peer was refused."""

    __slots__ = ("_clock", "_events", "_session")

    def __init__(self, session: Session, events: IEvents, clock: IReactorTime) -> None:
        self._session = session
        self._events = events
        self._clock = clock

    def tell(
        self,
        stage: str,
        reply: Reply | None,
        reason: str,
        *,
        trace: Sequence[TraceStep] = (),
        transaction: Transaction | None = None,
        recipients: Sequence[Address] | None = None,
        message_id: str = "",
        user: str = "",
        mail: str = "",
    ) -> None:
        """`trace` is where the stage's filters have left their steps: the last that objected for this reason, or else
        at all, is the filter that is named.

        `recipients` are those whom the refusal is about; all of the transaction's, if not given. `user` is the name
        that a login was for. `mail` is what stood behind a MAIL that began no transaction: its sender is still told.
        """
        session = self._session
        if recipients is None:
            recipients = [one.address for one in transaction.recipients] if transaction else ()
        sender = _SENDER.match(mail) if mail else None
        objections = [step for step in trace if step.enforced and step.verdict in _OBJECTIONS]
        objections = [step for step in objections if step.reason == reason] or objections
        self._events.publish(
            Refused(
                at=self._clock.seconds(),
                session=session.id,
                client=str(session.client),
                listener=session.listener,
                helo=session.helo,
                stage=stage,
                filter=objections[-1].filter if objections else "",
                reason=reason,
                reply="" if reply is None else str(reply),
                queue_id=transaction.id if transaction else "",
                sender=str(transaction.sender) if transaction else sender[1] if sender else "",
                recipient=str(recipients[0]) if len(recipients) == 1 else "",
                recipients=tuple(map(str, recipients)),
                user=user,
                message_id=message_id,
                ident=transaction.origin.ident if transaction and transaction.origin else "",
                origin=transaction.origin.client if transaction and transaction.origin else "",
                origin_helo=transaction.origin.helo if transaction and transaction.origin else "",
                trace=(*session.trace, *(transaction.trace if transaction else ())),
            )
        )
