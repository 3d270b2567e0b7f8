"""Events as the lines that Postfix would log, for programs that read its log: pflogsumm, fail2ban and others.

What a peer has sent stands in these lines as printable ASCII, and a client's name only where it is one: nothing that a
peer says can end a line, or look like another client's address.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from mailgate.events import (
    AccountSuspected,
    Bounced,
    Deferred,
    Delivered,
    Discarded,
    Event,
    FilterFailed,
    LimitNear,
    MessageAccepted,
    Quarantined,
    Refused,
    Reported,
    SessionClosed,
    SpoolFailed,
    Started,
    Stopped,
)

__all__ = ["PostfixLines"]

#: Messages whose arrival and client are known when something becomes of them.
_MOST = 20_000
#: Characters of a text, and of an address, in a line.
_LONGEST, _LONGEST_ADDRESS = 500, 320

_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_UNPRINTABLE = re.compile(r"[^ -~]+")
_REPLY = re.compile(r"([245]\d\d)(?:[ -]([245]\.\d{1,3}\.\d{1,3}))?[ -]?(.*)", re.DOTALL)
_MECHANISM = re.compile(r"\b(LOGIN|PLAIN|CRAM-MD5)\b", re.IGNORECASE)
#: The stages of a session, as Postfix names them in a rejection.
_STAGES = {"connect": "CONNECT", "helo": "EHLO", "auth": "AUTH", "mail": "MAIL", "rcpt": "RCPT", "data": "DATA"}
#: How sessions end that Postfix has a line of its own for.
_ENDS = {"errors": "too many errors after RCPT", "timeout": "timeout after", "lost": "lost connection after"}


class PostfixLines:
    """Makes the lines, with time and host before each. `pid` stands for what is no session's."""

    def __init__(self, hostname: str, pid: int | None = None) -> None:
        self._hostname = hostname
        self._pid = os.getpid() if pid is None else pid
        self._received: OrderedDict[str, float] = OrderedDict()
        self._second, self._stamp = -1, ""
        self._makers: dict[type[Event], Callable[[Any], Iterator[str]]] = {
            AccountSuspected: self._suspected,
            Bounced: self._bounced,
            Deferred: self._deferred,
            Delivered: self._delivered,
            Discarded: self._discarded,
            FilterFailed: self._filter_failed,
            LimitNear: self._limit,
            MessageAccepted: self._accepted,
            Quarantined: self._quarantined,
            Refused: self._refused,
            Reported: self._reported,
            SessionClosed: self._closed,
            SpoolFailed: self._spool_failed,
            Started: self._started,
            Stopped: self._stopped,
        }

    def lines(self, event: Event) -> list[bytes]:
        """The lines of an event, without line ends; none where Postfix knows no such thing. Never fails."""
        maker = self._makers.get(type(event))
        if maker is None:
            return []
        head = self._head(event.at)
        made = [f"{head} {line}".encode("ascii", "replace") for line in maker(event)]
        if isinstance(event, SessionClosed):
            # It is told of when it has ended: readers that ask how long it was look at the times, not at the order.
            begun = f"{self._head(event.at - event.seconds)} {self._session(event.session)}"
            made.insert(0, f"{begun}: connect from {_client(event.client)}".encode("ascii", "replace"))
        return made

    def warning(self, text: str) -> bytes:
        """A line about the log itself."""
        return f"{self._head(time.time())} {self._service('master')}: warning: {_plain(text)}".encode(
            "ascii", "replace"
        )

    # -- sessions

    def _closed(self, event: SessionClosed) -> Iterator[str]:
        smtpd, client = self._session(event.session), _client(event.client)
        end = _ENDS.get(event.cause)
        if end is not None:
            where = "" if event.cause == "errors" else " EHLO" if event.helo else " CONNECT"
            yield f"{smtpd}: {end}{where} from {client}"
        yield f"{smtpd}: disconnect from {client} mail={event.messages} commands={event.messages}"

    def _refused(self, event: Refused) -> Iterator[str]:
        client = _client(event.client)
        if event.stage == "auth" and not event.filter:
            user = f", sasl_username={_plain(event.user)}" if event.user else ""
            yield f"{self._session(event.session)}: warning: {client}: {_failed_login(event)}{user}"
            return
        found = _REPLY.match(event.reply)
        if found is None:  # nobody heard it
            return
        code, text = found[1], _plain(found[3])
        status = found[2] or f"{code[0]}.7.1"
        rest = f"from=<{_address(event.sender)}>"
        behind = f"proto=ESMTP helo=<{_address(event.helo)}>"
        queue_id = event.queue_id or "NOQUEUE"
        recipients = event.recipients or ((event.recipient,) if event.recipient else ())
        if event.stage in _STAGES:
            to = f" to=<{_address(recipients[0])}>" if recipients else ""
            what = _what(event, code, status, text, client)
            stage = _STAGES[event.stage]
            yield (
                f"{self._session(event.session)}: NOQUEUE: reject: {stage} from {client}: {code} {status} {what};"
                f" {rest}{to} {behind}"
            )
            return
        to = ", ".join(f"to=<{_address(one)}>" for one in recipients[:1])
        cleanup = self._service("cleanup")
        word = "milter-reject: END-OF-MESSAGE"
        yield f"{cleanup}: {queue_id}: {word} from {client}: {status} {text}; {rest} {to} {behind}"

    # -- messages

    def _accepted(self, event: MessageAccepted) -> Iterator[str]:
        queue_id = event.queue_id
        self._received[queue_id] = event.at
        if len(self._received) > _MOST:
            self._received.popitem(last=False)
        if event.session and not event.split_from:  # the client of what was split is told of, and counted, once
            name, _, mechanism = event.identity.rpartition(" by ")
            sasl = ""
            if name and mechanism not in ("network", "certificate"):
                sasl = f", sasl_method={_plain(mechanism)}, sasl_username={_plain(name)}"
            yield f"{self._session(event.session)}: {queue_id}: client={_client(event.client)}{sasl}"
        elif not event.session:
            yield f"{self._service('pickup')}: {queue_id}: uid=0 from=<{_address(event.sender)}>"
        yield f"{self._service('cleanup')}: {queue_id}: message-id={_plain(event.message_id)}"
        nrcpt = len(event.recipients)
        yield (
            f"{self._service('qmgr')}: {queue_id}: from=<{_address(event.sender)}>, size={event.size}, nrcpt={nrcpt}"
            " (queue active)"
        )

    def _delivered(self, event: Delivered) -> Iterator[str]:
        yield self._attempt(event, "sent", _plain(event.reply), event.delay)

    def _deferred(self, event: Deferred) -> Iterator[str]:
        yield self._attempt(event, "deferred", _said(event))

    def _bounced(self, event: Bounced) -> Iterator[str]:
        yield self._attempt(event, "bounced", _said(event))
        if event.report:
            yield f"{self._service('bounce')}: {event.queue_id}: sender non-delivery notification: {event.report}"

    def _reported(self, event: Reported) -> Iterator[str]:
        kind = "delay" if event.kind == "delayed" else "delivery status"
        yield f"{self._service('bounce')}: {event.queue_id}: sender {kind} notification: {event.report}"

    def _quarantined(self, event: Quarantined) -> Iterator[str]:
        yield self._kept(event, "hold", "quarantine")

    def _discarded(self, event: Discarded) -> Iterator[str]:
        yield self._kept(event, "discard", "discarded")

    def _kept(self, event: Quarantined | Discarded, word: str, why: str) -> str:
        to = " ".join(f"to=<{_address(one)}>" for one in event.recipients[:1])
        return (
            f"{self._service('cleanup')}: {event.queue_id}: {word}: END-OF-MESSAGE {why}: {_plain(event.reason)};"
            f" from=<{_address(event.sender)}> {to}"
        )

    def _attempt(self, event: Delivered | Deferred | Bounced, status: str, text: str, delay: float = -1.0) -> str:
        if delay < 0:
            delay = event.at - self._received.get(event.queue_id, event.at - event.seconds)
        delay, seconds = max(delay, 0.0), max(event.seconds, 0.0)
        found = _REPLY.match(event.reply)
        fallback = {"sent": "2.0.0", "deferred": "4.0.0"}.get(status, "5.0.0")
        dsn = (found[2] if found else "") or fallback
        relay = _plain(event.host).replace(",", ".") or "none"
        service = self._service("local" if status == "sent" and not event.host else "smtp")
        return (
            f"{service}: {event.queue_id}: to=<{_address(event.recipient)}>, relay={relay}, delay={_number(delay)},"
            f" delays={_number(max(delay - seconds, 0.0))}/0/0/{_number(seconds)}, dsn={dsn}, status={status} ({text})"
        )

    # -- the gateway

    def _started(self, event: Started) -> Iterator[str]:
        yield f"{self._service('master')}: daemon started -- version mailgate, configuration {self._hostname}"

    def _stopped(self, event: Stopped) -> Iterator[str]:
        yield f"{self._service('master')}: terminating on signal 15"

    def _filter_failed(self, event: FilterFailed) -> Iterator[str]:
        yield f"{self._service('smtpd')}: warning: the filter {_plain(event.filter)} failed: {_plain(event.error)}"

    def _spool_failed(self, event: SpoolFailed) -> Iterator[str]:
        yield f"{self._service('qmgr')}: fatal: {_plain(event.error)}"

    def _limit(self, event: LimitNear) -> Iterator[str]:
        what = "has reached" if event.is_reached else "comes near"
        told = f"{event.subject} {what} its limit: {event.rule} {event.count} of {event.limit}"
        yield f"{self._service('anvil')}: warning: {_plain(told)}"

    def _suspected(self, event: AccountSuspected) -> Iterator[str]:
        told = f"{event.user} may be stolen ({event.action}): {'; '.join(event.signals)}"
        if event.action == "release":
            told = f"{event.user} is not suspected any more"
        yield f"{self._service('anvil')}: warning: the account {_plain(told)}"

    # -- what stands before it

    def _head(self, at: float) -> str:
        """The time, in local time as syslog has it, and our name."""
        second = int(at)
        if second != self._second:
            try:
                moment = time.localtime(second)
            except (ValueError, OverflowError, OSError):
                moment = time.localtime(0)
            month = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * moment.tm_mon - 3 :][:3]
            self._second = second
            self._stamp = f"{month} {moment.tm_mday:2} {time.strftime('%H:%M:%S', moment)} {self._hostname}"
        return self._stamp

    def _session(self, session: str) -> str:
        """A session of ours is to a reader of the log what a process of Postfix's is."""
        return f"postfix/smtpd[{zlib.crc32(session.encode()) % 4_000_000 + 1}]"

    def _service(self, name: str) -> str:
        return f"postfix/{name}[{self._pid}]"


def _failed_login(event: Refused) -> str:
    """Why a login failed. Readers that ban whoever fails know by Postfix's words what is not the client's fault, and
    know only some mechanisms by name."""
    named = _MECHANISM.search(event.reason)
    why = _plain(event.reason)
    if event.reply.startswith(("504", "538")):
        why = f"Invalid authentication mechanism: {why}"
    elif event.reply.startswith("454") and "Temporary" in event.reply:
        why = f"Connection lost to authentication server: {why}"
    return f"SASL {named[1].upper() if named else 'PLAIN'} authentication failed: {why}"


def _what(event: Refused, code: str, status: str, text: str, client: str) -> str:
    """What was refused, in the words by which Postfix tells it."""
    if event.stage == "connect":
        return f"Client host rejected: {text}"
    if event.stage == "helo":
        return f"<{_address(event.helo)}>: Helo command rejected: {text}"
    if event.stage == "auth":  # by a filter, after the right password
        word = "Client host rejected" if code.startswith("5") else "Temporary lookup failure"
        return f"<{_address(event.user)}>: {word}: {text}"
    about = next((one for one in (event.recipient, *event.recipients) if one), "")
    if event.stage == "rcpt" and status.endswith(".1.1"):
        return f"<{_address(about)}>: Recipient address rejected: User unknown; {text}"
    if event.stage == "rcpt" and not event.filter and text.startswith("Relaying denied"):
        return f"<{_address(about)}>: Relay access denied"
    if event.filter.startswith("dnsbl"):
        name = client.rpartition("[")[2].rstrip("]")
        return f"Service unavailable; Client host [{name}] blocked using {_plain(event.filter)}; {text}"
    if event.client and event.reason.startswith((event.client, client.rpartition("[")[2].rstrip("]"))):
        return f"<{client}>: Client host rejected: {text}"
    if event.stage == "mail":
        return f"<{_address(event.sender)}>: Sender address rejected: {text}"
    if event.stage == "rcpt":
        return f"<{_address(about)}>: Recipient address rejected: {text}"
    return f"<{_STAGES[event.stage]}>: Data command rejected: {text}"


def _number(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


def _said(event: Deferred | Bounced) -> str:
    if event.reason:
        return _plain(event.reason)
    return _plain(f"host {event.host} said: {event.reply}" if event.host else event.reply)


def _client(text: str) -> str:
    """The client as name[address]; what is none has neither."""
    name, _, address = text.rpartition("[")
    address = address.rstrip("]").partition("%")[0]
    name = name if _NAME.fullmatch(name) else "unknown"
    return f"{name}[{address if _ADDRESS.fullmatch(address) else 'unknown'}]"


def _plain(text: str) -> str:
    """A text of others in one line."""
    return _UNPRINTABLE.sub("?", " ".join(text.split()))[:_LONGEST]


def _address(text: str) -> str:
    """What stands in angle brackets."""
    return _UNPRINTABLE.sub("?", text).translate(_NO_BRACKETS)[:_LONGEST_ADDRESS]


_NO_BRACKETS = str.maketrans({"<": "?", ">": "?", "[": "(", "]": ")"})
