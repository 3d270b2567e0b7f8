"""The mechanisms of SMTP AUTH (RFC 4954), the server's side, each a state machine without I/O.

`server_mechanism` makes them; `mailgate.wire.sasl_exchange` says how they are driven.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping

from mailgate.reply import Reply
from mailgate.wire.sasl_exchange import (
    CLEARTEXT,
    BearerToken,
    Challenge,
    CramProof,
    Credentials,
    External,
    Failed,
    Malformed,
    NeedSecret,
    Password,
    ScramProof,
    ServerExchange,
    ServerMechanism,
    Step,
    Succeeded,
    Verify,
)
from mailgate.wire.sasl_text import MAX_RESPONSE, SaslError, decode_response, encode_response, parse_name, parse_text
from mailgate.wire.scram import (
    DEFAULT_ITERATIONS,
    SCRAM,
    SCRAM_PLUS,
    ScramSecret,
    ScramServer,
    decode_saslname,
)

__all__ = [
    "CLEARTEXT",
    "DEFAULT_ITERATIONS",
    "MAX_RESPONSE",
    "MECHANISMS",
    "BearerToken",
    "Challenge",
    "CramMd5Server",
    "CramProof",
    "Credentials",
    "External",
    "ExternalServer",
    "Failed",
    "LoginServer",
    "Malformed",
    "NeedSecret",
    "OAuthBearerServer",
    "Password",
    "PlainServer",
    "SaslError",
    "ScramProof",
    "ScramSecret",
    "ScramServer",
    "ServerMechanism",
    "Step",
    "Succeeded",
    "Verify",
    "XOAuth2Server",
    "decode_response",
    "encode_response",
    "server_mechanism",
]

#: The names that `server_mechanism` knows, strongest first.
MECHANISMS = (SCRAM_PLUS, SCRAM, "EXTERNAL", "OAUTHBEARER", "XOAUTH2", "CRAM-MD5", "PLAIN", "LOGIN")

_CRAM_RESPONSE = re.compile(rb"(.+) ([0-9a-f]{32})", re.DOTALL)
_TOKEN = re.compile(rb"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_XOAUTH2 = re.compile(rb"user=([^\x01]+)\x01auth=([^\x01]+)\x01\x01", re.DOTALL)
_GS2_HEADER = re.compile(rb"(?:[ny]|(p)=[A-Za-z0-9.-]+),(?:a=([^,\0]+))?,")
_PAIRS = re.compile(rb"(?:[A-Za-z]+=[\t\n\r -~]*\x01)*\x01")


def server_mechanism(
    name: str,
    *,
    hostname: str,
    random_bytes: Callable[[int], bytes],
    seconds: Callable[[], float],
    scram_key: bytes,
    channel_bindings: Mapping[str, bytes],
    iterations: int = DEFAULT_ITERATIONS,
) -> ServerMechanism:
    """A new exchange of the mechanism called `name`, in any case; SaslError (504) for a name that is not known.

    Whether the mechanism is offered, and whether TLS is needed (CLEARTEXT), the caller has decided. `hostname` and
    `seconds` (the time) go into the challenge of CRAM-MD5; `random_bytes` gives as many secret octets as it is asked
    for; for `scram_key`, `channel_bindings` and `iterations` see ScramServer.
    """
    name = name.upper()
    match name:
        case "SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS":
            return ScramServer(
                name, channel_bindings, key=scram_key, nonce=base64.b64encode(random_bytes(18)), iterations=iterations
            )
        case "EXTERNAL":
            return ExternalServer(name)
        case "OAUTHBEARER":
            return OAuthBearerServer(name)
        case "XOAUTH2":
            return XOAuth2Server(name)
        case "CRAM-MD5":
            challenge = f"<{random_bytes(16).hex()}.{int(seconds())}@{hostname}>"
            return CramMd5Server(name, challenge.encode())
        case "PLAIN":
            return PlainServer(name)
        case "LOGIN":
            return LoginServer(name)
    raise SaslError("no such mechanism", Reply.of(504, "5.5.4", "Authentication mechanism is not known"))


class PlainServer(ServerExchange):
    """PLAIN (RFC 4616): [authzid] NUL authcid NUL password."""

    def _begin(self, response: bytes) -> Step:
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise SaslError("PLAIN takes two names and a password, each with a NUL between them")
        username, password = parse_name(parts[1]), parse_text(parts[2])
        authzid = parse_name(parts[0]) if parts[0] else ""
        if authzid not in ("", username):
            return Failed("one user may not act for another")
        return Verify(Password(username, password, authzid))


class LoginServer(ServerExchange):
    """LOGIN, which no RFC describes: the name and the password, each after its prompt."""

    _username = ""

    def _prompt(self) -> Step:
        self._due = self._begin
        return Challenge(b"Username:")

    def _begin(self, response: bytes) -> Step:
        self._username = parse_name(response)
        self._due = self._password
        return Challenge(b"Password:")

    def _password(self, response: bytes) -> Step:
        return Verify(Password(self._username, parse_text(response)))


class CramMd5Server(ServerExchange):
    """CRAM-MD5 (RFC 2195). `challenge` was never used before and cannot be guessed."""

    def __init__(self, name: str, challenge: bytes) -> None:
        super().__init__(name)
        self._challenge = challenge

    def _prompt(self) -> Step:
        self._due = self._proof
        return Challenge(self._challenge)

    def _begin(self, response: bytes) -> Step:
        return Malformed("CRAM-MD5 takes no initial response", "5.7.0")

    def _proof(self, response: bytes) -> Step:
        match = _CRAM_RESPONSE.fullmatch(response)
        if match is None:
            raise SaslError("CRAM-MD5 takes a name, a space and a digest")
        return Verify(CramProof(parse_name(match[1]), self._challenge, match[2].decode()))


class ExternalServer(ServerExchange):
    """EXTERNAL (RFC 4422 appendix A): the client's certificate says who it is."""

    def _begin(self, response: bytes) -> Step:
        return Verify(External(parse_name(response) if response else ""))


class _TokenServer(ServerExchange):
    """A token that is refused is first told so in JSON, and the client's answer to that is of no interest."""

    _refusal: bytes

    def _refuse(self) -> Challenge:
        self._due = self._refused
        return Challenge(self._refusal)

    def _refused(self, response: bytes) -> Step:
        return Failed("the token was refused")

    def _conclude(self, ok: bool) -> Challenge | None:
        return None if ok else self._refuse()


class XOAuth2Server(_TokenServer):
    """XOAUTH2, as Google and Microsoft describe it: OAUTHBEARER's forerunner."""

    _refusal = b'{"status":"401","schemes":"bearer"}'

    def _begin(self, response: bytes) -> Step:
        match = _XOAUTH2.fullmatch(response)
        if match is None:
            raise SaslError("XOAUTH2 takes a user and a bearer token")
        return Verify(BearerToken(parse_name(match[1]), _parse_token(match[2])))


class OAuthBearerServer(_TokenServer):
    """OAUTHBEARER (RFC 7628). Keys that are not known are passed over; a client without a token is told our terms."""

    _refusal = b'{"status":"invalid_token"}'

    def _begin(self, response: bytes) -> Step:
        gs2_header, _separator, pairs = response.partition(b"\x01")
        header = _GS2_HEADER.fullmatch(gs2_header)
        if header is None or not _PAIRS.fullmatch(pairs):
            raise SaslError("OAUTHBEARER takes a GS2 header and pairs of keys and values")
        if header[1]:
            return Failed("a channel binding for a mechanism without")
        values: dict[bytes, bytes] = {}
        for pair in pairs[:-1].split(b"\x01")[:-1]:
            key, _equals, value = pair.partition(b"=")
            if key in values:
                raise SaslError("A key of OAUTHBEARER is given twice")
            values[key] = value
        username = decode_saslname(header[2]) if header[2] else ""
        host, port = values.get(b"host", b""), values.get(b"port", b"0")
        if not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise SaslError("That is no port")
        if not values.get(b"auth"):
            return self._refuse()
        token = _parse_token(values[b"auth"])
        return Verify(BearerToken(username, token, parse_name(host) if host else "", int(port)))


def _parse_token(auth: bytes) -> str:
    match = _TOKEN.fullmatch(auth)
    if match is None:
        raise SaslError("Only bearer tokens are taken")
    return match[1].decode()
