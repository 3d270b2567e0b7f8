"""Lists in DNS: what counts as a hit, what hits come to, and lists that are slow, broken, or list the world."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from mailgate.awaiting import as_deferred
from mailgate.envelope import Client, Identity, Session, Transaction
from mailgate.filters.dnsbl import Dnsbl, ListedResult, ListsSilentError, Options, SilentResult, build
from mailgate.filters.dnsbl_lists import parse_replies
from mailgate.interfaces import IConnectFilter, IHeloFilter, IMailFilter, IRecipientFilter
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import (
    FilterContract,
    MemoryResolver,
    Occasion,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict
from tests.unit.slow_dns import SlowResolver

FACTORY = FilterMaker("dnsbl", "mailgate.filters.dnsbl", "asks lists in DNS about clients and domains")

BAD, GOOD, BAD6 = "198.51.100.7", "198.51.100.8", "2001:db8::7"
NIBBLES = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
TEST6 = "2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0"


def listing(zone: str, *labels: str, code: str = "127.0.0.2", text: str = "") -> dict[str, Any]:
    """A list that passes its tests and lists these labels."""
    entry: dict[str, Any] = {"A": [code]}
    if text:
        entry["TXT"] = [text]
    return {
        zone: {"NS": ["ns.example"]},
        **{f"{label}.{zone}": {"A": ["127.0.0.2"]} for label in ("2.0.0.127", "test", TEST6)},
        **{f"{label}.{zone}": entry for label in labels},
    }


WORLD = {
    **listing("bl.example", "7.100.51.198", NIBBLES, text="See https://bl.example/198.51.100.7"),
    **listing("second.example", "7.100.51.198", code="127.0.0.10"),
    **listing("clean.example"),
    **listing("wl.example", "7.100.51.198", code="127.0.5.3"),
    **listing("dbl.example", "spam.example", "mail.spam.example", "client.example", code="127.0.1.2"),
}


class Desk:
    """The filter and a session; each stage's answer adds its evidence, as the pipeline does."""

    def __init__(
        self,
        *zones: str | Mapping[str, object],
        world: Mapping[str, Any] | None = None,
        client: Client | str = BAD,
        seconds: float = 0.0,
        delays: Mapping[str, float] | None = None,
        helo: str = "mx.nobody.example",
        identity: Identity | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        zone = WORLD if world is None else world
        self.resolver = SlowResolver(zone, self.clock, seconds, delays) if seconds or delays else MemoryResolver(zone)
        built = build(
            Options.model_validate({"zones": zones, **options}),
            services(clock=self.clock, resolver=self.resolver),
        )
        assert isinstance(built, Dnsbl)
        self.filter = built
        if isinstance(client, str):
            client = Client(session(client).client.address)
        self.session = session(client, helo=helo, identity=identity)
        self.transaction: Transaction = transaction("ann@nobody.example")

    def another(self, client: str) -> Session:
        """Go on with the session of another client."""
        self.session = session(Client(session(client).client.address), helo="mx.nobody.example")
        return self.session

    def connect(self) -> Verdict | None:
        return self._wait(self.filter.on_connect(self.session), self.session)

    def helo(self, name: str = "") -> Verdict | None:
        self.session.helo = name or self.session.helo
        return self._wait(self.filter.on_helo(self.session), self.session)

    def mail(self, sender: str = "ann@nobody.example") -> Verdict | None:
        self.transaction = transaction(sender)
        return self._wait(self.filter.on_mail(self.session, self.transaction), self.transaction)

    def rcpt(self, address: str = "bob@example.org") -> Verdict | None:
        return self.filter.on_rcpt(self.session, self.transaction, recipient(address))

    def hits(self) -> list[ListedResult]:
        return [*self.session.evidence.all(ListedResult), *self.transaction.evidence.all(ListedResult)]

    def silent(self) -> list[SilentResult]:
        return list(self.session.evidence.all(SilentResult))

    def _wait(self, answer: Verdict | Awaitable[Verdict | None] | None, about: Session | Transaction) -> Verdict | None:
        verdict = wait_for(answer, self.clock)
        for one in getattr(verdict, "evidence", ()):
            about.evidence.add(one)
        return verdict


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """What is logged as a warning, or as good news of a list."""
    events: list[LogEvent] = []

    watch = LogWatch(events)
    globalLogPublisher.addObserver(watch)
    yield events
    globalLogPublisher.removeObserver(watch)


@implementer(ILogObserver)
class LogWatch:
    def __init__(self, events: list[LogEvent]) -> None:
        self.events = events

    def __call__(self, event: LogEvent) -> None:
        if event["log_level"] in (LogLevel.warn, LogLevel.info) and "name" in event:
            self.events.append(event)


def test_a_listed_client_is_refused_at_rcpt_with_the_text_of_the_list() -> None:
    desk = Desk("bl.example")
    assert isinstance(desk.connect(), Continue)
    verdict = desk.rcpt()
    assert isinstance(verdict, Reject)
    assert verdict.reply.to_bytes() == (
        b"550 5.7.1 198.51.100.7 is listed by bl.example: See https://bl.example/198.51.100.7\r\n"
    )
    assert desk.hits() == [
        ListedResult("bl.example", BAD, ("127.0.0.2",), 1.0, "See https://bl.example/198.51.100.7", False, 0)
    ]
    assert desk.hits()[0].facts() == ("dnsbl.bl.example", "dnsbl.bl.example.127.0.0.2")
    assert "bl.example (127.0.0.2)" in verdict.reason


def test_at_once_refuses_instead_of_the_banner() -> None:
    verdict = Desk("bl.example", when="at-once").connect()
    assert isinstance(verdict, Disconnect)
    assert verdict.reply.to_bytes().startswith(b"554 198.51.100.7 is listed by bl.example")
    verdict = Desk("bl.example", when="at-once", verdict="defer", tell_text=False).connect()
    assert isinstance(verdict, Disconnect)
    assert verdict.reply.to_bytes() == b"421 198.51.100.7 is listed by bl.example\r\n"
    assert isinstance(verdict.evidence[0], ListedResult)


def test_defer_and_continue() -> None:
    desk = Desk("bl.example", verdict="defer")
    desk.connect()
    verdict = desk.rcpt()
    assert isinstance(verdict, Defer)
    assert verdict.reply.code == 450
    assert verdict.reply.status == "4.7.1"
    desk = Desk("bl.example", verdict="continue")
    desk.connect()
    assert desk.rcpt() is None
    assert len(desk.hits()) == 1


def test_a_client_that_no_list_has_leaves_nothing() -> None:
    desk = Desk("bl.example", "second.example", client=GOOD)
    assert desk.connect() is None
    assert desk.rcpt() is None
    assert desk.session.evidence == []


def test_ipv6_is_asked_by_its_nibbles_and_mapped_ipv4_as_ipv4() -> None:
    desk = Desk("bl.example", client=BAD6)
    desk.connect()
    assert [one.subject for one in desk.hits()] == [BAD6]
    assert (f"{NIBBLES}.bl.example", "A") in desk.resolver.asked
    desk = Desk("bl.example", client=f"::ffff:{BAD}")
    desk.connect()
    assert [one.subject for one in desk.hits()] == [BAD]


def test_weights_are_summed_up_to_the_threshold() -> None:
    first, second = {"zone": "bl.example", "weight": 0.1}, {"zone": "second.example", "weight": 0.2}
    desk = Desk(first, second, threshold=0.3)
    desk.connect()
    assert isinstance(desk.rcpt(), Reject)
    desk = Desk(first, second, threshold=0.31)
    desk.connect()
    assert desk.rcpt() is None


def test_a_zone_counts_by_its_answers() -> None:
    desk = Desk(
        {"zone": "second.example", "replies": ["127.0.0.2-9"], "weight": 5},
        {"zone": "second.example", "replies": ["127.0.0.[10;11]"], "weight": 2, "text": "Dynamic address"},
        threshold=2,
    )
    desk.connect()
    assert [(one.number, one.weight) for one in desk.hits()] == [(1, 2.0)]
    verdict = desk.rcpt()
    assert isinstance(verdict, Reject)
    assert verdict.reply.to_bytes() == b"550 5.7.1 Dynamic address\r\n"


@pytest.mark.parametrize(
    ("replies", "fit", "unfit"),
    [
        ("127.0.0.2", ["127.0.0.2"], ["127.0.0.3", "127.0.1.2"]),
        ("127.0.0.2-11", ["127.0.0.2", "127.0.0.11"], ["127.0.0.1", "127.0.0.12"]),
        ("127.0.0.[4..7]", ["127.0.0.4", "127.0.0.7"], ["127.0.0.3", "127.0.0.8"]),
        ("127.0.[0..1;9].[2;5..6]", ["127.0.9.6", "127.0.0.2"], ["127.0.2.2", "127.0.9.3"]),
        ("127.0.0-3.2", ["127.0.3.2"], ["127.0.4.2"]),
        ("127.0.0.16/28", ["127.0.0.16", "127.0.0.31"], ["127.0.0.15", "127.0.0.32"]),
        ("127.0.0.0/8", ["127.255.0.9"], ["128.0.0.2"]),
    ],
)
def test_the_forms_of_replies(replies: str, fit: Sequence[str], unfit: Sequence[str]) -> None:
    octets = parse_replies(replies)

    def matches(text: str) -> bool:
        return all(octet in values for octet, values in zip(IPv4Address(text).packed, octets, strict=True))

    assert all(map(matches, fit))
    assert not any(map(matches, unfit))


@pytest.mark.parametrize(
    "replies",
    ["", "127.0.0", "10.0.0.2", "127.0.0.256", "127.0.0.9-2", "127.0.0.[]", "127.0.0.2;3", "10.0.0.0/8", "127.0.0.1/8",
     "[127..128].0.0.2", "127.0.0.[2..]", "2001:db8::/32", "127.0.0.2/x"],
)  # fmt: skip
def test_what_is_no_reply(replies: str) -> None:
    with pytest.raises(ValueError, match=r"answer|no network"):
        parse_replies(replies)


@given(st.text(alphabet="0127.[];-/", max_size=40))
def test_any_text_is_replies_or_one_clear_error(text: str) -> None:
    try:
        octets = parse_replies(text)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  most texts are none
    else:
        assert len(octets) == 4
        assert octets[0] == {127}
        assert all(0 <= value <= 255 for values in octets for value in values)


@pytest.mark.parametrize("code", ["127.255.255.252", "127.255.255.254", "127.0.1.255", "127.0.0.1", "203.0.113.80"])
def test_an_answer_that_is_an_error_is_no_hit(code: str) -> None:
    world = {**WORLD, **listing("odd.example", "7.100.51.198", code=code)}
    desk = Desk("odd.example", "clean.example", world=world)
    desk.connect()
    assert desk.hits() == []
    assert desk.rcpt() is None
    assert [(one.zone, code in one.reason) for one in desk.silent()] == [("odd.example", True)]


def test_an_allow_list_spares_its_clients() -> None:
    desk = Desk("bl.example", {"zone": "wl.example", "allow": True})
    desk.connect()
    assert desk.rcpt() is None
    assert [one.facts()[0] for one in desk.hits()] == ["dnsbl.bl.example", "dnswl.wl.example"]
    assert [one.weight for one in desk.hits()] == [1.0, -1.0]


def test_an_allow_list_may_only_weigh() -> None:
    good = {"zone": "wl.example", "allow": True, "skip": False, "weight": -1}
    desk = Desk({"zone": "bl.example", "weight": 3}, good, threshold=2)
    desk.connect()
    assert isinstance(desk.rcpt(), Reject)
    desk = Desk({"zone": "bl.example", "weight": 2}, good, threshold=2)
    desk.connect()
    assert desk.rcpt() is None


def test_domains_are_looked_up_as_they_become_known() -> None:
    desk = Desk({"zone": "dbl.example", "kind": "domain"}, client=Client(IPv4Address(GOOD), 1, "mail.spam.example"))
    desk.connect()
    desk.helo("Spam.Example.")
    desk.mail("ann@nobody.example")
    assert [one.subject for one in desk.hits()] == ["mail.spam.example", "spam.example"]
    assert isinstance(desk.rcpt(), Reject)


@pytest.mark.parametrize("stage", ["helo", "mail"])
def test_domains_are_refused_at_once_where_that_is_wanted(stage: str) -> None:
    desk = Desk({"zone": "dbl.example", "kind": "domain"}, client=GOOD, when="at-once")
    verdict = desk.helo("spam.example") if stage == "helo" else desk.mail("ann@spam.example")
    assert isinstance(verdict, Reject)
    code = b"550 " if stage == "helo" else b"550 5.7.1 "
    assert verdict.reply.to_bytes() == code + b"spam.example is listed by dbl.example\r\n"


def test_one_list_counts_once_whatever_names_it_lists() -> None:
    desk = Desk({"zone": "dbl.example", "kind": "domain"}, client=GOOD, threshold=2)
    desk.helo("mail.spam.example")
    desk.mail("ann@spam.example")
    assert len(desk.hits()) == 2
    assert desk.rcpt() is None


def test_stages_are_summed_up() -> None:
    zones: tuple[Any, ...] = ("bl.example", {"zone": "dbl.example", "kind": "domain"})
    desk = Desk(*zones, threshold=2)
    desk.connect()
    desk.mail("ann@nobody.example")
    assert desk.rcpt() is None
    desk.mail("ann@spam.example")
    assert isinstance(desk.rcpt(), Reject)


def test_a_greeting_that_is_taken_back_counts_no_more() -> None:
    desk = Desk({"zone": "dbl.example", "kind": "domain"}, client=GOOD)
    desk.helo("spam.example")
    assert isinstance(desk.rcpt(), Reject)
    desk.helo("spam.example")
    assert len(desk.hits()) == 1
    desk.helo("honest.example")
    assert desk.rcpt() is None


@pytest.mark.parametrize("name", ["[198.51.100.7]", "198.51.100.7", "localhost", "mx.example.org", "example.org", ""])
def test_names_that_are_no_strangers_domain_are_not_looked_up(name: str) -> None:
    desk = Desk({"zone": "dbl.example", "kind": "domain"}, client=GOOD, helo="")
    assert desk.helo(name) is None
    assert desk.mail("") is None
    assert desk.mail("bob@example.org") is None
    assert desk.resolver.asked == []


@pytest.mark.parametrize(
    "client", ["127.0.0.1", "10.1.2.3", "::1", "fd00::1", "203.0.113.1", "0.0.0.0", Client(None)]  # noqa: S104  no bind
)  # fmt: skip
def test_local_and_exempt_clients_are_not_looked_up(client: Client | str) -> None:
    desk = Desk("bl.example", {"zone": "dbl.example", "kind": "domain"}, client=client, exempt=["203.0.113.0/24"])
    assert (desk.connect(), desk.helo("spam.example"), desk.mail("ann@spam.example")) == (None, None, None)
    assert desk.resolver.asked == []


def test_who_has_logged_in_is_spared() -> None:
    desk = Desk("bl.example")
    desk.connect()
    desk.session.identity = Identity("ann", "PLAIN")
    assert desk.rcpt() is None
    assert desk.helo("spam.example") is None
    assert Desk("bl.example", identity=Identity(BAD, "network")).connect() is None


def test_the_postmaster_can_be_reached() -> None:
    desk = Desk("bl.example", reachable=["postmaster", "abuse"])
    desk.connect()
    for address in ("Postmaster@example.org", "abuse@example.org", "postmaster@mx.example.org"):
        assert desk.rcpt(address) is None
    assert isinstance(desk.rcpt("postmaster@elsewhere.example"), Reject)
    assert isinstance(desk.rcpt(), Reject)


def test_all_lists_are_asked_at_the_same_time() -> None:
    zones = [f"list{number}.example" for number in range(8)]
    world = {key: value for zone in zones for key, value in listing(zone, "7.100.51.198").items()}
    desk = Desk(*({"zone": zone, "self_test": False} for zone in zones), world=world, seconds=1.0, tell_text=False)
    desk.connect()
    assert len(desk.hits()) == 8
    assert desk.clock.seconds() < 2


def test_a_slow_list_is_left_behind_and_the_others_decide() -> None:
    desk = Desk("bl.example", {"zone": "second.example", "deadline": "1s"}, delays={"second.example": 30.0})
    desk.connect()
    assert desk.clock.seconds() < 2
    assert [(one.zone, one.reason) for one in desk.silent()] == [("second.example", "no answer: timeout")]
    assert isinstance(desk.rcpt(), Reject)


def test_a_hit_whose_text_is_late_is_a_hit() -> None:
    zone = {"zone": "bl.example", "deadline": "2s"}

    class Slow(SlowResolver):
        def resolve(self, name: str, rdtype: str) -> Deferred[Any]:
            return self._later(self.known.resolve(name, rdtype), 30.0 if rdtype == "TXT" else 0.5)

    desk = Desk(zone, seconds=1.0)
    slow = Slow(WORLD, desk.clock)
    built = build(Options.model_validate({"zones": [zone]}), services(clock=desk.clock, resolver=slow))
    assert isinstance(built, Dnsbl)
    desk.filter = built
    desk.connect()
    assert desk.clock.seconds() < 3
    assert [one.text for one in desk.hits()] == [""]
    assert slow.open == 0


@pytest.mark.parametrize("status", ["SERVFAIL", "TIMEOUT"])
def test_where_no_list_can_answer_the_filter_has_failed(status: str) -> None:
    world = {**WORLD, "7.100.51.198.bl.example": status, "7.100.51.198.second.example": status}
    with pytest.raises(ListsSilentError, match=r"bl\.example does not count.*second\.example does not count"):
        Desk("bl.example", "second.example", world=world).connect()
    desk = Desk("bl.example", "second.example", "clean.example", world=world)
    assert isinstance(desk.connect(), Continue)
    assert len(desk.silent()) == 2


def test_lists_of_domains_that_are_dead_are_no_failure_while_others_answer() -> None:
    dead = {"zone": "dbl.example", "kind": "domain"}
    desk = Desk("bl.example", dead, delays={"dbl.example": 60.0}, client=GOOD)
    assert desk.connect() is None
    verdict = desk.helo()
    assert isinstance(verdict, Continue)
    assert desk.silent() == [SilentResult("dbl.example", "no answer: timeout", is_temporary=True)]
    assert desk.mail() is None  # nothing new
    desk.clock.advance(10.0)
    with pytest.raises(ListsSilentError):
        desk.mail()


def test_a_list_that_does_not_answer_again_and_again_is_asked_now_and_then(logged: list[LogEvent]) -> None:
    delays = {"slow.example": 60.0}
    desk = Desk("bl.example", "slow.example", delays=delays, client=GOOD)
    for _ in range(10):
        desk.connect()
    waited = desk.clock.seconds()
    assert waited >= 30.0
    desk.connect()  # the question that finds out whether it is there again
    desk.session.evidence.clear()
    trial = desk.clock.seconds()
    assert trial >= waited + 3.0
    asked = len(desk.resolver.asked)
    for _ in range(50):
        desk.connect()
    assert desk.clock.seconds() - trial < 10.0
    assert {one.reason for one in desk.silent()} == {"not asked, it did not answer again and again"}
    assert sum(name.endswith("slow.example") for name, _ in desk.resolver.asked[asked:]) <= 1
    delays.clear()
    desk.clock.advance(10.0)
    desk.session.evidence.clear()
    desk.connect()
    desk.connect()
    assert not [one for one in desk.silent() if "not asked" in one.reason]
    told = [event["log_format"] for event in logged if event["name"] == "slow.example"]
    assert ["now and then" in told[0], "answers again" in told[1]] == [True, True]


def test_answers_of_a_failing_server_come_at_once_and_leave_no_list_alone() -> None:
    world = {**WORLD, "8.100.51.198.broken.example": "SERVFAIL"}
    desk = Desk("bl.example", {"zone": "broken.example", "self_test": False}, world=world, client=GOOD)
    for _ in range(30):
        desk.connect()
    assert [one.reason for one in desk.silent()] == ["no answer: servfail"]


def test_a_name_too_long_for_the_question_is_looked_up_by_its_end() -> None:
    desk = Desk({"zone": "dbl.example", "kind": "domain", "self_test": False}, client=GOOD)
    name = f"{'.'.join(['a' * 60] * 3)}.{'b' * 50}.spam.example"
    desk.mail(f"ann@{name}")
    (asked,) = {name for name, _ in desk.resolver.asked}
    assert len(asked) <= 253
    assert asked.endswith(f"{'b' * 50}.spam.example.dbl.example")
    assert not asked.startswith(".")


def test_lists_that_answer_with_errors_only_are_no_failure() -> None:
    world = {**WORLD, **listing("odd.example", "7.100.51.198", code="127.255.255.254")}
    desk = Desk("odd.example", world=world)
    assert isinstance(desk.connect(), Continue)
    assert [one.is_temporary for one in desk.silent()] == [False]


def test_hostile_texts_and_many_answers_are_kept_short() -> None:
    entry = {"A": [f"127.0.0.{number}" for number in range(2, 250)], "TXT": [b"\xff\r\n250 Ok " * 5000]}
    desk = Desk("bl.example", world={**WORLD, "7.100.51.198.bl.example": entry})
    desk.connect()
    (hit,) = desk.hits()
    assert len(hit.codes) == 8
    assert len(hit.text) == 200
    verdict = desk.rcpt()
    assert isinstance(verdict, Reject)
    assert verdict.reply.to_bytes().count(b"\r\n") == 1
    assert len(verdict.reply.to_bytes()) <= 512


def test_a_key_in_a_zone_is_shown_to_nobody() -> None:
    zone = "key4711.zen.example"
    world = listing(zone, "7.100.51.198")
    desk = Desk({"zone": zone, "name": "zen"}, world=world)
    desk.connect()
    verdict = desk.rcpt()
    assert isinstance(verdict, Reject)
    (hit,) = desk.hits()
    shown = [str(verdict.reply), verdict.reason, hit.summary(), *hit.facts()]
    desk = Desk({"zone": zone, "name": "zen"}, world={})
    desk.connect()
    shown += [one.summary() for one in desk.silent()]
    assert len(shown) == 6
    assert not any("key4711" in text for text in shown)
    assert hit.facts()[0] == "dnsbl.zen"


class TestSelfTest:
    def world(self, **entries: Any) -> dict[str, Any]:
        return {**listing("bl.example", "7.100.51.198"), "2.0.0.127.bl.example": {"A": ["127.0.0.2"]}, **entries}

    def test_a_list_that_lists_the_world_is_not_believed(self, logged: list[LogEvent]) -> None:
        world = self.world(**{"1.0.0.127.bl.example": {"A": ["127.0.0.2"]}})
        desk = Desk("bl.example", world=world)
        for client in (BAD, GOOD, BAD):
            desk.another(client)
            desk.connect()
            assert desk.hits() == []
            assert desk.rcpt() is None
            assert [one.reason.startswith("out of use") for one in desk.silent()] == [True]
            assert "may list anything" in desk.silent()[0].reason
        assert [event["log_level"] for event in logged] == [LogLevel.warn]

    def test_a_dead_list_is_out_of_use_and_no_failure(self, logged: list[LogEvent]) -> None:
        desk = Desk("gone.example")
        desk.connect()
        assert "does not list 2.0.0.127," in desk.silent()[0].reason
        assert len(logged) == 1

    def test_a_dead_domain_that_somebody_else_took_is_not_believed(self) -> None:
        sold = {
            f"{label}.sold.example": {"A": ["203.0.113.80"]} for label in ("2.0.0.127", "1.0.0.127", "7.100.51.198")
        }
        desk = Desk("sold.example", world=sold)
        desk.connect()
        assert "answers 203.0.113.80" in desk.silent()[0].reason

    def test_a_list_that_refuses_us_is_out_of_use(self) -> None:
        refused = {f"{label}.bl.example": {"A": ["127.255.255.254"]} for label in ("2.0.0.127", "7.100.51.198")}
        desk = Desk("bl.example", world=self.world(**refused))
        desk.connect()
        assert "refuses the question (127.255.255.254)" in desk.silent()[0].reason

    def test_a_list_comes_back_when_it_passes(self, logged: list[LogEvent]) -> None:
        world = self.world(**{"2.0.0.127.bl.example": "NXDOMAIN"})
        desk = Desk("bl.example", world=world)
        desk.connect()
        assert desk.silent()
        healed = MemoryResolver(self.world())
        desk.resolver.resolve = healed.resolve  # type: ignore[method-assign]  # the list is repaired
        desk.another(BAD)
        desk.connect()
        assert desk.hits() == []
        desk.clock.advance(301)
        desk.another(BAD)
        desk.connect()
        assert len(desk.hits()) == 1
        assert [event["log_level"] for event in logged] == [LogLevel.warn, LogLevel.info]

    def test_it_is_tested_once_an_hour_and_only_when_it_is_used(self) -> None:
        desk = Desk("bl.example", world=self.world())
        for _ in range(5):
            desk.another(GOOD)
            desk.connect()
        assert desk.resolver.asked.count(("1.0.0.127.bl.example", "A")) == 1
        desk.clock.advance(3601)
        assert desk.resolver.asked.count(("1.0.0.127.bl.example", "A")) == 1
        desk.connect()
        assert desk.resolver.asked.count(("1.0.0.127.bl.example", "A")) == 2

    def test_mail_does_not_wait_for_the_test_of_a_list_without_a_hit(self) -> None:
        desk = Desk("bl.example", client=GOOD, world=self.world(), delays={"127.bl.example": 60.0, "example": 0.5})
        assert desk.connect() is None
        assert desk.clock.seconds() < 1
        assert desk.resolver.asked.count(("1.0.0.127.bl.example", "A")) == 1

    def test_the_first_hit_waits_for_the_first_test(self) -> None:
        desk = Desk("bl.example", world=self.world(), delays={"127.bl.example": 2.0, "example": 0.5})
        desk.connect()
        assert 2 <= desk.clock.seconds() < 3
        assert len(desk.hits()) == 1

    def test_a_hit_of_a_list_that_cannot_be_tested_does_not_count(self) -> None:
        desk = Desk("bl.example", "clean.example", world={**WORLD, "1.0.0.127.bl.example": "TIMEOUT"})
        desk.connect()
        assert desk.hits() == []
        assert ["never been tested" in one.reason for one in desk.silent()] == [True]

    def test_a_hit_whose_test_takes_too_long_does_not_count(self) -> None:
        desk = Desk("bl.example", "clean.example", delays={"127.bl.example": 30.0, "example": 0.5})
        desk.connect()
        assert desk.clock.seconds() < 4
        assert desk.hits() == []

    def test_a_test_without_an_answer_changes_nothing(self) -> None:
        desk = Desk("bl.example", world=self.world())
        desk.connect()
        desk.clock.advance(3601)
        desk.resolver.resolve = MemoryResolver(  # type: ignore[method-assign]  # the resolver has lost the way
            self.world(**{"1.0.0.127.bl.example": "SERVFAIL"})
        ).resolve
        desk.another(BAD)
        desk.connect()
        assert len(desk.hits()) == 1

    def test_an_error_makes_it_be_tested_soon(self) -> None:
        desk = Desk("bl.example", "clean.example", world=self.world() | listing("clean.example"))
        desk.connect()
        refused = {f"{label}.bl.example": {"A": ["127.255.255.255"]} for label in ("2.0.0.127", "7.100.51.198")}
        now = MemoryResolver(self.world(**refused) | listing("clean.example"))
        desk.resolver.resolve = now.resolve  # type: ignore[method-assign]  # too many questions today
        seen = []
        for _ in range(3):
            desk.clock.advance(40)
            desk.another(BAD)
            desk.connect()
            seen += [one.reason.startswith("out of use") for one in desk.silent()]
        assert seen == [False, True, True]
        assert now.asked.count(("2.0.0.127.bl.example", "A")) == 1

    def test_a_list_without_ipv6_is_out_of_use_for_ipv6_only(self) -> None:
        world = {key: value for key, value in WORLD.items() if TEST6 not in key}
        desk = Desk("bl.example", client=BAD6, world=world)
        desk.connect()
        assert [one.reason.startswith("out of use") for one in desk.silent()] == [True]
        desk.another(BAD)
        desk.connect()
        assert len(desk.hits()) == 1

    def test_a_list_may_go_without(self) -> None:
        desk = Desk(
            {"zone": "bare.example", "self_test": False}, world={"7.100.51.198.bare.example": {"A": ["127.0.0.2"]}}
        )
        desk.connect()
        assert len(desk.hits()) == 1


def test_giving_up_ends_every_question() -> None:
    desk = Desk("bl.example", "second.example", {"zone": "clean.example", "self_test": False}, seconds=5.0)
    answer = desk.filter.on_connect(desk.session)
    assert isinstance(answer, Awaitable)
    ends: list[object] = []
    deferred = as_deferred(answer)
    deferred.addErrback(lambda failure: ends.append(failure.type))
    deferred.cancel()
    assert ends == [CancelledError]
    desk.clock.advance(6)  # the tests go on by themselves
    assert isinstance(desk.resolver, SlowResolver)
    assert desk.resolver.open == 0
    assert desk.clock.getDelayedCalls() == []


def test_only_the_stages_that_matter_are_provided() -> None:
    def stages(*zones: Any, **options: Any) -> set[str]:
        built = Desk(*zones, **options).filter
        all_of_them = (IConnectFilter, IHeloFilter, IMailFilter, IRecipientFilter)
        return {one.__name__ for one in all_of_them if one.providedBy(built)}

    domain = {"zone": "dbl.example", "kind": "domain"}
    assert stages("bl.example") == {"IConnectFilter", "IRecipientFilter"}
    assert stages("bl.example", verdict="continue") == {"IConnectFilter"}
    assert stages(domain, domains=["sender"], when="at-once") == {"IMailFilter"}
    assert len(stages(domain)) == 4


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("nodots", "no zone of a list"),
        ({"zone": "bl.example", "weight": -1}, "allow = true"),
        ({"zone": "bl.example", "skip": True}, "skip is for allow lists"),
        ({"zone": "bl.example", "deadline": "20s"}, "at most 9s"),
        ({"zone": "bl.example", "replies": ["2"]}, "no answer of a list"),
        ({"zone": "bl.example", "replies": []}, "at least 1"),
        ({"zone": "bl.example", "name": "Zen!"}, "lower-case"),
        ({"zone": "bl.example", "colour": "red"}, "colour"),
        ({"weight": 1}, "zone"),
    ],
)
def test_mistakes_in_a_list(zone: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Options.model_validate({"zones": [zone]})


def test_a_filter_without_lists_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"zones names no list"):
        build(Options(), services())


class TestContract(FilterContract):
    factory = FACTORY
    settings = {  # noqa: RUF012  FilterContract's
        "zones": ["bl.example", {"zone": "dbl.example", "kind": "domain"}],
        "when": "at-once",
    }

    def make_services(self, clock: Clock, **silent: Any) -> Any:
        return services(clock=clock, **({"resolver": MemoryResolver(WORLD)} | silent))

    def occasions(self) -> list[Occasion]:
        return [
            Occasion(),
            Occasion(session=session(BAD)),
            Occasion(session=session(BAD6, helo="spam.example"), transaction=transaction("ann@spam.example")),
        ]


class TestContractAtRcpt(TestContract):
    settings = {"zones": ["bl.example"]}  # noqa: RUF012  FilterContract's

    def occasions(self) -> list[Occasion]:
        listed = session(BAD)
        listed.evidence.add(ListedResult("bl.example", BAD, ("127.0.0.2",), 1.0))
        return [Occasion(), Occasion(session=listed)]
