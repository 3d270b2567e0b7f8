"""The mechanisms of a client: which one is chosen, and each of them against our own server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, Unpack

import pytest

from mailgate.wire.sasl import MECHANISMS, Failed, SaslError, Succeeded, decode_response
from mailgate.wire.sasl_client import ClientMechanism, client_mechanism
from tests.unit.sasl_talk import BINDINGS, NAME, PASSWORD, TOKEN, counting, server, talk

SESAME, WRONG, TIMS = "sesame", "wrong", "tanstaaftanstaaf"


class Options(TypedDict, total=False):
    username: str
    password: str
    token: str
    external: bool
    tls: bool
    cleartext: bool
    allowed: tuple[str, ...]
    channel_bindings: Mapping[str, bytes]
    host: str
    port: int


def choose(*offered: str, **options: Unpack[Options]) -> ClientMechanism | None:
    return client_mechanism(
        offered or MECHANISMS,
        username=options.get("username", NAME),
        password=options.get("password", ""),
        token=options.get("token", ""),
        external=options.get("external", False),
        tls=options.get("tls", True),
        cleartext=options.get("cleartext", False),
        allowed=options.get("allowed", ()),
        channel_bindings=options.get("channel_bindings", {}),
        host=options.get("host", ""),
        port=options.get("port", 0),
        random_bytes=counting(),
    )


def chosen(*offered: str, **options: Unpack[Options]) -> ClientMechanism:
    mechanism = choose(*offered, **options)
    assert mechanism is not None
    return mechanism


def name(*offered: str, **options: Unpack[Options]) -> str | None:
    mechanism = choose(*offered, **options)
    return None if mechanism is None else mechanism.name


def test_the_strongest_is_chosen() -> None:
    left = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"]
    assert name(password=SESAME, channel_bindings=BINDINGS) == left[0]
    while left:
        assert name(*reversed(left), "NTLM", password=SESAME, channel_bindings=BINDINGS) == left[0]
        left.pop(0)
    assert name("NTLM", password=SESAME) is None
    assert name("plain", "Login", password=SESAME) == "PLAIN"


def test_it_is_for_what_is_given() -> None:
    assert name(token=SESAME) == "OAUTHBEARER"
    assert name("XOAUTH2", "PLAIN", token=SESAME) == "XOAUTH2"
    assert name("PLAIN", "LOGIN", "SCRAM-SHA-256", token=SESAME) is None
    assert name(external=True) == name(external=True, token=SESAME, password=SESAME) == "EXTERNAL"
    assert name("PLAIN", external=True, password=SESAME) == "PLAIN"
    assert name(token=SESAME, password=SESAME) == "OAUTHBEARER"
    assert name("EXTERNAL", "OAUTHBEARER", password=SESAME) is None
    assert name() is None


def test_plus_needs_a_binding() -> None:
    assert name(password=SESAME) == "SCRAM-SHA-256"
    assert name(password=SESAME, channel_bindings={"tls-unique": b"x"}) == "SCRAM-SHA-256"
    assert name("SCRAM-SHA-256-PLUS", password=SESAME) is None


def test_without_tls_nothing_shows_a_password_or_a_token() -> None:
    for offered in ("PLAIN", "LOGIN"):
        assert name(offered, password=SESAME, tls=False) is None
        assert name(offered, password=SESAME, tls=False, allowed=(offered,)) is None
        assert name(offered, password=SESAME, tls=False, cleartext=True) == offered
    for offered in ("OAUTHBEARER", "XOAUTH2"):
        assert name(offered, token=SESAME, tls=False) is None
        assert name(offered, token=SESAME, tls=False, cleartext=True) == offered
    assert name("PLAIN", "CRAM-MD5", password=SESAME, tls=False) == "CRAM-MD5"
    assert name("PLAIN", "SCRAM-SHA-256", password=SESAME, tls=False) == "SCRAM-SHA-256"


def test_none_but_the_allowed() -> None:
    assert name(password=SESAME, allowed=("login", "PLAIN")) == "PLAIN"
    assert name("CRAM-MD5", password=SESAME, allowed=("PLAIN",)) is None


@pytest.mark.parametrize(
    ("offered", "options", "flag"),
    [
        (("SCRAM-SHA-256",), Options(password=SESAME), b"n,,"),
        (("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"), Options(password=SESAME), b"n,,"),
        (("SCRAM-SHA-256",), Options(password=SESAME, channel_bindings=BINDINGS), b"y,,"),
        (
            ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"),
            Options(password=SESAME, channel_bindings=BINDINGS, allowed=("SCRAM-SHA-256",)),
            b"n,,",
        ),
        (("SCRAM-SHA-256-PLUS",), Options(password=SESAME, channel_bindings=BINDINGS), b"p=tls-exporter,,"),
        (
            ("SCRAM-SHA-256-PLUS",),
            Options(password=SESAME, channel_bindings={"tls-server-end-point": b"x"}),
            b"p=tls-server-end-point,,",
        ),
    ],
)
def test_the_flag_of_channel_binding(offered: tuple[str, ...], options: Options, flag: bytes) -> None:
    initial = chosen(*offered, **options).initial
    assert initial is not None
    assert initial.startswith(flag + b"n=")


def test_a_hidden_offer_of_plus_is_found_out() -> None:
    client = chosen("SCRAM-SHA-256", password=PASSWORD, channel_bindings=BINDINGS)
    assert isinstance(talk(client, server("SCRAM-SHA-256", BINDINGS)), Failed)
    assert not client.verified


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("send_initial", [True, False])
def test_each_mechanism_lets_the_right_one_in(mechanism: str, send_initial: bool) -> None:
    bindings = BINDINGS if mechanism.endswith("PLUS") else {}
    client = chosen(
        mechanism,
        password=PASSWORD,
        token=TOKEN if "OAUTH" in mechanism else "",
        external=mechanism == "EXTERNAL",
        channel_bindings=bindings,
    )
    end = talk(client, server(mechanism, bindings), send_initial=send_initial)
    assert end == (Succeeded() if mechanism.startswith("SCRAM") else True)
    assert client.verified


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("username", [NAME, "nobody"])
def test_each_mechanism_keeps_the_wrong_one_out(mechanism: str, username: str) -> None:
    bindings = BINDINGS if mechanism.endswith("PLUS") else {}
    client = chosen(
        mechanism,
        username="nobody" if mechanism == "EXTERNAL" else username,
        password=WRONG,
        token=WRONG if "OAUTH" in mechanism else "",
        external=mechanism == "EXTERNAL",
        channel_bindings=bindings,
    )
    end = talk(client, server(mechanism, bindings))
    assert end is False or isinstance(end, Failed)
    if mechanism.startswith("SCRAM") or "OAUTH" in mechanism:
        assert not client.verified


def test_plain_of_rfc_4616_and_external() -> None:
    assert chosen("PLAIN", username="tim", password=TIMS).initial == b"\0tim\0tanstaaftanstaaf"
    assert chosen("EXTERNAL", username="", external=True).initial == b""
    assert chosen("EXTERNAL", username="tim", external=True).initial == b"tim"


def test_cram_md5_of_rfc_2195() -> None:
    client = chosen("CRAM-MD5", username="tim", password=TIMS)
    assert client.initial is None
    assert not client.verified
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert client.respond(challenge) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    with pytest.raises(SaslError):
        client.respond(challenge)
    with pytest.raises(SaslError):
        chosen("CRAM-MD5", password=SESAME).respond(b"")


def test_oauthbearer_of_rfc_7628() -> None:
    client = chosen("OAUTHBEARER", username="user@example.com", token=TOKEN, host="server.example.com", port=143)
    assert client.initial == decode_response(
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk"
        b"52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )
    refusal = decode_response(
        b"eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NvcGUiOiJleGFtcGxlX3Njb3BlIiwib3BlbmlkLWNvbmZpZ3VyYXRpb24iOiJodHRwcz"
        b"ovL2V4YW1wbGUuY29tLy53ZWxsLWtub3duL29wZW5pZC1jb25maWd1cmF0aW9uIn0="
    )
    assert client.respond(refusal) == b"\x01"
    assert not client.verified
    with pytest.raises(SaslError):
        client.respond(refusal)


def test_tokens() -> None:
    assert chosen("OAUTHBEARER", username="", token=SESAME).initial == b"n,,\x01auth=Bearer sesame\x01\x01"
    client = chosen("XOAUTH2", username="tim", token=SESAME)
    assert client.initial == b"user=tim\x01auth=Bearer sesame\x01\x01"
    assert client.respond(b"{}") == b""
    for bad in ("a b", "a\x01", "\u00e9", "a\n"):
        for offered in ("OAUTHBEARER", "XOAUTH2"):
            with pytest.raises(SaslError, match="token"):
                choose(offered, token=bad)


def test_login_sends_nothing_a_third_time() -> None:
    client = chosen("LOGIN", username="tim", password=SESAME)
    assert (client.initial, client.verified) == (None, False)
    assert [client.respond(b"User Name\0"), client.verified] == [b"tim", False]
    assert [client.respond(b"Password\0"), client.verified] == [SESAME.encode(), True]
    with pytest.raises(SaslError):
        client.respond(b"Password:")


@pytest.mark.parametrize("mechanism", ["PLAIN", "EXTERNAL"])
def test_mechanisms_of_one_message_answer_no_challenge(mechanism: str) -> None:
    with pytest.raises(SaslError):
        chosen(mechanism, password=SESAME, external=mechanism == "EXTERNAL").respond(b"")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"])
def test_names_and_passwords_that_cannot_be_sent(mechanism: str) -> None:
    for username, password in (("", "x"), ("a\0b", "x"), ("a", "x\0y"), ("\ud800", "x"), ("a", "\ud800")):
        with pytest.raises(SaslError) as caught:
            choose(mechanism, username=username, password=password)
        assert "\0" not in str(caught.value)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_secrets_are_in_no_repr(mechanism: str) -> None:
    client = chosen(
        mechanism,
        password=SESAME,
        token=SESAME if "OAUTH" in mechanism else "",
        external=mechanism == "EXTERNAL",
        channel_bindings=BINDINGS,
    )
    assert SESAME not in f"{client!r} {client}"
