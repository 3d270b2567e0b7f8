"""What a session and its listener tell each other."""

from __future__ import annotations

from typing import Protocol

from mailgate.envelope import Client, Session
from mailgate.events import SessionClosed
from mailgate.reply import Reply

__all__ = ["Guest", "Host", "Refusal", "session_closed"]

#: What a connection over a limit is told, or None where it is cut without a word; and the private reason.
Refusal = tuple[Reply | None, str]


class Guest(Protocol):
    """A connection, for its listener."""

    def hurry(self) -> None:
        """The listener has come under stress: who is silent or slow has less time."""

    def drain(self) -> None:
        """End soon, without cutting a transaction."""

    def cut(self) -> None:
        """End now."""


class Host(Protocol):
    """A listener, for its connections."""

    is_stressed: bool

    def admit(self, guest: Guest, client: Client) -> Refusal | None:
        """Count a connection, once again where it turns out to be another client's; the refusal where it is one too
        many, and then it does not count."""

    def left(self, guest: Guest, session: Session | None, cause: str, started: float) -> None:
        """A connection is gone; `session` is None where it never came to one."""


def session_closed(session: Session, *, now: float, started: float, cause: str) -> SessionClosed:
    """The event that tells of the end of a session, for one that began at `started`; `cause` as in SessionClosed."""
    return SessionClosed(
        at=now,
        session=session.id,
        client=str(session.client),
        listener=session.listener,
        helo=session.helo,
        messages=session.messages,
        seconds=now - started,
        cause=cause,
    )
