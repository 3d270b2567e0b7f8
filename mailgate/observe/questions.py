"""Counts what DNS is asked and what it answers: a resolver in front of another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.awaiting import as_deferred
from mailgate.interfaces import Answer, IResolver
from mailgate.observe.metrics import Metrics

__all__ = ["CountedResolver", "IClosableResolver"]


class IClosableResolver(Protocol):
    """An IResolver that ends."""

    def resolve(self, name: str, rdtype: str) -> Answer | Awaitable[Answer]: ...

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer | Awaitable[Answer]: ...

    def close(self) -> None: ...


@implementer(IResolver)
class CountedResolver:
    """Answers as `resolver` does. What it answers at once came from memory."""

    def __init__(self, resolver: IClosableResolver, metrics: Metrics, now: Callable[[], float]) -> None:
        self._resolver = resolver
        self._metrics = metrics
        self._now = now

    def resolve(self, name: str, rdtype: str) -> Answer | Awaitable[Answer]:
        return self._counted(rdtype, self._resolver.resolve(name, rdtype))

    def reverse(self, address: IPv4Address | IPv6Address) -> Answer | Awaitable[Answer]:
        return self._counted("PTR", self._resolver.reverse(address))

    def close(self) -> None:
        """End."""
        self._resolver.close()

    def _counted(self, rdtype: str, answer: Answer | Awaitable[Answer]) -> Answer | Deferred[Answer]:
        if isinstance(answer, Answer):
            self._metrics.asked_dns(rdtype, answer.status.value, None)
            return answer
        began = self._now()

        def count(result: Answer | Failure) -> Answer | Failure:
            # Where nobody waits any more, that is a failure here.
            status = result.status.value if isinstance(result, Answer) else "abandoned"
            self._metrics.asked_dns(rdtype, status, self._now() - began)
            return result

        waiting: Deferred[Answer] = as_deferred(answer)
        waiting.addBoth(count)
        return waiting
