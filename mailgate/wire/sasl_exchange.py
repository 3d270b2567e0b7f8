"""An exchange of SMTP AUTH (RFC 4954) as a server sees it: what a mechanism asks of its caller, as values."""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mailgate.reply import Reply
from mailgate.wire.sasl_text import SaslError
from mailgate.wire.scram_secret import ScramSecret

__all__ = [
    "CLEARTEXT",
    "BearerToken",
    "Challenge",
    "CramProof",
    "Credentials",
    "External",
    "Failed",
    "Malformed",
    "NeedSecret",
    "Password",
    "ScramProof",
    "ServerExchange",
    "ServerMechanism",
    "Step",
    "Succeeded",
    "Verify",
]

#: The mechanisms that show a password or a token to whoever reads the line: for TLS only.
CLEARTEXT = frozenset({"PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"})


@dataclass(frozen=True, slots=True)
class Password:
    """PLAIN, LOGIN. `authzid` is "" or the user's name again."""

    username: str
    password: str = field(repr=False)
    authzid: str = ""


@dataclass(frozen=True, slots=True)
class CramProof:
    """CRAM-MD5 (RFC 2195): the digest, in hexadecimal, of our challenge under the password."""

    username: str
    challenge: bytes
    digest: str = field(repr=False)

    def matches(self, password: str | bytes) -> bool:
        """Whether the digest was made with `password`, compared in constant time."""
        key = password.encode("utf-8", "surrogatepass") if isinstance(password, str) else password
        return hmac.compare_digest(hmac.new(key, self.challenge, "md5").hexdigest(), self.digest)


@dataclass(frozen=True, slots=True)
class ScramProof:
    """SCRAM: the mechanism itself has checked the proof. What is left is whether this user may log in."""

    username: str


@dataclass(frozen=True, slots=True)
class BearerToken:
    """OAUTHBEARER, XOAUTH2. `username` is "" where the token alone says who it is for; `host` and `port` are "" and 0
    where the client did not say whom it believes to talk to."""

    username: str
    token: str = field(repr=False)
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class External:
    """EXTERNAL: who the client wants to be; "" for whoever its certificate names (RFC 4422 appendix A)."""

    authzid: str


Credentials = Password | CramProof | ScramProof | BearerToken | External


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send this as 334, in base64 (`encode_response`), and give the client's answer to `step`.

    With base64 it fits one line of a reply (MAX_REPLY_LINE).
    """

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verify:
    """Have the credentials checked and call `verified` with the outcome."""

    credentials: Credentials


@dataclass(frozen=True, slots=True)
class NeedSecret:
    """Look the user's secret for SCRAM up and call `secret` with it. The name is prepared by SASLprep."""

    username: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """The end: what the client sent is none of what the mechanism knows. `reason` never repeats it."""

    reason: str
    status: str = "5.5.2"

    @property
    def reply(self) -> Reply:
        """501 with the reason (RFC 4954 section 4)."""
        return Reply.of(501, self.status, self.reason)


@dataclass(frozen=True, slots=True)
class Failed:
    """The end: the client did not prove who it is. `reason` is for the log; the client is told 535 5.7.8 only."""

    reason: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The end, after a last message that `verified` gave: 235."""


Step = Challenge | Verify | NeedSecret | Malformed | Failed | Succeeded


class ServerMechanism(Protocol):
    """One exchange of one connection. A call that is not due is SaslError; no input of a client raises.

    `step` is called with the decoded response of each line, first with the initial one or None where AUTH had none.
    A Challenge asks for the next. After Verify comes `verified`; what it returns is sent, and the answer given to
    `step`, which then says how the exchange ended. Where it returns None, the outcome stands: 235 or 535.
    """

    name: str

    def step(self, response: bytes | None) -> Step:
        """What is to be done after this response. It computes microseconds only."""

    def secret(self, secret: ScramSecret | None) -> Challenge:
        """After NeedSecret: the user's secret, or None for an unknown user, who is led on to fail at the end."""

    def verified(self, ok: bool) -> Challenge | None:
        """After Verify: whether the user is let in. The message that the mechanism owes the client, or None."""


class ServerExchange(ABC):
    """What the mechanisms of a server share: which call is due, and that the first fault ends it.

    A mechanism hangs its next handler into `_due`; a handler's SaslError becomes Malformed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._due: Callable[[bytes], Step] | None = self._begin
        self._is_begun = self._is_asked = False

    def step(self, response: bytes | None) -> Step:
        """See ServerMechanism."""
        due, self._due, self._is_asked = self._due, None, False
        if due is None or (response is None and self._is_begun):
            raise SaslError("no response is due")
        self._is_begun = True
        try:
            step = self._prompt() if response is None else due(response)
        except SaslError as error:
            self._due = None
            return Malformed(str(error))
        self._is_asked = isinstance(step, Verify)
        return step

    def secret(self, secret: ScramSecret | None) -> Challenge:
        """See ServerMechanism."""
        raise SaslError("no secret is due")

    def verified(self, ok: bool) -> Challenge | None:
        """See ServerMechanism."""
        if not self._is_asked:
            raise SaslError("nothing is to be verified")
        self._is_asked = False
        return self._conclude(ok)

    def _prompt(self) -> Step:
        """What is sent where AUTH had no initial response (RFC 4954 section 4: an empty challenge)."""
        self._due = self._begin
        return Challenge(b"")

    @abstractmethod
    def _begin(self, response: bytes) -> Step:
        """The initial response."""

    def _conclude(self, ok: bool) -> Challenge | None:
        """The last message to the client; where there is one, `_due` is set to take the answer."""
        return None
