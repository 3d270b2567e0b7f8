"""Our tables for Postfix: what stands under the keys that it looks up, and peers that are hostile, slow or many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed

from mailgate.address import Address
from mailgate.config.routes import Route
from mailgate.interfaces import Expanded, RecipientStatus
from mailgate.mta.socketmap.tables import Tables, address_of, domain_of
from mailgate.reply import Reply
from mailgate.testing import FakeDirectory, wait_for
from mailgate.verdict import Defer, Reject
from mailgate.wire.socketmap import found
from tests.unit.policy_stand import LOCAL, Looking

ALIASES: dict[str, Expanded] = {
    "all@here.example": (Address("ann", "here.example"), Address("o'neil smith", "there.example")),
    "gone@here.example": (Address("nobody", "here.example"),),
    "inner@here.example": (Address("nobody", "here.example"), Address("staff", "here.example")),
    "broken@here.example": Defer(Reply.of(451, "4.3.5", "x"), "the aliases go in a circle"),
    "srs0=x@here.example": Reject(Reply.of(550, "5.1.1", "x"), "no SRS address of ours"),
}
STATUS = {
    "ann@here.example": RecipientStatus.KNOWN,
    "staff@here.example": RecipientStatus.RESTRICTED,
    "away@here.example": RecipientStatus.UNAVAILABLE,
}
ROUTES: dict[str, Any] = {
    "boxes": {"transport": "lmtp", "hosts": ["127.0.0.1:24"]},
    "socket": {"transport": "lmtp", "hosts": ["unix:/run/lmtp"]},
    "hub": {"transport": "smtp", "hosts": [["Hub1.example", "hub2.example:26"], "[2001:db8::1]:25"]},
    "out": {"transport": "smtp"},
    "odd": {"transport": "smtp", "port": 2525},
    "none": {"transport": "discard", "reason": "no\nsuch thing"},
    "dir": {"transport": "maildir", "path": "/var/mail/{local_part}"},
    "tls": {"transport": "smtp", "hosts": ["hub.example:465"], "tls": "implicit"},
    "proxied": {"transport": "smtp", "hosts": ["hub.example"], "proxy_protocol": True},
}


class _Directory(FakeDirectory):
    def lookup(self, address: Address) -> RecipientStatus:
        return STATUS.get(str(address), RecipientStatus.UNKNOWN)


def routes() -> Mapping[str, Route]:
    adapter: TypeAdapter[Route] = TypeAdapter(Route)
    return {name: adapter.validate_python(one) for name, one in ROUTES.items()}


def tables(expand: Callable[[Address], Expanded | Awaitable[Expanded]] | None = None) -> Tables:
    def next_hop(address: Address, sender: Address) -> str | None:
        assert not sender
        if str(address) == "vip@here.example":
            return "hub"
        return {"here.example": "boxes", "nowhere.example": None}.get(address.domain, address.domain.partition(".")[0])

    return Tables(
        directory=_Directory({}),
        is_local=lambda domain: domain == "here.example",
        expand=expand or (lambda address: ALIASES.get(str(address).lower())),
        next_hop=next_hop,
        routes=routes(),
    )


def said(octets: bytes) -> str:
    return octets.partition(b":")[2].removesuffix(b",").decode()


# -- keys


@pytest.mark.parametrize(
    ("key", "address"),
    [
        ("Ann@Here.example", Address("Ann", "here.example")),
        ('"ann smith"@here.example', Address("ann smith", "here.example")),
        ("ann smith@here.example", Address("ann smith", "here.example")),
        ("a@b@here.example", Address("a@b", "here.example")),
        ("@here.example", None),
        ("ann", None),
        ("", None),
        ("ann@", None),
        ("ann\x00@here.example", None),
        ("a" * 1000 + "@here.example", None),
    ],
)
def test_keys_as_addresses(key: str, address: Address | None) -> None:
    assert address_of(key) == address


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("Here.Example", "here.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        (".here.example", ""),
        ("[192.0.2.1]", ""),
        ("ann@here.example", ""),
        ("", ""),
        ("a" * 1000, ""),
    ],
)
def test_keys_as_domains(key: str, domain: str) -> None:
    assert domain_of(key) == domain


# -- tables


@pytest.mark.parametrize(
    ("key", "answer", "from_inside"),
    [
        ("ann@here.example", "OK ann@here.example", None),
        ("staff@here.example", "NOTFOUND ", "OK staff@here.example"),
        ("nobody@here.example", "NOTFOUND ", None),
        ("away@here.example", "TEMP the directory of here.example cannot be asked", None),
        ("all@here.example", "OK all@here.example", None),
        ("gone@here.example", "NOTFOUND ", None),
        ("inner@here.example", "NOTFOUND ", "OK inner@here.example"),
        ("broken@here.example", "TEMP the aliases go in a circle", None),
        ("srs0=x@here.example", "NOTFOUND ", None),
        ("ann@there.example", "NOTFOUND ", None),
        ("@here.example", "NOTFOUND ", None),
        ("ann", "NOTFOUND ", None),
    ],
)
def test_recipients(key: str, answer: str, from_inside: str | None) -> None:
    assert said(wait_for(tables().recipients(key))) == answer
    assert said(wait_for(tables().all_recipients(key))) == (from_inside or answer)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("here.example", "OK here.example"),
        ("HERE.example", "OK here.example"),
        ("sub.here.example", "NOTFOUND "),
        (".here.example", "NOTFOUND "),
        ("example", "NOTFOUND "),
    ],
)
def test_domains(key: str, answer: str) -> None:
    assert said(tables().domains(key)) == answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("all@here.example", 'OK ann@here.example, "o\'neil smith"@there.example'),
        ("ann@here.example", "NOTFOUND "),
        ("all", "NOTFOUND "),
        ("@here.example", "NOTFOUND "),
        ("broken@here.example", "TEMP the aliases go in a circle"),
        ("srs0=x@here.example", "NOTFOUND "),
    ],
)
def test_aliases(key: str, answer: str) -> None:
    assert said(wait_for(tables().aliases(key))) == answer


def test_aliases_that_do_not_fit_are_not_cut() -> None:
    many = tuple(Address(f"user{number}" + "x" * 50, "here.example") for number in range(2000))
    assert said(wait_for(tables(lambda _: succeed(many)).aliases("all@here.example"))).startswith("TEMP ")


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("ann@here.example", "OK lmtp:[127.0.0.1]:24"),
        ("here.example", "OK lmtp:[127.0.0.1]:24"),
        ("vip@here.example", "OK smtp:[hub1.example]:25, [hub2.example]:26, [2001:db8::1]:25"),
        ("ann@socket.example", "OK lmtp:unix:/run/lmtp"),
        ("ann@out.example", "OK smtp:"),
        ("ann@none.example", "OK discard:no such thing"),
        ("ann@dir.example", "PERM route dir is not one of SMTP or LMTP"),
        ("ann@nowhere.example", "NOTFOUND "),
        ("*", "NOTFOUND "),
        (".here.example", "NOTFOUND "),
    ],
)
def test_transport(key: str, answer: str) -> None:
    assert said(tables().transport(key)) == answer


@pytest.mark.parametrize("domain", ["tls.example", "proxied.example", "odd.example"])
def test_a_route_that_no_transport_can_say_is_not_taken_for_another(domain: str) -> None:
    assert said(tables().transport(f"ann@{domain}")).startswith("PERM route ")


# -- connections


def test_answers_and_maps_that_there_are_not() -> None:
    looking = Looking({"one": lambda key: found(key), "two": lambda key: succeed(found(key * 2))})
    assert looking.ask("one", "a b") == b"6:OK a b,"
    assert looking.ask("two", "ab") == b"7:OK abab,"
    assert said(looking.ask("three", "x")) == "PERM there is no map three: there are one, two"
    assert looking.transport.is_open


def test_a_source_that_is_late_or_broken_is_told_to_be() -> None:
    looking = Looking({"late": lambda key: Deferred(), "broken": lambda key: 1 / 0})  # type: ignore[dict-item,return-value]
    assert looking.ask("late", "x") == b""
    assert looking.transport.is_paused
    looking.clock.advance(61)
    assert said(looking.said()) == "TEMP no answer, see the log of mailgate"
    assert not looking.transport.is_paused
    assert said(looking.ask("broken", "x")) == "TEMP no answer, see the log of mailgate"


@pytest.mark.parametrize("octets", [b"x", b"3:abcd", b"99999:"])
def test_what_is_no_question_is_cut(octets: bytes) -> None:
    looking = Looking({"one": found})
    assert looking.say(octets) == b""
    assert not looking.transport.is_open
    assert looking.office.doors["front"].count == 0


def test_strangers_too_many_and_those_who_do_not_ask_are_cut() -> None:
    assert not Looking({}, peer=IPv4Address("TCP", "198.51.100.1", 1)).transport.is_open
    looking = Looking({"one": found}, max_connections=1, idle_timeout="1m", peer=LOCAL)
    assert looking.ask("one", "x")
    first = looking.transport
    looking.connect()
    assert first.is_open
    assert not looking.transport.is_open
    looking.clock.advance(61)
    assert not first.is_open
