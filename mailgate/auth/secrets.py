"""The forms in which secrets of users are kept, and how a password is held against them.

- `$argon2id$...`: Argon2 (RFC 9106), the form to prefer; `{ARGON2ID}` before it, as Dovecot writes it, is no matter;
- `SCRAM-SHA-256$...`: as PostgreSQL keeps it, which SCRAM needs; passwords can be checked with it too;
- `{SSHA512}`, `{SSHA256}`, `{SSHA}` and the base64 of digest and salt: what LDAP servers keep, for moving over;
- `{PLAIN}` and the password, which CRAM-MD5 needs: not recommended, as whoever reads the file has every password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Protocol

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from mailgate.wire.saslprep import saslprep
from mailgate.wire.scram_secret import ScramSecret

__all__ = ["FORMS", "SecretVerifier", "StoredSecret", "make_forms"]

#: What a line can hold, for people.
FORMS = "$argon2id$..., SCRAM-SHA-256$..., {SSHA512}..., {SSHA256}..., {SSHA}..., {PLAIN}..."

#: Bounds of what a stored hash can make us spend: KiB, rounds, lanes.
_MAX_MEMORY, _MAX_ROUNDS, _MAX_LANES = 1024 * 1024, 100, 64
#: Threads that compute: Argon2 takes 64 MiB and a tenth of a second of each.
_THREADS = 2

_LDAP = {"{SSHA}": "sha1", "{SSHA256}": "sha256", "{SSHA512}": "sha512"}
_BRACED = re.compile(r"(\{[A-Za-z0-9-]+\})(.*)", re.DOTALL)


class _Form(Protocol):
    def matches(self, password: str) -> bool:
        """Whether this was made of it."""


@dataclass(frozen=True, slots=True)
class _Argon2:
    encoded: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> _Argon2:
        try:
            parameters = extract_parameters(text)
        except InvalidHashError:
            raise ValueError("a hash of Argon2 that is damaged") from None
        if not (
            8 <= parameters.memory_cost <= _MAX_MEMORY
            and 1 <= parameters.time_cost <= _MAX_ROUNDS
            and 1 <= parameters.parallelism <= _MAX_LANES
        ):
            raise ValueError(
                f"a hash of Argon2 that asks for too much: m at most {_MAX_MEMORY}, t {_MAX_ROUNDS}, p {_MAX_LANES}"
            )
        return cls(text)

    def matches(self, password: str) -> bool:
        try:
            return PasswordHasher().verify(self.encoded, _octets(password))
        except (Argon2Error, InvalidHashError):
            return False


@dataclass(frozen=True, slots=True)
class _Salted:
    algorithm: str
    digest: bytes = field(repr=False)
    salt: bytes = field(repr=False)

    @classmethod
    def parse(cls, algorithm: str, text: str) -> _Salted:
        size = hashlib.new(algorithm).digest_size
        try:
            octets = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            octets = b""
        if len(octets) <= size:
            raise ValueError("not the base64 of a digest and its salt")
        return cls(algorithm, octets[:size], octets[size:])

    def matches(self, password: str) -> bool:
        digest = hashlib.new(self.algorithm, _octets(password) + self.salt).digest()
        return hmac.compare_digest(digest, self.digest)


@dataclass(frozen=True, slots=True)
class _Plain:
    password: str = field(repr=False)

    def matches(self, password: str) -> bool:
        return hmac.compare_digest(_octets(password), _octets(self.password))


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What is kept of one user's password: one form or several, separated by spaces.

    The first form decides about a password that is shown; those behind it serve the mechanisms that need them. A
    user's secret is as strong as the weakest of them.
    """

    forms: tuple[_Form, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> StoredSecret:
        """The forms in `text`; ValueError, which does not repeat it, where it holds none, others, or one kind twice."""
        forms = tuple(_parse(word) for word in text.split())
        if not forms:
            raise ValueError("no secret")
        if len({type(form) for form in forms}) < len(forms):
            raise ValueError("two secrets of one form")
        return cls(forms)

    @property
    def scram(self) -> ScramSecret | None:
        """The form for SCRAM."""
        return next((form for form in self.forms if isinstance(form, ScramSecret)), None)

    @property
    def plain(self) -> str | None:
        """The password, where it is kept."""
        return next((form.password for form in self.forms if isinstance(form, _Plain)), None)

    @property
    def is_quick(self) -> bool:
        """Whether `matches` takes microseconds."""
        return isinstance(self.forms[0], _Plain | _Salted)

    def matches(self, password: bytes) -> bool:
        """Whether this is the secret of a password in UTF-8. It may compute for a tenth of a second.

        A password that SASLprep changes is tried as it came, too: systems that do not know SASLprep made such secrets.
        """
        try:
            text = password.decode()
        except UnicodeDecodeError:
            return False
        try:
            prepared = saslprep(text, stored=False)
        except ValueError:
            prepared = text
        return any(self.forms[0].matches(one) for one in dict.fromkeys((prepared, text)))


def make_forms(password: str, *, scram: bool = True, hasher: PasswordHasher | None = None) -> str:
    """What to keep of a password: Argon2 and, if asked for, SCRAM. ValueError where SASLprep refuses the password.

    It computes for a tenth of a second. The parameters of Argon2 are the second of RFC 9106 section 4.
    """
    prepared = saslprep(password, stored=True)
    if not prepared:
        raise ValueError("nothing is left of it")
    forms = [(hasher or PasswordHasher()).hash(prepared)]
    if scram:
        forms.append(str(ScramSecret.derive(prepared)))
    return " ".join(forms)


class SecretVerifier:
    """Holds passwords against stored secrets, in threads of its own that start with the first that takes long.

    How many wait is for the caller to bound.
    """

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool | None = None) -> None:
        """`pool` is started and stopped here."""
        self._reactor = reactor
        self._pool = pool or ThreadPool(0, _THREADS, name="auth")
        self._is_started = False
        # Costs what a new secret of `make_forms` costs, and no password fits.
        self._decoy = StoredSecret((_Argon2(_decoy()),))

    def verify(self, secret: StoredSecret | None, password: bytes) -> Deferred[bool]:
        """Whether the password is right. None is an unknown user: never right, after as much time."""
        asked = secret or self._decoy
        if asked.is_quick:
            return succeed(asked.matches(password))
        if not self._is_started:
            self._is_started = True
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, asked.matches, password)

    def close(self) -> None:
        """End the threads. Called when no password waits, it returns at once."""
        if self._is_started:
            self._is_started = False
            self._pool.stop()


def _decoy() -> str:
    salt, digest = (base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (16, 32))
    hasher = PasswordHasher()
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${cost}${salt}${digest}"


def _octets(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def _parse(word: str) -> _Form:
    if word.startswith("$argon2"):
        return _Argon2.parse(word)
    if word.startswith("SCRAM-SHA-256$"):
        return ScramSecret.parse(word)
    match = _BRACED.fullmatch(word)
    scheme = match[1].upper() if match else ""
    if match and scheme in ("{ARGON2}", "{ARGON2ID}", "{ARGON2I}"):
        return _Argon2.parse(match[2])
    if match and scheme == "{PLAIN}" and match[2]:
        return _Plain(match[2])
    if match and scheme in _LDAP:
        return _Salted.parse(_LDAP[scheme], match[2])
    raise ValueError(f"a secret of no form that is known: {FORMS}")
