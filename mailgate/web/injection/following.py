"""Where a message is that was handed in: what the spool has of it, and what the history tells of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailgate.awaiting import InThread
from mailgate.interfaces import EntryView, ISpool, Selector
from mailgate.observe.render import from_stamp
from mailgate.observe.search import read_history
from mailgate.web.injection.models import Followed, FollowedRecipient, State

__all__ = ["Following"]

#: Recipients of one message that are looked at; no call names more, but aliases may stand for many.
_MOST = 10_000
_FATES: Mapping[str, State] = {
    "message_accepted": "queued",
    "deferred": "deferred",
    "delivered": "delivered",
    "bounced": "bounced",
    "discarded": "discarded",
    "quarantined": "quarantined",
    "quarantine_expired": "deleted",
}
_ACTIONS: Mapping[str, State] = {"delete": "deleted", "release": "queued", "hold": "held"}


class Following:
    """Follows messages of the tokens that have handed them in, and of no others."""

    def __init__(self, spool: ISpool, history: Path, in_thread: InThread) -> None:
        self._spool = spool
        self._history = history
        self._in_thread = in_thread

    async def follow(self, queue_id: str, token: str, listener: str) -> Followed | None:
        """The message; None where this token has handed in none of this id. SpoolError."""
        kept = await self._spool.content(queue_id)
        views = await self._spool.view(Selector(queue_id=queue_id), _MOST)
        found = await self._in_thread(lambda: read_history(self._history, queue_id, limit=1))
        entries = [
            entry for story in found.stories for entry in story.entries if str(entry.get("queue_id", "")) == queue_id
        ]
        accepted = next((one for one in entries if one["event"] == "message_accepted"), None)
        if kept is not None:
            envelope = kept[0]
            is_own = envelope.listener == listener and envelope.origin.login == token
            sender = str(envelope.sender)
        elif accepted is not None:
            is_own = accepted.get("listener") == listener and accepted.get("identity") == f"{token} by token"
            sender = str(accepted.get("sender", ""))
        else:
            return None
        if not is_own:
            return None
        states: dict[str, FollowedRecipient] = {}
        for entry in entries:
            for address in _concerned(entry):
                _tell(states, entry, address)
        for view in views:
            states[view.recipient] = _now(view, states.get(view.recipient))
        return Followed(id=queue_id, sender=sender, recipients=tuple(states.values()))


def _concerned(entry: Mapping[str, Any]) -> list[str]:
    one = entry.get("recipient")
    return [str(one).lower()] if one else [str(each).lower() for each in entry.get("recipients", ())]


def _tell(states: dict[str, FollowedRecipient], entry: Mapping[str, Any], address: str) -> None:
    event = entry["event"]
    state = _ACTIONS.get(str(entry.get("action"))) if event == "operator_acted" else _FATES.get(event)
    if state is None:
        return
    next_attempt = str(entry.get("next_attempt", ""))
    states[address] = FollowedRecipient(
        address=address,
        state=state,
        reply=str(entry.get("reply", "")),
        at=_moment(from_stamp(str(entry["at"]))),
        next_attempt=_moment(from_stamp(next_attempt)) if next_attempt and state == "deferred" else None,
    )


def _now(view: EntryView, told: FollowedRecipient | None) -> FollowedRecipient:
    """What the spool says of a recipient, which has the last word of those that are in it."""
    state: State = "deferred" if view.attempts else "queued"
    if view.state == "held":
        state = "held"
    elif view.state == "quarantined":
        state = "quarantined"
    at = told.at if told is not None and told.state == state else _moment(view.received)
    return FollowedRecipient(
        address=view.recipient,
        state=state,
        reply=view.last_reply,
        at=at,
        next_attempt=_moment(view.next_attempt) if state in ("queued", "deferred") and view.next_attempt else None,
    )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
