"""The forms of stored secrets: what they look like, what fits them, what is wrong with them, and what it costs."""

from __future__ import annotations

import base64
import hashlib
import threading
import unicodedata
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher, extract_parameters
from hypothesis import given
from hypothesis import strategies as st

from mailgate.auth.secrets import SecretVerifier, StoredSecret, make_forms
from mailgate.wire.scram_secret import ScramSecret
from tests.unit.auth_stand import CHEAP, Pool, Reactor, outcome_of, stored, verifier


def ldap(scheme: str, algorithm: str, password: bytes, salt: bytes = b"salt") -> str:
    return scheme + base64.b64encode(hashlib.new(algorithm, password + salt).digest() + salt).decode()


@pytest.mark.parametrize(
    "form",
    [
        stored("secret", "argon2"),
        stored("secret", "scram"),
        "{PLAIN}secret",
        "{plain}secret",
        ldap("{SSHA}", "sha1", b"secret"),
        ldap("{SSHA256}", "sha256", b"secret", b"s" * 16),
        ldap("{ssha512}", "sha512", b"secret"),
    ],
)
def test_a_form_fits_its_password_and_no_other(form: str) -> None:
    secret = StoredSecret.parse(form)
    assert secret.matches(b"secret")
    for wrong in (b"", b"Secret", b"secret ", b"secre", b"secret\xff", b"{PLAIN}secret"):
        assert not secret.matches(wrong)


@pytest.mark.parametrize(
    "form",
    [
        # slappasswd
        "{SSHA}+fihHgQ6rRV6ljeqPAE2WH2fgtaPAncU",
        # doveadm pw
        "{SSHA256}yYf142fv/w8q+LP15lLJwa5+MefBYcfjTqF1669lTXlv/THe",
        "{SSHA512}RRvoAK+sAX1/uzltlWyWeT4/O8rR6qxCp1mx524LqTHmagcdrmETLaHOyfhcPfrxKUPqSYGNaeQEZ+2U4oREmzj0mIc=",
        "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$zbx7ckoDWqtCtQYJ41mNFQ$iPBO33015FpzBd+yq1lHywL2lp1kWBQ+bSteGHaveWw",
    ],
)
def test_a_form_that_others_have_made_is_understood(form: str) -> None:
    assert StoredSecret.parse(form).matches(b"secret")


def test_the_secret_of_rfc_7677_is_that_of_its_password() -> None:
    keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    assert StoredSecret.parse(f"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${keys}").matches(b"pencil")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no secret"),
        ("  \t", "no secret"),
        ("hunter2", "no form that is known"),
        ("{CRYPT}hunter2", "no form that is known"),
        ("{PLAIN}", "no form that is known"),
        ("$2b$12$hunter2", "no form that is known"),
        ("$argon2id$hunter2", "damaged"),
        ("$argon2id$v=19$m=hunter2,t=3,p=4$c2FsdHNhbHQ$aGFzaA", "damaged"),
        ("$argon2id$v=19$m=4194304,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g", "too much"),
        ("$argon2id$v=19$m=65536,t=1000,p=4$c2FsdHNhbHQ$aGFzaGhhc2g", "too much"),
        ("$argon2id$v=19$m=65536,t=3,p=1000$c2FsdHNhbHQ$aGFzaGhhc2g", "too much"),
        ("{SSHA}hunter2", "base64"),
        ("{SSHA}" + base64.b64encode(b"x" * 20).decode(), "salt"),
        ("SCRAM-SHA-256$1:hunter2", "SCRAM-SHA-256"),
        ("SCRAM-SHA-256$1:c2FsdA==$" + "A" * 44 + ":" + "A" * 44, "iterations|base64"),
        ("{PLAIN}hunter2 {PLAIN}hunter3", "two secrets"),
    ],
)
def test_what_is_wrong_with_a_form_is_told_without_it(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        StoredSecret.parse(text)
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=80))
def test_whatever_stands_there_is_a_secret_or_a_value_error(text: str) -> None:
    try:
        secret = StoredSecret.parse(text)
    except ValueError:
        return
    assert secret.forms


def test_the_first_of_several_forms_decides_and_the_others_serve_their_mechanisms() -> None:
    secret = StoredSecret.parse(f"{stored('one', 'argon2')}\t{stored('two', 'scram')}  {{PLAIN}}three")
    assert [secret.matches(word) for word in (b"one", b"two", b"three")] == [True, False, False]
    assert secret.scram is not None
    assert secret.scram.matches("two")
    assert secret.plain == "three"
    alone = StoredSecret.parse(stored("one"))
    assert (alone.scram, alone.plain) == (None, None)


def test_no_secret_is_shown() -> None:
    forms = ("{PLAIN}hunter2", stored("hunter2", "argon2"), stored("hunter2", "scram"), ldap("{SSHA}", "sha1", b"x"))
    for form in forms:
        shown = f"{StoredSecret.parse(form)!r}{StoredSecret.parse(form)}{StoredSecret.parse(form).forms!r}"
        assert "hunter2" not in shown
        assert form[-20:] not in shown
        assert form.partition("}")[2][:8] not in shown or "}" not in form


@pytest.mark.parametrize("make", [lambda word: make_forms(word, hasher=CHEAP), lambda word: "{PLAIN}" + word])
def test_a_password_fits_however_its_accents_are_typed(make: Callable[[str], str]) -> None:
    composed, apart = (unicodedata.normalize(form, "grüße") for form in ("NFC", "NFD"))
    assert StoredSecret.parse(make(composed)).matches(apart.encode())
    assert StoredSecret.parse(make(composed)).matches(composed.encode())


def test_a_hash_of_a_password_as_it_came_fits_too() -> None:
    apart = unicodedata.normalize("NFD", "grüße").encode()
    assert StoredSecret.parse(ldap("{SSHA}", "sha1", apart)).matches(apart)
    # SASLprep refuses this one altogether
    assert StoredSecret.parse(ldap("{SSHA}", "sha1", b"a\x07b")).matches(b"a\x07b")


def test_new_forms_are_argon2id_and_scram() -> None:
    argon2, scram = make_forms("secret").split()
    parameters = extract_parameters(argon2)
    assert argon2.startswith("$argon2id$")
    assert (parameters.memory_cost, parameters.salt_len) >= (64 * 1024, 16)
    assert ScramSecret.parse(scram).matches("secret")
    assert StoredSecret.parse(argon2).matches(b"secret")
    assert " " not in make_forms("secret", scram=False, hasher=CHEAP)
    assert make_forms("secret", hasher=CHEAP) != make_forms("secret", hasher=CHEAP)


@pytest.mark.parametrize("password", ["", "\xad", "a\x07b", "\ud800"])
def test_no_forms_are_made_of_what_is_no_password(password: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        make_forms(password, hasher=CHEAP)


def test_a_verifier_answers_and_stops_its_threads() -> None:
    pool = Pool(waits=True)
    verify = verifier(Reactor(), pool)
    verify.close()
    assert pool.state == "new"
    right = verify.verify(StoredSecret.parse(stored("secret")), b"secret")
    wrong = verify.verify(StoredSecret.parse(stored("secret")), b"secrets")
    assert (pool.state, outcome_of(right)) == ("started", None)
    pool.work()
    assert (outcome_of(right), outcome_of(wrong)) == (True, False)
    verify.close()
    assert pool.state == "stopped"


def test_what_takes_microseconds_needs_no_thread() -> None:
    pool = Pool()
    verify = verifier(Reactor(), pool)
    assert outcome_of(verify.verify(StoredSecret.parse("{PLAIN}secret"), b"secret")) is True
    assert outcome_of(verify.verify(StoredSecret.parse(ldap("{SSHA}", "sha1", b"x")), b"secret")) is False
    assert (pool.given, pool.state) == (0, "new")


def test_an_unknown_user_costs_what_a_known_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = []
    verify = PasswordHasher.verify

    def watched(self: PasswordHasher, hash: str, password: bytes) -> bool:  # noqa: A002  argon2's name
        parameters = extract_parameters(hash)
        costs.append((parameters.type, parameters.memory_cost, parameters.time_cost, parameters.parallelism))
        return verify(self, hash, password)

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    pool = Pool()
    verifies = verifier(Reactor(), pool)
    assert outcome_of(verifies.verify(None, b"secret")) is False
    assert outcome_of(verifies.verify(StoredSecret.parse(make_forms("secret")), b"secret")) is True
    assert pool.given == 2
    assert costs[0] == costs[1]


def test_real_threads_compute_and_the_reactor_gets_the_answer() -> None:
    here = threading.current_thread()
    done = threading.Event()
    calls: list[tuple[threading.Thread, Callable[[], object]]] = []

    class Other(Reactor):
        def callFromThread(self, call: Callable[..., object], *values: object, **more: object) -> None:  # noqa: N802
            calls.append((threading.current_thread(), lambda: call(*values, **more)))
            done.set()

    verify = SecretVerifier(Other())  # type: ignore[arg-type]  # all that it needs of a reactor
    answer = verify.verify(StoredSecret.parse(stored("secret")), b"secret")
    assert done.wait(60)
    verify.close()
    thread, call = calls[0]
    assert thread is not here
    assert not answer.called
    call()
    assert outcome_of(answer) is True
