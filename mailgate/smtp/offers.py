"""What EHLO and LHLO offer (RFC 5321 section 4.1.1.1), by the listener and the state of the session.

Nothing stands here that is not kept through the spool and carried to the next hop, converted, or refused by a rule that
docs/guide/extensions.md writes down.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from mailgate.config.schema import ListenerSection
from mailgate.reply import Reply
from mailgate.wire.sasl import CLEARTEXT
from mailgate.wire.xclient import xclient_attributes, xforward_attributes

__all__ = ["NOTHING", "Offer", "Offers", "State", "commands_of"]

_DAY = 86400
#: A limit has six digits at most (RFC 9422 section 3).
_MAX_LIMIT = 999_999

#: What a listener with tls = "required" does not do in clear text.
_HELD_BACK = ("AUTH", "ETRN", "XCLIENT", "XFORWARD")

#: Our commands behind the greeting, and the keywords that some of them belong to.
_VERBS = (
    *("STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY"),
    *("XCLIENT", "XFORWARD", "ETRN", "HELP", "QUIT"),
)
_KEYWORDS = {verb: verb for verb in ("STARTTLS", "AUTH", "XCLIENT", "XFORWARD", "ETRN")} | {"BDAT": "CHUNKING"}


class State(NamedTuple):
    """What of a session decides about its offer; `can_bind`: its TLS has channel bindings."""

    is_tls: bool
    can_bind: bool
    has_certificate: bool
    may_xclient: bool
    may_xforward: bool


class Offer(NamedTuple):
    """`keywords` in upper case, `mechanisms` of AUTH in upper case, and the octets of the reply."""

    keywords: frozenset[str]
    mechanisms: frozenset[str]
    reply: bytes


#: To a client that has not said EHLO.
NOTHING = Offer(frozenset(), frozenset(), b"")


def commands_of(offer: Offer, *, is_lmtp: bool) -> list[str]:
    """The commands that whoever gets this offer may say."""
    known = [verb for verb in _VERBS if verb not in _KEYWORDS or _KEYWORDS[verb] in offer.keywords]
    return [*(["LHLO"] if is_lmtp else ["EHLO", "HELO"]), *known]


class Offers:
    """The offers of one listener. `mechanisms` tells by which its users can be checked now, in upper case, and
    `max_size` how large a message may be now; max_message_size of the listener, if not given."""

    def __init__(
        self,
        hostname: str,
        listener: ListenerSection,
        *,
        has_tls: bool,
        mechanisms: Callable[[], frozenset[str]] = frozenset,
        max_size: Callable[[], int] | None = None,
    ) -> None:
        self._hostname = hostname
        self._listener = listener
        self._has_starttls = has_tls and listener.tls not in ("off", "implicit")
        self._mechanisms = mechanisms
        self.max_size = max_size or (lambda: listener.max_message_size)
        self._wanted = [name.upper() for name in listener.auth_mechanisms]
        self._hidden = {keyword.upper() for keyword in listener.hide}
        self._made: dict[tuple[State, frozenset[str], int], Offer] = {}
        self._day = 0

    def hides(self, keyword: str) -> bool:
        """Whether the listener is not to have this extension at all; the keyword is in upper case."""
        return keyword in self._hidden

    def to(self, state: State, now: float) -> Offer:
        """The offer to a session in this state."""
        day = int(now // _DAY)
        if day != self._day:
            self._made.clear()
            self._day = day
        key = (state, self._mechanisms(), self.max_size())
        offer = self._made.get(key)
        if offer is None:
            offer = self._made[key] = self._make(*key)
        return offer

    def _make(self, state: State, known: frozenset[str], max_size: int) -> Offer:
        listener = self._listener
        lines: dict[str, str] = {
            "PIPELINING": "",
            "SIZE": str(max_size),
            "8BITMIME": "",
        }
        if self._has_starttls and not state.is_tls:
            lines["STARTTLS"] = ""
        mechanisms = [name for name in self._wanted if name in known and self._is_usable(name, state)]
        if mechanisms:
            lines["AUTH"] = " ".join(mechanisms)
        lines |= {"CHUNKING": "", "BINARYMIME": "", "SMTPUTF8": "", "DSN": ""}
        if state.is_tls:
            lines["REQUIRETLS"] = ""
        messages, recipients = (min(limit, _MAX_LIMIT) for limit in (listener.max_messages, listener.max_recipients))
        lines["LIMITS"] = f"MAILMAX={messages} RCPTMAX={recipients}"
        lines["MT-PRIORITY"] = ""
        lines["DELIVERBY"] = ""
        if listener.role != "inbound" and listener.max_hold:  # it is for submission (RFC 4865)
            latest = datetime.fromtimestamp(self._day * _DAY + listener.max_hold, UTC)
            lines["FUTURERELEASE"] = f"{int(listener.max_hold)} {latest:%Y-%m-%dT%H:%M:%SZ}"
        lines["ETRN"] = ""
        if state.may_xclient:
            verb, _space, attributes = xclient_attributes().partition(" ")
            lines[verb] = attributes
        if state.may_xforward:
            verb, _space, attributes = xforward_attributes().partition(" ")
            lines[verb] = attributes
        lines["ENHANCEDSTATUSCODES"] = ""
        if listener.tls == "required" and not state.is_tls:
            for keyword in _HELD_BACK:
                lines.pop(keyword, None)
        lines = {keyword: value for keyword, value in lines.items() if keyword not in self._hidden}
        if "CHUNKING" not in lines:
            lines.pop("BINARYMIME", None)
        if "8BITMIME" not in lines:  # RFC 6531 section 3.1, RFC 3030 section 3
            lines.pop("SMTPUTF8", None)
            lines.pop("BINARYMIME", None)
        texts = [f"{keyword} {value}" if value else keyword for keyword, value in lines.items()]
        reply = Reply(250, "", (self._hostname, *texts)).to_bytes()
        return Offer(frozenset(lines), frozenset(mechanisms if "AUTH" in lines else ()), reply)

    def _is_usable(self, mechanism: str, state: State) -> bool:
        if mechanism in CLEARTEXT:
            return state.is_tls or self._listener.auth_without_tls
        if mechanism == "EXTERNAL":
            return state.has_certificate
        return state.can_bind or not mechanism.endswith("-PLUS")
