"""What holds for one ready queue, and what the answers of its hosts mean for it: values, made by `shaping`."""

from __future__ import annotations

from dataclasses import dataclass

from mailgate.config.schema import RetrySection

__all__ = ["Limits", "Signal"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard one site may be pushed from one source. Rates are per second, 0.0 where there is none.

    `rules` are the names of the shaping sections that it comes from, for people.
    """

    connections: int
    messages_per_connection: int
    retry: RetrySection
    recipients_per_message: int = 100
    message_rate: float = 0.0
    connection_rate: float = 0.0
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signal:
    """An answer that means "not so fast".

    `rest` is how many seconds the site is left alone (0.0: not at all), `recovery` how many pass until it is asked
    twice as much again; `reason` is the rule, for people.
    """

    rest: float
    recovery: float
    reason: str
