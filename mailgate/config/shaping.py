"""How hard mail is pushed, from which addresses, and what its refusals mean: `[shaping]`, `[sources]`, `[pools]` and
`[bounces]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailgate.config.routes import RetrySection
from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Timeout
from mailgate.config.values import (
    Address4,
    Address6,
    Count,
    Day,
    Domain,
    Hostname,
    Name,
    OneMailbox,
    Rate,
    ReplyPattern,
)

__all__ = ["BouncesSection", "PoolSection", "ShapingSection", "SlowDownSection", "SourceSection", "WarmUpSection"]


class SlowDownSection(Section):
    """`slow_down` of a shaping: answers after which a site is asked less, and how it recovers."""

    replies: list[ReplyPattern] = Field(min_length=1)
    """answers that mean "not so fast": a code or enhanced status ("421", "4.7.28", with x for any digit or number:
    "4.7.x"), words ("too many connections", with * for anything between), or both ("451 try * later")"""
    action: Literal["slower", "rest"] = "slower"
    """slower: half the rate and half the connections; rest: no attempts for a while, then slower"""
    rest: Timeout = 600.0
    """how long a site rests, if that is the action"""
    recovery: Timeout = 600.0
    """how long after the last such answer until the site is asked twice as much again, step by step"""


class ShapingSection(Section):
    """`[shaping.NAME]`: limits for some destinations. What is not given is the route's; where several sections are for
    a destination, the last in the file has the word on what it gives."""

    domains: list[Domain] = []
    """recipients' domains that it is for, on routes that go by MX; "*.NAME" means all below it"""
    mx: list[Domain] = []
    """hosts that it is for, whatever the domain; "*.NAME" means all below it. Without `domains` and `mx` it is for
    every destination"""
    routes: list[Name] = []
    """the routes that it is for; all if empty"""
    sources: list[Name] = []
    """the sources that it is for; all if empty"""
    connections: Count | None = None
    """connections at one time to one site from one source"""
    messages_per_connection: Count | None = None
    """messages on one connection before it is closed"""
    recipients_per_message: Count | None = None
    """recipients in one transaction; 100 if not given"""
    message_rate: Rate | None = None
    """messages to one site from one source, like "10/s", "100/m" or "5000/h" """
    connection_rate: Rate | None = None
    """new connections to one site from one source, in the same form"""
    slow_down: list[SlowDownSection] = []
    """answers that slow us down, asked before the built-in ones"""
    retry: RetrySection | None = None
    """the retry schedule"""


class WarmUpSection(Section):
    """`warm_up` of a source: an address that nobody knows yet begins with little, and sends more each day."""

    start: Day
    """the first day (UTC), like 2026-12-01; nothing goes out from it before"""
    first: Count = 50
    """messages on that day"""
    factor: Annotated[float, Field(strict=True, gt=1, le=10)] = 1.5
    """each day may have this many times those of the day before"""
    days: Count = 30
    """after so many days there is no limit"""


class SourceSection(Section):
    """`[sources.NAME]`: a local address that mail goes out from."""

    address: Address4 | None = None
    """the IPv4 address; without it the source reaches IPv6 hosts only"""
    address6: Address6 | None = None
    """the IPv6 address; without it the source reaches IPv4 hosts only"""
    hostname: Hostname | None = None
    """what EHLO says: the name that the address's PTR record gives; gateway.hostname if not given"""
    warm_up: WarmUpSection | None = None
    """the plan by which it gets known"""


class PoolSection(Section):
    """`[pools.NAME]`: sources that share mail."""

    sources: dict[Name, Annotated[int, Field(strict=True, ge=0, le=1000)]] = Field(min_length=1)
    """the sources with their weights: one of weight 2 gets twice the messages of one of weight 1; 0 sends nothing but
    the retries of what it has begun"""


class BouncesSection(Section):
    """`[bounces]`: what refusals mean, and what is done about reports that cannot be delivered."""

    rules: ConfigPath | None = None
    """a file (TOML) of rules that are asked before the built-in ones, to tell of what kind a reply is; read at a start
    and a reload"""
    double_to: OneMailbox | None = None
    """who gets the reports that their own recipients do not take (double bounces); without it they end in the history
    only"""
