"""Why nobody could be connected to, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailgate.relay.attempt import ConnectFailedError, Result
from mailgate.reply import Reply

__all__ = ["Trouble", "is_about_client", "is_pace_of_client", "said", "told"]

#: Hosts whose failures are told of one attempt, and characters of each.
_MOST_TOLD, _LONGEST_TOLD = 8, 300


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nobody could be connected to: `host` is who said so, "" where it is our own finding."""

    reply: Reply
    host: str
    reason: str

    @classmethod
    def of(cls, errors: Sequence[ConnectFailedError]) -> Trouble:
        """What attempts to connect to one host after another came to, one at least: the reply of that which tells most,
        and the reasons of all. Among equals the last has the word."""
        error = max(reversed(errors), key=_tells)
        host = "" if error.is_ours else str(error.target)
        reason = error.reason if host and len(errors) == 1 else told(errors)
        return cls(_for_now(error.reply), host, reason)


def told(errors: Sequence[ConnectFailedError]) -> str:
    """What each host's failure was."""
    parts = [
        (one.reason if str(one.target) in one.reason else f"{one.target}: {one.reason}")[:_LONGEST_TOLD]
        for one in errors[:_MOST_TOLD]
    ]
    more = len(errors) - len(parts)
    return "; ".join([*parts, f"{more} more hosts failed"] if more else parts)


def said(result: Result) -> str:
    """What a result was, with who said so."""
    return f"{result.host}: {result.reply}" if result.host else str(result.reply)


def is_about_client(error: ConnectFailedError) -> bool:
    """Whether a next hop that was told who the client is may refuse this one, and nobody else."""
    return not error.is_ours and error.stage in ("greeting", "hello", "xclient")


def is_pace_of_client(reply: Reply, stage: str) -> bool:
    """Whether a next hop that was told who the client is may say this of that one's pace: what it says of its own state
    (RFC 3463 section 3.4) concerns all. `stage` is that of ConnectFailedError, "" in a session."""
    return stage in ("", "greeting", "hello", "xclient") and not reply.status[1:].startswith(".3.")


def _tells(error: ConnectFailedError) -> tuple[bool, bool]:
    # That a host is down is less than what another one, which is there, does wrong or has against us.
    return error.stage != "connect", not error.reply.status[1:].startswith(".4.")


def _for_now(reply: Reply) -> Reply:
    # Even a greeting that refuses for good says nothing about the mail: another day, another host may take it.
    return reply if reply.is_transient else Reply(451, "4.4.1", (str(reply),))
