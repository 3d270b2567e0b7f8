"""AUTH with a next hop, one exchange after another until one ends it (RFC 4954): replies in, lines out, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mailgate.relay.attempt import Target
from mailgate.relay.client.terms import Login
from mailgate.reply import Reply
from mailgate.wire.sasl_client import ClientMechanism, ScramClient, client_mechanism
from mailgate.wire.sasl_text import SaslError, decode_base64, encode_response

__all__ = ["LoginExchange", "LoginFailedError"]

#: The longest command line that every server reads, in octets without CRLF (RFC 5321 section 4.5.3.1.4).
_MAX_COMMAND = 510
#: The mechanism is not for us there; another may be (RFC 4954 section 6).
_NOT_THIS_ONE = (504, 534)

_NOT_SHOWN = "(the text is not shown: it may repeat a secret)"


class LoginFailedError(Exception):
    """We are not logged in, by the peer's `reply`, or by our own finding where that is None.

    `at_rest`: the peer expects a command, not a line of an exchange.
    """

    def __init__(self, reason: str, reply: Reply | None = None, *, at_rest: bool) -> None:
        super().__init__(reason)
        self.reply = reply
        self.at_rest = at_rest


class LoginExchange:
    """Logs in with the best mechanism that the server offers, the route allows and the connection is good for.

    `offered` are the mechanisms of its EHLO, `bindings` the data of each channel binding, None in clear text. `begin`
    gives the first line; each reply to a line goes to `receive`, which gives the next one, or None when we are logged
    in. Where it gives a callable, its work may take a quarter of a second: what it returns or raises (SaslError) goes
    to `computed`. All raise LoginFailedError.
    """

    __slots__ = ("_bindings", "_left", "_login", "_mechanism", "_offered", "_target", "_unsent")

    def __init__(
        self, login: Login, target: Target, offered: Sequence[str], bindings: Mapping[str, bytes] | None
    ) -> None:
        self._login = login
        self._target = target
        self._offered = offered
        self._bindings = bindings
        self._left = list(login.mechanisms)  # those that have not been tried, the best first
        self._mechanism: ClientMechanism | None = None
        self._unsent: bytes | None = None  # an initial response that did not fit behind AUTH

    def begin(self) -> str:
        """AUTH with the best mechanism that is left."""
        while self._left:
            name = self._left.pop(0)
            try:
                mechanism = self._make(name)
            except SaslError as error:
                raise LoginFailedError(f"{name.upper()} cannot be used: {error}", at_rest=True) from error
            if mechanism is not None:
                return self._auth(mechanism)
        offer = f"it offers {' '.join(self._offered)[:200]}" if self._offered else "it does not offer AUTH"
        where = " in clear text" if self._bindings is None else ""
        raise LoginFailedError(f"no mechanism that the route allows{where}: {offer}", at_rest=True)

    def receive(self, reply: Reply) -> str | Callable[[], bytes] | None:
        """Take the reply to the line before."""
        mechanism = self._mechanism
        if mechanism is None:
            raise AssertionError("a reply to AUTH before AUTH")
        if reply.is_intermediate:
            return self._challenged(mechanism, reply)
        if reply.is_positive:
            if mechanism.verified:
                return None
            raise LoginFailedError(f"the server has ended {mechanism.name} before its time", at_rest=True)
        if reply.code in _NOT_THIS_ONE and self._left:
            return self.begin()
        # Its text may repeat what we have sent, in any form.
        reply = Reply.of(reply.code, reply.status, _NOT_SHOWN)
        raise LoginFailedError(f"AUTH {mechanism.name} refused: {reply}", reply, at_rest=True)

    def computed(self, response: bytes | SaslError) -> str:
        """What the work came to: the next line."""
        if isinstance(response, SaslError):
            name = self._mechanism.name if self._mechanism is not None else "AUTH"
            raise LoginFailedError(f"the server's part of {name} does not fit: {response}", at_rest=False)
        return encode_response(response).decode("ascii")

    def _make(self, name: str) -> ClientMechanism | None:
        login = self._login
        return client_mechanism(
            self._offered,
            username=login.username,
            password=login.secret,
            token=login.secret,
            external=login.has_certificate,
            tls=self._bindings is not None,
            cleartext=login.without_tls,
            allowed=[name],
            channel_bindings=self._bindings or {},
            host=self._target.host,
            port=self._target.port,
        )

    def _auth(self, mechanism: ClientMechanism) -> str:
        self._mechanism, self._unsent = mechanism, None
        line = f"AUTH {mechanism.name}"
        if mechanism.initial is None:
            return line
        response = encode_response(mechanism.initial, initial=True).decode("ascii")
        if len(line) + 1 + len(response) > _MAX_COMMAND:
            self._unsent = mechanism.initial
            return line
        return f"{line} {response}"

    def _challenged(self, mechanism: ClientMechanism, reply: Reply) -> str | Callable[[], bytes]:
        try:
            challenge = decode_base64(reply.text.strip().encode("ascii", "replace"))
            if self._unsent is not None:
                if challenge:
                    raise SaslError("a challenge where none belongs")
                response, self._unsent = self._unsent, None
                return self.computed(response)
            if isinstance(mechanism, ScramClient):
                return lambda: mechanism.respond(challenge)
            return self.computed(mechanism.respond(challenge))
        except SaslError as error:
            return self.computed(error)
