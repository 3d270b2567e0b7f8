"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the server's side (RFC 5802, RFC 7677), with channel bindings of any type."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

from mailgate.wire.sasl_exchange import (
    Challenge,
    Failed,
    NeedSecret,
    ScramProof,
    ServerExchange,
    Step,
    Succeeded,
    Verify,
)
from mailgate.wire.sasl_text import SaslError, decode_base64, encode_text, parse_name, prepare
from mailgate.wire.scram_secret import DEFAULT_ITERATIONS, MAX_ITERATIONS, MIN_ITERATIONS, ScramSecret

__all__ = [
    "DEFAULT_ITERATIONS",
    "MAX_ITERATIONS",
    "MAX_NONCE",
    "MIN_ITERATIONS",
    "SCRAM",
    "SCRAM_PLUS",
    "ScramSecret",
    "ScramServer",
    "decode_saslname",
    "encode_saslname",
    "sign",
    "xor",
]

SCRAM, SCRAM_PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
#: The longest nonce of a client, in octets; clients send 18 to 44. With it, the challenge fits one line of a reply.
MAX_NONCE = 200

_CLIENT_FIRST = re.compile(
    rb"(?P<header>(?:(?P<flag>[ny])|p=(?P<binding>[A-Za-z0-9.-]+)),(?:a=(?P<authzid>[^,\0]+))?,)"
    rb"(?P<bare>(?P<extension>m=[^,\0]+,)?n=(?P<name>[^,\0]+),r=(?P<nonce>[!-+\--~]{1,%d})(?:,[A-Za-z]=[^,\0]+)*)"
    % MAX_NONCE
)
_CLIENT_FINAL = re.compile(
    rb"(?P<unproved>c=(?P<bound>[A-Za-z0-9+/=]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*)"
    rb",p=(?P<proof>[A-Za-z0-9+/=]+)"
)
_ESCAPE = re.compile(rb"=(?!2C|3D)")


class ScramServer(ServerExchange):
    """The exchange of one client.

    `bindings` holds the data of each type of channel binding that the connection has ("tls-exporter", RFC 9266;
    "tls-server-end-point", RFC 5929) and is empty where -PLUS is not offered. `key` makes the salts of unknown users:
    secret, and the same for as long as the users' salts stay. `nonce` is printable ASCII without a comma that was never
    used before and that nobody can guess. `iterations` is what the users' secrets have; one that differs tells that
    its user exists.
    """

    def __init__(
        self,
        name: str,
        bindings: Mapping[str, bytes],
        *,
        key: bytes,
        nonce: bytes,
        iterations: int = DEFAULT_ITERATIONS,
    ) -> None:
        super().__init__(name)
        self._bindings = bindings
        self._key = key
        self._iterations = iterations
        self._username = ""
        self._nonce = nonce
        self._bound = self._transcript = self._signature = b""
        self._secret: ScramSecret | None = None
        self._is_known = self._is_secret_due = False

    def _begin(self, response: bytes) -> Step:
        match = _CLIENT_FIRST.fullmatch(response)
        if match is None:
            raise SaslError("That is no first message of SCRAM")
        fault = self._bind(match["header"], match["flag"], match["binding"])
        if fault:
            return Failed(fault)
        if match["extension"] or b",m=" in match["bare"]:
            return Failed("an extension of SCRAM that is mandatory")
        username = decode_saslname(match["name"])
        if match["authzid"] is not None and decode_saslname(match["authzid"]) != username:
            return Failed("one user may not act for another")
        self._nonce = match["nonce"] + self._nonce
        self._transcript = match["bare"]
        self._username = prepare(username, stored=False)
        self._is_secret_due = True
        return NeedSecret(self._username)

    def _bind(self, header: bytes, flag: bytes | None, binding: bytes | None) -> str:
        """Keep what the client's "c=" must be; "" or why the binding is refused (RFC 5802 section 6)."""
        data: bytes | None = b""
        if binding is not None:
            data = self._bindings.get(binding.decode())
            if self.name != SCRAM_PLUS:
                return "a channel binding for a mechanism without"
            if data is None:
                return "a type of channel binding that the connection does not have"
        elif self.name == SCRAM_PLUS:
            return "a mechanism with channel binding without one"
        elif flag == b"y" and self._bindings:
            return "somebody hid from the client that channel binding is offered"
        self._bound = header + (data or b"")
        return ""

    def secret(self, secret: ScramSecret | None) -> Challenge:
        """See ServerMechanism."""
        if not self._is_secret_due:
            raise SaslError("no secret is due")
        self._is_secret_due = False
        self._is_known = secret is not None
        self._secret = secret or ScramSecret.decoy(self._username, self._key, self._iterations)
        salt = base64.b64encode(self._secret.salt)
        challenge = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._secret.iterations)
        self._transcript += b"," + challenge + b","
        self._due = self._final
        return Challenge(challenge)

    def _final(self, response: bytes) -> Step:
        match = _CLIENT_FINAL.fullmatch(response)
        if match is None or self._secret is None:
            raise SaslError("That is no final message of SCRAM")
        bound, proof = decode_base64(match["bound"]), decode_base64(match["proof"])
        if not hmac.compare_digest(match["nonce"], self._nonce):
            return Failed("the nonce of another exchange")
        if not hmac.compare_digest(bound, self._bound):
            return Failed("the channel binding of another connection")
        transcript = self._transcript + match["unproved"]
        client_key = xor(sign(self._secret.stored_key, transcript), proof)
        is_proved = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._secret.stored_key)
        if not is_proved or not self._is_known:
            return Failed("wrong password or unknown user")
        self._signature = sign(self._secret.server_key, transcript)
        return Verify(ScramProof(self._username))

    def _conclude(self, ok: bool) -> Challenge | None:
        if not ok:
            return None
        self._due = self._acknowledged
        return Challenge(b"v=" + base64.b64encode(self._signature))

    def _acknowledged(self, response: bytes) -> Step:
        if response:
            raise SaslError("The answer to the last message of SCRAM is empty")
        return Succeeded()


def decode_saslname(octets: bytes) -> str:
    """A name in which "," and "=" stand as "=2C" and "=3D" (RFC 5802 section 5.1); SaslError where it is none."""
    if _ESCAPE.search(octets):
        raise SaslError("That is no name of SCRAM")
    return parse_name(octets.replace(b"=2C", b",").replace(b"=3D", b"="))


def encode_saslname(name: str) -> bytes:
    """What `decode_saslname` reads."""
    return encode_text(name).replace(b"=", b"=3D").replace(b",", b"=2C")


def sign(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256."""
    return hmac.digest(key, message, "sha256")


def xor(left: bytes, right: bytes) -> bytes:
    """Both octet by octet; SaslError where their lengths differ."""
    if len(left) != len(right):
        raise SaslError("That is no proof of SCRAM-SHA-256")
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
