"""What verifying may cost, whatever comes; and that whatever comes has a result."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.dkim.keys import PublicKey
from mailgate.mailauth.dkim.limits import MAX_FIELD_OCTETS, MAX_FIELDS, MAX_NAMES, VerifyLimits
from mailgate.mailauth.dkim.signature import HeaderFields
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.testing import MemoryResolver, wait_for
from tests.unit.dkim_parts import DOMAIN, MESSAGE, NOW, ed25519, signed, verdict, verified, zone
from tests.unit.proportion import is_linear


def counted(message: bytes, limits: VerifyLimits | None = None) -> tuple[list[str], int]:
    """The words, and how many questions were asked."""
    resolver = MemoryResolver(zone())
    results = wait_for(verify_dkim(resolver, message, now=NOW, limits=limits or VerifyLimits()))
    return [one.result for one in results], len(resolver.asked)


def test_only_so_many_signatures_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    verify = PublicKey.verify

    def counting(self: PublicKey, data: bytes, signature: bytes) -> bool:
        calls.append(len(data))
        return verify(self, data, signature)

    monkeypatch.setattr(PublicKey, "verify", counting)
    one = signed()
    field = one[: one.index(b"From:")]
    words, asked = counted(field * 1000 + MESSAGE, VerifyLimits())
    assert words == ["policy"] * 1000  # too many fields
    words, asked = counted(field * 900 + MESSAGE)
    assert words == ["pass"] * 8 + ["policy"] * 892
    assert (asked, len(calls)) == (1, 8)
    words, _ = counted(field * 5 + MESSAGE, VerifyLimits(signatures=3))
    assert words == ["pass"] * 3 + ["policy"] * 2


def test_keys_of_several_signatures() -> None:
    message = signed(signed(signed(s="other"), key=ed25519(), s="ed"))
    records = zone() | {f"ed._domainkey.{DOMAIN}": {"TXT": [ed25519().record]}}
    assert [one.result for one in verified(message, records)] == ["pass", "pass", "permerror"]
    resolver = MemoryResolver(records)
    wait_for(verify_dkim(resolver, message, now=NOW))
    assert [name.partition(".")[0] for name, _ in resolver.asked] == ["key", "ed", "other"]


def test_one_signature_that_cannot_be_verified_does_not_harm_another() -> None:
    broken = signed(signed(), a="rsa-sha1")
    assert [one.result for one in verified(broken)] == ["permerror", "pass"]


def test_a_header_of_too_many_fields() -> None:
    filler = b"X: 1\r\n" * (MAX_FIELDS - 6)
    assert verdict(signed(MESSAGE.replace(b"\r\n\r\n", b"\r\n" + filler + b"\r\n", 1))) == ("pass", "")
    message = signed(MESSAGE.replace(b"\r\n\r\n", b"\r\n" + filler + b"X: 1\r\n\r\n", 1))
    word, reason = verdict(message)
    assert word == "policy"
    assert f"more than {MAX_FIELDS} fields" in reason


def test_a_field_that_is_too_large() -> None:
    assert verdict(signed(n="x" * (MAX_FIELD_OCTETS - 600))) == ("pass", "")
    word, reason = verdict(signed(n="x" * MAX_FIELD_OCTETS))
    assert word == "permerror"
    assert "octets" in reason


def test_names_are_bounded() -> None:
    assert verdict(signed(h=":".join(["from", *["x"] * (MAX_NAMES - 1)]))) == ("pass", "")
    assert verdict(signed(h=":".join(["from", *["x"] * MAX_NAMES])))[1] == f"h= has more than {MAX_NAMES} names"


def test_the_body_is_hashed_once_for_all_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    message = MESSAGE
    for _ in range(4):
        message = signed(message, l="3")
        message = signed(message, c="relaxed/simple")
        message = signed(message)
    sizes: list[int] = []
    sha256 = hashlib.sha256

    class Counted:
        def __init__(self, data: bytes = b"") -> None:
            self._hash = sha256(data)

        def update(self, data: bytes) -> None:
            sizes.append(len(data))
            self._hash.update(data)

        def digest(self) -> bytes:
            return self._hash.digest()

    monkeypatch.setattr("mailgate.mailauth.dkim.canonical.hashlib.sha256", Counted)
    results = verified(message, limits=VerifyLimits(signatures=12))
    assert [one.result for one in results] == ["pass"] * 12
    assert sum(sizes) < 2 * (len(MESSAGE) - MESSAGE.index(b"\r\n\r\n"))


@pytest.mark.parametrize(
    ("start", "piece", "end"),
    [
        (b"v=1; b", b"\r\n ", b"=AAAA"),
        (b"v=1; b=", b" ", b"!"),
        (b"v=1; h=from", b" ", b":to"),
        (b"v=1; b", b"b", b"=AAAA"),
        (b"v=1; i=", b"=", b"@example.org"),
        (b"v=1; h=from", b":x", b""),
        (b"", b"; ", b""),
        (b"", b"b=", b""),
        (b"d=", b"a.", b""),
        (b"d=", b"a-", b""),
    ],
)
def test_a_hostile_field_costs_in_proportion_to_its_size(start: bytes, piece: bytes, end: bytes) -> None:
    def work(size: int) -> Callable[[], object]:
        tags = (
            b"a=rsa-sha256; c=relaxed/relaxed; s=key; d=example.org; h=from; bh=" + base64.b64encode(bytes(32)) + b"; "
        )
        field = b"DKIM-Signature: " + tags + start + piece * (size // len(piece)) + end + b"\r\n"
        return lambda: [verified(field + MESSAGE) for _ in range(20)]

    assert is_linear(work, 1_600)


def test_picking_fields_is_linear() -> None:
    def work(count: int) -> Callable[[], object]:
        header = HeaderFields([(b"x%d" % number, b"X%d: 1" % number) for number in range(count)])
        names = [b"absent%d" % number for number in range(count)] + [b"x0"] * count
        return lambda: header.select(names)

    assert is_linear(work, 4_000)


@given(st.binary(max_size=400))
def test_whatever_stands_in_the_field_there_is_one_result(octets: bytes) -> None:
    value = octets.replace(b"\r", b"").replace(b"\n", b"")
    (result,) = verified(b"DKIM-Signature:" + value + b"\r\n" + MESSAGE)
    assert result.result == "permerror"


@given(
    st.dictionaries(
        st.sampled_from(["v", "a", "c", "d", "s", "h", "i", "l", "q", "t", "x", "bh", "b"]),
        st.text(st.characters(exclude_characters=";\r\n", exclude_categories=["Cs"]), max_size=20),
        max_size=3,
    )
)
def test_whatever_a_tag_says_there_is_one_result(tags: dict[str, str]) -> None:
    message = signed()
    field, _, rest = message.partition(b"\r\n")
    pieces = [piece for piece in field.split(b"; ") if piece.partition(b"=")[0].decode().split()[-1] not in tags]
    pieces += [f"{tag}={value}".encode() for tag, value in tags.items()]
    pieces[0] = pieces[0] if pieces[0].startswith(b"DKIM-Signature:") else b"DKIM-Signature: " + pieces[0]
    (result,) = verified(b"; ".join(pieces) + b"\r\n" + rest)
    assert result.result in {"pass", "fail", "permerror", "policy"}


@given(st.binary(max_size=200))
def test_whatever_a_message_is_there_are_results(octets: bytes) -> None:
    message = signed() + octets
    assert len(verified(octets + b"\r\n" + message)) <= 2
    assert [one.result in {"pass", "fail"} for one in verified(message)] == [True]


@given(st.binary(max_size=300))
def test_whatever_a_record_says_there_is_one_result(record: bytes) -> None:
    (result,) = verified(signed(), zone(record))
    assert result.result == "permerror"
