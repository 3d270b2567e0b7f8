"""`[auth.NAME]` of kind oauth: which tokens are whose, by keys of the issuer or by its word."""

from __future__ import annotations

import hmac
import json
import time
import warnings
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailgate.auth.checker import AuthUnavailable, AvatarId, IChecker
from mailgate.auth.credentials import TokenLogin
from mailgate.auth.oauth import OAuthChecker
from mailgate.config.auth import OAuthAuth
from tests.unit.remote_peer import Asked, Net, failure_of, is_waiting, outcome

ISSUER, AUDIENCE = "https://id.test/", "mail"
RSA, SHORT = generate_rsa(65537, 2048), generate_rsa(65537, 1024)  # noqa: S505  refused for that
EC, CURVE = generate_ec(SECP256R1()), generate_ec(SECP384R1())
ED = Ed25519PrivateKey.generate()


def published(key: Any, identity: str | None, **more: Any) -> dict[str, Any]:
    """A key as the issuer's set has it."""
    algorithm = RSAAlgorithm if key in (RSA, SHORT) else OKPAlgorithm if key is ED else ECAlgorithm
    document: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return document | ({"kid": identity} if identity is not None else {}) | more


KEYS = {
    "keys": [
        published(RSA, "rsa", use="sig"),
        published(EC, "ec", alg="ES256"),
        published(ED, "ed", key_ops=["verify"]),
    ]
}


class In(int):
    """So many seconds from when it is used."""


def dated(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims with what is In(...) as times of now: a test may run long after it was made."""
    now = int(time.time())
    return {name: now + value if isinstance(value, In) else value for name, value in claims.items()}


def token(key: Any = RSA, algorithm: str = "RS256", kid: object = "rsa", **claims: Any) -> str:
    """A token that is right but for `claims`; None takes a claim away."""
    whole = dated({"iss": ISSUER, "aud": AUDIENCE, "exp": In(300), "email": "ann@example.org"} | claims)
    payload = {name: value for name, value in whole.items() if value is not None}
    with warnings.catch_warnings():
        # PyJWT does not like short keys either
        warnings.simplefilter("ignore")
        return jwt.encode(payload, key, algorithm, headers={"kid": kid} if kid is not None else None)


class Stand:
    """A checker, and the net that its issuer is in."""

    def __init__(self, **settings: Any) -> None:
        self.net = Net()
        self.checker = OAuthChecker(OAuthAuth(kind="oauth", **settings), self.net.reactor)

    def ask(self, shown: str, username: str = "") -> Deferred[AvatarId]:
        return self.checker.requestAvatarId(TokenLogin(username.encode(), shown))


class KeyStand(Stand):
    """One with a key set."""

    def __init__(self, keys: object = KEYS, **settings: Any) -> None:
        plain = {"jwks": "http://id.test/keys", "issuer": ISSUER, "audience": AUDIENCE}
        super().__init__(**(plain | settings))
        self.keys = keys

    def settle(self, shown: str, username: str = "") -> Deferred[AvatarId]:
        """Ask, and let the issuer publish its keys where they are wanted."""
        asked = self.ask(shown, username)
        if is_waiting(asked):
            self.publish()
        return asked

    def publish(self) -> None:
        issuer = self.net.accept()
        assert issuer.request()[0] == "GET /keys HTTP/1.1"
        issuer.answer(200, self.keys, "Connection: close\r\n")


@pytest.fixture
def stand() -> KeyStand:
    return KeyStand()


def test_it_is_a_checker(stand: KeyStand) -> None:
    assert verifyObject(IChecker, stand.checker)
    assert stand.checker.mechanisms == {"XOAUTH2", "OAUTHBEARER"}


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA, "RS256", "rsa"), (RSA, "PS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed"), (EC, "ES256", None)],
)
def test_tokens_with_a_key_of_the_issuer_are_right(stand: KeyStand, key: Any, algorithm: str, kid: str | None) -> None:
    assert outcome(stand.settle(token(key, algorithm, kid))) == b"ann@example.org"


@pytest.mark.parametrize(
    ("username", "is_theirs"),
    [("ann@example.org", True), ("ANN@Example.org", True), ("", True), ("bob@example.org", False), ("ann", False)],
)
def test_a_token_is_for_the_user_whom_it_names(stand: KeyStand, username: str, is_theirs: bool) -> None:
    asked = stand.settle(token(email="Ann@example.org"), username)
    if is_theirs:
        assert outcome(asked) == b"Ann@example.org"
    else:
        assert isinstance(failure_of(asked), UnauthorizedLogin)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [AUDIENCE, "web"]},
        {"exp": In(-30)},
        {"nbf": In(30)},
        {"email_verified": True},
        {"iat": In(30)},
    ],
)
def test_claims_that_are_right(stand: KeyStand, claims: dict[str, Any]) -> None:
    assert outcome(stand.settle(token(**claims))) == b"ann@example.org"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.test/"},
        {"iss": ISSUER.rstrip("/")},
        {"iss": None},
        {"aud": "web"},
        {"aud": ["web"]},
        {"aud": None},
        {"exp": In(-120)},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": In(600)},
        {"email": None},
        {"email": ""},
        {"email": ["ann@example.org"]},
        {"email_verified": False},
        {"email_verified": "false"},
    ],
)
def test_claims_that_are_wrong(stand: KeyStand, claims: dict[str, Any]) -> None:
    assert isinstance(failure_of(stand.settle(token(**claims))), UnauthorizedLogin)


def test_a_name_that_no_user_can_have_is_no_answer(stand: KeyStand) -> None:
    assert isinstance(failure_of(stand.settle(token(email="a\nb"))), AuthUnavailable)


@pytest.mark.parametrize(
    ("scopes", "is_enough"),
    [
        ({"scope": "openid smtp"}, True),
        ({"scope": ["smtp"]}, True),
        ({"scp": "smtp"}, True),
        ({"scp": ["a", "smtp", 7]}, True),
        ({"scope": "smtp.read"}, False),
        ({"scope": 7}, False),
        ({}, False),
    ],
)
def test_a_scope_may_be_needed(scopes: dict[str, Any], is_enough: bool) -> None:
    asked = KeyStand(scope="smtp", username_claim="sub").settle(token(sub="ann", **scopes))
    if is_enough:
        assert outcome(asked) == b"ann"
    else:
        assert isinstance(failure_of(asked), UnauthorizedLogin)


def hand_made(header: object, payload: Mapping[str, Any] | None = None, signature: bytes = b"") -> str:
    whole = payload or dated({"iss": ISSUER, "aud": AUDIENCE, "exp": In(300), "email": "ann@example.org"})
    parts = [
        header if isinstance(header, bytes) else json.dumps(header).encode(),
        json.dumps(whole).encode(),
        signature,
    ]
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "shown",
    [
        hand_made({"alg": "none", "kid": "rsa"}),
        hand_made({"alg": "None"}),
        hand_made({"alg": "HS256", "kid": "rsa"}, signature=b"x" * 32),
        hand_made({"alg": ["RS256"], "kid": "rsa"}),
        hand_made({"alg": "RS256", "kid": ["rsa"]}),
        hand_made({"alg": "RS256", "kid": "rsa", "crit": ["x"]}),
        hand_made({"alg": "RS256", "kid": "rsa"}, signature=b"x" * 256),
        hand_made({"alg": "ES256", "kid": "ec"}, signature=b"\0" * 64),
        hand_made([]),
        hand_made(b"[" * 6000),
        hand_made(b"\xff"),
        "",
        "a.b.c",
        "....",
        "ü",
        "\ud800.a.b",
        token(RSA, "RS256", "ec"),
        token(RSA, "RS512"),
        token(SHORT),
        token(EC, "ES256", "rsa"),
        token(RSA, "RS256")[:-8] + "AAAAAAAA",
    ],
)
def test_tokens_that_are_none(stand: KeyStand, shown: str) -> None:
    assert isinstance(failure_of(stand.settle(shown)), UnauthorizedLogin)


def test_the_public_key_is_no_secret_to_sign_with(stand: KeyStand) -> None:
    """HS256 with what the key set publishes must not count."""
    unsigned = hand_made({"alg": "HS256", "kid": "rsa"}).rstrip(".")
    signature = urlsafe_b64encode(hmac.digest(PUBLIC, unsigned.encode(), "sha256")).decode().rstrip("=")
    assert isinstance(failure_of(stand.settle(f"{unsigned}.{signature}")), UnauthorizedLogin)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda octets: f"{urlsafe_b64encode(octets).decode()}.e30.AA"))
def test_no_token_does_any_harm(shown: str) -> None:
    assert isinstance(failure_of(KeyStand().settle(shown)), UnauthorizedLogin)


@pytest.mark.parametrize(
    "member",
    [
        published(RSA, "k", use="enc"),
        published(RSA, "k", alg="RS512"),
        published(RSA, "k", alg="PS256"),
        published(RSA, "k", alg=["RS256"]),
        published(RSA, "k", key_ops=["encrypt"]),
        published(RSA, "k", key_ops="verify"),
        published(RSA, "k", kty="EC"),
        published(RSA, "k", n="AA"),
        published(RSA, "k", n=7),
        published(RSA, "k", kid=7),
        published(SHORT, "k"),
        published(CURVE, "k"),
        {"kty": "oct", "kid": "k", "k": urlsafe_b64encode(PUBLIC).decode()},
        {"kid": "k"},
        "k",
    ],
)
def test_keys_that_do_not_count_for_a_signature(member: object) -> None:
    stand = KeyStand({"keys": [member, published(EC, "ec")]})
    key = SHORT if isinstance(member, dict) and member.get("n") == published(SHORT, "k")["n"] else RSA
    assert isinstance(failure_of(stand.settle(token(key, kid="k"))), UnauthorizedLogin)


def test_without_an_id_the_key_must_be_the_only_one() -> None:
    other = generate_rsa(65537, 2048)
    keys = {"keys": [published(RSA, "one"), json.loads(RSAAlgorithm.to_jwk(other.public_key()))]}
    assert isinstance(failure_of(KeyStand(keys).settle(token(kid=None))), UnauthorizedLogin)


@pytest.mark.parametrize("keys", [{}, {"keys": []}, {"keys": "x"}, [], b"<html>", b"[" * 60000, {"keys": [{}] * 101}])
def test_a_key_set_that_is_none_is_no_answer(keys: object) -> None:
    assert isinstance(failure_of(KeyStand(keys).settle(token())), AuthUnavailable)


def test_keys_are_fetched_once_an_hour(stand: KeyStand) -> None:
    outcome(stand.settle(token()))
    stand.net.advance(3599)
    assert outcome(stand.ask(token())) == b"ann@example.org"
    stand.net.advance(1)
    asked = stand.ask(token())
    assert is_waiting(asked)
    stand.publish()
    assert outcome(asked) == b"ann@example.org"


def test_those_who_come_at_one_time_wait_for_one_fetch(stand: KeyStand) -> None:
    asked = [stand.ask(token()) for _ in range(5)]
    stand.publish()
    assert [outcome(one) for one in asked] == [b"ann@example.org"] * 5
    assert not stand.net.has_more


def test_an_unknown_key_is_looked_for_at_most_once_a_minute(stand: KeyStand) -> None:
    outcome(stand.settle(token()))
    new = token(kid="new")
    assert isinstance(failure_of(stand.ask(new)), UnauthorizedLogin)
    stand.net.advance(60)
    asked = stand.ask(new)
    stand.publish()
    assert isinstance(failure_of(asked), UnauthorizedLogin)
    assert isinstance(failure_of(stand.ask(new)), UnauthorizedLogin)
    stand.net.advance(60)
    stand.keys = {"keys": [published(RSA, "new")]}
    assert outcome(stand.settle(new)) == b"ann@example.org"
    assert isinstance(failure_of(stand.ask(token())), UnauthorizedLogin)


def test_old_keys_serve_where_no_new_ones_can_be_had_but_not_for_ever(stand: KeyStand) -> None:
    outcome(stand.settle(token()))
    stand.net.advance(3601)
    asked = stand.ask(token())
    stand.net.refuse()
    assert outcome(asked) == b"ann@example.org"
    assert outcome(stand.ask(token())) == b"ann@example.org"  # without a second try at once
    stand.net.advance(86400)
    asked = stand.ask(token())
    stand.net.refuse()
    assert isinstance(failure_of(asked), AuthUnavailable)


def test_an_issuer_that_is_away_is_not_asked_for_each_login(stand: KeyStand) -> None:
    first, second = stand.ask(token()), stand.ask(token())
    stand.net.refuse()
    for asked in (first, second, stand.ask(token())):
        assert isinstance(failure_of(asked), AuthUnavailable)
    assert not stand.net.has_more
    stand.net.advance(5)
    assert outcome(stand.settle(token())) == b"ann@example.org"


@pytest.mark.parametrize("status", [301, 404, 500])
def test_a_key_set_that_is_refused_is_no_answer(stand: KeyStand, status: int) -> None:
    asked = stand.ask(token())
    stand.net.accept().answer(status, KEYS)
    assert isinstance(failure_of(asked), AuthUnavailable)


def test_silence_is_no_answer_in_time_and_the_next_may_try(stand: KeyStand) -> None:
    first = stand.ask(token())
    stand.net.advance(5)
    second = stand.ask(token())
    stand.net.accept()
    stand.net.advance(5.1)
    assert isinstance(failure_of(first), AuthUnavailable)
    assert is_waiting(second)
    stand.publish()
    assert outcome(second) == b"ann@example.org"


class WordStand(Stand):
    """One whose issuer is asked."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**({"introspection": "http://id.test/introspect"} | settings))

    def asked(self, username: str = "") -> tuple[Deferred[AvatarId], Asked]:
        asked = self.ask("opaque&token=ü", username)
        return asked, self.net.accept()

    def told(self, claims: object, username: str = "") -> Deferred[AvatarId]:
        asked, issuer = self.asked(username)
        issuer.answer(200, claims)
        return asked


def test_the_issuer_is_asked_about_the_token_and_by_whom(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s:3 %\n")
    stand = WordStand(client_id="mail:gate", client_secret_file=tmp_path / "secret")
    asked, issuer = stand.asked("Ann@example.org")
    line, fields, body = issuer.request()
    assert line == "POST /introspect HTTP/1.1"
    assert fields["content-type"] == "application/x-www-form-urlencoded"
    assert b64decode(fields["authorization"].removeprefix("Basic ")) == b"mail%3Agate:s%3A3%20%25"
    assert parse_qs(body.decode()) == {"token": ["opaque&token=ü"], "token_type_hint": ["access_token"]}
    issuer.answer(200, {"active": True, "email": "ann@example.org"})
    assert outcome(asked) == b"ann@example.org"


ACTIVE = {"active": True, "email": "ann@example.org"}


@pytest.mark.parametrize(
    "claims", [{}, {"iss": ISSUER}, {"aud": [AUDIENCE, "web"]}, {"exp": In(300)}, {"exp": In(-30), "nbf": In(30)}]
)
def test_the_issuers_yes_counts(claims: dict[str, Any]) -> None:
    stand = WordStand(issuer=ISSUER, audience=AUDIENCE)
    assert outcome(stand.told(dated(ACTIVE | {"aud": AUDIENCE} | claims))) == b"ann@example.org"


@pytest.mark.parametrize(
    "claims",
    [
        {"active": False},
        {"iss": "https://other.test/"},
        {"aud": "web"},
        {"aud": None},
        {"exp": In(-120)},
        {"nbf": In(120)},
        {"email": None},
        {"email": "bob@example.org"},
        {"scope": "openid"},
    ],
)
def test_the_issuers_no_counts_and_so_do_the_claims(claims: dict[str, Any]) -> None:
    stand = WordStand(issuer=ISSUER, audience=AUDIENCE, scope="smtp")
    asked = stand.told(dated(ACTIVE | {"aud": AUDIENCE, "scope": "smtp"} | claims), "ann@example.org")
    assert isinstance(failure_of(asked), UnauthorizedLogin)


@pytest.mark.parametrize(
    "answer", [{}, {"active": "true"}, {"active": 1}, [], b"", b"yes", b"[" * 60000, ACTIVE | {"exp": "soon"}]
)
def test_an_answer_that_is_none(answer: object) -> None:
    assert isinstance(failure_of(WordStand().told(answer)), AuthUnavailable)


@pytest.mark.parametrize("status", [201, 302, 400, 401, 403, 500])
def test_an_issuer_that_does_not_answer_us_says_nothing_about_the_user(status: int) -> None:
    asked, issuer = WordStand().asked()
    issuer.answer(status, ACTIVE)
    assert isinstance(failure_of(asked), AuthUnavailable)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"jwks": "https://id.test/", "introspection": "https://id.test/", "issuer": "i", "audience": "a"},
        {"jwks": "https://id.test/"},
        {"jwks": "https://id.test/", "issuer": "i"},
        {"jwks": "https://id.test/", "audience": "a"},
        {"introspection": "https://id.test/", "client_id": "x"},
        {"introspection": "https://id.test/", "client_secret_file": Path("nowhere")},
        {"introspection": "https://id.test/", "client_secret_file": Path("nowhere"), "client_id": "x"},
        {"introspection": "https://id.test/", "ca": Path("nowhere.pem")},
    ],
)
def test_a_section_that_cannot_work_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"jwks|client_id|nowhere"):
        Stand(**settings)


def test_the_end_of_the_checker_is_the_end_of_its_questions() -> None:
    for stand, shown in ((KeyStand(), token()), (WordStand(), "opaque")):
        asked = [stand.ask(shown) for _ in range(3)]
        outcome(stand.checker.close())
        assert all(isinstance(failure_of(one), AuthUnavailable) for one in [*asked, stand.ask(shown)])
        assert not stand.net.memory.getDelayedCalls()


def test_no_failure_and_no_repr_holds_a_token(stand: KeyStand) -> None:
    shown = token(exp=In(-1000))
    errors = [
        failure_of(stand.settle(shown)),
        failure_of(WordStand().told({"active": False})),
        failure_of(WordStand().told([])),
    ]
    told = " ".join(f"{error!r} {error.__cause__} {vars(error)}" for error in errors)
    assert not any(part in told for part in (*shown.split("."), "opaque", "ann@"))
