"""What is asked of TLS with destinations, on the way of messages through the relay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient, MailParameters
from mailgate.interfaces import Selector
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, Target
from mailgate.relay.client.connector import SmtpConnector
from mailgate.relay.locate import Locator
from mailgate.relay.own_mail import OwnMail
from mailgate.relay.ready.jobs import LEASE_TIME
from mailgate.relay.security.demand import Demand
from mailgate.relay.security.policies import TransportSecurity
from mailgate.relay.sources import Source
from mailgate.reply import Reply
from mailgate.testing import EventRecorder, MemoryResolver, MemorySpool, wait_for
from tests.unit.relaying import FakeTransports, configuration, envelope, make_relay
from tests.unit.test_security import Published, sts

ZONE = {
    "a.test": {"MX": [[10, "mx1.host.test"]]},
    "b.test": {"MX": [[10, "mx1.host.test"]]},
    "mx1.host.test": {"A": ["192.0.2.1"]},
}
RIGHT, WRONG = sts("enforce", "mx1.host.test"), sts("enforce", "mx9.host.test")


class Bench:
    def __init__(self, security: str = "auto", *, hosts: Sequence[str] = (), **policies: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.spool = MemorySpool(self.clock)
        self.transports = FakeTransports()
        self.hop = self.transports.hop
        self.hop.connecting = self.connecting
        self.demands: list[Demand | None] = []
        self.is_for_domain = False
        self.accounts: list[tuple[str, str]] = []
        self.count = 0
        route = {"transport": "smtp", "security": security, "ipv6": False, "hosts": list(hosts)}
        config = configuration(routes={"out": route})
        self.published = Published(**policies)
        self.resolver = resolver = MemoryResolver(ZONE)
        locator = Locator(resolver, "gw.example.org", random.Random(1))
        locator.use(TransportSecurity(config, resolver, self.published))  # type: ignore[arg-type]  # as far as it asks
        self.relay = make_relay(
            self.spool,
            config,
            transports=self.transports,
            locator=locator,
            events=EventRecorder(),
            clock=self.clock,
            random=random.Random(1),
            account=self.account,
        )
        self.relay.start()
        self.clock.advance(0)

    def connecting(self, target: Target) -> ConnectFailedError | None:
        self.demands.append(target.demand)
        if target.demand is not None and target.demand.level == "refused":
            return ConnectFailedError(
                target, Reply.of(451, "4.7.5", "x"), target.demand.reason, stage="tls", is_ours=True
            )
        return None

    def account(self, domain: str, outcome: IConnection | ConnectFailedError, source: Source) -> None:
        assert source.name == ""
        self.accounts.append((domain, type(outcome).__name__))
        if not isinstance(outcome, ConnectFailedError):
            outcome.is_for_domain = self.is_for_domain

    def send(self, domain: str = "a.test", **parameters: Any) -> None:
        self.count += 1
        one = envelope(
            EnvelopeRecipient(0, Address("bob", domain), "out"),
            queue_id=f"{self.count:04}Q",
            received=self.clock.seconds(),
            parameters=MailParameters(**parameters),
        )
        self.relay.deliver(wait_for(self.spool.accept(one, Content(b"hello"), self.clock.seconds() + LEASE_TIME)))
        self.pump()

    def pump(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        for _ in range(20):
            self.clock.advance(0)

    def waiting(self) -> Sequence[Any]:
        return wait_for(self.spool.view(Selector(), 100))

    @property
    def levels(self) -> list[str]:
        return ["" if one is None else one.level for one in self.demands]


def test_a_host_that_the_policy_does_not_name_never_gets_it() -> None:
    bench = Bench(a_test=WRONG)
    bench.send()
    assert (bench.levels, bench.hop.asked) == (["refused"], [])
    (entry,) = bench.waiting()
    assert entry.state == "queued"
    assert "mx1.host.test is none of the hosts that MTA-STS names for a.test" in str(entry)
    bench.published.policies["a.test"] = RIGHT
    bench.pump(3600.0)
    assert (bench.levels[-1], bench.waiting()) == ("verified", [])
    assert bench.hop.taken == ["bob@a.test"]


def test_whatever_another_domain_of_the_same_host_is_asked() -> None:
    bench = Bench(a_test=WRONG)
    bench.send("b.test")
    bench.send("a.test")
    bench.send("b.test")
    assert bench.hop.taken == ["bob@b.test"] * 2
    assert bench.levels == ["welcome", "refused"]


def test_a_policy_that_changes_holds_for_a_site_that_goes_on() -> None:
    bench = Bench(a_test=sts("enforce", "mx1.host.test"))
    bench.resolver.update({"a.test": {"MX": [[10, "mx1.host.test"], [20, "mx2.host.test"]]}})
    bench.resolver.update({"mx2.host.test": {"A": ["192.0.2.2"]}})
    bench.send()
    bench.published.policies["a.test"] = sts("enforce", "mx2.host.test")
    bench.send()
    # the session with the host that is named no more is open, and is not used again
    assert bench.levels == ["verified", "refused", "verified"]


def test_domains_of_which_the_same_is_asked_share_a_connection() -> None:
    bench = Bench(a_test=RIGHT, b_test=RIGHT)
    bench.send("a.test")
    bench.send("b.test")
    assert bench.levels == ["verified"]
    assert bench.hop.taken == ["bob@a.test", "bob@b.test"]


def test_a_session_for_one_domain_serves_no_other() -> None:
    bench = Bench(a_test=RIGHT, b_test=RIGHT)
    bench.is_for_domain = True
    bench.send("a.test")
    bench.send("b.test")
    assert bench.levels == ["verified"] * 2
    assert not bench.hop.open


def test_a_message_that_is_to_get_there_whatever_is_published() -> None:
    bench = Bench(a_test=WRONG)
    bench.send(tls_optional=True)
    assert bench.levels == [""]
    assert bench.hop.taken == ["bob@a.test"]
    bench.send()  # and no other goes over its connection
    assert bench.levels == ["", "refused"]


def test_what_came_of_each_connection_is_told() -> None:
    bench = Bench(a_test=WRONG)
    bench.send("a.test")
    bench.send("b.test")
    assert bench.accounts == [("a.test", "ConnectFailedError"), ("b.test", "Connection")]


@pytest.mark.parametrize("optional", [False, True])
def test_mail_of_our_own_may_say_the_same(*, optional: bool) -> None:
    bench = Bench()
    leases: list[Any] = []
    own = OwnMail(
        bench.spool,
        route=lambda recipient, sender: "out",
        deliver=leases.append,
        events=EventRecorder(),
        clock=bench.clock,
        hostname="gw.example.org",
    )
    sender, to = Address("reports", "gw.example.org"), Address("tls", "a.test")
    sent = own.send(sender, [to], b"Subject: x\r\n\r\n", tls_optional=True) if optional else own.send(sender, [to], b"")
    wait_for(sent)
    assert leases[0].envelope.parameters == MailParameters(tls_optional=optional)


def test_the_refusal_of_the_client_is_the_one_that_is_tried_here() -> None:
    """The next hop of these tests refuses in the place of the connector, which does so without a connection."""
    target = replace(Target("mx", "192.0.2.1", 25), demand=Demand(level="refused", reason="a stranger"))
    found: list[Any] = []
    SmtpConnector(None, "gw").connect(target).addErrback(found.append)  # type: ignore[arg-type]  # nobody is called
    assert isinstance(found[0].value, ConnectFailedError)


def test_hosts_of_the_configuration_are_not_told_of() -> None:
    bench = Bench(hosts=["mx1.host.test"])
    bench.send()
    assert (bench.levels, bench.accounts) == (["welcome"], [])


def test_routes_that_ask_for_nothing_are_not_told_of() -> None:
    bench = Bench("none")
    bench.send()
    assert (bench.levels, bench.accounts) == ([""], [])
