"""The filter arc: the result as evidence, verdicts by configuration, and no work for mail without a chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock

from mailgate.envelope import Identity, Session
from mailgate.filters.arc import Arc, Options, build
from mailgate.interfaces import FilterServices, IResolver
from mailgate.mailauth.results import ArcResult
from mailgate.message import Content, Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, MemoryResolver, Occasion, services, session, transaction, wait_for
from mailgate.testing.fakes import Silent
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict
from tests.unit.arc_mail import MESSAGE, NOW, resolver, sealed, zone
from tests.unit.slow_dns import SlowResolver

GOOD = sealed(MESSAGE, "one.example", "two.example")
BAD = GOOD.replace(b"Hello list", b"Hello all")


def asked(
    data: bytes | Content,
    *,
    dns: IResolver | None = None,
    clock: Clock | None = None,
    client: Session | None = None,
    **options: object,
) -> Verdict | None:
    clock = clock or Clock()
    clock.advance(NOW)
    built = build(Options.model_validate(options), services(clock=clock, resolver=dns or resolver()))
    assert isinstance(built, Arc)
    content = Content(data) if isinstance(data, bytes) else data
    return wait_for(built.on_message(client or session(), transaction(), Message(content)), clock)


def result_of(verdict: Verdict | None) -> ArcResult:
    assert verdict is not None
    (found,) = verdict.evidence
    assert isinstance(found, ArcResult)
    return found


def test_a_chain_that_holds() -> None:
    verdict = asked(GOOD)
    assert isinstance(verdict, Continue)
    found = result_of(verdict)
    assert found.summary() == "arc=pass sealed by one.example, two.example"
    assert found.facts() == ("arc.pass",)


def test_mail_without_a_chain_is_answered_at_once() -> None:
    dns = resolver()
    built = build(Options(), services(resolver=dns))
    assert isinstance(built, Arc)
    assert built.on_message(session(), transaction(), Message(Content(MESSAGE))) == Continue((ArcResult("none"),))
    assert dns.asked == []


@pytest.mark.parametrize(
    ("action", "kind", "reply"),
    [
        ("continue", Continue, ""),
        ("reject", Reject, "550 5.7.29 The ARC chain of this message does not hold"),
        ("defer", Defer, "451 4.7.29 The ARC chain of this message does not hold"),
        ("quarantine", Quarantine, ""),
    ],
)
def test_a_chain_that_does_not_hold(action: str, kind: type[Verdict], reply: str) -> None:
    verdict = asked(BAD, fail=action)
    assert isinstance(verdict, kind)
    assert result_of(verdict).result == "fail"
    if isinstance(verdict, Reject | Defer):
        assert str(verdict.reply) == reply
    if isinstance(verdict, Reject | Defer | Quarantine):
        assert verdict.reason == (
            "arc=fail sealed by one.example, two.example: "
            "the message signature of hop 2 (two.example): the body has changed"
        )


@pytest.mark.parametrize("status", ["SERVFAIL", "TIMEOUT"])
def test_dns_that_cannot_say_is_no_failed_chain(status: str) -> None:
    dns = resolver(one=status)
    found = result_of(asked(GOOD, dns=dns, fail="reject"))
    assert (found.result, found.is_temporary) == ("fail", True)
    verdict = asked(GOOD, dns=dns, fail="reject", temporary="defer")
    assert isinstance(verdict, Defer)
    assert str(verdict.reply) == "451 4.7.5 The ARC chain of this message cannot be checked now, try again later"
    assert "s._domainkey.one.example" in verdict.reason


def test_keys_that_do_not_come_in_time() -> None:
    clock = Clock()
    dns = SlowResolver(zone(), clock, 5.0)
    assert result_of(asked(GOOD, dns=dns, clock=clock, timeout="6s")).result == "pass"
    found = result_of(asked(GOOD, dns=dns, clock=clock, timeout="4s"))
    assert (found.is_temporary, found.reason, len(found.sets)) == (True, "the keys did not come in time", 2)
    assert dns.open == 0


def test_keys_that_never_come() -> None:
    found = result_of(asked(GOOD, dns=Silent()))
    assert found.is_temporary


@pytest.mark.parametrize(
    ("client", "options"),
    [
        (session(identity=Identity("ann", "PLAIN")), {}),
        (session("203.0.113.9"), {"exempt": ["203.0.113.0/24"]}),
    ],
)
def test_whose_mail_is_not_verified(client: Session, options: dict[str, Any]) -> None:
    assert asked(BAD, client=client, fail="reject", **options) is None


def test_content_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(GOOD)
    assert result_of(asked(Content.in_file(path))).result == "pass"


def test_limits() -> None:
    assert result_of(asked(GOOD, max_hops=1)).reason == "more than 1 hops"
    assert "1024 bits proves nothing" in result_of(asked(GOOD, minimum_key_bits=2048)).reason


def test_a_header_without_an_end_is_not_looked_at() -> None:
    extra = b"X: " + b"y" * 300_000 + b"\r\n"
    assert result_of(asked(GOOD.replace(b"\r\nSubject:", b"\r\n" + extra + b"Subject:"))) == ArcResult(
        "fail", "not looked at: the header is too large"
    )
    assert result_of(asked(b"X: arc-\r\n" + extra + MESSAGE)) == ArcResult("none")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fail": "discard"}, "fail"),
        ({"temporary": "reject"}, "temporary"),
        ({"max_hops": 51}, "max_hops"),
        ({"max_hops": 0}, "max_hops"),
        ({"minimum_key_bits": 100}, "minimum_key_bits"),
        ({"timeout": "0s"}, "timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Mapping[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate(options)


class TestContract(FilterContract):
    factory = FilterMaker("arc", "mailgate.filters.arc", "verifies the chain of those that handed a message on")
    settings: Mapping[str, object] = {"fail": "reject", "temporary": "defer"}

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), *(Occasion(message=Message(Content(data))) for data in (GOOD, BAD))]

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        clock.advance(NOW)
        dns: IResolver = silent.pop("resolver", None) or MemoryResolver(zone())
        return services(clock=clock, resolver=dns, **silent)
