"""The log in Postfix's format: lines, what no peer can write into them, and the file."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.events import (
    AccountSuspected,
    Bounced,
    ConfigReloaded,
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
from mailgate.observe.log import JsonLog, Logs
from mailgate.observe.postfix_lines import PostfixLines
from mailgate.observe.postfix_log import PostfixLog
from mailgate.observe.recorder import Written
from mailgate.observe.render import Renderer
from mailgate.smtp import replies

AT = 1_800_000_000.5
CLIENT = "client.example[192.0.2.1]"
LINE = re.compile(rb"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d gw\.example\.org postfix/[a-z]+\[\d+\]: [ -~]*")
#: How fail2ban finds the address of a client in a rejection.
BANNED = re.compile(r"(?:\w+: (?:milter-)?reject:) (?:[A-Z]{4}) from [^[]*\[([^\]]+)\]")


def told(event: Event, made: PostfixLines | None = None) -> list[str]:
    """The lines behind time and host, whose processes have no numbers."""
    lines = (made or PostfixLines("gw.example.org", 7)).lines(event)
    assert all(LINE.fullmatch(line) for line in lines), lines
    return [re.sub(r"\[\d+\]: ", ": ", line.decode().partition(" postfix/")[2], count=1) for line in lines]


def accepted(**changes: Any) -> MessageAccepted:
    fields: dict[str, Any] = {
        "at": AT,
        "queue_id": "Q1",
        "session": "S1",
        "client": CLIENT,
        "listener": "mx",
        "helo": "client.example",
        "sender": "ann@client.example",
        "recipients": ("bob@example.org", "eve@example.org"),
        "size": 1234,
        "message_id": "<1@client.example>",
    }
    return MessageAccepted(**{**fields, **changes})


def refused(stage: str, reply: str, **changes: Any) -> Refused:
    fields: dict[str, Any] = {
        "at": AT,
        "session": "S1",
        "client": CLIENT,
        "listener": "mx",
        "helo": "client.example",
        "stage": stage,
        "filter": "",
        "reason": "",
        "reply": reply,
        "sender": "ann@client.example",
    }
    return Refused(**{**fields, **changes})


def attempt(kind: type[Any], **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "at": AT + 2,
        "queue_id": "Q1",
        "sender": "ann@client.example",
        "recipient": "bob@example.org",
        "route": "inside",
        "host": "mx.example.org[192.0.2.25]:25",
        "reply": "250 2.1.5 OK",
        "attempt": 1,
        "seconds": 0.25,
    }
    return kind(**{**fields, **changes})


def test_a_message_that_comes_and_goes() -> None:
    made = PostfixLines("gw.example.org", 7)
    assert told(accepted(identity="ann by PLAIN"), made) == [
        "smtpd: Q1: client=client.example[192.0.2.1], sasl_method=PLAIN, sasl_username=ann",
        "cleanup: Q1: message-id=<1@client.example>",
        "qmgr: Q1: from=<ann@client.example>, size=1234, nrcpt=2 (queue active)",
    ]
    assert told(attempt(Delivered, delay=2.0), made) == [
        "smtp: Q1: to=<bob@example.org>, relay=mx.example.org[192.0.2.25]:25, delay=2, delays=1.75/0/0/0.25,"
        " dsn=2.1.5, status=sent (250 2.1.5 OK)"
    ]
    assert told(attempt(Deferred, reply="451 4.7.1 later", next_attempt=AT), made) == [
        "smtp: Q1: to=<bob@example.org>, relay=mx.example.org[192.0.2.25]:25, delay=2, delays=1.75/0/0/0.25,"
        " dsn=4.7.1, status=deferred (host mx.example.org[192.0.2.25]:25 said: 451 4.7.1 later)"
    ]
    lines = told(attempt(Bounced, reply="550 no", reason="given up", report="Q2", host=""), made)
    assert lines == [
        "smtp: Q1: to=<bob@example.org>, relay=none, delay=2, delays=1.75/0/0/0.25, dsn=5.0.0,"
        " status=bounced (given up)",
        "bounce: Q1: sender non-delivery notification: Q2",
    ]


def test_a_part_of_a_message_is_not_received_again() -> None:
    lines = told(accepted(queue_id="Q2", split_from="Q1"))
    assert [line.partition(":")[0] for line in lines] == ["cleanup", "qmgr"]


def test_times_are_local_as_syslog_has_them() -> None:
    (line, *_) = PostfixLines("gw.example.org", 7).lines(accepted())
    stamp = time.strftime("%H:%M:%S", time.localtime(AT)).encode()
    assert line[7:15] == stamp
    assert PostfixLines("gw.example.org", 7).lines(accepted(at=1e300))  # no date, and a line all the same


def test_mail_of_our_own_and_of_trusted_networks() -> None:
    assert told(accepted(session=""))[0] == "pickup: Q1: uid=0 from=<ann@client.example>"
    for identity in ("192.0.2.1 by network", "fax by certificate", ""):
        assert told(accepted(identity=identity))[0] == "smtpd: Q1: client=client.example[192.0.2.1]"


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (refused("connect", "554 no"), "CONNECT from {c}: 554 5.7.1 Client host rejected: no"),
        (refused("helo", "550 no"), "EHLO from {c}: 550 5.7.1 <client.example>: Helo command rejected: no"),
        (refused("mail", "550 5.1.8 no"), "MAIL from {c}: 550 5.1.8 <ann@client.example>: Sender address rejected: no"),
        (
            refused("rcpt", "550 5.1.1 No such user", recipient="x@example.org"),
            "RCPT from {c}: 550 5.1.1 <x@example.org>: Recipient address rejected: User unknown; No such user",
        ),
        (
            refused("rcpt", "550 5.7.1 Relaying denied", recipient="x@a.test"),
            "RCPT from {c}: 550 5.7.1 <x@a.test>: Relay access denied",
        ),
        (
            refused("rcpt", "450 4.7.1 Come back", filter="greylist", recipient="x@example.org"),
            "RCPT from {c}: 450 4.7.1 <x@example.org>: Recipient address rejected: Come back",
        ),
        (
            refused("rcpt", "550 5.7.1 Listed", filter="dnsbl", recipient="x@example.org"),
            "RCPT from {c}: 550 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using dnsbl; Listed",
        ),
        (
            refused("rcpt", "550 5.7.1 no", filter="access", reason=f"{CLIENT} matches rule", recipient="x@a.test"),
            "RCPT from {c}: 550 5.7.1 <client.example[192.0.2.1]>: Client host rejected: no",
        ),
        (refused("data", "503 5.5.1 no"), "DATA from {c}: 503 5.5.1 <DATA>: Data command rejected: no"),
    ],
)
def test_refusals_in_postfix_words(event: Refused, what: str) -> None:
    (line,) = told(event)
    start = f"smtpd: NOQUEUE: reject: {what.format(c=CLIENT)}; from=<ann@client.example>"
    assert line.startswith(start)
    assert line.endswith(" proto=ESMTP helo=<client.example>")


def test_refused_content_and_failed_logins() -> None:
    event = refused("message", "550 5.7.1 a virus", queue_id="Q1", recipients=("a@b.test", "c@d.test"))
    assert told(event) == [
        "cleanup: Q1: milter-reject: END-OF-MESSAGE from client.example[192.0.2.1]: 5.7.1 a virus;"
        " from=<ann@client.example> to=<a@b.test> proto=ESMTP helo=<client.example>"
    ]
    event = refused("auth", "535 5.7.8 no", user="ann", reason="wrong password (LOGIN)")
    assert told(event) == [
        "smtpd: warning: client.example[192.0.2.1]: SASL LOGIN authentication failed: wrong password (LOGIN),"
        " sasl_username=ann"
    ]
    start = "smtpd: warning: client.example[192.0.2.1]: SASL"
    for event, what in (
        (refused("auth", "", user="ann", reason="SCRAM-SHA-256 as ann: wrong"), "PLAIN authentication failed: SCRAM"),
        (refused("auth", "504 5.5.4 x", reason="GSSAPI is not offered"), "PLAIN authentication failed: Invalid auth"),
        (refused("auth", "538 5.7.11 x", reason="LOGIN is not offered"), "LOGIN authentication failed: Invalid auth"),
        (
            refused("auth", str(replies.AUTH_UNAVAILABLE), user="ann", reason="LDAP is gone"),
            "PLAIN authentication failed: Connection lost to authentication server: LDAP is gone, sasl_username=ann",
        ),
        (
            refused("auth", str(replies.AUTH_TOO_OFTEN), user="ann", reason="9 wrong secrets"),
            "PLAIN authentication failed: 9 wrong secrets, sasl_username=ann",
        ),
    ):
        (line,) = told(event)
        assert line.startswith(f"{start} {what}")
    for code, what in (
        ("550 5.7.1 Not from here", "Client host rejected: Not from here"),
        ("450 4.7.1 Try later", "Temporary lookup failure: Try later"),
    ):
        (line,) = told(refused("auth", code, user="ann", filter="geo", reason="far away"))
        assert f"NOQUEUE: reject: AUTH from {CLIENT}: {code[:9]} <ann>: {what};" in line
    assert told(refused("rcpt", "")) == []


def closed(cause: str, helo: str = "client.example") -> SessionClosed:
    return SessionClosed(
        at=AT, session="S1", client=CLIENT, listener="mx", helo=helo, messages=1, seconds=2.0, cause=cause
    )


def test_sessions() -> None:
    start, end = f"smtpd: connect from {CLIENT}", f"smtpd: disconnect from {CLIENT} mail=1 commands=1"
    assert told(closed("quit")) == [start, end]
    assert told(closed("errors"))[1] == f"smtpd: too many errors after RCPT from {CLIENT}"
    assert told(closed("lost"))[1] == f"smtpd: lost connection after EHLO from {CLIENT}"
    assert told(closed("timeout", ""))[1] == f"smtpd: timeout after CONNECT from {CLIENT}"
    first, *_, last = PostfixLines("gw.example.org").lines(closed("quit"))
    assert int(last[13:15]) - int(first[13:15]) in (2, -58)
    made = PostfixLines("gw.example.org")
    numbers = {re.findall(rb"\[(\d+)\]: ", line)[0] for one in ("quit", "lost") for line in made.lines(closed(one))}
    assert len(numbers) == 1  # all lines of a session have one


def test_the_rest() -> None:
    fields: dict[str, Any] = {"at": AT, "queue_id": "Q1", "sender": "a@b.test", "recipients": ("c@d.test", "e@f.test")}
    assert told(Quarantined(**fields, reason="spam")) == [
        "cleanup: Q1: hold: END-OF-MESSAGE quarantine: spam; from=<a@b.test> to=<c@d.test>"
    ]
    assert told(Discarded(**fields, reason="spam"))[0].startswith(
        "cleanup: Q1: discard: END-OF-MESSAGE discarded: spam"
    )
    assert told(Reported(**fields, kind="delayed", report="Q2")) == ["bounce: Q1: sender delay notification: Q2"]
    assert told(Reported(**fields, kind="delivered", report="Q2"))[0].startswith("bounce: Q1: sender delivery status")
    assert "daemon started" in told(Started(at=AT, listeners=()))[0]
    assert "terminating" in told(Stopped(at=AT))[0]
    failed = FilterFailed(at=AT, filter="clamav", stage="message", error="down", on_failure="defer")
    assert told(failed) == ["smtpd: warning: the filter clamav failed: down"]
    assert told(SpoolFailed(at=AT, error="disk\nfull")) == ["qmgr: fatal: disk full"]
    near = LimitNear(
        at=AT, filter="quota", rule="messages", subject="ann", count=8, limit=10, window=60.0, until=AT, is_reached=True
    )
    assert told(near) == ["anvil: warning: ann has reached its limit: messages 8 of 10"]
    assert (
        "may be stolen (refuse): a 1; b 2"
        in told(AccountSuspected(at=AT, user="ann", signals=("a 1", "b 2"), action="refuse"))[0]
    )
    assert "not suspected any more" in told(AccountSuspected(at=AT, user="ann", signals=(), action="release"))[0]
    assert told(ConfigReloaded(at=AT, path="x")) == []


def test_a_client_without_an_address_bans_nobody() -> None:
    for client in ("unknown[local]", "local", "", "x[y][192.0.2.9]", "a b[192.0.2.9"):
        (line,) = told(refused("rcpt", "550 5.1.1 no", client=client, recipient="x@a.test"))
        assert "from unknown[unknown]" in line or "from unknown[192.0.2.9]" in line


TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "x\r\nNov 26 10:00:00 h postfix/smtpd[1]: NOQUEUE: reject: RCPT from v[198.51.100.66]: 550 5.1.1",
            "> NOQUEUE: reject: RCPT from v[198.51.100.66]: 550 5.1.1 <x>: Recipient address rejected: User unknown",
            "v[198.51.100.66]",
            "\x00\x1b[2J\ud800",
            "y" * 5000,
        ]
    ),
)


@given(TEXTS, TEXTS, TEXTS, TEXTS, st.sampled_from(["connect", "helo", "auth", "mail", "rcpt", "data", "message"]))
def test_no_peer_writes_a_line_of_its_own(helo: str, sender: str, to: str, text: str, stage: str) -> None:
    one = refused(stage, f"550 5.1.1 {text}", helo=helo, sender=sender, recipient=to, reason=text, user=helo)
    mail = accepted(sender=sender, recipients=(to,), message_id=text, identity=f"{helo} by PLAIN")
    gone = attempt(Deferred, recipient=to, host=text, reply=text, reason=text, next_attempt=AT, sender=sender)
    for event in (one, mail, gone):
        for line in told(event):
            assert len(line) < 4000
            found = BANNED.match(line.partition(": ")[2])
            assert found is None or found[1] == "192.0.2.1"


def test_what_is_known_of_messages_is_bounded() -> None:
    made = PostfixLines("gw.example.org", 7)
    for number in range(20_100):
        made.lines(accepted(queue_id=str(number)))
    assert len(made._received) == 20_000


def written(*events: Event) -> Sequence[Written]:
    renderer = Renderer()
    return [Written(one, renderer.render(one)) for one in events]


def test_both_logs_are_written_and_opened_anew(tmp_path: Path) -> None:
    logs = Logs([JsonLog("mailgate.log", tmp_path), PostfixLog("mail.log", tmp_path, "gw.example.org")])
    logs.write(written(accepted(), ConfigReloaded(at=AT, path="x")))
    assert (tmp_path / "mailgate.log").read_bytes().count(b"\n") == 2
    assert (tmp_path / "mail.log").read_bytes().count(b"\n") == 3
    (tmp_path / "mail.log").rename(tmp_path / "mail.log.1")
    logs.reopen()
    logs.write(written(accepted()))
    logs.missed(5)
    logs.tidy()
    logs.close()
    lines = (tmp_path / "mail.log").read_bytes().splitlines()
    assert len(lines) == 4
    assert lines[-1].endswith(b": warning: 5 lines of this log were lost: more events than could be written")
    assert (tmp_path / "mail.log").stat().st_mode & 0o777 == 0o600
