"""Tags of reverse-paths: what is made comes back, for its time, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.rewriting.batv import Batv, BatvError

DAY = 86400.0
ANN = Address("Ann", "example.org")
OLD, NEW = b"an old secret of ours", b"a new secret of ours"


class Bench:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.secrets = [OLD]
        self.batv = Batv(lambda: self.secrets, 7 * DAY, lambda: self.now)

    def tag(self, sender: Address = ANN) -> Address:
        found = self.batv.tag(sender)
        assert found is not None
        return found


def test_there_and_back() -> None:
    bench = Bench()
    tagged = bench.tag()
    assert tagged.local_part.startswith("prvs=")
    assert tagged.local_part.endswith("=Ann")
    assert len(tagged.local_part) == len("prvs=0123abcdef=Ann")
    assert bench.batv.is_tagged(tagged)
    assert not bench.batv.is_tagged(ANN)
    assert bench.batv.original(tagged) == ANN


def test_case_may_change_on_the_way() -> None:
    bench = Bench()
    text = str(bench.tag())
    assert bench.batv.original(Address.parse(text.lower())) == Address("ann", "example.org")
    assert bench.batv.original(Address.parse(text.upper())) == Address("ANN", "example.org")


@pytest.mark.parametrize("days", [0, 1, 7])
def test_it_is_good_for_days(days: int) -> None:
    bench = Bench()
    tagged = bench.tag()
    bench.now += days * DAY
    assert bench.batv.original(tagged) == ANN


@pytest.mark.parametrize("days", [8, 100, 500, 990])
def test_and_no_longer(days: int) -> None:
    bench = Bench()
    tagged = bench.tag()
    bench.now += days * DAY
    with pytest.raises(BatvError, match="older than 7 days"):
        bench.batv.original(tagged)


@pytest.mark.parametrize("start", [0.0, 995 * DAY, 999 * DAY])
def test_over_the_end_of_the_thousand_days(start: float) -> None:
    bench = Bench(start)
    tagged = bench.tag()
    bench.now += 6 * DAY
    assert bench.batv.original(tagged) == ANN


def test_secrets_can_be_replaced() -> None:
    bench = Bench()
    old = bench.tag()
    bench.secrets = [NEW, OLD]
    new = bench.tag()
    assert (bench.batv.original(old), bench.batv.original(new)) == (ANN, ANN)
    bench.secrets = [NEW]
    assert bench.batv.original(new) == ANN
    with pytest.raises(BatvError, match="not ours"):
        bench.batv.original(old)


def test_what_others_make_up() -> None:
    bench = Bench()
    text = str(bench.tag())
    for wrong in (
        text.replace("Ann", "Bob"),
        text.replace("example.org", "example.net"),
        text[:6] + "000" + text[9:],
        "prvs=0000000000=ann@example.org",
        "prvs=9999ffffff=ann@example.org",
    ):
        with pytest.raises(BatvError):
            bench.batv.original(Address.parse(wrong))
    for other in ("prvs=12=ann@example.org", "prvs=ann/0123abcdef@example.org", "xprvs=0123abcdef=ann@example.org"):
        assert not bench.batv.is_tagged(Address.parse(other))
        with pytest.raises(BatvError, match="has no tag"):
            bench.batv.original(Address.parse(other))


def test_what_cannot_be_tagged() -> None:
    bench = Bench()
    assert bench.batv.tag(NULL_PATH) is None
    assert bench.batv.tag(Address("x" * 48, "example.org")) is not None
    assert bench.batv.tag(Address("x" * 49, "example.org")) is None


def test_a_time_that_a_tag_cannot_tell() -> None:
    with pytest.raises(ValueError, match="cannot tell more than 499"):
        Batv(lambda: [OLD], 500 * DAY, lambda: 0.0)


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=200)
def test_any_address(local_part: str, other: str) -> None:
    bench = Bench()
    try:
        address = Address.parse(str(Address(local_part, "example.org")))
    except AddressError:
        return
    tagged = bench.batv.tag(address)
    if tagged is not None:
        assert bench.batv.original(Address.parse(str(tagged))) == address
    hostile = Address(f"prvs={other}={local_part}", "example.org")
    if bench.batv.is_tagged(hostile):
        with pytest.raises(BatvError):
            bench.batv.original(hostile)
