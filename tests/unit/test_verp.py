"""Return paths that say who a report is about."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.rewriting.verp import Verp, VerpError, VerpReturn

OLD, NEW = b"an old secret of ours", b"a new secret of ours"
NEWS, BOB = Address("news", "example.org"), Address("Bob=x", "mail.example.net")


def verp_of(*secrets: bytes, delimiter: str = "+") -> Verp:
    return Verp(lambda: secrets or (OLD,), delimiter)


def path(verp: Verp, sender: Address = NEWS, recipient: Address = BOB) -> Address:
    found = verp.return_path(sender, recipient)
    assert found is not None
    return found


@pytest.mark.parametrize("delimiter", ["+", "-", "_"])
def test_there_and_back(delimiter: str) -> None:
    verp = verp_of(delimiter=delimiter)
    for sender in (NEWS, Address("a-b+c_d", "example.org")):
        found = path(verp, sender)
        assert found.local_part.startswith(f"{sender.local_part}{delimiter}")
        assert found.local_part.endswith("=Bob=x=mail.example.net")
        assert verp.has_form(found)
        assert verp.read(Address.parse(str(found))) == VerpReturn(sender, BOB)


def test_case_may_change_on_the_way() -> None:
    found = str(path(verp_of()))
    assert verp_of().read(Address.parse(found.lower())).recipient == Address("bob=x", "mail.example.net")


def test_secrets_can_be_replaced() -> None:
    old = path(verp_of(OLD))
    assert verp_of(NEW, OLD).read(old) == VerpReturn(NEWS, BOB)
    with pytest.raises(VerpError, match="not made"):
        verp_of(NEW).read(old)


def test_what_others_make_up() -> None:
    text = str(path(verp_of()))
    for wrong in (
        text.replace("Bob", "Eve"),
        text.replace("example.net", "example.com"),
        text.replace("news", "list"),
        text.replace("@example.org", "@example.net"),
        "news+AAAAAAAA=bob=example.net@example.org",
    ):
        with pytest.raises(VerpError):
            verp_of().read(Address.parse(wrong))
    for other in ("news@example.org", "news+x@example.org", "news+AAAAAAAA=bob@example.org"):
        assert not verp_of().has_form(Address.parse(other))
        with pytest.raises(VerpError, match="no return path"):
            verp_of().read(Address.parse(other))


def test_what_has_none() -> None:
    assert verp_of().return_path(NULL_PATH, BOB) is None
    assert verp_of().return_path(NEWS, NULL_PATH) is None
    assert verp_of().return_path(NEWS, Address("b" * 40, "example.net")) is None


@pytest.mark.parametrize("delimiter", ["", "=", ".", "@", "++"])
def test_what_cannot_separate(delimiter: str) -> None:
    with pytest.raises(ValueError, match="cannot separate"):
        verp_of(delimiter=delimiter)


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=200)
def test_any_address(one: str, other: str) -> None:
    verp = verp_of()
    try:
        sender = Address.parse(str(Address(one, "example.org")))
        recipient = Address.parse(str(Address(other, "example.net")))
    except AddressError:
        return
    found = verp.return_path(sender, recipient)
    if found is not None:
        assert verp.read(Address.parse(str(found))) == VerpReturn(sender, recipient)
