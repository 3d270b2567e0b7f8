"""What a client is to make of a back end of a known kind that it is led to (`preset` of a route)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from mailgate.config.routes import Preset, ServerRoute, SmtpRoute
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import Result
from mailgate.relay.replies.back_ends import meaning

__all__ = ["is_of_one", "preset_of", "understood"]


def preset_of(route: ServerRoute | None) -> Preset | None:
    """The kind of the hosts that a route goes to, where that is known."""
    return route.preset if isinstance(route, SmtpRoute) else None


def understood(preset: Preset | None, result: Result) -> Result:
    """A refusal of our connector, or of a domain that is not set up yet, is no refusal of the mail: the client is to
    come again."""
    if preset is None or result.kind is not OutcomeKind.FAILED or not result.host:
        return result
    if meaning(preset, result.reply) not in ("connector", "waits"):
        return result
    reason = result.reason or f"the next hop {result.host} said: {result.reply}"
    return replace(result, kind=OutcomeKind.DEFERRED, reason=reason)


def is_of_one(preset: Preset | None, results: Sequence[Result]) -> bool:
    """Whether the content was refused for all because of one of them: that is for the spool to find out, as the one
    answer to the client would be wrong for the others."""
    if preset is None or len(results) < 2:
        return False
    first = results[0]
    return (
        bool(first.host)
        and all(one.kind is not OutcomeKind.DELIVERED and one.reply is first.reply for one in results)
        and meaning(preset, first.reply) == "recipient"
    )
