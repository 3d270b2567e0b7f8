"""`[webhooks.NAME]`: programs of the site that are told of events by HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Duration, Size, Timeout, at_least, format_duration, format_size
from mailgate.config.values import Count, HttpUrl, Name, private_url

__all__ = ["WEBHOOK_EVENTS", "WebhookEvent", "WebhookSection"]

WebhookEvent = Literal[
    "accepted",
    "delivered",
    "deferred",
    "bounced",
    "bounced_back",
    "complained",
    "unsubscribed",
    "suppressed",
    "unsuppressed",
    "suppressions_imported",
    "quarantined",
    "quarantine_expired",
    "discarded",
    "refused",
    "limit_near",
    "account_suspected",
    "back_end_refuses",
]

#: The event, by its name in the log, that each word means.
WEBHOOK_EVENTS: Mapping[WebhookEvent, str] = MappingProxyType(
    {word: word for word in get_args(WebhookEvent)} | {"accepted": "message_accepted"}
)


class WebhookSection(Section):
    """`[webhooks.NAME]`: a program that is told of events by HTTP POST, in their order and at least once.

    What it does not take (status 2xx) waits in `state_dir/webhooks.db` and is sent again after growing pauses, so that
    a program that is slow, broken or gone delays neither mail nor other webhooks; what happens is written there within
    a fifth of a second, and a crash of the gateway loses that much. Redirects are not followed. The
    address is the administrator's own choice, and may be one of the inner network.
    """

    url: Annotated[HttpUrl, AfterValidator(private_url)]
    """where events are sent: https://, or http:// on this machine"""
    events: Annotated[list[WebhookEvent], Field(min_length=1)] = [
        "accepted",
        "delivered",
        "deferred",
        "bounced",
        "bounced_back",
        "complained",
        "unsubscribed",
        "suppressed",
        "unsuppressed",
        "suppressions_imported",
        "quarantined",
        "limit_near",
        "account_suspected",
    ]
    """which events"""
    streams: list[Name] = []
    """only events of mail of these streams; all if empty, and then also those that are about no mail"""
    secret_file: ConfigPath
    """a file with a secret a line (16 octets at least), and # for comments: each request is signed with every one of
    them, so that a secret can be replaced. It is read again when it changes"""
    ca: ConfigPath | None = None
    """authorities (PEM) that the certificate must come from; the system's if not given"""
    timeout: Timeout = 10.0
    """how long an answer may take"""
    max_events: Annotated[Count, Field(le=1000)] = 100
    """events in one request"""
    max_pause: Annotated[Duration, at_least(1.0, format_duration)] = 900.0
    """between two attempts, while the program does not take what it is sent; the first comes after a second"""
    max_age: Annotated[Duration, at_least(60.0, format_duration)] = 3 * 86400.0
    """how long an event waits; what is older is dropped, with an event in the log that tells how many"""
    max_size: Annotated[Size, at_least(65536, format_size)] = 64 * 1024**2
    """octets that wait; beyond them the oldest events are dropped, in the same way"""

    def is_for(self, stream: str) -> bool:
        """Whether events of this stream's mail are sent; "" is mail without one, and events about no mail."""
        return not self.streams or stream in self.streams
