"""Whatever a peer sends: a server answers with a step, a client with octets or SaslError, and nobody gets in by it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.sasl import (
    MECHANISMS,
    BearerToken,
    External,
    NeedSecret,
    SaslError,
    ScramProof,
    ScramSecret,
    Succeeded,
    Verify,
    decode_response,
    encode_response,
)
from mailgate.wire.sasl_client import client_mechanism
from mailgate.wire.sasl_text import MAX_RESPONSE
from tests.unit.sasl_talk import BINDINGS, NAME, PASSWORD, SECRET, counting, server

_PARTS = st.sampled_from(
    [
        b"n,,",
        b"y,,",
        b"p=tls-exporter,,",
        b"n=",
        b"r=",
        b"c=",
        b"p=",
        b"m=x",
        b"s=",
        b"i=",
        b"v=",
        b"e=",
        b",",
        b"=",
        b"\x00",
        b"\x01",
        b"a=",
        b"user=",
        b"auth=",
        b"Bearer ",
        b"port=",
        b"tim",
        b"=2C",
        b"QUJD",
        b"4096",
        b" ",
        b"\xc3\xa9",
        b"\n",
        b"0123456789abcdef" * 2,
        b"biws",
        b"AAAAAAAAAAAAAAAAAAAAAAAB",
        b"host=",
    ]
)
_MESSAGE = st.one_of(st.binary(max_size=60), st.lists(_PARTS, max_size=14).map(b"".join))
_NAMES = st.sampled_from(MECHANISMS)


@given(_NAMES, st.booleans(), st.lists(st.none() | _MESSAGE, max_size=5))
def test_a_server_takes_anything(name: str, has_bindings: bool, messages: list[bytes | None]) -> None:
    mechanism = server(name, BINDINGS if has_bindings else {})
    for message in messages:
        try:
            step = mechanism.step(message)
            if isinstance(step, NeedSecret):
                mechanism.secret(SECRET)
            elif isinstance(step, Verify):
                assert not isinstance(step.credentials, ScramProof)
                who = step.credentials.authzid if isinstance(step.credentials, External) else step.credentials.username
                assert not re.search("[\0-\x1f\x7f]", who)
                assert isinstance(step.credentials, BearerToken | External) or who
                mechanism.verified(False)
            assert step != Succeeded()
            assert len(repr(step)) < 4096
        except SaslError:
            return


@given(_NAMES, st.lists(_MESSAGE, max_size=5))
def test_a_client_takes_anything(name: str, challenges: list[bytes]) -> None:
    mechanism = client_mechanism(
        [name],
        username=NAME,
        password=PASSWORD,
        token="t" if "OAUTH" in name else "",
        external=name == "EXTERNAL",
        tls=True,
        channel_bindings=BINDINGS,
        random_bytes=counting(),
    )
    assert mechanism is not None
    for challenge in challenges:
        try:
            mechanism.respond(challenge)
        except SaslError:
            break
    if name.startswith("SCRAM"):
        assert not mechanism.verified


@given(st.text(max_size=30), st.text(max_size=30), _NAMES)
def test_a_client_is_made_with_anything_or_refuses(username: str, password: str, name: str) -> None:
    try:
        client_mechanism(
            [name],
            username=username,
            password=password,
            token=password if "OAUTH" in name else "",
            external=name == "EXTERNAL",
            tls=True,
            channel_bindings=BINDINGS,
        )
        reason = ""
    except SaslError as error:
        reason = str(error)
    assert len(password) < 12 or password not in reason


@given(st.binary(max_size=80) | st.text("ABCDabcd+/=*", max_size=20).map(str.encode))
def test_a_line_has_one_meaning_or_none(line: bytes) -> None:
    try:
        response = decode_response(line)
    except SaslError:
        return
    assert encode_response(response, initial=line == b"=") == line


@given(st.binary(max_size=MAX_RESPONSE // 4 * 3))
def test_a_response_comes_back_from_its_line(response: bytes) -> None:
    assert decode_response(encode_response(response)) == response
    assert decode_response(encode_response(response, initial=True)) == response


@given(st.text(max_size=100) | st.text("SCRAM-SHA256$:=QA0419", max_size=60).map("SCRAM-SHA-256$".__add__))
def test_a_secret_is_parsed_from_anything_or_refused(text: str) -> None:
    try:
        secret = ScramSecret.parse(text)
    except SaslError:
        return
    assert str(secret) == text
