"""The mechanisms of SMTP AUTH (RFC 4954), the client's side, each a state machine without I/O."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from mailgate.wire.sasl_exchange import CLEARTEXT
from mailgate.wire.sasl_text import SaslError, decode_base64, encode_text, prepare
from mailgate.wire.scram import SCRAM, SCRAM_PLUS, encode_saslname, sign, xor
from mailgate.wire.scram_secret import MAX_ITERATIONS, MIN_ITERATIONS, ScramKeys

__all__ = [
    "ClientMechanism",
    "CramMd5Client",
    "ExternalClient",
    "LoginClient",
    "PlainClient",
    "ScramClient",
    "TokenClient",
    "client_mechanism",
]

#: The types of channel binding that we use, best first. The data of others is left alone.
_BINDINGS = ("tls-exporter", "tls-server-end-point")
#: What is chosen with each kind of credentials, strongest first.
_FOR_TOKEN = ("OAUTHBEARER", "XOAUTH2")
_FOR_PASSWORD = (SCRAM_PLUS, SCRAM, "CRAM-MD5", "PLAIN", "LOGIN")

_SERVER_FIRST = re.compile(
    rb"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/=]+),i=(?P<iterations>[1-9][0-9]{0,6})(?:,[A-Za-z]=[^,\0]+)*"
)
_SERVER_FINAL = re.compile(rb"(?:v=(?P<signature>[A-Za-z0-9+/=]+)|e=(?P<error>[a-z0-9-]{1,64}))(?:,[A-Za-z]=[^,\0]+)*")


class ClientMechanism(Protocol):
    """One exchange of one connection.

    `initial` is the initial response, or None where the server begins. Where it does not fit the command line, AUTH
    is sent without it, and the first challenge, which is empty then, is answered with it. `verified` is whether 235
    may be believed: with SCRAM not before the server has proved that it knows the password.
    """

    name: str
    initial: bytes | None
    verified: bool

    def respond(self, challenge: bytes) -> bytes:
        """The response to a decoded challenge. SaslError: send "*", and trust neither this server nor its 235."""


def client_mechanism(
    offered: Iterable[str],
    *,
    username: str,
    password: str = "",
    token: str = "",
    external: bool = False,
    tls: bool,
    cleartext: bool = False,
    allowed: Sequence[str] = (),
    channel_bindings: Mapping[str, bytes],
    host: str = "",
    port: int = 0,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> ClientMechanism | None:
    """The strongest mechanism of those `offered`, or None where none of them will do.

    It is for what is given: `external` (the certificate of our TLS; `username` may be ""), `token`, or `password`, in
    this order. Without `tls`, no mechanism that shows a password or a token, unless `cleartext` says that this line is
    good for it. Where `allowed` names mechanisms, no others. `channel_bindings` has the data of each type
    ("tls-exporter", "tls-server-end-point") that the connection has; `host` and `port` are told with OAUTHBEARER.
    SaslError where name, password or token do not fit the mechanism.
    """
    names = {name.upper() for name in offered}
    bindings = [(kind, channel_bindings[kind]) for kind in _BINDINGS if kind in channel_bindings]
    kinds = ["EXTERNAL"] if external else []
    kinds += [*(_FOR_TOKEN if token else ()), *(_FOR_PASSWORD if password else ())]
    may = {name.upper() for name in allowed} if allowed else set(kinds)
    if not tls and not cleartext:
        may -= CLEARTEXT
    if not bindings:
        may.discard(SCRAM_PLUS)
    name = next((kind for kind in kinds if kind in names and kind in may), None)
    match name:
        case "SCRAM-SHA-256-PLUS":
            nonce = base64.b64encode(random_bytes(18))
            return ScramClient(name, username, password, nonce, binding=bindings[0])
        case "SCRAM-SHA-256":
            # "y" says that we would have bound the channel: a server that offers it knows that somebody hid that
            is_hidden = bool(bindings) and SCRAM_PLUS not in names
            nonce = base64.b64encode(random_bytes(18))
            return ScramClient(name, username, password, nonce, would_bind=is_hidden)
        case "EXTERNAL":
            return ExternalClient(name, username)
        case "OAUTHBEARER":
            return TokenClient(name, _oauthbearer(username, token, host, port), refused=b"\x01")
        case "XOAUTH2":
            user = encode_text(username)
            return TokenClient(name, b"user=%b\x01auth=Bearer %b\x01\x01" % (user, _token(token)), refused=b"")
        case "CRAM-MD5":
            return CramMd5Client(name, username, password)
        case "PLAIN":
            return PlainClient(name, username, password)
        case "LOGIN":
            return LoginClient(name, username, password)
    return None


class _Client:
    """What the mechanisms share: which challenge is due. A challenge that is not is SaslError."""

    def __init__(self, name: str, initial: bytes | None, due: Callable[[bytes], bytes] | None) -> None:
        self.name = name
        self.initial = initial
        self.verified = True
        self._due = due

    def respond(self, challenge: bytes) -> bytes:
        """See ClientMechanism."""
        due, self._due = self._due, None
        if due is None:
            raise SaslError("a challenge that the mechanism does not have")
        return due(challenge)


class PlainClient(_Client):
    """PLAIN (RFC 4616)."""

    def __init__(self, name: str, username: str, password: str) -> None:
        super().__init__(name, b"\0" + encode_text(username) + b"\0" + encode_text(password), None)


class ExternalClient(_Client):
    """EXTERNAL (RFC 4422 appendix A). With `authzid` "" we are whoever our certificate names."""

    def __init__(self, name: str, authzid: str) -> None:
        super().__init__(name, encode_text(authzid) if authzid else b"", None)


class LoginClient(_Client):
    """LOGIN. Servers word its two prompts as they like."""

    def __init__(self, name: str, username: str, password: str) -> None:
        super().__init__(name, None, self._send_username)
        self.verified = False
        self._username, self._password = encode_text(username), encode_text(password)

    def _send_username(self, challenge: bytes) -> bytes:
        self._due = self._send_password
        return self._username

    def _send_password(self, challenge: bytes) -> bytes:
        self.verified = True
        return self._password


class CramMd5Client(_Client):
    """CRAM-MD5 (RFC 2195)."""

    def __init__(self, name: str, username: str, password: str) -> None:
        super().__init__(name, None, self._prove)
        self.verified = False
        self._username, self._password = encode_text(username), encode_text(password)

    def _prove(self, challenge: bytes) -> bytes:
        if not challenge:
            raise SaslError("an empty challenge of CRAM-MD5")
        self.verified = True
        return self._username + b" " + hmac.new(self._password, challenge, "md5").hexdigest().encode()


class TokenClient(_Client):
    """OAUTHBEARER (RFC 7628) and XOAUTH2: a challenge says that the token is refused, and `refused` answers it."""

    def __init__(self, name: str, initial: bytes, refused: bytes) -> None:
        super().__init__(name, initial, self._admit)
        self._refused = refused

    def _admit(self, challenge: bytes) -> bytes:
        self.verified = False
        return self._refused


class ScramClient(_Client):
    """SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677).

    `nonce` is printable ASCII without a comma, never used before; `binding` is type and data of the channel binding,
    for -PLUS. The first `respond` computes as many rounds as the
    server asks for, up to a quarter of a second without the GIL: call it in a worker thread.
    """

    def __init__(
        self,
        name: str,
        username: str,
        password: str,
        nonce: bytes,
        *,
        binding: tuple[str, bytes] | None = None,
        would_bind: bool = False,
    ) -> None:
        self._nonce = nonce
        self._bare = b"n=%b,r=%b" % (encode_saslname(prepare(username, stored=False)), self._nonce)
        header = b"p=%b,," % binding[0].encode() if binding else b"y,," if would_bind else b"n,,"
        self._bound = base64.b64encode(header + (binding[1] if binding else b""))
        prepare(password, stored=True)
        self._password = password
        self._signature = b""
        super().__init__(name, header + self._bare, self._prove)
        self.verified = False

    def _prove(self, challenge: bytes) -> bytes:
        match = _SERVER_FIRST.fullmatch(challenge)
        if match is None:
            raise SaslError("no first message of a SCRAM server")
        nonce, iterations = match["nonce"], int(match["iterations"])
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise SaslError("the server added nothing to our nonce")
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise SaslError(f"the server wants {iterations} iterations, not {MIN_ITERATIONS} to {MAX_ITERATIONS}")
        keys = ScramKeys.derive(self._password, decode_base64(match["salt"]), iterations)
        unproved = b"c=%b,r=%b" % (self._bound, nonce)
        transcript = b",".join((self._bare, challenge, unproved))
        self._signature = sign(keys.server, transcript)
        self._due = self._check
        return unproved + b",p=" + base64.b64encode(xor(keys.client, sign(keys.stored, transcript)))

    def _check(self, challenge: bytes) -> bytes:
        match = _SERVER_FINAL.fullmatch(challenge)
        if match is None:
            raise SaslError("no final message of a SCRAM server")
        if match["error"]:
            raise SaslError(f"the server refuses: {match['error'].decode()}")
        if not hmac.compare_digest(decode_base64(match["signature"]), self._signature):
            raise SaslError("the server does not know the password")
        self.verified = True
        return b""


def _oauthbearer(username: str, token: str, host: str, port: int) -> bytes:
    pairs = [b"n,%b," % (b"a=" + encode_saslname(username) if username else b"")]
    if host:
        pairs.append(b"host=" + encode_text(host))
    if port:
        pairs.append(b"port=%d" % port)
    return b"\x01".join((*pairs, b"auth=Bearer " + _token(token), b"", b""))


def _token(token: str) -> bytes:
    octets = encode_text(token)
    if not re.fullmatch(rb"[!-~]+", octets):
        raise SaslError("a token that is not printable ASCII")
    return octets
