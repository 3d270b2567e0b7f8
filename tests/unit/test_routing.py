"""Where mail goes, and who may send it there."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Identity
from mailgate.interfaces import IRouting
from mailgate.relay.routing import Routing
from mailgate.testing import session, transaction
from mailgate.verdict import Reject
from tests.unit.relaying import configuration

ROUTES = {name: {"transport": "discard"} for name in ("inside", "lab", "boss", "partner", "bulk", "out")}
DOMAINS = {
    "example.org": {"route": "inside"},
    "*.lab.example.org": {"route": "lab"},
    "xn--bcher-kva.example": {"route": "inside"},
}
TABLES = {
    "recipients": {
        "boss@example.org": "boss",
        "partner.example": "partner",
        "*.partner.example": "partner",
        "example.org": "out",
        '"a b"@partner.example': "boss",
        "one@xn--bcher-kva.example": "boss",
    },
    "senders": {"news@client.test": "bulk", "bulk.test": "bulk"},
    "default": "out",
}
ANN = Address("ann", "client.test")


def routing(**tables: Any) -> Routing:
    return Routing(configuration(routes=ROUTES, domains=DOMAINS, routing=TABLES | tables))


def ask(role: str, recipient: str, *, trusted: bool = False, sender: str = "ann@client.test", **tables: Any) -> Any:
    identity = Identity("192.0.2.1", "network") if trusted else None
    return routing(**tables).route(session(role=role, identity=identity), transaction(sender), Address.parse(recipient))


def test_it_provides_the_interface() -> None:
    assert verifyObject(IRouting, routing())


@pytest.mark.parametrize(
    ("recipient", "sender", "route"),
    [
        ("bob@example.org", ANN, "inside"),
        ("Boss@Example.Org", ANN, "boss"),
        ("x@a.lab.example.org", ANN, "lab"),
        ("x@a.b.lab.example.org", ANN, "lab"),
        ("x@lab.example.org", ANN, "out"),
        ("x@partner.example", ANN, "partner"),
        ("x@eu.partner.example", ANN, "partner"),
        ('"a b"@partner.example', ANN, "boss"),
        ("x@elsewhere.test", ANN, "out"),
        ("x@elsewhere.test", Address("News", "client.test"), "bulk"),
        ("x@elsewhere.test", Address("anyone", "bulk.test"), "bulk"),
        ("x@partner.example", Address("news", "client.test"), "partner"),
        ("bob@example.org", Address("news", "client.test"), "inside"),
        ("x@elsewhere.test", NULL_PATH, "out"),
        ("x@[192.0.2.7]", ANN, "out"),
        ("x@bücher.example", ANN, "inside"),
        ("One@bücher.example", ANN, "boss"),
    ],
)
def test_the_next_hop(recipient: str, sender: Address, route: str) -> None:
    assert routing().next_hop(Address.parse(recipient), sender) == route


def test_without_a_default_there_may_be_no_next_hop() -> None:
    assert routing(default=None).next_hop(Address("x", "elsewhere.test"), ANN) is None
    assert routing(default=None).next_hop(Address("x", "elsewhere.test"), Address("news", "client.test")) == "bulk"


@pytest.mark.parametrize("role", ["inbound", "hybrid"])
def test_strangers_may_send_to_our_domains_and_nowhere_else(role: str) -> None:
    assert ask(role, "bob@example.org") == "inside"
    assert ask(role, "x@a.lab.example.org") == "lab"
    for recipient in ("x@elsewhere.test", "x@partner.example", "x@lab.example.org", "x@[127.0.0.1]"):
        refusal = ask(role, recipient)
        assert isinstance(refusal, Reject)
        assert (refusal.reply.code, refusal.reply.status) == (550, "5.7.1")
        assert recipient.partition("@")[2] in refusal.reason
        assert "[domains]" not in refusal.reply.text


def test_an_inbound_listener_relays_for_nobody() -> None:
    assert isinstance(ask("inbound", "x@elsewhere.test", trusted=True), Reject)


def test_an_outbound_listener_is_for_those_who_may_relay() -> None:
    assert isinstance(ask("outbound", "bob@example.org"), Reject)
    assert isinstance(ask("outbound", "x@elsewhere.test"), Reject)
    assert ask("outbound", "bob@example.org", trusted=True) == "inside"
    assert ask("outbound", "x@elsewhere.test", trusted=True) == "out"
    assert ask("hybrid", "x@elsewhere.test", trusted=True) == "out"


def test_a_sender_that_claims_a_route_may_not_relay_for_it() -> None:
    """`[routing]` says where mail goes, never who may send it."""
    assert isinstance(ask("inbound", "x@elsewhere.test", sender="news@client.test"), Reject)
    assert isinstance(ask("inbound", "x@partner.example", sender="boss@example.org"), Reject)


def test_no_route_is_an_answer_of_its_own() -> None:
    refusal = ask("outbound", "x@elsewhere.test", trusted=True, default=None)
    assert isinstance(refusal, Reject)
    assert refusal.reply.status == "5.4.4"
    assert "x@elsewhere.test" in refusal.reason


def test_what_is_local() -> None:
    found = routing()
    assert found.is_local("example.org")
    assert found.is_local("a.lab.example.org")
    assert not found.is_local("lab.example.org")
    assert not found.is_local("partner.example")
    assert not found.is_local("")
