"""Early talkers: who waits, for how long, and who is sent away."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import iscoroutine
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgate.envelope import Client
from mailgate.filters.early_talker import EarlyTalker, Options, build
from mailgate.interfaces import ICounters
from mailgate.plugins import builtin
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import FilterContract, Occasion, services, session, wait_for
from mailgate.verdict import Disconnect, Verdict

STRANGER = "203.0.113.9"


@implementer(ICounters)
class Later(MemoryCounters):
    """Counters that answer with a Deferred, as those of another machine do."""

    def hit(self, key: str, window: float, amount: int = 1) -> Deferred[int]:  # type: ignore[override]  # so may any
        return succeed(super().hit(key, window, amount))

    def peek(self, key: str, window: float) -> Deferred[int]:  # type: ignore[override]  # as above
        return succeed(super().peek(key, window))


class Watch:
    """A filter with its clock: `ask` says what came of a connection, and after how long."""

    def __init__(self, *, later: bool = False, **options: Any) -> None:
        self.clock = Clock()
        counters = (Later if later else MemoryCounters)(self.clock, 1000)
        built = build(Options.model_validate(options), services(clock=self.clock, counters=counters))
        assert isinstance(built, EarlyTalker)
        self.filter = built

    def ask(self, client: Client | str = STRANGER, early_octets: int = 0) -> tuple[Verdict | None, float]:
        started = self.clock.seconds()
        verdict = wait_for(self.filter.on_connect(session(client, helo="", early_octets=early_octets)), self.clock)
        return verdict, round(self.clock.seconds() - started, 6)


@pytest.mark.parametrize("later", [False, True])
def test_a_stranger_waits_once_and_is_remembered(later: bool) -> None:
    watch = Watch(wait="2s", remember="1h", later=later)
    first, waited = watch.ask()
    assert first is None
    assert waited >= 2
    assert watch.ask()[1] < 1
    assert watch.ask("203.0.113.10")[1] >= 2
    watch.clock.advance(2 * 3600)
    assert watch.ask()[1] >= 2


def test_the_hosts_of_one_ipv6_network_are_one_client() -> None:
    watch = Watch()
    assert watch.ask("2001:db8:1:2::1")[1] >= 1
    assert watch.ask("2001:db8:1:2::2")[1] == 0
    assert watch.ask("2001:db8:1:3::1")[1] >= 1


def test_nothing_is_remembered_where_it_is_not_wanted() -> None:
    watch = Watch(remember="0s")
    assert watch.ask()[1] >= 1
    assert watch.ask()[1] >= 1


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "10.0.0.1", "192.168.7.7", "fd00::7", Client(None)])
def test_local_clients_never_wait(client: Client | str) -> None:
    assert Watch().ask(client) == (None, 0)


def test_exempt_networks_replace_the_local_ones() -> None:
    watch = Watch(exempt=["203.0.113.0/24"])
    assert watch.ask()[1] == 0
    assert watch.ask("10.0.0.1")[1] >= 1


@pytest.mark.parametrize("options", [{}, {"wait": "0s"}, {"exempt": [STRANGER]}])
def test_who_has_spoken_is_sent_away_at_once(options: dict[str, Any]) -> None:
    verdict, waited = Watch(**options, text="Wait for your turn").ask(early_octets=6)
    assert waited == 0
    assert isinstance(verdict, Disconnect)
    assert verdict.reply.to_bytes() == b"554 Wait for your turn\r\n"
    assert "6 octets" in verdict.reason


@pytest.mark.parametrize("later", [False, True])
def test_who_speaks_while_waiting_is_sent_away_and_not_remembered(later: bool) -> None:
    watch = Watch(wait="2s", later=later)
    stranger = session(STRANGER)
    answer = watch.filter.on_connect(stranger)
    watch.clock.advance(1)
    stranger.early_octets = 27
    assert isinstance(wait_for(answer, watch.clock), Disconnect)
    assert watch.ask()[1] >= 2


def test_a_client_that_has_hung_up_leaves_nothing_behind() -> None:
    watch = Watch()
    answer = watch.filter.on_connect(session(STRANGER))
    results: list[object] = []
    assert iscoroutine(answer)
    deferred: Deferred[object] = Deferred.fromCoroutine(answer)
    deferred.addErrback(lambda failure: results.append(failure.type))
    deferred.cancel()
    assert results == [CancelledError]
    assert watch.clock.getDelayedCalls() == []
    assert watch.ask()[1] >= 1


def test_no_wait_that_outlasts_the_deadline() -> None:
    with pytest.raises(ValidationError, match="at most 9s"):
        Options.model_validate({"wait": "10s"})


class TestContract(FilterContract):
    factory = builtin.early_talker
    varies = "a client that has waited is remembered"

    def occasions(self) -> Iterable[Occasion]:
        return [
            Occasion(session=session(STRANGER, helo="")),
            Occasion(session=session("127.0.0.1", helo="")),
            Occasion(session=session(STRANGER, helo="", early_octets=3)),
        ]
