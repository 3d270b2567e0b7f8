"""Links at lists in DNS: which domains are asked, and what their hits come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from twisted.internet.task import Clock

from mailgate.filters.dnsbl_results import SilentResult
from mailgate.filters.uribl import LinkListedResult, ListsSilentError, Options, Uribl, build
from mailgate.interfaces import DnsStatus
from mailgate.message import Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, MemoryResolver, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

FACTORY = FilterMaker("uribl", "mailgate.filters.uribl", "asks lists in DNS about links")


def listing(zone: str, *labels: str, code: str = "127.0.0.2") -> dict[str, Any]:
    return {
        zone: {"NS": ["ns.example"]},
        **{f"{label}.{zone}": {"A": ["127.0.0.2"]} for label in ("test", "2.0.0.127")},
        **{f"{label}.{zone}": {"A": [code]} for label in labels},
    }


WORLD = {
    **listing("black.example", "evil.com", "worse.com", "1.2.0.203", code="127.0.1.2"),
    **listing("grey.example", "evil.com"),
    **listing("white.example", "good.com", "evil.com"),
    **listing("hosts.example", "www.evil.com"),
}


def page(*urls: str) -> Message:
    body = "".join(f'<a href="{url}">x</a>' for url in urls)
    return message(f"Subject: x\nContent-Type: text/html\n\n{body}\n")


class Desk:
    def __init__(self, *zones: Any, world: Any = None, **options: Any) -> None:
        self.clock = Clock()
        self.resolver = MemoryResolver(WORLD if world is None else world)
        built = build(
            Options.model_validate({"zones": zones, **options}), services(clock=self.clock, resolver=self.resolver)
        )
        assert isinstance(built, Uribl)
        self.filter = built

    def judge(self, *urls: str, client: str = "192.0.2.1") -> Verdict | None:
        answer = self.filter.on_message(session(client), transaction(), page(*urls))
        return wait_for(answer, self.clock)

    def subjects(self, *urls: str) -> set[str]:
        verdict = self.judge(*urls)
        return {one.subject for one in getattr(verdict, "evidence", ()) if isinstance(one, LinkListedResult)}


def test_a_listed_domain_is_evidence() -> None:
    verdict = Desk("black.example", "grey.example").judge("http://www.evil.com/x", "http://good.com")
    assert isinstance(verdict, Continue)
    assert [(one.zone, one.subject) for one in verdict.evidence if isinstance(one, LinkListedResult)] == [
        ("black.example", "evil.com"),
        ("grey.example", "evil.com"),
    ]
    first = verdict.evidence[0]
    assert isinstance(first, LinkListedResult)
    assert first.facts() == ("uribl.black.example", "uribl.black.example.127.0.1.2")
    assert "evil.com" in first.summary()


def test_nothing_listed_is_no_opinion() -> None:
    assert Desk("black.example").judge("http://good.com") is None
    assert Desk("black.example").judge() is None


@pytest.mark.parametrize(
    "url",
    [
        "HTTP://EVIL.COM",
        "//evil.com/x",
        "http://ev%69l.com",
        "http://a:b@evil.com:80",
        "http://redirect.com/?to=http%3A%2F%2Fevil.com",
        "&#104;ttp://evil.com",
    ],
)
def test_disguises_do_not_help(url: str) -> None:
    assert Desk("black.example").subjects(url) == {"evil.com"}


def test_addresses_are_asked_in_reversed_form() -> None:
    assert Desk("black.example").subjects("http://203.0.2.1/") == {"203.0.2.1"}
    assert Desk({"zone": "black.example", "kind": "address"}).subjects("http://3405775361/") == {"203.0.2.1"}
    assert Desk({"zone": "black.example", "kind": "address"}).subjects("http://evil.com/") == set()
    assert Desk("black.example").subjects("http://10.0.0.1/", "http://[2001:db8::1]/") == set()


def test_whole_hosts_are_asked_where_that_is_wanted() -> None:
    assert Desk("hosts.example").subjects("http://www.evil.com") == set()
    assert Desk("hosts.example", ask_hosts=True).subjects("http://www.evil.com") == {"www.evil.com"}


@pytest.mark.parametrize(("word", "kind"), [("reject", Reject), ("quarantine", Quarantine), ("defer", Defer)])
def test_weights_come_to_a_verdict(word: str, kind: type[Verdict]) -> None:
    zones = ({"zone": "black.example", "weight": 2}, {"zone": "grey.example", "weight": 1})
    desk = Desk(*zones, verdict=word, threshold=3)
    assert isinstance(desk.judge("http://evil.com"), kind)
    # Two hits of one list count once.
    assert isinstance(desk.judge("http://worse.com", "http://203.0.2.1"), Continue)


def test_an_allowed_domain_vouches_for_itself_only() -> None:
    zones = ("black.example", {"zone": "white.example", "allow": True})
    desk = Desk(*zones, verdict="reject")
    assert isinstance(desk.judge("http://evil.com"), Continue)
    assert isinstance(desk.judge("http://evil.com", "http://worse.com"), Reject)


def test_ours_and_those_to_skip_are_not_asked() -> None:
    desk = Desk("black.example", skip=["*.com", "evil.com"])
    assert desk.judge("http://evil.com", "http://example.org", "http://worse.com") is None


def test_domains_are_bounded() -> None:
    desk = Desk("black.example", max_domains=3)
    urls = [f"http://d{number}.com" for number in range(50)]
    assert desk.subjects(*urls, "http://evil.com") == set()
    assert desk.subjects("http://evil.com", *urls) == {"evil.com"}


def test_lists_that_cannot_answer() -> None:
    world = {**WORLD, "evil.com.silent.example": DnsStatus.TIMEOUT}
    with pytest.raises(ListsSilentError):
        Desk({"zone": "silent.example", "self_test": False}, world=world).judge("http://evil.com")
    verdict = Desk("black.example", {"zone": "silent.example", "self_test": False}, world=world).judge(
        "http://evil.com"
    )
    assert isinstance(verdict, Continue)
    assert {type(one) for one in verdict.evidence} == {LinkListedResult, SilentResult}


def test_exempt_clients_are_left_alone() -> None:
    assert Desk("black.example", exempt=["192.0.2.0/24"]).judge("http://evil.com") is None


def test_lists_must_be_named() -> None:
    with pytest.raises(ValueError, match="zones names no list"):
        build(Options(), services())


def test_libraries_that_are_missing_are_told_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.filters.examining.find_spec", lambda name: None if name == "libarchive" else name)
    with pytest.raises(ValueError, match=r"^the filter uribl needs: pip install 'mailgate\[content\]'$"):
        build(Options.model_validate({"zones": ["black.example"]}), services())


class TestContract(FilterContract):
    factory = FACTORY
    settings: Mapping[str, object] = {"zones": ["black.example"], "verdict": "reject"}

    def make_services(self, clock: Clock, **silent: Any) -> Any:
        return services(clock=clock, **({"resolver": MemoryResolver(WORLD)} | silent))

    def occasions(self) -> Iterable[Occasion]:
        return [Occasion(), Occasion(message=page("http://evil.com"))]
