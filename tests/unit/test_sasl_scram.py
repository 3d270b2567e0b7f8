"""SCRAM-SHA-256: the exchange of RFC 7677, a peer that others wrote, and attacks on either side."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest
import scramp  # type: ignore[import-untyped]  # it has no types

from mailgate.wire.sasl import (
    Challenge,
    Failed,
    Malformed,
    NeedSecret,
    SaslError,
    ScramProof,
    ScramSecret,
    ScramServer,
    Succeeded,
    Verify,
    encode_response,
)
from mailgate.wire.sasl_client import ScramClient
from mailgate.wire.scram import MAX_ITERATIONS, MIN_ITERATIONS
from tests.unit.sasl_talk import BINDINGS, NAME, PASSWORD, SECRET, counting, server

_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
_CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
_SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
_PLUS = "SCRAM-SHA-256-PLUS"


def test_both_sides_say_what_rfc_7677_has_them_say() -> None:
    client = ScramClient("SCRAM-SHA-256", "user", "pencil", b"rOprNGfwEbeRWgbNEkqO")
    assert client.initial == _CLIENT_FIRST
    mechanism = ScramServer("SCRAM-SHA-256", {}, key=b"k", nonce=b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert mechanism.step(_CLIENT_FIRST) == NeedSecret("user")
    assert mechanism.secret(ScramSecret.derive("pencil", _SALT, 4096)) == Challenge(_SERVER_FIRST)
    assert client.respond(_SERVER_FIRST) == _CLIENT_FINAL
    assert not client.verified
    assert mechanism.step(_CLIENT_FINAL) == Verify(ScramProof("user"))
    assert mechanism.verified(True) == Challenge(_SERVER_FINAL)
    assert client.respond(_SERVER_FINAL) == b""
    assert client.verified
    assert mechanism.step(b"") == Succeeded()


@pytest.mark.parametrize("binding", [None, "tls-server-end-point"])
@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_a_client_of_scramp(binding: str | None, password: str) -> None:
    name = _PLUS if binding else "SCRAM-SHA-256"
    peer = scramp.ScramClient([name], NAME, password, channel_binding=(binding, BINDINGS[binding]) if binding else None)
    mechanism = server(name, BINDINGS if binding else {})
    assert mechanism.step(peer.get_client_first().encode()) == NeedSecret(NAME)
    peer.set_server_first(mechanism.secret(SECRET).data.decode())
    step = mechanism.step(peer.get_client_final().encode())
    if password != PASSWORD:
        assert step == Failed("wrong password or unknown user")
        return
    assert step == Verify(ScramProof(NAME))
    final = mechanism.verified(True)
    assert final is not None
    peer.set_server_final(final.data.decode())


@pytest.mark.parametrize("binding", [None, ("tls-server-end-point", b"P" * 32)])
def test_a_server_of_scramp(binding: tuple[str, bytes] | None) -> None:
    peer = scramp.ScramMechanism(_PLUS if binding else "SCRAM-SHA-256").make_server(
        lambda _name: (SECRET.salt, SECRET.stored_key, SECRET.server_key, SECRET.iterations), channel_binding=binding
    )
    client = ScramClient(_PLUS if binding else "SCRAM-SHA-256", NAME, PASSWORD, b"nonce", binding=binding)
    peer.set_client_first((client.initial or b"").decode())
    peer.set_client_final(client.respond(peer.get_server_first().encode()).decode())
    assert client.respond(peer.get_server_final().encode()) == b""
    assert client.verified


def test_names_are_escaped_and_prepared() -> None:
    client = ScramClient("SCRAM-SHA-256", "I\u00adX,=2C", "x", b"nonce")
    assert (client.initial or b"").startswith(b"n,,n=IX=2C=3D2C,r=")
    assert server("SCRAM-SHA-256").step(client.initial) == NeedSecret("IX,=2C")
    assert server("SCRAM-SHA-256").step("n,a=\u2168,n=\u2168,r=x".encode()) == NeedSecret("IX")


def test_an_unknown_user_is_led_on_and_fails_only_at_the_end() -> None:
    salts = []
    for name in ("nobody", "nobody", "NoBody", "somebody"):
        client, mechanism = ScramClient("SCRAM-SHA-256", name, "x", b"nonce"), server("SCRAM-SHA-256")
        assert mechanism.step(client.initial) == NeedSecret(name)
        challenge = mechanism.secret(None).data
        match = re.fullmatch(rb"r=[^,]+,s=([^,]+),i=4096", challenge)
        assert match is not None
        salts.append(match[1])
        assert len(base64.b64decode(match[1])) == len(ScramSecret.derive("x", iterations=4096).salt)
        assert mechanism.step(client.respond(challenge)) == Failed("wrong password or unknown user")
    assert salts[0] == salts[1] == salts[2] != salts[3]


def test_nobody_finds_a_password_for_a_decoy() -> None:
    decoy = ScramSecret.decoy("nobody", b"k", 4096)
    assert not any(decoy.matches(password) for password in ("", "k", "nobody"))


@pytest.mark.parametrize(
    ("name", "is_offered", "first", "reason"),
    [
        ("SCRAM-SHA-256", True, b"y,,n=tim,r=abc", "somebody hid"),
        ("SCRAM-SHA-256", True, b"p=tls-exporter,,n=tim,r=abc", "without"),
        ("SCRAM-SHA-256", False, b"p=tls-exporter,,n=tim,r=abc", "without"),
        (_PLUS, True, b"n,,n=tim,r=abc", "without one"),
        (_PLUS, True, b"y,,n=tim,r=abc", "without one"),
        (_PLUS, True, b"p=tls-unique,,n=tim,r=abc", "type of channel binding"),
        (_PLUS, False, b"p=tls-exporter,,n=tim,r=abc", "type of channel binding"),
        ("SCRAM-SHA-256", False, b"n,,m=x,n=tim,r=abc", "mandatory"),
        ("SCRAM-SHA-256", False, b"n,,n=tim,r=abc,m=x", "mandatory"),
    ],
)
def test_first_messages_that_fail(name: str, is_offered: bool, first: bytes, reason: str) -> None:
    step = server(name, BINDINGS if is_offered else {}).step(first)
    assert isinstance(step, Failed)
    assert reason in step.reason


@pytest.mark.parametrize("first", [b"n,,n=tim,r=abc", b"n,a=tim,n=tim,r=abc", b"n,,n=tim,r=abc,x=more,y=z"])
def test_first_messages_that_pass(first: bytes) -> None:
    assert server("SCRAM-SHA-256", BINDINGS).step(first) == NeedSecret("tim")
    assert server("SCRAM-SHA-256").step(b"y" + first[1:]) == NeedSecret("tim")


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,",
        b"n,n=tim,r=abc",
        b"n,,n=,r=abc",
        b"n,,n=tim",
        b"n,,n=tim,r=",
        b"n,,n=tim,r=a b",
        b"n,,r=abc,n=tim",
        b"n,,n=tim,r=abc,",
        b"n,,n=tim,r=abc,x",
        b"n,,n=tim,r=abc,x=",
        b"x,,n=tim,r=abc",
        b"p=,,n=tim,r=abc",
        b"n,,n=t=m,r=abc",
        b"n,,n=t=2cm,r=abc",
        b"n,,n=t=,r=abc",
        b"n,a=,n=tim,r=abc",
        b"n,,n=t\x00m,r=abc",
        b"n,,n=t\nm,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,,n=tim,r=\xff",
        b"n,,n=\xc2\xad,r=abc",
        b"n,,n=" + b"t" * 513 + b",r=abc",
        b"n,,n=tim,r=" + b"x" * 201,
        b"n,,n=tim,r=abc\n",
        "n,,n=\u06271,r=abc".encode(),
    ],
)
def test_what_is_no_first_message(first: bytes) -> None:
    assert isinstance(server("SCRAM-SHA-256").step(first), Malformed)


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda c: c.replace(b"c=biws", b"c=eSws"), Failed("the channel binding of another connection")),
        (lambda c: c.replace(b"c=biws", b"c=biwsbiws"), Failed("the channel binding of another connection")),
        (lambda c: c.replace(b",r=", b",r=x"), Failed("the nonce of another exchange")),
        (lambda c: re.sub(rb",r=[^,]+", b",r=rOprNGfwEbeRWgbNEkqO", c), Failed("the nonce of another exchange")),
        (lambda c: re.sub(rb"p=.+", b"p=" + base64.b64encode(bytes(32)), c), Failed("wrong password or unknown user")),
        (lambda c: c.replace(b",p=", b",x=y,p="), Failed("wrong password or unknown user")),
        (lambda c: re.sub(rb"p=.+", b"p=" + base64.b64encode(bytes(31)), c), None),
        (lambda c: re.sub(rb"p=.+", b"p=", c), None),
        (lambda c: re.sub(rb",p=.+", b"", c), None),
        (lambda c: re.sub(rb"p=.+", b"p=====", c), None),
        (lambda c: c.replace(b"c=biws", b"c=biw"), None),
        (lambda c: c + b",x=y", None),
        (lambda _: b"", None),
        (lambda _: b"\xff", None),
    ],
)
def test_final_messages_that_do_not_pass(change: Callable[[bytes], bytes], outcome: Failed | None) -> None:
    client, mechanism = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce"), server("SCRAM-SHA-256")
    mechanism.step(client.initial)
    step = mechanism.step(change(client.respond(mechanism.secret(SECRET).data)))
    assert isinstance(step, Malformed) if outcome is None else step == outcome
    with pytest.raises(SaslError):
        mechanism.verified(True)


def test_the_channel_of_another_connection() -> None:
    for data, ok in ((b"E" * 32, True), (b"F" * 32, False)):
        client = ScramClient(_PLUS, NAME, PASSWORD, b"nonce", binding=("tls-exporter", data))
        mechanism = server(_PLUS, BINDINGS)
        mechanism.step(client.initial)
        step = mechanism.step(client.respond(mechanism.secret(SECRET).data))
        assert isinstance(step, Verify if ok else Failed)


def test_a_user_who_is_not_let_in_gets_no_signature() -> None:
    client, mechanism = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce"), server("SCRAM-SHA-256")
    mechanism.step(client.initial)
    mechanism.step(client.respond(mechanism.secret(SECRET).data))
    assert mechanism.verified(False) is None
    with pytest.raises(SaslError):
        mechanism.step(b"")


def test_the_signature_is_answered_with_nothing() -> None:
    client, mechanism = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce"), server("SCRAM-SHA-256")
    mechanism.step(client.initial)
    mechanism.step(client.respond(mechanism.secret(SECRET).data))
    mechanism.verified(True)
    assert isinstance(mechanism.step(b"x"), Malformed)


def test_two_exchanges_share_no_nonce_and_no_proof_serves_twice() -> None:
    random_bytes = counting()
    client = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce")
    first = server("SCRAM-SHA-256", random_bytes=random_bytes)
    first.step(client.initial)
    final = client.respond(first.secret(SECRET).data)
    second = server("SCRAM-SHA-256", random_bytes=random_bytes)
    second.step(client.initial)
    second.secret(SECRET)
    assert second.step(final) == Failed("the nonce of another exchange")


def _server_first(
    client: ScramClient, nonce: bytes = b"more", salt: bytes = b"QQ==", iterations: bytes = b"4096"
) -> bytes:
    own = (client.initial or b"").rpartition(b"r=")[2]
    return b"r=%b,s=%b,i=%b" % (own + nonce, salt, iterations)


@pytest.mark.parametrize(
    ("challenge", "reason"),
    [
        (lambda c: _server_first(c, nonce=b""), "nonce"),
        (lambda c: b"r=x" + _server_first(c)[2:], "nonce"),
        (lambda c: _server_first(c, iterations=b"1"), "1 iterations"),
        (lambda c: _server_first(c, iterations=str(MIN_ITERATIONS - 1).encode()), "iterations"),
        (lambda c: _server_first(c, iterations=str(MAX_ITERATIONS + 1).encode()), "iterations"),
        (lambda c: _server_first(c, iterations=b"9" * 5000), "no first message"),
        (lambda c: _server_first(c, iterations=b"-4096"), "no first message"),
        (lambda c: _server_first(c, salt=b""), "no first message"),
        (lambda c: _server_first(c, salt=b"Q"), "base64"),
        (lambda c: b"m=x," + _server_first(c), "no first message"),
        (lambda c: _server_first(c) + b"\n", "no first message"),
        (lambda _: b"", "no first message"),
        (lambda _: b"\xff\x00", "no first message"),
        (lambda _: b"e=other-error", "no first message"),
    ],
)
def test_servers_that_a_client_does_not_answer(challenge: Callable[[ScramClient], bytes], reason: str) -> None:
    client = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce")
    with pytest.raises(SaslError, match=reason):
        client.respond(challenge(client))
    with pytest.raises(SaslError):
        client.respond(_server_first(client))
    assert not client.verified


@pytest.mark.parametrize(
    ("final", "reason"),
    [
        (b"v=" + base64.b64encode(bytes(32)), "does not know"),
        (b"v=QQ==", "does not know"),
        (b"v=Q", "base64"),
        (b"v=", "no final"),
        (b"", "no final"),
        (b"e=invalid-proof", "refuses: invalid-proof"),
        (b"e=<script>\r\n", "no final"),
        (b"\xff", "no final"),
    ],
)
def test_a_server_that_does_not_know_the_password(final: bytes, reason: str) -> None:
    client = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce")
    client.respond(_server_first(client))
    with pytest.raises(SaslError, match=reason):
        client.respond(final)
    assert not client.verified


def test_a_client_that_was_satisfied_takes_no_more() -> None:
    client, mechanism = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce"), server("SCRAM-SHA-256")
    mechanism.step(client.initial)
    mechanism.step(client.respond(mechanism.secret(SECRET).data))
    final = mechanism.verified(True)
    assert final is not None
    client.respond(final.data)
    with pytest.raises(SaslError):
        client.respond(final.data)


@pytest.mark.parametrize("password", ["\u00ad", "a\x07", "\ud800", "\U0001f600"])
def test_a_password_that_saslprep_refuses_is_refused_at_once(password: str) -> None:
    with pytest.raises(SaslError, match="SASLprep"):
        ScramClient("SCRAM-SHA-256", NAME, password, b"nonce")


def test_the_longest_salt_fits_one_line_of_a_reply() -> None:
    mechanism = server("SCRAM-SHA-256")
    mechanism.step(b"n,,n=tim,r=" + b"x" * 200)
    challenge = mechanism.secret(ScramSecret(bytes(64), MAX_ITERATIONS, bytes(32), bytes(32)))
    assert len(b"334 " + encode_response(challenge.data) + b"\r\n") <= 512


def test_secrets_are_in_no_repr() -> None:
    assert repr(SECRET) == "ScramSecret(iterations=4096)"
    client, mechanism = ScramClient("SCRAM-SHA-256", NAME, PASSWORD, b"nonce"), server("SCRAM-SHA-256")
    mechanism.step(client.initial)
    challenge = mechanism.secret(SECRET)
    step = mechanism.step(client.respond(challenge.data))
    for value in (client, mechanism, challenge, step):
        for secret in (PASSWORD, base64.b64encode(SECRET.salt).decode(), repr(SECRET.stored_key)):
            assert secret not in f"{value!r} {value}"
