"""Several sources for one domain: who is asked, in which order, and whose answer counts."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgate.address import Address
from mailgate.awaiting import as_deferred
from mailgate.config.schema import Config
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.directory import Directory
from mailgate.recipients.source import ISource
from tests.unit.recipients_stand import KNOWN, RESTRICTED, UNAVAILABLE, UNKNOWN
from tests.unit.remote_peer import outcome


@implementer(ISource)
class Told:
    """Says `at_once` of every address, or where that is None, `later` when it is asked."""

    def __init__(
        self,
        at_once: RecipientStatus | None = None,
        later: RecipientStatus | None = None,
        *,
        restricts: bool = False,
        takes_whole: bool = False,
    ) -> None:
        self.at_once, self.later = at_once, later
        self.restricts, self.takes_whole = restricts, takes_whole
        self.asked: list[str] = []
        self.waiting: list[Deferred[RecipientStatus]] = []

    def at_hand(self, local_part: str, domain: str) -> RecipientStatus | None:
        return self.at_once

    def ask(self, local_part: str, domain: str) -> Deferred[RecipientStatus]:
        self.asked.append(f"{local_part}@{domain}")
        self.waiting.append(Deferred())
        if self.later is not None:
            self.waiting[-1].callback(self.later)
        return self.waiting[-1]

    def start(self) -> None: ...

    def retire(self) -> None: ...

    def close(self) -> None: ...


def over(*sources: Told, delimiter: str = "+") -> Directory:
    names = [f"s{number}" for number in range(len(sources))]
    config = Config.model_validate(
        {
            "gateway": {"hostname": "mx.example.org", "state_dir": "."},
            "listeners": [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "inbound"}],
            "pipelines": {"inbound": {"filters": []}},
            "routes": {"out": {"transport": "discard"}},
            "domains": {"example.org": {"route": "out", "recipients": names, "delimiter": delimiter}},
        },
        context={"base": Path()},
    )
    return Directory(config, dict(zip(names, sources, strict=True)))


def status(directory: Directory, address: str = "ann@example.org") -> RecipientStatus:
    found = directory.lookup(Address.parse(address))
    return outcome(as_deferred(found)) if isinstance(found, Awaitable) else found


def test_the_test_has_real_sources() -> None:
    assert verifyObject(ISource, Told())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([KNOWN], KNOWN),
        ([UNKNOWN, KNOWN], KNOWN),
        ([UNAVAILABLE, KNOWN], KNOWN),
        ([UNKNOWN, UNKNOWN], UNKNOWN),
        ([UNKNOWN, UNAVAILABLE], UNAVAILABLE),
        ([UNAVAILABLE, UNKNOWN], UNAVAILABLE),
        ([RESTRICTED, KNOWN], RESTRICTED),
        ([KNOWN, RESTRICTED], KNOWN),
        ([UNKNOWN, RESTRICTED], RESTRICTED),
        ([UNAVAILABLE, UNKNOWN, UNAVAILABLE], UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("is_at_hand", [True, False])
def test_one_that_knows_is_enough_and_unknown_takes_all(
    answers: list[RecipientStatus], expected: RecipientStatus, is_at_hand: bool
) -> None:
    sources = [Told(one) if is_at_hand else Told(later=one) for one in answers]
    directory = over(*sources)
    assert status(directory) is expected
    assert isinstance(directory.lookup(Address.parse("ann@example.org")), RecipientStatus) is is_at_hand


def test_what_is_at_hand_counts_before_anybody_is_asked() -> None:
    slow = Told()
    assert over(slow, Told(KNOWN)).lookup(Address.parse("ann@example.org")) is KNOWN
    assert slow.asked == []


def test_who_may_restrict_is_asked_before_those_behind_it() -> None:
    group = Told(later=RESTRICTED, restricts=True)
    assert status(over(group, Told(KNOWN))) is RESTRICTED
    assert status(over(Told(later=UNKNOWN, restricts=True), Told(KNOWN))) is KNOWN
    assert status(over(Told(later=UNAVAILABLE, restricts=True), Told(KNOWN))) is KNOWN
    group = Told(later=RESTRICTED, restricts=True)
    assert status(over(Told(KNOWN), group)) is KNOWN
    assert group.asked == []


def test_they_are_asked_in_their_order_until_one_knows() -> None:
    first, second, third = Told(later=UNKNOWN), Told(later=KNOWN), Told(later=KNOWN)
    assert status(over(first, second, third)) is KNOWN
    assert [one.asked for one in (first, second, third)] == [["ann@example.org"], ["ann@example.org"], []]


def test_an_address_is_looked_for_without_its_extension_too() -> None:
    source = Told(later=UNKNOWN)
    assert status(over(source), "Ann+Tag+x@example.org") is UNKNOWN
    assert source.asked == ["ann+tag+x@example.org", "ann@example.org"]


def test_the_domain_says_what_begins_an_extension() -> None:
    source = Told(later=UNKNOWN)
    assert status(over(source, delimiter="-"), "ann-tag+x@example.org") is UNKNOWN
    assert source.asked == ["ann-tag+x@example.org", "ann@example.org"]
    source = Told(later=UNKNOWN)
    assert status(over(source, delimiter=""), "ann+tag@example.org") is UNKNOWN
    assert source.asked == ["ann+tag@example.org"]


def test_who_knows_what_extensions_mean_is_asked_about_the_whole() -> None:
    source = Told(later=UNKNOWN, takes_whole=True)
    assert status(over(source), "ann+tag@example.org") is UNKNOWN
    assert source.asked == ["ann+tag@example.org"]


def test_nobody_is_asked_about_the_postmaster() -> None:
    source = Told(later=UNKNOWN)
    assert status(over(source), "Postmaster@example.org") is KNOWN
    assert source.asked == []


def test_cancelling_reaches_the_source_that_is_asked() -> None:
    source = Told()
    asked = over(source).lookup(Address.parse("ann@example.org"))
    assert isinstance(asked, Awaitable)
    waiting = as_deferred(asked)
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert source.waiting[0].called
