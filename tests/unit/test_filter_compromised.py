"""The filter compromised: what speaks for a stolen account, what is done, and how that ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Identity, Session
from mailgate.events import AccountSuspected, Bounced, Refused
from mailgate.filters.compromised import Compromised, CompromisedResult, Options, build
from mailgate.filters.geo import GeoResult
from mailgate.pipeline.registry import FilterMaker
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import (
    EventRecorder,
    FilterContract,
    Occasion,
    message,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.verdict import Continue, Quarantine, Reject, Verdict
from mailgate.web.account_models import AccountRelease
from mailgate.web.accounts import AccountOperations
from tests.unit.later import LaterCounters

NOW = 1_800_000_000
HOUR = 3600.0
ANN = Identity("Ann@example.org", "PLAIN")


class Desk:
    def __init__(self, *, later: bool = False, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.events = EventRecorder()
        self.counters = LaterCounters(self.clock, 50_000) if later else MemoryCounters(self.clock, 50_000)
        self.filter = self.another(**options)
        self.number = 0
        self.last: Verdict | None = None

    def another(self, **options: Any) -> Compromised:
        given = services(clock=self.clock, counters=self.counters, events=self.events)
        built = build(Options.model_validate(options), given)
        assert isinstance(built, Compromised)
        return built

    def session(self, client: str = "192.0.2.1", country: str = "", identity: Identity | None = ANN) -> Session:
        self.number += 1
        one = session(client, id=f"S{self.number}", identity=identity)
        self.filter.on_connect(one)
        if country:
            one.evidence.add(GeoResult(country))
        return one

    def sends(self, recipients: int = 1, one: Session | None = None) -> str:
        """What becomes of a message: "", or the word of the verdict. Its queue id is that of `number`."""
        one = one or self.session()
        self.number += 1
        mail = transaction(id=f"Q{self.number}")
        asked: list[Any] = [lambda: self.filter.on_mail(one, mail)]
        asked += [lambda: self.filter.on_rcpt(one, mail, recipient())] * recipients
        asked.append(lambda: self.filter.on_message(one, mail, message()))
        for ask in asked:
            self.last = wait_for(ask(), self.clock)
            if isinstance(self.last, Continue):
                mail.evidence.extend(self.last.evidence)
            elif self.last is not None:
                return type(self.last).__name__.lower()
        return ""

    def bounces(self, count: int, category: str = "policy", identity: str = ANN.name) -> None:
        """Recipients of the last message of this identity, whoever has delivered it."""
        for _ in range(count):
            self.filter.observe(
                Bounced(
                    at=0.0,
                    queue_id=f"Q{self.number}",
                    sender="ann@example.org",
                    recipient="x@y.test",
                    route="out",
                    host="mx",
                    reply="550 5.1.1 no",
                    attempt=1,
                    seconds=0.1,
                    reason="",
                    category=category,
                    identity=identity,
                )
            )

    def refused(self, one: Session, stage: str, reply: str, user: str = "", times: int = 1) -> None:
        fields = {"client": "c", "listener": "l", "helo": "h", "filter": "", "reason": "r", "user": user}
        for _ in range(times):
            self.filter.observe(Refused(at=0.0, session=one.id, stage=stage, reply=reply, **fields))  # type: ignore[arg-type]  # texts

    def suspected(self) -> list[AccountSuspected]:
        return self.events.of(AccountSuspected)


@pytest.mark.parametrize("later", [False, True])
def test_more_recipients_than_the_account_ever_has(later: bool) -> None:
    desk = Desk(later=later)
    assert desk.sends(100) == ""
    assert desk.sends(1) == "quarantine"
    assert desk.last == Quarantine(
        "Ann@example.org is suspected: recipients 101 in 1h, limit 100 (usually 0.0)", evidence=()
    )
    (event,) = desk.suspected()
    assert (event.user, event.action, event.until) == ("Ann@example.org", "quarantine", NOW + 86400.0)
    assert event.signals == ("recipients 101 in 1h, limit 100 (usually 0.0)",)
    assert desk.sends() == "quarantine"
    assert len(desk.suspected()) == 1
    assert desk.sends(1, desk.session(identity=Identity("bob@example.org", "PLAIN"))) == ""


def test_an_account_that_has_always_sent_much_may_go_on() -> None:
    desk = Desk()
    for _ in range(30):
        assert desk.sends(90) == ""
        desk.clock.advance(HOUR)
    assert desk.sends(800) == ""
    assert desk.sends(110) == "quarantine"
    assert "usually 90.0" in desk.suspected()[0].signals[0]


def test_a_flood_does_not_become_what_is_usual() -> None:
    desk = Desk(action="notify", lock="1m")
    for _ in range(20):
        assert desk.sends(20) == ""
        desk.clock.advance(HOUR)
    for _ in range(3):
        desk.sends(1000)
        desk.clock.advance(HOUR)
    assert len(desk.suspected()) >= 3
    usual = float(desk.suspected()[-1].signals[0].partition("usually ")[2].rstrip(")"))
    assert usual < 100


def test_bounces_are_counted_for_who_sent_the_message() -> None:
    desk = Desk(bounces=5, unknown_recipients=3)
    assert desk.sends() == ""
    desk.bounces(4)
    desk.bounces(50, "expired")
    assert desk.sends() == ""
    desk.bounces(1)
    assert desk.sends() == "quarantine"
    assert desk.suspected()[0].signals == ("bounces 5 in 1h, limit 5",)
    desk = Desk(bounces=0, unknown_recipients=3)
    desk.sends()
    desk.bounces(100)
    desk.bounces(3, "no-such-user")
    desk.bounces(3, "no-such-user", "192.0.2.1")
    desk.bounces(3, "no-such-user", "")
    assert desk.sends() == "quarantine"
    assert desk.suspected()[0].signals == ("unknown-recipients 3 in 1h, limit 3",)


def test_recipients_that_are_refused_here_are_counted() -> None:
    desk = Desk(unknown_recipients=3)
    one = desk.session()
    assert desk.sends(1, one) == ""
    desk.refused(one, "rcpt", "550 5.1.1 no such user", times=2)
    desk.refused(one, "rcpt", "550 5.7.1 no", times=9)
    assert desk.sends(1, one) == ""
    desk.refused(one, "rcpt", "550 5.1.1 no such user")
    assert desk.sends(1, one) == "quarantine"


def test_weak_signals_take_two() -> None:
    desk = Desk(networks=3, countries=2)
    for number in range(8):
        assert desk.sends(1, desk.session(f"192.0.{number}.1", "AT")) == ""
    assert desk.sends(1, desk.session("192.0.20.1", "DE")) == ""
    assert desk.sends(1, desk.session("192.0.21.1", "BR")) == "quarantine"
    (event,) = desk.suspected()
    assert event.signals == (
        "networks 10 in 1d, limit 3 (now 192.0.21.0/24)",
        "countries 3 in 1d, limit 2 (now BR)",
    )


def test_one_network_counts_once() -> None:
    desk = Desk(networks=2, countries=1)
    for country in ("AT", "DE"):
        for number in range(50):
            assert desk.sends(1, desk.session(f"192.0.2.{number}", country)) == ""


def test_a_login_from_where_the_password_was_guessed() -> None:
    desk = Desk(wrong_passwords=5, countries=1)
    guesser = desk.session("198.51.100.7", "BR", None)
    desk.refused(guesser, "auth", "535 5.7.8 no", "ANN@example.org", times=5)
    desk.refused(guesser, "auth", "454 4.7.0 later", "bob@example.org", times=50)
    assert desk.sends(1, desk.session("192.0.2.1", "AT")) == ""
    # guesses from elsewhere lock nobody out
    assert desk.sends(1, desk.session("192.0.2.1", "AT")) == ""
    assert desk.sends(1, desk.session("198.51.100.9", "BR")) == "quarantine"
    assert desk.suspected()[0].signals == (
        "countries 2 in 1d, limit 1 (now BR)",
        "wrong-passwords 5 in 1h, limit 5 (198.51.100.0/24)",
    )


def test_refusing_slowing_down_and_telling_only() -> None:
    desk = Desk(action="refuse")
    assert desk.sends(101) == "reject"
    assert isinstance(desk.last, Reject)
    assert str(desk.last.reply).startswith("550 5.7.1 This account is suspended")
    assert desk.sends() == "reject"
    desk = Desk(action="slow", delay="5s")
    desk.sends(101)
    before = desk.clock.seconds()
    assert desk.sends(2) == ""
    assert 15 <= desk.clock.seconds() - before < 16
    desk = Desk(action="notify", notify=["user", "postmaster@example.org"])
    assert desk.sends(101) == ""
    assert desk.suspected()[0].notify == ("Ann@example.org", "postmaster@example.org")
    assert desk.sends() == ""
    assert len(desk.suspected()) == 1


def test_it_ends_by_itself() -> None:
    desk = Desk(lock="2h")
    assert desk.sends(101) == "quarantine"
    desk.clock.advance(2 * HOUR)
    assert desk.sends() == ""


def test_it_ends_when_the_account_is_exempt(tmp_path: Path) -> None:
    path = tmp_path / "cleared"
    path.write_text("# nobody\n")
    desk = Desk(exempt_files=[str(path)])
    assert desk.sends(101) == "quarantine"
    path.write_text("ann@EXAMPLE.org  # new password\n")
    desk.clock.advance(2)
    assert desk.sends() == ""
    assert desk.suspected()[-1].action == "release"
    path.write_text("")
    desk.clock.advance(HOUR)
    assert desk.sends() == ""
    desk = Desk(exempt=["ann@*"])
    assert desk.sends(500) == ""


def test_what_led_to_it_does_not_count_once_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "cleared"
    path.write_text("# nobody\n")
    desk = Desk(exempt_files=[str(path)], bounces=5, countries=1, networks=1)

    def clear() -> None:
        path.write_text("ann@example.org\n")
        desk.clock.advance(2)
        assert desk.sends() == ""
        path.write_text("# nobody\n")
        desk.clock.advance(2)

    assert desk.sends(101) == "quarantine"
    clear()
    assert desk.sends(50) == ""
    desk.bounces(5)
    assert desk.sends() == "quarantine"
    clear()
    assert [desk.sends(one=desk.session(f"192.0.{number}.1", f"C{number}")) for number in range(2)] == [
        "",
        "quarantine",
    ]
    clear()
    assert desk.sends() == ""
    # and it may be suspected again, once for all
    assert desk.sends(101) == "quarantine"
    assert [one.action for one in desk.suspected()] == ["quarantine", "release"] * 3 + ["quarantine"]


def test_what_usually_is_sent_is_known_after_it_has_ended() -> None:
    desk = Desk()
    for _ in range(24 * 5):
        desk.sends(40)
        desk.clock.advance(HOUR)
    assert desk.sends(410) == "quarantine"
    cleared = desk.another(exempt=["ann@*"])
    wait_for(cleared.on_mail(desk.session(), transaction()), desk.clock)
    assert desk.sends(300) == ""


def test_bounces_count_whoever_delivers() -> None:
    """Another worker than that which has taken the mail, and the one after a restart."""
    desk = Desk(bounces=5)
    desk.sends()
    for _ in range(5):
        desk.filter = desk.another(bounces=5)
        desk.bounces(1)
    assert desk.sends() == "quarantine"


def test_bounces_of_clients_by_address() -> None:
    scanner = Identity("192.0.2.1", "network")
    for networks_too, verdict in ((False, ""), (True, "quarantine")):
        desk = Desk(bounces=5, networks_too=networks_too)
        desk.bounces(5, identity="192.0.2.1")
        assert desk.sends(1, desk.session(identity=scanner)) == verdict
    desk = Desk(bounces=5)
    desk.bounces(5, identity="192.0.2.1")
    assert desk.counters.peek("compromised bounces 192.0.2.1", HOUR) == 0


def test_who_is_watched() -> None:
    desk = Desk()
    assert desk.sends(500, desk.session(identity=None)) == ""
    scanner = Identity("192.0.2.1", "network")
    assert desk.sends(500, desk.session(identity=scanner)) == ""
    desk = Desk(networks_too=True)
    assert desk.sends(500, desk.session(identity=scanner)) == "quarantine"


def test_workers_share_what_they_know() -> None:
    desk = Desk()
    other = Desk()
    other.clock, other.counters, other.events = desk.clock, desk.counters, desk.events
    other.filter = other.another()
    assert [desk.sends(50), other.sends(50), desk.sends(1), other.sends(1)] == ["", "", "quarantine", "quarantine"]
    assert len(desk.suspected()) == 1


def accounts(desk: Desk) -> AccountOperations:
    return AccountOperations(desk.counters, desk.events, desk.clock.seconds)


@pytest.mark.parametrize("later", [False, True])
def test_an_administrator_sees_and_ends_it(later: bool) -> None:
    desk = Desk(later=later, bounces=5)
    assert desk.sends(101) == "quarantine"
    seen = wait_for(accounts(desk).list(), desk.clock)
    (one,) = seen.accounts
    assert (one.name, one.action, one.until - one.since) == ("Ann@example.org", "quarantine", 86400.0)
    assert one.signals == ("recipients 101 in 1h, limit 100 (usually 0.0)",)
    desk.bounces(5)
    release = AccountRelease(name="ANN@example.org", by="token ops")
    assert wait_for(accounts(desk).release(release), desk.clock).was_suspected
    told = desk.suspected()[-1]
    assert (told.user, told.action, told.by) == ("Ann@example.org", "release", "token ops")
    assert wait_for(accounts(desk).list(), desk.clock).accounts == ()
    # What led to it does not count any more, and what comes does.
    assert desk.sends(50) == ""
    assert not wait_for(accounts(desk).release(release), desk.clock).was_suspected
    desk.bounces(5)
    assert desk.sends() == "quarantine"
    assert len(wait_for(accounts(desk).list(), desk.clock).accounts) == 1


def test_suspected_accounts_beyond_those_that_are_listed() -> None:
    desk = Desk(volume_least=1, lock="1h")
    names = [f"u{number}@example.org" for number in range(201)]
    for name in names:
        assert desk.sends(2, desk.session(identity=Identity(name, "PLAIN"))) == "quarantine"
    seen = wait_for(accounts(desk).list())
    assert (len(seen.accounts), seen.is_all) == (200, False)
    # One that is not listed can be released as well, and the place of one that was is free.
    for name in ("u200@example.org", "u7@example.org"):
        assert wait_for(accounts(desk).release(AccountRelease(name=name))).was_suspected
    seen = wait_for(accounts(desk).list())
    assert (len(seen.accounts), seen.is_all) == (199, True)
    assert desk.sends(2, desk.session(identity=Identity("new@example.org", "PLAIN"))) == "quarantine"
    assert "new@example.org" in [one.name for one in wait_for(accounts(desk).list()).accounts]
    desk.clock.advance(HOUR)
    assert wait_for(accounts(desk).list()).accounts == ()


def test_a_name_without_end_is_no_key_without_end() -> None:
    desk = Desk()
    name = "x" * 100_000
    assert desk.sends(101, desk.session(identity=Identity(name, "PLAIN"))) == "quarantine"
    assert isinstance(desk.counters, MemoryCounters)
    assert desk.counters._values.octets < 5000


def test_a_value_that_nobody_can_read_suspects() -> None:
    desk = Desk()
    desk.counters.put("compromised state ann@example.org", b"\xff", 60.0)
    assert desk.sends() == "quarantine"


@pytest.mark.parametrize("options", [{"delay": "10s"}, {"lock": "1s"}, {"action": "bounce"}, {"volume_factor": 0.5}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


def test_the_evidence_says_which_signal() -> None:
    found = CompromisedResult("ann", ("recipients 101 in 1h, limit 100", "networks 9 in 1d, limit 3"), "notify")
    assert found.facts() == ("compromised", "compromised.recipients", "compromised.networks")
    assert found.summary() == "compromised=notify ann: recipients 101 in 1h, limit 100; networks 9 in 1d, limit 3"


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 60)), max_size=12))
def test_nobody_is_suspected_who_keeps_below_the_least(steps: list[tuple[int, int]]) -> None:
    desk = Desk()
    sent: list[tuple[float, int]] = []
    for seconds, recipients in steps:
        desk.clock.advance(seconds)
        now = desk.clock.seconds()
        recent = sum(count for at, count in sent if now - at <= 1.2 * HOUR)
        if recent + recipients <= 100:
            sent.append((now, recipients))
            assert desk.sends(recipients) == ""


class TestContract(FilterContract):
    factory = FilterMaker("compromised", "mailgate.filters.compromised", "x")
    settings = {"volume_least": 1}  # noqa: RUF012
    varies = "it counts"

    def occasions(self) -> list[Occasion]:
        return [Occasion(), *(Occasion(session=session(identity=ANN)) for _ in range(3))]
