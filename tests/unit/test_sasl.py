"""The mechanisms of a server: the exchanges of the RFCs, and what hostile clients send."""

from __future__ import annotations

import base64

import pytest

from mailgate.reply import MAX_REPLY_LINE
from mailgate.wire.sasl import (
    CLEARTEXT,
    MAX_RESPONSE,
    MECHANISMS,
    BearerToken,
    Challenge,
    CramProof,
    External,
    Failed,
    Malformed,
    Password,
    SaslError,
    Step,
    Verify,
    decode_response,
    encode_response,
)
from tests.unit.sasl_talk import BINDINGS, TOKEN, server

_OAUTHBEARER = (
    "bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52Yj"
    "NSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)


def malformed(step: Step) -> str:
    assert isinstance(step, Malformed), step
    assert step.reply.code == 501
    return step.reply.status


def test_lines() -> None:
    assert decode_response(b"AHRpbQB0YW5zdGFhZnRhbnN0YWFm") == b"\0tim\0tanstaaftanstaaf"
    assert decode_response(b"") == decode_response(b"=") == b""
    assert encode_response(b"") == b""
    assert encode_response(b"", initial=True) == b"="
    assert encode_response(b"x", initial=True) == encode_response(b"x") == b"eA=="
    longest = base64.b64encode(b"x" * (MAX_RESPONSE // 4 * 3))
    assert len(longest) == MAX_RESPONSE
    assert decode_response(longest) == b"x" * 9216


@pytest.mark.parametrize(
    "line",
    [
        b"*",
        b"==",
        b"====",
        b"A",
        b"AB",
        b"ABC",
        b"AB=",
        b"A===",
        b"AB==C",
        b"AB==CD==",
        b"QQ==\n",
        b" QQ==",
        b"Q Q=",
        b"QR==",
        b"QUJ=",
        b"QUI==",
        b"Q-Q_",
        b"QQ\xff=",
        b"QQ==\x00",
        b"=QQ=",
    ],
)
def test_lines_that_are_no_base64(line: bytes) -> None:
    with pytest.raises(SaslError, match="base64") as caught:
        decode_response(line)
    assert str(caught.value.reply) == "501 5.5.2 That is not base64"


def test_a_line_that_is_too_long() -> None:
    with pytest.raises(SaslError, match="too long") as caught:
        decode_response(b"A" * (MAX_RESPONSE + 4))
    assert (caught.value.reply.code, caught.value.reply.status) == (500, "5.5.6")


def test_every_name_makes_its_mechanism_in_any_case() -> None:
    assert [server(name.lower(), BINDINGS).name for name in MECHANISMS] == list(MECHANISMS)
    assert set(MECHANISMS) >= CLEARTEXT
    for name in ("", "NTLM", "SCRAM-SHA-1", "PLAIN "):
        with pytest.raises(SaslError) as caught:
            server(name)
        assert (caught.value.reply.code, caught.value.reply.status) == (504, "5.5.4")


def test_plain() -> None:
    expected = Verify(Password("tim", "tanstaaftanstaaf"))
    assert server("PLAIN").step(b"\0tim\0tanstaaftanstaaf") == expected
    mechanism = server("PLAIN")
    assert mechanism.step(None) == Challenge(b"")
    assert mechanism.step(b"\0tim\0tanstaaftanstaaf") == expected
    assert server("PLAIN").step("tim\0tim\0p\u00e4ss w\u00f6rd".encode()) == Verify(
        Password("tim", "p\u00e4ss w\u00f6rd", "tim")
    )


def test_nobody_acts_for_another() -> None:
    for name, response in (
        ("PLAIN", b"Ursel\0Kurt\0xipj3plmq"),
        ("SCRAM-SHA-256", b"n,a=Ursel,n=Kurt,r=abc"),
    ):
        assert server(name).step(response) == Failed("one user may not act for another")


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00tim\x00",
        b"\x00\x00secret",
        b"tim\x00secret",
        b"\x00tim\x00a\x00b",
        b"\x00tim\x00\xff",
        b"\x00t\xffm\x00a",
        b"\x00tim\r\nX: y\x00a",
        b"\x00t\x1bm\x00a",
        b"\x00" + b"t" * 513 + b"\x00a",
        "\x00t\u2028m\x00a".encode(),
        b"\r\x00tim\x00a",
    ],
)
def test_what_is_no_plain(response: bytes) -> None:
    mechanism = server("PLAIN")
    assert malformed(mechanism.step(response)) == "5.5.2"
    with pytest.raises(SaslError):
        mechanism.step(b"\0tim\0secret")


def test_login() -> None:
    mechanism = server("LOGIN")
    assert mechanism.step(None) == Challenge(b"Username:")
    assert mechanism.step(b"tim") == Challenge(b"Password:")
    assert mechanism.step(b"a b") == Verify(Password("tim", "a b"))
    mechanism = server("LOGIN")
    assert mechanism.step(b"tim") == Challenge(b"Password:")
    assert mechanism.step(b"a b") == Verify(Password("tim", "a b"))


def test_what_is_no_login() -> None:
    assert malformed(server("LOGIN").step(b"")) == "5.5.2"
    assert malformed(server("LOGIN").step(b"a\nb")) == "5.5.2"
    for password in (b"", b"a\0b", b"\xe9"):
        mechanism = server("LOGIN")
        mechanism.step(b"tim")
        assert malformed(mechanism.step(password)) == "5.5.2"


def test_cram_md5_of_rfc_2195() -> None:
    proof = CramProof("tim", b"<1896.697170952@postoffice.reston.mci.net>", "b913a602c7eda7a495b4e6e7334d3890")
    assert proof.matches("tanstaaftanstaaf")
    assert proof.matches(b"tanstaaftanstaaf")
    for wrong in ("", "tanstaaftanstaa", b"\xff", "\ud800"):
        assert not proof.matches(wrong)


def test_cram_md5() -> None:
    mechanism = server("CRAM-MD5")
    challenge = b"<00000000000000000000000000000001.697170952@mx.example.com>"
    assert mechanism.step(None) == Challenge(challenge)
    digest = "0123456789abcdef" * 2
    assert mechanism.step(b"tim the user " + digest.encode()) == Verify(CramProof("tim the user", challenge, digest))


def test_no_challenge_of_cram_md5_comes_twice() -> None:
    random = iter([b"a" * 16, b"b" * 16])
    first, second = (server("CRAM-MD5", random_bytes=lambda _size: next(random)).step(None) for _ in range(2))
    assert first != second


def test_cram_md5_begins_with_the_server() -> None:
    for initial in (b"", b"tim b913a602c7eda7a495b4e6e7334d3890"):
        assert malformed(server("CRAM-MD5").step(initial)) == "5.7.0"


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"tim",
        b"tim ",
        b" b913a602c7eda7a495b4e6e7334d3890",
        b"tim b913a602c7eda7a495b4e6e7334d389",
        b"tim B913A602C7EDA7A495B4E6E7334D3890",
        b"tim b913a602c7eda7a495b4e6e7334d3890\n",
        b"t\nm b913a602c7eda7a495b4e6e7334d3890",
        b"\xff b913a602c7eda7a495b4e6e7334d3890",
    ],
)
def test_what_is_no_cram_md5(response: bytes) -> None:
    mechanism = server("CRAM-MD5")
    mechanism.step(None)
    assert malformed(mechanism.step(response)) == "5.5.2"


def test_external() -> None:
    assert server("EXTERNAL").step(b"") == Verify(External(""))
    assert server("EXTERNAL").step(b"tim@example.com") == Verify(External("tim@example.com"))
    mechanism = server("EXTERNAL")
    assert mechanism.step(None) == Challenge(b"")
    assert mechanism.step(b"") == Verify(External(""))
    for authzid in (b"a\0b", b"\xff", b"a\r\n"):
        assert malformed(server("EXTERNAL").step(authzid)) == "5.5.2"


def test_oauthbearer_of_rfc_7628() -> None:
    mechanism = server("OAUTHBEARER")
    assert mechanism.step(decode_response(_OAUTHBEARER.encode())) == Verify(
        BearerToken("user@example.com", TOKEN, "server.example.com", 143)
    )
    assert mechanism.verified(True) is None


@pytest.mark.parametrize(
    ("response", "username", "token", "port"),
    [
        (b"n,,\x01auth=Bearer abc\x01\x01", "", "abc", 0),
        (b"y,a=a=2Cb=3Dc,\x01auth=bearer  a.b-c_d~e+f/g==\x01\x01", "a,b=c", "a.b-c_d~e+f/g==", 0),
        (b"n,,\x01port=65535\x01auth=BEARER x\x01mthd=POST\x01path=/a=b c\x01\x01", "", "x", 65535),
    ],
)
def test_oauthbearer(response: bytes, username: str, token: str, port: int) -> None:
    assert server("OAUTHBEARER").step(response) == Verify(BearerToken(username, token, "", port))


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\x01",
        b"n,,",
        b"n,,\x01",
        b"n,,\x01auth=Bearer x",
        b"n,,\x01auth=Bearer x\x01",
        b"n,\x01auth=Bearer x\x01\x01",
        b"n,,\x01auth=Basic x\x01\x01",
        b"n,,\x01auth=Bearer\x01\x01",
        b"n,,\x01auth=Bearer a b\x01\x01",
        b"n,,\x01auth=Bearer x\x01auth=Bearer x\x01\x01",
        b"n,,\x01host=a\x01host=a\x01auth=Bearer x\x01\x01",
        b"n,,\x01port=65536\x01auth=Bearer x\x01\x01",
        b"n,,\x01port=-1\x01auth=Bearer x\x01\x01",
        b"n,,\x01port=\x01auth=Bearer x\x01\x01",
        b"n,,\x01host=a\r\nb\x01auth=Bearer x\x01\x01",
        b"n,,\x01=x\x01auth=Bearer x\x01\x01",
        b"n,,\x01a=\xff\x01auth=Bearer x\x01\x01",
        b"n,,\x01auth=Bearer x\x01\x01\x01",
        b"n,a=a=2cb,\x01auth=Bearer x\x01\x01",
        b"n,a=,\x01auth=Bearer x\x01\x01",
        b"x,,\x01auth=Bearer x\x01\x01",
    ],
)
def test_what_is_no_oauthbearer(response: bytes) -> None:
    assert malformed(server("OAUTHBEARER").step(response)) == "5.5.2"


def test_oauthbearer_has_no_channel_binding() -> None:
    step = server("OAUTHBEARER", BINDINGS).step(b"p=tls-exporter,,\x01auth=Bearer x\x01\x01")
    assert step == Failed("a channel binding for a mechanism without")


@pytest.mark.parametrize("response", [b"n,,\x01\x01", b"n,,\x01auth=\x01\x01", b"n,,\x01host=a\x01\x01"])
def test_a_client_that_asks_for_the_terms_of_oauth_is_told(response: bytes) -> None:
    mechanism = server("OAUTHBEARER")
    assert mechanism.step(response) == Challenge(b'{"status":"invalid_token"}')
    with pytest.raises(SaslError):
        mechanism.verified(True)
    assert mechanism.step(b"\x01") == Failed("the token was refused")


@pytest.mark.parametrize(
    ("name", "response", "refusal"),
    [
        ("OAUTHBEARER", b"n,,\x01auth=Bearer x\x01\x01", b'{"status":"invalid_token"}'),
        ("XOAUTH2", b"user=tim\x01auth=Bearer x\x01\x01", b'{"status":"401","schemes":"bearer"}'),
    ],
)
@pytest.mark.parametrize("answer", [b"", b"\x01", b"anything"])
def test_a_token_that_is_refused(name: str, response: bytes, refusal: bytes, answer: bytes) -> None:
    mechanism = server(name)
    assert isinstance(mechanism.step(response), Verify)
    assert mechanism.verified(False) == Challenge(refusal)
    assert mechanism.step(answer) == Failed("the token was refused")
    with pytest.raises(SaslError):
        mechanism.step(response)


def test_xoauth2() -> None:
    step = server("XOAUTH2").step(b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdA\x01\x01")
    assert step == Verify(BearerToken("someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdA"))


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"user=\x01auth=Bearer x\x01\x01",
        b"user=a\x01auth=Bearer x\x01",
        b"auth=Bearer x\x01user=a\x01\x01",
        b"user=a\x01auth=Bearer \x01\x01",
        b"user=a\nb\x01auth=Bearer x\x01\x01",
        b"user=\xff\x01auth=Bearer x\x01\x01",
    ],
)
def test_what_is_no_xoauth2(response: bytes) -> None:
    assert malformed(server("XOAUTH2").step(response)) == "5.5.2"


def test_calls_that_are_not_due_are_refused() -> None:
    for name in MECHANISMS:
        mechanism = server(name, BINDINGS)
        with pytest.raises(SaslError):
            mechanism.verified(True)
        with pytest.raises(SaslError):
            mechanism.secret(None)
    mechanism = server("PLAIN")
    mechanism.step(None)
    with pytest.raises(SaslError):
        mechanism.step(None)
    mechanism = server("PLAIN")
    mechanism.step(b"\0tim\0a")
    assert mechanism.verified(True) is None
    with pytest.raises(SaslError):
        mechanism.verified(True)


def test_secrets_are_in_no_repr() -> None:
    digest = "b913a602c7eda7a495b4e6e7334d3890"
    for step in (
        server("PLAIN").step(b"\0tim\0sesame"),
        Verify(CramProof("tim", b"<1@x>", digest)),
        server("XOAUTH2").step(b"user=tim\x01auth=Bearer sesame\x01\x01"),
        server("OAUTHBEARER").step(b"n,a=tim,\x01auth=Bearer sesame\x01\x01"),
        server("PLAIN").step(b"tim\0sesame"),
        server("XOAUTH2").step(b"user=tim\x01auth=Basic sesame\x01\x01"),
    ):
        assert "sesame" not in f"{step!r} {step}"
        assert digest not in f"{step!r} {step}"
    with pytest.raises(SaslError) as caught:
        decode_response(b"sesame")
    assert "sesame" not in f"{caught.value!r} {caught.value}"


def test_the_longest_challenge_fits_one_line_of_a_reply() -> None:
    cram = server("CRAM-MD5", hostname="a" * 255).step(None)
    scram = server("SCRAM-SHA-256")
    scram.step(b"n,,n=tim,r=" + b"x" * 200)
    for step in (cram, scram.secret(None)):
        assert isinstance(step, Challenge)
        assert len(b"334 " + encode_response(step.data) + b"\r\n") <= MAX_REPLY_LINE
