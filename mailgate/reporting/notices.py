"""Tells people by mail what events say that name them: that a limit is near, or that an account may be stolen."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgate.address import NULL_PATH, Address, AddressError
from mailgate.awaiting import as_deferred
from mailgate.config.units import format_duration
from mailgate.envelope import new_id
from mailgate.events import AccountSuspected, Event, LimitNear
from mailgate.interfaces import IEventObserver
from mailgate.reporting.service import Send

__all__ = ["Notices"]

_log = Logger()

#: Mails in an hour that this process sends: whoever makes events that name people floods nobody.
_MOST = 60
_HOUR = 3600.0
#: Characters of a text of others in a mail.
_LONGEST = 200


@implementer(IEventObserver)
class Notices:
    """One mail for each event that names somebody, to all whom it names. Its envelope sender is null: no report about
    it comes back, and nobody answers it automatically (RFC 3834)."""

    def __init__(self, send: Send, hostname: str, clock: IReactorTime) -> None:
        self._send = send
        self._hostname = hostname
        self._clock = clock
        self._hour = 0.0
        self._sent = 0

    def observe(self, event: Event) -> None:
        if not isinstance(event, LimitNear | AccountSuspected) or not event.notify:
            return
        recipients = [address for text in event.notify if (address := _address(text)) is not None]
        if not recipients or not self._has_room():
            return
        subject, lines = _limit(event) if isinstance(event, LimitNear) else _account(event)
        octets = self._compose(subject, lines, recipients)
        as_deferred(self._send(NULL_PATH, recipients, octets)).addErrback(_unsent)

    def _has_room(self) -> bool:
        now = self._clock.seconds()
        if now - self._hour >= _HOUR:
            self._hour, self._sent = now, 0
        self._sent += 1
        if self._sent == _MOST + 1:
            _log.warn("more than {most} notices in an hour: the others are not sent", most=_MOST)
        return self._sent <= _MOST

    def _compose(self, subject: str, lines: list[str], recipients: list[Address]) -> bytes:
        message = EmailMessage(policy=SMTP)
        message["From"] = f"Mail gateway <postmaster@{self._hostname}>"
        message["To"] = ", ".join(str(one) for one in recipients)
        message["Subject"] = subject
        message["Date"] = format_datetime(datetime.fromtimestamp(self._clock.seconds(), UTC))
        message["Message-ID"] = f"<{new_id()}@{self._hostname}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content("\n".join([*lines, "", f"The mail gateway {self._hostname}", ""]))
        return message.as_bytes()


def _limit(event: LimitNear) -> tuple[str, list[str]]:
    whose = _plain(event.subject)
    rest = format_duration(float(max(60, round((event.until - event.at) / 60) * 60)))
    if event.is_reached:
        subject = f"The limit for mail of {whose} is reached"
        then = f"More is not sent on before it begins anew, in {rest}."
    else:
        subject = f"The limit for mail of {whose} is near"
        then = f"It begins anew in {rest}; what is over the limit until then is not sent on."
    return subject, [
        f"Mail of {whose} comes near its limit." if not event.is_reached else f"Mail of {whose} has reached its limit.",
        "",
        f"Counted:  {_plain(event.rule)}",
        f"So far:   {event.count} in {format_duration(event.window)}",
        f"Limit:    {event.limit}",
        "",
        then,
        "If it was not you who sent so much, somebody may know your",
        "password: change it.",
    ]


def _account(event: AccountSuspected) -> tuple[str, list[str]]:
    who = _plain(event.user)
    done = {
        "notify": "Its mail is sent on all the same.",
        "slow": "Its mail is taken slowly.",
        "quarantine": "Its mail is kept back, until somebody has looked at it.",
        "refuse": "Its mail is refused.",
    }
    until = datetime.fromtimestamp(event.until, UTC).strftime("%Y-%m-%d %H:%M UTC") if event.until else ""
    return f"The account {who} may be stolen", [
        f"Mail of {who} looks as if somebody else had its password:",
        "",
        *(f"- {_plain(one)}" for one in event.signals),
        "",
        done.get(event.action, ""),
        *([f"That ends by itself at {until}."] if until else []),
        "Change the password, and look at where it has been in use.",
    ]


def _address(text: str) -> Address | None:
    try:
        return Address.parse(text)
    except AddressError:
        return None


def _plain(text: str) -> str:
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text[:_LONGEST].encode("utf-8", "replace").decode()


def _unsent(failure: Failure) -> None:
    _log.warn("a notice cannot be sent: {error}", error=failure.getErrorMessage())
