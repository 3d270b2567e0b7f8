"""Secrets of SCRAM-SHA-256: kept as text, with passwords prepared, within bounds."""

from __future__ import annotations

import base64

import pytest

from mailgate.wire.sasl import SaslError, ScramSecret
from mailgate.wire.scram_secret import MAX_ITERATIONS, MIN_ITERATIONS
from tests.unit.sasl_talk import SECRET

_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")


def test_a_secret_is_kept_as_text() -> None:
    text = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert str(ScramSecret.derive("pencil", _SALT, 4096)) == text
    assert str(ScramSecret.parse(text)) == text
    assert ScramSecret.parse(text).matches("pencil")
    assert not ScramSecret.parse(text).matches("pencil ")


def test_a_new_secret_has_its_own_salt() -> None:
    first, second = (ScramSecret.derive("x", iterations=4096) for _ in range(2))
    assert first.salt != second.salt
    assert first.matches("x")
    assert second.matches("x")


def test_passwords_are_prepared() -> None:
    assert ScramSecret.derive("\u2168\u00ad", iterations=4096).matches("IX")
    for password in ("", "\u00ad", "a\x07", "\ud800", "\U0001f600"):
        assert not SECRET.matches(password)
        with pytest.raises(SaslError) as caught:
            ScramSecret.derive(password, iterations=4096)
        assert not password or password not in str(caught.value)


_KEY = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pencil",
        f"SCRAM-SHA-1$4096:QQ==${_KEY}:{_KEY}",
        f"SCRAM-SHA-256$4095:QQ==${_KEY}:{_KEY}",
        f"SCRAM-SHA-256$1000001:QQ==${_KEY}:{_KEY}",
        f"SCRAM-SHA-256${'9' * 5000}:QQ==${_KEY}:{_KEY}",
        f"SCRAM-SHA-256$04096:QQ==${_KEY}:{_KEY}",
        f"SCRAM-SHA-256$4096:${_KEY}:{_KEY}",
        f"SCRAM-SHA-256$4096:QQ${_KEY}:{_KEY}",
        f"SCRAM-SHA-256$4096:QQ==$QQ==:{_KEY}",
        f"SCRAM-SHA-256$4096:QQ==${_KEY}:QQ==",
        f"SCRAM-SHA-256$4096:QQ==${_KEY}",
        f"SCRAM-SHA-256$4096:QQ==${_KEY}:{_KEY}\n",
        f"SCRAM-SHA-256$4096:{base64.b64encode(bytes(65)).decode()}${_KEY}:{_KEY}",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    with pytest.raises(SaslError) as caught:
        ScramSecret.parse(text)
    assert _KEY not in str(caught.value)


def test_the_bounds_of_iterations() -> None:
    for iterations in (0, -1, MIN_ITERATIONS - 1, MAX_ITERATIONS + 1):
        with pytest.raises(SaslError, match="iterations"):
            ScramSecret.derive("x", iterations=iterations)
    for iterations in (MIN_ITERATIONS, MAX_ITERATIONS):
        assert ScramSecret.parse(f"SCRAM-SHA-256${iterations}:QQ==${_KEY}:{_KEY}").iterations == iterations
