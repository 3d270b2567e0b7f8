"""A back end that refuses this gateway, and the relay: its route rests, nothing is returned, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail

from mailgate.events import BackEndRefuses, Bounced, Delivered, SuspensionChanged
from mailgate.interfaces import SpoolError, Suspension
from mailgate.relay.attempt import ConnectFailedError, Result
from mailgate.reply import Reply
from mailgate.testing import wait_for
from tests.unit.relaying import OK, Connection, Recipients, by_domain, failures_logged, results
from tests.unit.test_relay_orders import resume, suspend
from tests.unit.test_relay_service import Bench

ROUTES: dict[str, Any] = {
    "exchange": {"transport": "smtp", "hosts": ["192.0.2.1"], "preset": "exchange-online"},
    "out": {"transport": "smtp", "hosts": ["192.0.2.2"]},
}
BANNED = Reply.of(550, "5.7.606", "Access denied, banned sending IP [192.0.2.9]")
TENANT = Reply.of(550, "5.7.64", "TenantAttribution; Relay Access Denied SMTP")


@pytest.fixture
def bench() -> Bench:
    bench = Bench(routes=ROUTES)
    bench.hop.answer = by_domain({"corp.test": TENANT})
    return bench


def send(bench: Bench, count: int, route: str = "exchange") -> None:
    for _ in range(count):
        bench.accept("bob@corp.test", route=route)
        bench.pump()


def suspensions(bench: Bench) -> list[Suspension]:
    return list(wait_for(bench.spool.suspensions()))


def test_the_route_rests_and_goes_on_where_it_is_resumed(bench: Bench, recwarn: pytest.WarningsRecorder) -> None:
    send(bench, 5)
    assert not recwarn.list
    (one,) = suspensions(bench)
    assert (one.kind, one.name, one.until - bench.clock.seconds()) == ("route", "exchange", 1800.0)
    assert "5.7.64" in one.reason
    (told,) = bench.events.of(SuspensionChanged)
    assert (told.name, told.is_suspended, told.until, told.reason) == ("exchange", True, one.until, one.reason)
    assert len(bench.hop.asked) == 3
    assert len(bench.events.of(BackEndRefuses)) == 1
    bench.hop.answer = lambda connection, recipients: results(recipients)
    resume(bench, "route", "exchange")
    assert len(bench.events.of(Delivered)) == 2
    bench.pump(400)  # those that were asked for have a time of their own
    assert len(bench.events.of(Delivered)) == 5
    assert bench.events.of(Bounced) == []


def test_it_ends_by_itself_and_one_message_finds_out_that_nothing_is_mended(bench: Bench) -> None:
    send(bench, 3)
    asked = len(bench.hop.asked)
    bench.pump(1799)
    assert len(bench.hop.asked) == asked
    bench.pump(60)
    bench.pump(3600)
    assert len(bench.hop.asked) > asked
    assert suspensions(bench)[0].until > bench.clock.seconds() - 3600
    assert len(bench.events.of(SuspensionChanged)) >= 2
    assert bench.events.of(Bounced) == []


def test_other_routes_go_on(bench: Bench) -> None:
    send(bench, 3)
    bench.hop.answer = lambda connection, recipients: results(recipients, OK)
    send(bench, 1, "out")
    assert len(bench.events.of(Delivered)) == 1


def test_what_an_administrator_has_suspended_stays_as_it_is(bench: Bench) -> None:
    suspend(bench, "route", "exchange", reason="maintenance")
    bench.relay._orders.alarm("exchange", "refused")
    bench.pump()
    assert [one.reason for one in suspensions(bench)] == ["maintenance"]


def test_a_spool_that_cannot_write_costs_the_rest_and_no_mail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(suspension: Suspension) -> Deferred[None]:
        return fail(SpoolError("no"))

    monkeypatch.setattr(bench.spool, "suspend", refuse)
    with failures_logged() as told:
        send(bench, 3)
    assert told == ["no"]
    assert (suspensions(bench), bench.events.of(Bounced)) == ([], [])
    monkeypatch.undo()
    send(bench, 1)
    assert len(suspensions(bench)) == 1


def test_a_connector_that_refuses_the_session_is_an_alarm_too(bench: Bench) -> None:
    bench.hop.connecting = lambda target: ConnectFailedError(target, BANNED, f"greeting refused: {BANNED}")
    send(bench, 2)
    (told,) = bench.events.of(BackEndRefuses)
    assert (told.route, told.recipient, told.reply) == ("exchange", "bob@corp.test", str(BANNED))
    send(bench, 1, "out")
    assert len(bench.events.of(BackEndRefuses)) == 1
    assert (bench.events.of(Bounced), suspensions(bench)) == ([], [])


def test_the_smallest_size_that_a_host_has_told_is_known(bench: Bench) -> None:
    assert bench.relay.sizes.limit(["out"], 10**8) == 10**8
    connect = bench.hop._connected

    def small(target: Any) -> Any:
        connection = connect(target)
        connection.max_size = 10**6
        return connection

    bench.hop._connected = small  # type: ignore[method-assign]
    send(bench, 1, "out")
    assert bench.relay.sizes.limit(["out"], 10**8) == 10**6 - 16 * 1024


# -- one recipient of many

NOT_FOUND = Reply.of(550, "5.1.10", "RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup")


def test_who_has_been_served_is_written_while_others_are_asked_about(bench: Bench) -> None:
    held: Deferred[list[Result]] = Deferred()

    def answer(connection: Connection, recipients: Recipients) -> list[Result] | Deferred[list[Result]]:
        names = {one.address.local_part for one in recipients}
        if names == {"c", "d"}:
            return held
        if "d" in names:
            return [replace(one, is_shared=True) for one in results(recipients, NOT_FOUND)]
        return results(recipients)

    bench.hop.answer = answer
    bench.accept("a@corp.test", "b@corp.test", "c@corp.test", "d@corp.test", route="exchange", sender="")
    bench.pump()
    assert [one.recipient for one in bench.events.of(Delivered)] == ["a@corp.test", "b@corp.test"]
    assert [one.recipient for one in bench.view()] == ["c@corp.test", "d@corp.test"]
    refused = bench.hop.asked[-1][1]
    bench.hop.answer = lambda connection, recipients: (
        [replace(one, is_shared=True) for one in results(recipients, NOT_FOUND)]
        if any(one.address.local_part == "d" for one in recipients)
        else results(recipients)
    )
    held.callback([replace(one, is_shared=True) for one in results(refused, NOT_FOUND)])
    bench.pump()
    assert [one.recipient for one in bench.events.of(Delivered)][2:] == ["c@corp.test"]
    assert [one.recipient for one in bench.events.of(Bounced)] == ["d@corp.test"]
    assert bench.view() == []
    assert bench.relay.room.taken == 0
