"""Keys: records as they are and are not, what is asked of DNS, and private keys in all their forms."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Mapping
from ipaddress import IPv4Address, IPv6Address

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateNumbers, RSAPublicNumbers
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.awaiting import as_deferred
from mailgate.interfaces import Answer, DnsStatus, IResolver
from mailgate.mailauth.dkim.keys import (
    KeyUnavailableError,
    KeyUnusableError,
    PublicKey,
    SigningKey,
    fetch_key,
    fetch_keys,
    parse_key,
)
from mailgate.testing import MemoryResolver, wait_for
from tests.unit.dkim_parts import DOMAIN, PLACE, SEED, SELECTOR, ed25519, pem, public, rsa, zone


def value_of(record: str) -> str:
    return record.partition("p=")[2]


@implementer(IResolver)
class Later:
    """Answers when it is told to; `coroutines` makes it a resolver that only begins when it is awaited."""

    def __init__(self, coroutines: bool = False) -> None:
        self.asked: dict[str, Deferred[Answer]] = {}
        self.cancelled: list[str] = []
        self._coroutines = coroutines

    def resolve(self, name: str, rdtype: str) -> Awaitable[Answer]:
        return self._wait(name) if self._coroutines else self._ask(name)

    def reverse(self, address: IPv4Address | IPv6Address) -> Awaitable[Answer]:
        raise NotImplementedError

    def _ask(self, name: str) -> Deferred[Answer]:
        assert name not in self.asked
        self.asked[name] = Deferred(lambda _: self.cancelled.append(name))
        return self.asked[name]

    async def _wait(self, name: str) -> Answer:
        return await self._ask(name)


# -- records


def test_a_plain_record() -> None:
    key = parse_key(rsa().record.encode())
    assert (key.algorithm, key.bits, key.is_testing, key.strict_identity) == ("rsa", 1024, False, False)
    assert key.verify(b"data", rsa().sign(b"data"))
    assert not key.verify(b"other", rsa().sign(b"data"))
    assert not key.verify(b"data", b"no signature")


def test_a_record_of_ed25519() -> None:
    key = parse_key(ed25519().record.encode())
    assert (key.algorithm, key.bits) == ("ed25519", 256)
    assert key.verify(b"data", ed25519().sign(b"data"))
    assert not key.verify(b"data", b"short")
    assert not key.verify(b"data", rsa().sign(b"data"))


def test_flags_hashes_and_services() -> None:
    record = f"v=DKIM1; t = y : s : later; h=sha1:SHA256; s=email : other; n=; x=1; g=*; p={public(1024)}"
    key = parse_key(record.encode())
    assert key.is_testing
    assert key.strict_identity
    assert key.hashes == {b"sha1", b"sha256"}
    assert key.services == {b"email", b"other"}


@pytest.mark.parametrize(
    "record",
    ["p={}", "k=rsa; p={}", "v=DKIM1; p={};", "v=DKIM1;p=\t{} ", "k=RSA; v2=DKIM2; p={}"],
)
def test_what_a_record_may_leave_out(record: str) -> None:
    assert parse_key(record.format(public(2048)).encode()).bits == 2048


def test_white_space_within_a_key_does_not_matter() -> None:
    text = public(1024)
    assert parse_key(f"v=DKIM1; p={text[:50]} \r\n\t{text[50:]}".encode()).bits == 1024


def test_a_key_without_the_frame_that_says_rsa() -> None:
    """RFC 6376 section 3.6.1 names the form of PKCS#1, everyone publishes the other."""
    loaded = serialization.load_der_public_key(base64.b64decode(value_of(rsa().record)))
    octets = loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    assert parse_key(b"p=" + base64.b64encode(octets)).verify(b"data", rsa().sign(b"data"))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("", "no key"),
        ("v=DKIM1", "no key"),
        ("v=DKIM1; p=", "revoked"),
        ("p={}; v=DKIM1", "begin with v=DKIM1"),
        ("v=DKIM2; p={}", "begin with v=DKIM1"),
        ("v=dkim1; p={}", "begin with v=DKIM1"),
        ("v=spf1 -all", "begin with v=DKIM1"),
        ("some text", "cannot be read"),
        ("v=DKIM1; p={}; p={}", "cannot be read"),
        ("k=dsa; p={}", "unknown kind"),
        ("p={}!", "no base64"),
        ("p=AAA", "no base64"),
        ("p=AAAA", "no RSA key"),
        ("p={}AAAA", "no RSA key"),
        ("k=ed25519; p={}", "has 32 octets"),
        ("k=ed25519; p=AAAA", "has 32 octets, not 3"),
        ("k=rsa; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "no RSA key"),
    ],
)
def test_what_is_no_key(record: str, why: str) -> None:
    with pytest.raises(KeyUnusableError, match=why):
        parse_key(record.format(public(1024), public(1024)).encode())


def test_a_key_of_another_kind_is_none() -> None:
    octets = (
        ec_key(SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(KeyUnusableError, match="no RSA key"):
        parse_key(b"p=" + base64.b64encode(octets))


@pytest.mark.parametrize("bits", [512, 1024, 2048, 4096])
def test_sizes_that_are_read(bits: int) -> None:
    assert parse_key(f"p={public(bits)}".encode()).bits == bits


def test_a_huge_key_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [f"p={public(bits)}".encode() for bits in (8192, 16384)]

    def load(octets: bytes) -> None:
        raise AssertionError(f"{len(octets)} octets are read")

    monkeypatch.setattr(serialization, "load_der_public_key", load)
    for record in records:
        with pytest.raises(KeyUnusableError, match="more than 4096 bits"):
            parse_key(record)


def test_a_key_just_too_large_is_refused() -> None:
    with pytest.raises(KeyUnusableError, match="more than 4096 bits"):
        parse_key(f"p={public(4104)}".encode())


@pytest.mark.parametrize("bits", [1024, 2048])
def test_a_key_with_a_huge_exponent_is_refused(bits: int) -> None:
    with pytest.raises(KeyUnusableError, match="an exponent beyond reason"):
        parse_key(f"p={public(bits, 2 ** (bits - 2) + 1)}".encode())


def test_a_record_is_bounded() -> None:
    start = f"p={public(1024)}; n="
    assert parse_key((start + "x" * (4096 - len(start))).encode()).bits == 1024
    with pytest.raises(KeyUnusableError, match="4097 octets"):
        parse_key((start + "x" * (4097 - len(start))).encode())


def test_a_record_that_was_read_is_remembered() -> None:
    record = f"v=DKIM1; n=remembered; p={public(1024)}".encode()
    assert parse_key(record) is parse_key(bytes(bytearray(record)))


# -- asking


def fetched(records: Mapping[str, object]) -> PublicKey:
    return wait_for(fetch_key(MemoryResolver(records), DOMAIN, SELECTOR))


def test_a_key_is_asked_for_at_its_name() -> None:
    resolver = MemoryResolver(zone())
    assert wait_for(fetch_key(resolver, DOMAIN, SELECTOR)).bits == 1024
    assert resolver.asked == [(PLACE, "TXT")]


def test_answers_that_are_there_need_no_reactor() -> None:
    with pytest.raises(StopIteration) as stop:
        fetch_key(MemoryResolver(zone()), DOMAIN, SELECTOR).send(None)
    assert stop.value.value.bits == 1024


@pytest.mark.parametrize("status", ["SERVFAIL", "TIMEOUT"])
def test_what_dns_cannot_say_now_may_be_said_later(status: str) -> None:
    with pytest.raises(KeyUnavailableError, match="cannot be asked for"):
        fetched({PLACE: status})


@pytest.mark.parametrize("status", ["NXDOMAIN", "NODATA"])
def test_no_record_is_no_key(status: str) -> None:
    with pytest.raises(KeyUnusableError, match="there is no key"):
        fetched({PLACE: status})


def test_of_several_records_one_may_be_the_key() -> None:
    assert fetched({PLACE: {"TXT": ["v=spf1 -all", "other text", rsa().record]}}).bits == 1024


def test_several_keys_are_none() -> None:
    with pytest.raises(KeyUnusableError, match="several keys"):
        fetched({PLACE: {"TXT": [rsa().record, ed25519().record]}})


def test_a_record_in_several_strings_is_one() -> None:
    text = rsa().record
    assert fetched({PLACE: {"TXT": [[text[:100], text[100:]]]}}).bits == 1024


@pytest.mark.parametrize("services", ["*", "email", "other:email", "tlsrpt : *"])
def test_keys_for_mail(services: str) -> None:
    assert fetched(zone(f"v=DKIM1; s={services}; p={public(1024)}")).bits == 1024


@pytest.mark.parametrize("services", ["tlsrpt", "other", "other:tlsrpt", "emails"])
def test_keys_for_other_services(services: str) -> None:
    with pytest.raises(KeyUnusableError, match="not for mail"):
        fetched(zone(f"v=DKIM1; s={services}; p={public(1024)}"))


@pytest.mark.parametrize("coroutines", [False, True])
def test_keys_are_asked_for_together_and_each_once(coroutines: bool) -> None:
    resolver = Later(coroutines)
    wanted = [("a.example", "s"), ("b.example", "s"), ("a.example", "s"), ("c.example", "s")]
    pending = as_deferred(fetch_keys(resolver, wanted))
    assert list(resolver.asked) == [f"s._domainkey.{name}.example" for name in "abc"]
    statuses = [DnsStatus.TIMEOUT, DnsStatus.FOUND, DnsStatus.NXDOMAIN]
    for name, status in reversed(list(zip("abc", statuses, strict=True))):
        records = (rsa().record.encode(),) if status is DnsStatus.FOUND else ()
        resolver.asked[f"s._domainkey.{name}.example"].callback(Answer(status, records))
    found = wait_for(pending)
    assert [type(found[f"{name}.example", "s"]) for name in "abc"] == [KeyUnavailableError, PublicKey, KeyUnusableError]


@pytest.mark.parametrize("coroutines", [False, True])
def test_who_gives_up_leaves_no_question_open(coroutines: bool) -> None:
    resolver = Later(coroutines)
    pending = as_deferred(fetch_keys(resolver, [("a.example", "s"), ("b.example", "s")]))
    pending.addErrback(lambda _: None)
    pending.cancel()
    assert sorted(resolver.cancelled) == ["s._domainkey.a.example", "s._domainkey.b.example"]


def test_a_resolver_that_breaks_leaves_no_question_open() -> None:
    resolver = Later()
    pending = as_deferred(fetch_keys(resolver, [("a.example", "s"), ("b.example", "s")]))
    resolver.asked["s._domainkey.a.example"].errback(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        wait_for(pending)
    assert resolver.cancelled == ["s._domainkey.b.example"]


# -- private keys


def test_an_rsa_key_in_pem_of_both_kinds_and_any_line_ends() -> None:
    key = serialization.load_pem_private_key(pem(), None)
    old = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert b"BEGIN RSA PRIVATE KEY" in old
    for material in (pem(), old, pem().replace(b"\n", b"\r\n"), b"\n\n" + old, pem().decode()):
        loaded = SigningKey.load(material)
        assert loaded.algorithm == "rsa-sha256"
        assert loaded.record == rsa().record


def test_an_ed25519_key_in_pem_or_as_a_seed() -> None:
    form = serialization.PrivateFormat.PKCS8
    key = serialization.load_der_private_key(
        bytes.fromhex("302e020100300506032b657004220420") + SEED, None
    ).private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    for material in (key, SEED, base64.b64encode(SEED), base64.b64encode(SEED).decode() + "\r\n"):
        loaded = SigningKey.load(material)
        assert loaded.algorithm == "ed25519-sha256"
        assert loaded.record == ed25519().record


def test_a_key_is_checked_once() -> None:
    assert SigningKey.load(pem(2048)) is SigningKey.load(pem(2048).decode())


def protected() -> bytes:
    key = serialization.load_pem_private_key(pem(), None)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"x"))


def elliptic() -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return ec_key(SECP256R1()).private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def damaged() -> bytes:
    lines = pem().splitlines()
    return b"\n".join([*lines[:3], *lines[4:]])


@pytest.mark.parametrize(
    ("material", "why"),
    [
        (b"", "neither a private key"),
        (b"secret", "neither a private key"),
        (b"-----BEGIN nothing", "cannot be read"),
        (base64.b64encode(SEED[:31]), "neither a private key"),
        (damaged(), "cannot be read"),
        (protected(), "password"),
        (elliptic(), "neither an RSA nor"),
    ],
)
def test_what_is_no_private_key(material: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        SigningKey.load(material)
    assert not material or material.decode() not in str(caught.value)


def test_an_rsa_key_that_nobody_believes_is_refused() -> None:
    # The greatest primes of 256 and 255 bits.
    p, q, e = 2**256 - 189, 2**255 - 19, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), RSAPublicNumbers(e, p * q))
    with pytest.raises(ValueError, match="an RSA key of 511 bits"):
        SigningKey(numbers.private_key())
