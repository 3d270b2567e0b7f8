"""Where mail goes, and who may send it there."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Identity, Target
from mailgate.interfaces import IAliases, IRouting
from mailgate.relay.routing import Routing
from mailgate.reply import Reply
from mailgate.testing import session, transaction, wait_for
from mailgate.verdict import Defer, Reject
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
        ("boss+tag@example.org", ANN, "boss"),
        ("boss-tag@example.org", ANN, "inside"),
        ("+boss@example.org", ANN, "inside"),
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


# -- addresses that stand for others


@implementer(IAliases)
class Aliases:
    """Says of every address what `answer` is, and notes who is asked about."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def expand(self, address: Address) -> Any:
        self.asked.append(str(address))
        return self.answer

    def return_path(self, sender: Address, target: Address) -> Address | None:
        return None if target.domain == "example.org" else Address(f"SRS0={sender.local_part}", "example.org")


def place(aliases: Aliases, role: str = "inbound", *, trusted: bool = False, **tables: Any) -> Any:
    found = Routing(configuration(routes=ROUTES, domains=DOMAINS, routing=TABLES | tables), aliases)
    identity = Identity("ann", "PLAIN") if trusted else None
    mail = transaction("ann@client.test")
    return wait_for(found.route(session(role=role, identity=identity), mail, Address.parse("info@example.org")))


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("role", ["inbound", "hybrid"])
def test_each_target_has_its_route_and_reverse_path_whoever_sends(role: str, later: bool) -> None:
    targets = (Address.parse("bob@example.org"), Address.parse("boss@example.org"), Address.parse("x@partner.example"))
    ours = Address("SRS0=ann", "example.org")
    assert place(Aliases(succeed(targets) if later else targets), role) == (
        Target(targets[0], "inside"),
        Target(targets[1], "boss"),
        Target(targets[2], "partner", ours),
    )
    assert place(Aliases(succeed(None) if later else None), role) == "inside"


def test_what_aliases_object_to_is_the_answer() -> None:
    for answer in (Reject(Reply.of(550, "5.1.1", "no"), "why"), Defer(Reply.of(451, "4.3.5", "later"), "why")):
        assert place(Aliases(answer)) is answer
        assert place(Aliases(succeed(answer))) is answer


def test_a_target_without_a_route_is_our_mistake_and_can_wait() -> None:
    answer = place(Aliases((Address.parse("x@elsewhere.test"),)), default=None)
    assert isinstance(answer, Defer)
    assert (answer.reply.code, answer.reply.status) == (451, "4.3.5")
    assert "info@example.org stands for x@elsewhere.test" in answer.reason


def test_strangers_at_an_outbound_listener_are_told_nothing_of_aliases() -> None:
    aliases = Aliases((Address.parse("bob@example.org"),))
    refusal = place(aliases, "outbound")
    assert isinstance(refusal, Reject)
    assert refusal.reply.status == "5.7.1"
    assert aliases.asked == []
    assert place(aliases, "outbound", trusted=True) == (Target(Address.parse("bob@example.org"), "inside"),)


def test_addresses_of_strangers_are_asked_about_too_and_stay_theirs() -> None:
    """A rewritten sender may be below a domain that is none of ours."""
    found = Routing(configuration(routes=ROUTES, domains=DOMAINS, routing=TABLES), Aliases(None))
    refusal = found.route(session(role="inbound"), transaction("ann@client.test"), Address.parse("x@elsewhere.test"))
    assert isinstance(refusal, Reject)
