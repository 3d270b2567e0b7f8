"""What a client has shown, as twisted.cred takes it."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from zope.interface import implementer

from mailgate.auth.checker import IBearerToken, ICertified, IProven
from mailgate.envelope import Session
from mailgate.wire.sasl_exchange import CramProof

__all__ = ["CertifiedLogin", "CramLogin", "Login", "PasswordLogin", "ProvenLogin", "TokenLogin"]


@implementer(IUsernamePassword)
@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A name and a password."""

    username: bytes
    password: bytes = field(repr=False)
    session: Session | None = field(default=None, repr=False)

    def checkPassword(self, password: bytes) -> bool:  # noqa: N802 (twisted.cred's)
        """Whether this is it, compared in constant time."""
        return hmac.compare_digest(self.password, password)


@implementer(IUsernameHashedPassword)
@dataclass(frozen=True, slots=True)
class CramLogin:
    """A name and the digest that CRAM-MD5 makes of the password."""

    username: bytes
    proof: CramProof = field(repr=False)
    session: Session | None = field(default=None, repr=False)

    def checkPassword(self, password: bytes) -> bool:  # noqa: N802 (twisted.cred's)
        """Whether the digest was made with it, compared in constant time."""
        return self.proof.matches(password)


@implementer(IBearerToken)
@dataclass(frozen=True, slots=True)
class TokenLogin:
    """A token, and whom it is to be for."""

    username: bytes
    token: str = field(repr=False)
    host: str = ""
    port: int = 0
    session: Session | None = field(default=None, repr=False)


@implementer(IProven)
@dataclass(frozen=True, slots=True)
class ProvenLogin:
    """A user whom SCRAM has proved."""

    username: bytes
    session: Session | None = field(default=None, repr=False)


@implementer(ICertified)
@dataclass(frozen=True, slots=True)
class CertifiedLogin:
    """A client whom its certificate has proved."""

    username: bytes
    session: Session | None = field(default=None, repr=False)


Login = PasswordLogin | CramLogin | TokenLogin | ProvenLogin | CertifiedLogin
