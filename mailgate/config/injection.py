"""`[http.injection]`: mail that programs hand in by HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from mailgate.config.section import Section
from mailgate.config.units import Duration, Size, at_least, format_duration, format_size
from mailgate.config.values import Count, Name

__all__ = ["MOST_KEPT", "InjectionSection"]

#: Seconds: less than the time for which the spool notes which messages of a call it has taken.
MOST_KEPT = 30 * 86400.0


def _kept(seconds: float) -> float:
    if seconds > MOST_KEPT:
        raise ValueError(f"must be at most {format_duration(MOST_KEPT)}")
    return seconds


class InjectionSection(Section):
    """`[http.injection]`: POST /v1/messages for tokens with the scope "send". What comes in is judged as on a listener
    of role outbound, as mail of an identity with the token's name: `sender-login` says which addresses it may use, and
    `quota` how much it may send."""

    pipeline: Name
    """the [pipelines.NAME] that judges it"""
    name: Name = "api"
    """how the history and limits call this way in; no listener has the same name"""
    max_message_size: Annotated[Size, at_least(64 * 1024, format_size)] = 25 * 1024**2
    """a larger message, as it is sent, is refused (413)"""
    max_call: Annotated[Size, at_least(64 * 1024, format_size)] = 64 * 1024**2
    """a call with more behind its header is refused (413); only tokens with the scope "send" may bring more than
    http.max_body. It has to come in within http.request_timeout"""
    max_recipients: Count = 100_000
    """messages that one call may ask for, one for each of its `recipients`"""
    max_addresses: Annotated[Count, Field(le=10_000)] = 100
    """addresses in to, cc and bcc together: all get the same message, and see each other in to and cc"""
    max_calls: Count = 50
    """calls that are carried out at one time; more get 503"""
    max_hold: Duration = 7 * 86400.0
    """how far ahead `send_at` may be"""
    keep: Annotated[Duration, at_least(3600.0, format_duration), AfterValidator(_kept)] = 7 * 86400.0
    """how long an idempotency key is remembered, from when the call is first made; at most 30d"""
