"""The Sender Rewriting Scheme: there and back, what is not ours, and age."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address
from mailgate.rewriting.srs import Srs, SrsError

DAY = 86400.0
NOW = 20_000 * DAY


def srs(*secrets: bytes, now: float = NOW, domain: str = "fwd.example", max_age: float = 21 * DAY) -> Srs:
    return Srs(domain, secrets or (b"secret",), max_age, lambda: now)


def test_there_and_back() -> None:
    sender = Address("ann", "sender.example")
    made = srs().forward(sender)
    assert made is not None
    assert made.domain == "fwd.example"
    assert made.local_part.startswith("SRS0=")
    assert made.local_part.endswith("=sender.example=ann")
    assert srs().is_ours(made)
    assert srs().reverse(made) == sender


@given(st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=1, max_size=30))
def test_every_local_part_comes_back(local_part: str) -> None:
    sender = Address(local_part, "s.example")
    made = srs().forward(sender)
    if made is not None and not srs().is_ours(Address(local_part, "fwd.example")):
        assert srs().reverse(Address.parse(str(made))) == sender


def test_a_second_forwarder_keeps_the_first_and_drops_itself() -> None:
    first, second, third = srs(domain="one.example"), srs(b"b", domain="two.example"), srs(b"c", domain="three.example")
    sender = Address("ann", "sender.example")
    made = first.forward(sender)
    assert made is not None
    again = second.forward(made)
    assert again is not None
    assert again.local_part.startswith("SRS1=")
    thrice = third.forward(again)
    assert thrice is not None
    assert len(thrice.local_part) <= 64
    assert third.reverse(thrice) == made
    assert second.reverse(again) == made
    assert first.reverse(made) == sender


def test_hosts_that_change_the_case_do_no_harm() -> None:
    made = srs().forward(Address("ann", "sender.example"))
    assert made is not None
    assert srs().reverse(Address(made.local_part.lower(), made.domain)) == Address("ann", "sender.example")
    assert srs().reverse(Address(made.local_part.upper(), made.domain)).local_part == "ANN"


@pytest.mark.parametrize(
    "local_part",
    [
        "SRS0=AAAAAA=AA=victim.example=ann",
        "SRS0=x=y",
        "SRS0=",
        "SRS1=AAAAAA=one.example==BBBB=AA=victim.example=ann",
        "srs0+AAAAAA=AA=victim.example=ann",
    ],
)
def test_what_we_have_not_made_leads_nowhere(local_part: str) -> None:
    address = Address(local_part, "fwd.example")
    assert srs().is_ours(address)
    with pytest.raises(SrsError):
        srs().reverse(address)


def test_other_addresses_are_not_ours() -> None:
    assert not srs().is_ours(Address("ann", "fwd.example"))
    assert not srs().is_ours(Address("SRS0=AAAAAA=AA=victim.example=ann", "other.example"))


def test_a_changed_address_is_refused() -> None:
    made = srs().forward(Address("ann", "sender.example"))
    assert made is not None
    with pytest.raises(SrsError, match="not ours"):
        srs().reverse(Address(made.local_part.replace("=ann", "=bob"), made.domain))


def test_letters_that_only_look_like_ours_are_none() -> None:
    """U+212A is a K in lower case, and none of the letters that stand for days."""
    tried = 0
    for day in range(20_000, 21_024):
        made = srs(now=day * DAY).forward(Address("ann", "sender.example"))
        assert made is not None
        parts = made.local_part.split("=")
        if "K" in parts[2]:
            parts[2] = parts[2].replace("K", "\u212a")
            tried += 1
            with pytest.raises(SrsError):
                srs(now=day * DAY).reverse(Address("=".join(parts), made.domain))
    assert tried


def test_age() -> None:
    made = srs().forward(Address("ann", "sender.example"))
    assert made is not None
    assert srs(now=NOW + 21 * DAY).reverse(made)
    with pytest.raises(SrsError, match="older than 21 days"):
        srs(now=NOW + 22 * DAY).reverse(made)
    with pytest.raises(SrsError, match="older"):
        srs(now=NOW + 700 * DAY).reverse(made)
    assert srs(now=NOW - DAY / 2).reverse(made)


def test_the_time_wraps_around() -> None:
    late = 1023 * DAY
    made = srs(now=late).forward(Address("ann", "sender.example"))
    assert made is not None
    assert srs(now=late + 3 * DAY).reverse(made) == Address("ann", "sender.example")


def test_a_secret_is_replaced_without_losing_what_is_under_way() -> None:
    made = srs(b"old").forward(Address("ann", "sender.example"))
    assert made is not None
    assert srs(b"new", b"old").reverse(made)
    with pytest.raises(SrsError):
        srs(b"new").reverse(made)


def test_what_has_no_fitting_address_stays() -> None:
    assert srs().forward(NULL_PATH) is None
    assert srs().forward(Address("a" * 60, "sender.example")) is None


def test_secrets_and_ages_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="secret"):
        srs(b"")
    with pytest.raises(ValueError, match="days"):
        srs(max_age=600 * DAY)
