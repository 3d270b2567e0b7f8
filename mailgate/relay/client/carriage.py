"""What a message asks for and what its next hop offers: how it goes there, or why it cannot.

The rules are those of the table in docs/guide/extensions.md. What a host does not offer is never said to it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, Envelope, EnvelopeRecipient, MailParameters
from mailgate.interfaces import Handover
from mailgate.message import Content, apply_edits
from mailgate.mime.recode import Target as Fit
from mailgate.relay.attempt import Target
from mailgate.relay.client.sending import UnsendableError
from mailgate.relay.findings import TOO_LATE
from mailgate.reply import Reply
from mailgate.wire.extensions import Extensions
from mailgate.wire.xtext import utf8_addr_xtext

__all__ = ["NO_SMTPUTF8", "PLAIN", "Carriage", "Hop", "carriage_of", "handover_of", "recipient_parameters"]

#: An address, or a field, that a next hop without SMTPUTF8 cannot be given (RFC 6531 section 3.5).
NO_SMTPUTF8 = Reply.of(550, "5.6.7", "The next hop does not take internationalized addresses or header fields")

# RFC 8689 section 4.2.1; RFC 2852 section 4; RFC 3463 section 3.5.
_NO_TLS = Reply.of(550, "5.7.10", "Encryption needed")
_NO_REQUIRETLS = Reply.of(550, "5.7.30", "REQUIRETLS support required")
_NO_DELIVERBY = Reply.of(554, "5.4.7", "The next hop cannot be asked to deliver in the time that the sender has set")

#: What the value of a parameter may hold (RFC 5321 section 4.1.2, RFC 6531 section 3.3).
_VALUE = re.compile(r"[!-<>-~]+")
_UTF8_VALUE = re.compile(r"[!-<>-~\u00a1-\ud7ff\ue000-\U0010ffff]+")
#: Seconds that BY can name (RFC 2852 section 4: nine digits).
_LONGEST = 999_999_999


@dataclass(frozen=True)
class Hop:
    """A session with a next hop, as far as it matters here; `chunking` and `xforward` as in ServerRoute.

    `is_fallback` as in IConnection: what the host does not offer now, it may offer under TLS.
    """

    target: Target
    extensions: Extensions
    is_verified: bool = False
    is_authenticated: bool = False
    chunking: bool = True
    xforward: bool = False
    is_fallback: bool = False

    @functools.cached_property
    def peer(self) -> str:
        """The target as text."""
        return str(self.target)

    @property
    def is_here(self) -> bool:
        """Whether this is final delivery on this machine: no network is between us."""
        return self.target.lmtp and (not self.target.port or _is_loopback(self.target.address))


@dataclass(frozen=True, slots=True)
class Carriage:
    """How a message goes to a next hop.

    `parameters` stand behind the path of MAIL and SIZE, each with a space before it. `fit` is what the content must be
    made fit for, None where it goes as it is; `by_chunks` says that it goes by BDAT. `utf8`: SMTPUTF8 is said, even
    where no address needs it. `relayed`: the host has not been told by when the sender wants it delivered.
    """

    parameters: str = ""
    fit: Fit | None = None
    by_chunks: bool = False
    utf8: bool = False
    relayed: bool = False


#: Nearly all mail: that which asks for nothing, and that which is 8BITMIME, where it is offered.
PLAIN, _EIGHT_BIT = Carriage(), Carriage(" BODY=8BITMIME")


def carriage_of(hop: Hop, envelope: Envelope, content: Content, now: Callable[[], float]) -> Carriage:
    """How this message goes; UnsendableError where it cannot, for all recipients. `now` in seconds since the epoch.

    Addresses are looked at by the transaction, one by one; the content may turn out to be unfit when it is converted.
    """
    asked = envelope.parameters
    if asked is PLAIN_MAIL:
        return PLAIN
    extensions = hop.extensions
    if asked is EIGHT_BIT_MAIL and extensions.eight_bit:
        return _EIGHT_BIT
    utf8 = asked.smtputf8 and extensions.utf8
    if asked.smtputf8 and not utf8 and not _header(envelope, content).isascii():
        raise UnsendableError(NO_SMTPUTF8, "header fields in UTF-8, and no SMTPUTF8", next_host=True)
    body, fit, by_chunks = _body(hop, asked.body)
    by, relayed = _deliver_by(hop, asked, now()) if asked.by_mode in ("R", "N") else ("", False)
    words = [body, _require_tls(hop, is_report=not envelope.sender) if asked.require_tls else "", by]
    if extensions.dsn:
        words += [_word("RET", asked.ret), _word("ENVID", asked.envid)]
    if asked.auth is not None and hop.is_authenticated and "AUTH" in extensions:
        words.append(_word("AUTH", asked.auth))
    if asked.priority is not None and "MT-PRIORITY" in extensions:
        words.append(f" MT-PRIORITY={asked.priority}")
    return Carriage("".join(words), fit, by_chunks, utf8, relayed)


def recipient_parameters(recipient: EnvelopeRecipient, *, utf8: bool) -> str:
    """What stands behind the path of RCPT for a host with DSN; `utf8`: SMTPUTF8 has been said.

    ORCPT may be longer than it came, and than the 500 octets that every host takes (RFC 3461 section 4.2).
    """
    orcpt, pattern = recipient.orcpt, _VALUE
    if not orcpt.isascii():
        if utf8 and orcpt.isprintable():
            pattern = _UTF8_VALUE
        else:
            kind, semicolon, address = orcpt.partition(";")
            orcpt = f"{kind}{semicolon}{utf8_addr_xtext(address)}"
    return _word("NOTIFY", ",".join(recipient.notify)) + _word("ORCPT", orcpt, pattern)


def handover_of(dsn: bool, *, lmtp: bool, relayed: bool) -> Handover:
    """Who has to report what was delivered (RFC 3461 section 5.2): LMTP without DSN is where mail ends."""
    if dsn and not relayed:
        return Handover.PASSED_ON
    return Handover.FINAL if lmtp else Handover.RELAYED


def _header(envelope: Envelope, content: Content) -> bytes:
    try:
        return apply_edits(content.header, envelope.edits)
    except (OSError, ValueError) as error:
        raise UnsendableError.of(error) from error


def _body(hop: Hop, body: str) -> tuple[str, Fit | None, bool]:
    if body == "BINARYMIME" and hop.extensions.binary and hop.chunking:
        return " BODY=BINARYMIME", None, True
    if body not in ("8BITMIME", "BINARYMIME"):
        return "", None, False
    if not hop.extensions.eight_bit:
        return "", "7BIT", False
    return " BODY=8BITMIME", "8BIT" if body == "BINARYMIME" else None, False


def _require_tls(hop: Hop, *, is_report: bool) -> str:
    """RFC 8689 section 4.2.1; section 5 for mail from the null sender, which would otherwise be lost."""
    if not hop.is_verified:
        reply, problem = _NO_TLS, "it has not proved by TLS who it is"
    elif "REQUIRETLS" not in hop.extensions:
        reply, problem = _NO_REQUIRETLS, "it does not offer REQUIRETLS"
    elif not (hop.target.is_vouched_for or is_report):
        reply, problem = _NO_REQUIRETLS, "it was named by DNS without DNSSEC, which anybody can forge"
    else:
        return " REQUIRETLS"
    if is_report or hop.is_here:
        return ""
    raise UnsendableError(reply, f"REQUIRETLS, as the sender asked: {hop.target}: {problem}", next_host=True)


def _deliver_by(hop: Hop, asked: MailParameters, now: float) -> tuple[str, bool]:
    """BY, and whether it has to do without (RFC 2852 section 4)."""
    left = math.floor(asked.deliver_by - now)
    returned = asked.by_mode == "R"
    if returned and left < 1:
        raise UnsendableError(TOO_LATE, "the time that the sender had set was over")
    least = hop.extensions.least_by_time
    if least is not None and (not least or left >= least):
        left = max(min(left, _LONGEST), -_LONGEST)
        return f" BY={left};{asked.by_mode}{'T' if asked.by_trace else ''}", False
    if hop.target.lmtp:
        return "", False
    if returned:
        what = "does not offer DELIVERBY" if least is None else f"wants {least} seconds at least, and {left} are left"
        raise UnsendableError(_NO_DELIVERBY, f"{hop.target} {what}", next_host=True)
    return "", True


def _word(keyword: str, value: str, pattern: re.Pattern[str] = _VALUE) -> str:
    """What is no value, which nothing should have let in, is left out."""
    return f" {keyword}={value}" if pattern.fullmatch(value) else ""


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
