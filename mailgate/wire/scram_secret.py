"""What a server keeps of a password for SCRAM-SHA-256 (RFC 5802 section 3, RFC 7677)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from mailgate.wire.sasl_text import SaslError, decode_base64, encode_text, prepare

__all__ = ["DEFAULT_ITERATIONS", "MAX_ITERATIONS", "MIN_ITERATIONS", "ScramKeys", "ScramSecret"]

#: Rounds of PBKDF2 for a new secret: the most that Cyrus SASL computes as a client, and with it Postfix. RFC 7677
#: section 4 asks for a tenth of a second of the machine that computes them: the client, often a small device.
DEFAULT_ITERATIONS = 65_536
#: The fewest that either side takes (RFC 7677 section 4), and the most: what a peer or a file can make us compute is
#: a quarter of a second.
MIN_ITERATIONS, MAX_ITERATIONS = 4096, 1_000_000
#: The longest salt, in octets: a challenge with it still fits one line of a reply.
_MAX_SALT = 64
_SALT = 16

_FORM = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,6}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """ClientKey and ServerKey of a password (RFC 5802 section 3), 32 octets each."""

    client: bytes = field(repr=False)
    server: bytes = field(repr=False)

    @classmethod
    def derive(cls, password: str, salt: bytes, iterations: int) -> ScramKeys:
        """The keys; SaslError where SASLprep refuses the password. It computes for milliseconds, without the GIL."""
        octets = encode_text(prepare(password, stored=True))
        salted = hashlib.pbkdf2_hmac("sha256", octets, salt, iterations)
        return cls(hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256"))

    @property
    def stored(self) -> bytes:
        """StoredKey, by which a server knows ClientKey when it is shown it."""
        return hashlib.sha256(self.client).digest()


@dataclass(frozen=True, slots=True)
class ScramSecret:
    """One user's secret. SaslError where a part of it is out of its bounds.

    `salt` has 1 to 64 octets, both keys 32. With the secret nobody can log in as the user, but anybody can try
    passwords on it and play the server: it belongs into files that others cannot read, and into no log. `str()` is
    the form to keep (RFC 5803, as PostgreSQL writes it): SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey.
    """

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not MIN_ITERATIONS <= self.iterations <= MAX_ITERATIONS:
            raise SaslError(f"{MIN_ITERATIONS} to {MAX_ITERATIONS} iterations are allowed")
        if not 1 <= len(self.salt) <= _MAX_SALT or len(self.stored_key) != 32 or len(self.server_key) != 32:
            raise SaslError("a salt or a key of SCRAM-SHA-256 that is too short or too long")

    @classmethod
    def parse(cls, text: str) -> ScramSecret:
        """The secret that `str()` wrote; SaslError, which does not repeat it, where there is none."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise SaslError("not of the form SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")
        salt, stored_key, server_key = (decode_base64(match[number].encode()) for number in (2, 3, 4))
        return cls(salt, int(match[1]), stored_key, server_key)

    @classmethod
    def derive(cls, password: str, salt: bytes | None = None, iterations: int = DEFAULT_ITERATIONS) -> ScramSecret:
        """The secret of a password, with a new salt where none is given. It computes: see `ScramKeys.derive`."""
        salt = secrets.token_bytes(_SALT) if salt is None else salt
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise SaslError(f"{MIN_ITERATIONS} to {MAX_ITERATIONS} iterations are allowed")
        keys = ScramKeys.derive(password, salt, iterations)
        return cls(salt, iterations, keys.stored, keys.server)

    @classmethod
    def decoy(cls, username: str, key: bytes, iterations: int) -> ScramSecret:
        """What an unknown user is answered with: always the same for one name and key, and no password fits it.

        Names that differ in case only share it, as known users do where names are looked up without regard to case.
        """
        name = username.casefold().encode("utf-8", "surrogatepass")
        salt, stored_key, server_key = (
            hmac.digest(key, part + name, "sha256") for part in (b"salt\0", b"stored\0", b"server\0")
        )
        return cls(salt[:_SALT], iterations, stored_key, server_key)

    def matches(self, password: str) -> bool:
        """Whether this is the secret of `password`, compared in constant time. It computes: see `ScramKeys.derive`."""
        try:
            keys = ScramKeys.derive(password, self.salt, self.iterations)
        except SaslError:
            return False
        return hmac.compare_digest(keys.stored, self.stored_key)

    def __str__(self) -> str:
        salt, stored_key, server_key = (
            base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored_key}:{server_key}"
