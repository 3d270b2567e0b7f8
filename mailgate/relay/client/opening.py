"""The opening of a session with a next hop, up to its first message: replies in, commands out, no I/O.

RFC 5321 section 3.1, RFC 3207 (STARTTLS), RFC 8314 (TLS from the first octet), RFC 4954 (AUTH), Postfix's XCLIENT.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address

from mailgate.envelope import NO_ORIGIN, Origin, Tls
from mailgate.relay.attempt import ConnectFailedError, Target
from mailgate.relay.client.login import LoginExchange, LoginFailedError
from mailgate.relay.client.terms import PLAIN, Terms
from mailgate.relay.findings import PROTOCOL_ERROR
from mailgate.reply import Reply
from mailgate.tls.check import UNCHECKED, PeerCheck
from mailgate.tls.failures import TlsFailure
from mailgate.wire.extensions import NO_EXTENSIONS, Extensions, parse_extensions
from mailgate.wire.proxy import write_v2
from mailgate.wire.sasl_text import SaslError
from mailgate.wire.xclient import xclient_commands

__all__ = ["Action", "Opening"]


#: A name that a client gave, in a form that may stand behind EHLO.
_HELO = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class Action(enum.Enum):
    """What is to be done next."""

    WAIT = "wait for a reply"
    SEND = "write `output`, and wait for the reply"
    SECURE = "begin the handshake of TLS, then call `secured`"
    COMPUTE = "call `compute` where it holds up nobody, then `computed`"
    OPEN = "the session is open: see `extensions`, `tls` and `is_authenticated`"
    REFUSED = "there is no session: `refusal` says why. Say QUIT where the peer is `at_rest`"


class Opening:
    """From the banner to the first message, on one connection to `target`.

    `start` says what is done first; then each reply goes to `receive`, but none while `owes_reply` is False: what comes
    then was sent before it was asked for. `stage` is "greeting", "hello", "tls", "auth" or "xclient". After the
    handshake of STARTTLS nothing is known of what was said before it (RFC 3207 section 4.2).

    `origin` is that of the one message that the session is for, where the terms want it. `clear` goes without TLS,
    which the caller may only ask for where the terms are opportunistic.
    """

    # What most sessions leave as it is, once for all of them.
    tls: Tls | None = None
    is_authenticated = False
    refusal: ConnectFailedError | None = None
    at_rest = True
    compute: Callable[[], bytes] | None = None
    _bindings: Mapping[str, bytes] | None = None
    _exchange: LoginExchange | None = None
    _commands: Sequence[bytes] = ()
    _told = False

    def __init__(
        self,
        target: Target,
        hostname: str,
        terms: Terms = PLAIN,
        origin: Origin | None = None,
        *,
        clear: bool = False,
    ) -> None:
        self._target = target
        self._terms = terms
        self._name = hostname
        self._origin = origin
        # Nobody else can read a unix socket.
        self._clear = clear or terms.tls == "off" or (terms.tls == "opportunistic" and not target.port)
        self._next: Callable[[Reply], Action] = self._on_banner
        self.stage = "greeting"
        self.owes_reply = True
        self.output = b""
        self.extensions: Extensions = NO_EXTENSIONS

    # -- in

    def header(self) -> bytes:
        """The PROXY header that comes before everything else, TLS too; nothing where the route wants none."""
        if not self._terms.proxy_protocol:
            return b""
        origin = self._origin or NO_ORIGIN
        try:
            source = ip_address(origin.address), origin.port
            there = ip_address(self._target.address) if self._target.port else source[0], self._target.port
        except ValueError:  # a message of our own, or one that came by a unix socket
            return write_v2(None, None, is_local=True)
        return write_v2(source, there)

    def start(self) -> Action:
        """What is done first, once the connection is there and the header is out."""
        return self._secure() if self._terms.tls == "implicit" else Action.WAIT

    def receive(self, reply: Reply) -> Action:
        """Take the next reply."""
        # 421 to whatever it was: the server closes (RFC 5321 section 3.8).
        return self._refuse(reply) if reply.code == 421 and self.stage != "auth" else self._next(reply)

    def secured(self, tls: Tls, bindings: Mapping[str, bytes], check: PeerCheck = UNCHECKED) -> Action:
        """The handshake has come to this, with the data of each channel binding (RFC 9266, RFC 5929). `check` says
        what is wrong with the certificate, if anything."""
        self.tls, self._bindings = tls, bindings
        self.extensions = NO_EXTENSIONS
        if self._terms.must_verify and not tls.is_verified:  # but for DANE the handshake fails first
            return self._refuse_tls(check.reason, check.failure)
        if self._next == self._on_banner:
            self.stage, self.owes_reply = "greeting", True
            return Action.WAIT
        return self._hello()

    def computed(self, response: bytes | SaslError) -> Action:
        """What `compute` returned or raised."""
        self.compute = None
        exchange = self._exchange
        if exchange is None:
            raise AssertionError("nothing was to be computed")
        return self._step(lambda: exchange.computed(response))

    def break_off(
        self, reply: Reply, reason: str, *, is_foul: bool = False, failure: TlsFailure = "validation-failure"
    ) -> ConnectFailedError:
        """It ends here for a cause outside: the connection is lost, a time-out; or the peer plays foul.

        Between STARTTLS and the end of the handshake TLS is to blame, but for foul play: octets behind the reply to
        STARTTLS may have been put there by somebody between us, who would have them taken for the server's.
        """
        if self.stage == "tls" and not is_foul:
            return self._tls_error(f"{'STARTTLS' if self.owes_reply else 'the handshake'} failed: {reason}", failure)
        stage = "greeting" if self.stage == "hello" else self.stage
        return ConnectFailedError(self._target, reply, reason, stage=stage)

    # -- greeting and EHLO

    def _on_banner(self, reply: Reply) -> Action:
        return self._hello() if reply.is_positive else self._refuse(reply)

    def _hello(self) -> Action:
        self._next = self._on_ehlo
        if not self._told:
            self.stage = "hello"
        return self._send(f"{'LHLO' if self._target.lmtp else 'EHLO'} {self._name}")

    def _on_ehlo(self, reply: Reply) -> Action:
        if reply.is_positive:
            return self._greeted(parse_extensions(reply))
        if reply.is_permanent and not self._target.lmtp:
            self._next = self._on_helo
            return self._send(f"HELO {self._name}")
        return self._refuse(reply)

    def _on_helo(self, reply: Reply) -> Action:
        return self._greeted(NO_EXTENSIONS) if reply.is_positive else self._refuse(reply)

    def _greeted(self, extensions: Extensions) -> Action:
        self.extensions = extensions
        if self._told:
            return self._open()
        if self.tls is None and not self._clear:
            if "STARTTLS" in extensions.offered:
                self.stage, self._next = "tls", self._on_starttls
                return self._send("STARTTLS")
            if self._terms.must_have_tls:
                return self._refuse_tls("it does not offer STARTTLS", "starttls-not-supported")
        return self._log_in()

    # -- TLS

    def _on_starttls(self, reply: Reply) -> Action:
        return self._secure() if reply.is_positive else self._refuse_tls(f"STARTTLS refused: {reply}")

    def _secure(self) -> Action:
        self.stage, self.owes_reply = "tls", False
        return Action.SECURE

    def _refuse_tls(self, what: str, failure: TlsFailure = "validation-failure") -> Action:
        return self._end(self._tls_error(what, failure))

    def _tls_error(self, what: str, failure: TlsFailure) -> ConnectFailedError:
        return self._our_error("4.7.5", f"no TLS with {self._target}: {what}", stage="tls", failure=failure)

    # -- AUTH

    def _log_in(self) -> Action:
        login = self._terms.login
        if login is None:
            return self._tell()
        self.stage, self._next = "auth", self._on_auth
        offered = self.extensions.offered.get("AUTH", "").split()
        self._exchange = exchange = LoginExchange(login, self._target, offered, self._bindings)
        return self._step(exchange.begin)

    def _on_auth(self, reply: Reply) -> Action:
        exchange = self._exchange
        if exchange is None:
            raise AssertionError("a reply to AUTH before AUTH")
        return self._step(lambda: exchange.receive(reply))

    def _step(self, step: Callable[[], str | Callable[[], bytes] | None]) -> Action:
        try:
            line = step()
        except LoginFailedError as error:
            reason = f"no login at {self._target}: {error}"
            if error.reply is None:
                return self._end(self._our_error("4.7.0", reason, stage="auth"), at_rest=error.at_rest)
            return self._end(ConnectFailedError(self._target, error.reply, reason, stage="auth"), at_rest=error.at_rest)
        if line is None:
            self.is_authenticated, self._exchange = True, None
            return self._tell()
        if isinstance(line, str):
            return self._send(line)
        self.owes_reply, self.compute = False, line
        return Action.COMPUTE

    # -- XCLIENT

    def _tell(self) -> Action:
        """Tell the server who the client was, so that it judges the client and not us."""
        if not self._terms.xclient or self._origin is None or self._origin == NO_ORIGIN:
            return self._open()
        self.stage, self._told = "xclient", True
        attributes = self.extensions.offered.get("XCLIENT", "")
        self._commands = xclient_commands(self._origin, attributes, destination=None)
        if self._commands:
            return self._send_xclient()
        what = f"{self._target} does not offer XCLIENT, which the route asks for"
        why = "it would judge this gateway in the client's place (in Postfix, see smtpd_authorized_xclient_hosts)"
        return self._end(self._our_error("4.3.5", f"{what}: {why}", stage="xclient"))

    def _send_xclient(self) -> Action:
        self._next = self._on_xclient
        self.output, *self._commands = self._commands
        self.owes_reply = True
        return Action.SEND

    def _on_xclient(self, reply: Reply) -> Action:
        if not reply.is_positive:
            return self._refuse(reply)
        if self._commands:
            return self._send_xclient()
        # The session begins anew, as the client's: EHLO with its name, which counts for more than that in XCLIENT.
        if self._origin is not None and _HELO.fullmatch(self._origin.helo):
            self._name = self._origin.helo
        return self._hello()

    # -- out

    def _send(self, line: str) -> Action:
        self.output, self.owes_reply = f"{line}\r\n".encode("ascii"), True
        return Action.SEND

    def _open(self) -> Action:
        self.owes_reply = False
        return Action.OPEN

    def _refuse(self, reply: Reply) -> Action:
        """The peer says no."""
        reason = f"{self.stage} refused: {reply}"
        if reply.is_intermediate:
            reply = PROTOCOL_ERROR
        return self._end(ConnectFailedError(self._target, reply, reason, stage=self.stage))

    def _our_error(self, status: str, reason: str, *, stage: str, failure: TlsFailure = "") -> ConnectFailedError:
        in_clear = stage == "tls" and self._terms.tls == "opportunistic"
        reply = Reply.of(451, status, reason)
        return ConnectFailedError(
            self._target, reply, reason, stage=stage, is_ours=True, in_clear=in_clear, tls_failure=failure
        )

    def _end(self, refusal: ConnectFailedError, *, at_rest: bool = True) -> Action:
        self.owes_reply = False
        self.refusal, self.at_rest = refusal, at_rest
        return Action.REFUSED
