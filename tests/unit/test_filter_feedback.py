"""The filter feedback: what reports say, and whom one may believe."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.awaiting import at_once
from mailgate.envelope import Identity
from mailgate.events import BouncedBack, Complained, Event, Unsubscribed
from mailgate.filters.batv import BatvResult
from mailgate.filters.feedback import Feedback, FeedbackResult, Options, build
from mailgate.filters.verp import VerpResult
from mailgate.mailauth import DkimResult
from mailgate.mime.reports import MAX_REPORT, _beginning, read_report
from mailgate.pipeline.registry import FilterMaker
from mailgate.relay.replies.classify import Classifier
from mailgate.rewriting.unsubscribe import UnsubscribeTokens, Unsubscription
from mailgate.rewriting.verp import Verp, VerpReturn
from mailgate.stores.suppressions import Suppressions
from mailgate.testing import EventRecorder, FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Discard

SECRET = "one secret, long enough"  # noqa: S105  of this test
NEWS, BOB, EVE = Address("news", "example.org"), Address("bob", "example.net"), Address("eve", "example.com")
FBL = Address("fbl", "example.org")
VERP = Verp(lambda: [SECRET.encode()])
TOKENS = UnsubscribeTokens(lambda: [SECRET.encode()])
PATH = VERP.return_path(NEWS, BOB)
assert PATH is not None

POSTFIX = """\
From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
To: {to}
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
 boundary="ABC"

--ABC
Content-Description: Notification

This is the mail system at host mx.example.net.

--ABC
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net
X-Postfix-Queue-ID: 4D1
Arrival-Date: Mon,  2 Mar 2026 10:00:00 +0000 (UTC)

Final-Recipient: rfc822; {whom}
Original-Recipient: rfc822;{whom}
Action: {action}
Status: {status}
Diagnostic-Code: smtp; {diagnostic}

--ABC
Content-Type: message/rfc822

{returned}

Hello.
--ABC--
"""
ARF = """\
From: <feedback@provider.example>
To: <fbl@example.org>
Subject: complaint
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="DEF"

--DEF
Content-Type: text/plain

This is an email abuse report.

--DEF
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: Provider-FBL/1.0
Version: 1
Original-Mail-From: <{path}>
Original-Rcpt-To: <{whom}>

--DEF
Content-Type: message/rfc822

{returned}

Hello.
--DEF--
"""
RETURNED = """\
Received: from app (app [10.0.0.1]) by mx.example.org (mailgate) with ESMTPSA
 id 01ABCDEFGHJKMNPQ for <bob@example.net>; Mon, 2 Mar 2026 10:00:00 +0000
From: news@example.org
Message-ID: <7@example.org>
Subject: News"""


def crlf(text: str) -> bytes:
    return text.encode().replace(b"\n", b"\r\n")


def dsn(
    to: object = PATH,
    whom: object = BOB,
    status: str = "5.1.1",
    diagnostic: str = "550 5.1.1 <bob@example.net>: Recipient address rejected: User unknown",
    action: str = "failed",
    returned: str = RETURNED,
) -> str:
    return POSTFIX.format(to=to, whom=whom, status=status, diagnostic=diagnostic, action=action, returned=returned)


def arf(path: object = "", whom: object = BOB, kind: str = "abuse", returned: str = RETURNED) -> str:
    return ARF.format(path=path, whom=whom, kind=kind, returned=returned)


def with_token(about: Unsubscription) -> str:
    return f"{RETURNED}\nList-Unsubscribe: <https://mail.example.org/unsubscribe/{TOKENS.make(about)}>"


class Stand:
    def __init__(self, folder: Path, **options: Any) -> None:
        (folder / "secrets").write_text(SECRET + "\n")
        self.events = EventRecorder()
        path = str(folder / "secrets")
        settings = {"addresses": ["fbl@example.org"], "verp_secrets": path, "unsubscribe_secrets": path} | options
        self.list = Suppressions(folder / "list.db", at_once, Clock().seconds)
        given = services(events=self.events, classify=Classifier().category, suppressions=self.list)
        built = build(Options.model_validate(settings), given)
        assert isinstance(built, Feedback)
        self.filter = built

    def gets(self, text: str | bytes, to: Address = FBL, *evidence: object, sender: str = "") -> Any:
        """The verdict on a report to this address."""
        mail = transaction(sender, [to])
        for one in evidence:
            mail.evidence.add(one)
        return wait_for(self.filter.on_message(session(), mail, message(text)))

    def returned(self, text: str | bytes, path: Address | None = PATH, sender: str = "") -> Any:
        """The verdict on what comes to a return path, which the filter verp has seen."""
        assert path is not None
        return self.gets(text, path, VerpResult(path, VERP.read(path)), sender=sender)

    @property
    def told(self) -> Sequence[Event]:
        return self.events.events


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_a_bounce_to_a_return_path(stand: Stand) -> None:
    verdict = stand.returned(dsn())
    assert isinstance(verdict, Discard)
    assert verdict.recipients == (PATH,)
    assert verdict.evidence == (FeedbackResult("bounce", "verp"),)
    (event,) = stand.told
    assert isinstance(event, BouncedBack)
    assert (event.recipient, event.sender, event.proof) == ("bob@example.net", "news@example.org", "verp")
    assert (event.category, event.status, event.is_permanent) == ("no-such-user", "5.1.1", True)
    assert event.reason == "550 5.1.1 <bob@example.net>: Recipient address rejected: User unknown"
    assert (event.queue_id, event.message_id) == ("01ABCDEFGHJKMNPQ", "<7@example.org>")


@pytest.mark.parametrize(
    ("changes", "category", "is_permanent"),
    [
        ({"status": "5.2.2", "diagnostic": "552 5.2.2 mailbox full"}, "mailbox-full", True),
        ({"status": "4.4.7", "diagnostic": "451 4.4.1 timed out"}, None, False),
        ({"status": "5.0.0", "diagnostic": "550 No such user here"}, "no-such-user", True),
        ({"status": "", "diagnostic": "550 5.1.1 unknown user"}, "no-such-user", True),
        ({"status": "5.1.1", "diagnostic": ""}, "no-such-user", True),
        # The host behind says 450, and the report that it is over: the report's own word counts.
        ({"status": "5.1.1", "diagnostic": "450 4.1.1 try again"}, "no-such-user", True),
        # It was forwarded: who failed is another, and mail to bob is what does not arrive.
        ({"whom": "carol@elsewhere.example"}, "no-such-user", True),
    ],
)
def test_what_bounces_mean(stand: Stand, changes: dict[str, Any], category: str | None, is_permanent: bool) -> None:
    stand.returned(dsn(**changes))
    (event,) = stand.events.of(BouncedBack)
    assert event.recipient == "bob@example.net"
    assert event.is_permanent is is_permanent
    assert category is None or event.category == category


@pytest.mark.parametrize("action", ["delayed", "Delivered", "relayed", "expanded"])
def test_reports_of_no_failure_tell_nothing(stand: Stand, action: str) -> None:
    assert isinstance(stand.returned(dsn(action=action, status="2.0.0", diagnostic="250 ok")), Discard)
    assert not stand.told


QMAIL = """\
From: MAILER-DAEMON@mx.example.net
Subject: failure notice

Hi. This is the qmail-send program at mx.example.net.
I'm afraid I wasn't able to deliver your message to the following addresses.

<bob@example.net>:
192.0.2.7 does not like recipient.
Remote host said: 550 5.1.1 unknown user
Giving up on 192.0.2.7.
"""


def test_bounces_of_older_systems(stand: Stand) -> None:
    stand.returned(QMAIL)
    (event,) = stand.events.of(BouncedBack)
    assert (event.category, event.status) == ("no-such-user", "5.1.1")
    assert event.reason == "550 5.1.1 unknown user Giving up on 192.0.2.7."


@pytest.mark.parametrize(
    ("text", "sender"),
    [
        ("From: bob@example.net\nAuto-Submitted: auto-replied\n\nI am away. Call 550 1234.\n", ""),
        ("From: bob@example.net\nSubject: Re: News\n\nThanks, see error 550 5.1.1 below.\n", "bob@example.net"),
        ("From: bob@example.net\n\nI am away.\n", ""),
    ],
)
def test_answers_of_people_and_machines_are_no_bounces(stand: Stand, text: str, sender: str) -> None:
    assert stand.returned(text, sender=sender) is None
    assert not stand.told


def test_a_complaint_with_a_return_path_in_it(stand: Stand) -> None:
    verdict = stand.gets(arf(PATH, "redacted"), sender="feedback@provider.example")
    assert isinstance(verdict, Discard)
    (event,) = stand.told
    assert isinstance(event, Complained)
    assert (event.recipient, event.sender, event.proof) == ("bob@example.net", "news@example.org", "verp")
    assert (event.kind, event.reporter, event.message_id) == ("abuse", "Provider-FBL/1.0", "<7@example.org>")


def test_a_complaint_with_a_token_in_it(stand: Stand) -> None:
    stand.gets(arf("", "redacted", returned=with_token(Unsubscription(NEWS, BOB, "news"))))
    (event,) = stand.events.of(Complained)
    assert (event.recipient, event.proof, event.stream) == ("bob@example.net", "token", "news")


def test_a_token_for_many_proves_nobody(stand: Stand) -> None:
    assert isinstance(stand.gets(arf("", returned=with_token(Unsubscription(NEWS, None)))), Continue)
    assert not stand.told


@pytest.mark.parametrize("kind", ["auth-failure", "not-spam", "virus", ""])
def test_reports_that_are_no_complaints(stand: Stand, kind: str) -> None:
    assert stand.gets(arf(PATH, kind=kind)) is None
    assert not stand.told


def test_kinds_that_nobody_knows(stand: Stand) -> None:
    stand.gets(arf(PATH, kind="opt-out"))
    stand.gets(arf(PATH, kind="a b\tc <script>"))
    assert [one.kind for one in stand.events.of(Complained)] == ["opt-out", "other"]


FORGED = VERP.return_path(NEWS, EVE)
assert FORGED is not None


@pytest.mark.parametrize(
    "text",
    [
        dsn(FBL),
        arf(),
        arf("news@example.org"),
        arf(Address("news+AAAAAAAA=bob=example.net", "example.org")),
        # Somebody has the path of another recipient, and puts bob in its place.
        arf(str(FORGED).replace("eve=example.com", "bob=example.net")),
        dsn(
            FBL,
            returned=with_token(Unsubscription(NEWS, BOB)).replace(TOKENS.make(Unsubscription(NEWS, BOB)), "x" * 99),
        ),
        dsn(FBL, returned=f"Return-Path: <news+AAAAAAAA=bob=example.net@example.org>\n{RETURNED}"),
    ],
)
def test_what_is_not_proved_suppresses_nobody(stand: Stand, text: str) -> None:
    verdict = stand.gets(text)
    assert isinstance(verdict, Continue)
    (finding,) = verdict.evidence
    assert isinstance(finding, FeedbackResult)
    assert finding.facts()[1] == "feedback.unproved"
    assert not stand.told


def test_one_recipient_cannot_report_another(stand: Stand) -> None:
    """Eve has her own return path, and says that it was bob whom it did not reach."""
    stand.returned(dsn(FORGED, BOB), FORGED)
    assert [one.recipient for one in stand.events.of(BouncedBack)] == ["eve@example.com"]


def test_reports_to_others_are_not_looked_at(stand: Stand) -> None:
    assert stand.gets(dsn(), Address("ann", "example.org")) is None
    mail = transaction("", [FBL])
    assert stand.filter.on_message(session(identity=Identity("ann", "PLAIN")), mail, message(arf(PATH))) is None
    assert not stand.told


@pytest.mark.parametrize(
    ("result", "domain", "is_believed"),
    [
        ("pass", "provider.example", True),
        ("fail", "provider.example", False),
        ("pass", "evil.example", False),
        ("pass", "notprovider.example", False),
    ],
)
def test_trusted_reporters(tmp_path: Path, result: str, domain: str, is_believed: bool) -> None:
    stand = Stand(tmp_path, reporters=["provider.example"])
    stand.gets(arf("news@example.org"), FBL, DkimResult(result, domain), sender="feedback@provider.example")
    assert [one.recipient for one in stand.events.of(Complained)] == (["bob@example.net"] if is_believed else [])
    assert all(one.proof == "reporter" and one.sender == "news@example.org" for one in stand.events.of(Complained))


@pytest.mark.parametrize("is_on", [True, False])
def test_tags_of_batv_only_where_they_are_trusted(tmp_path: Path, is_on: bool) -> None:
    stand = Stand(tmp_path, batv=is_on)
    tagged = Address("prvs=0123abcdef=news", "example.org")
    for result in ("invalid", "untagged", "valid"):
        stand.gets(dsn(tagged), tagged, BatvResult(result, tagged, (NEWS,)))
    assert [one.recipient for one in stand.events.of(BouncedBack)] == (["bob@example.net"] if is_on else [])
    if is_on:
        told = len(stand.told)
        stand.gets(dsn(tagged), tagged, BatvResult("valid", tagged, (NEWS,)), sender="eve@example.com")
        assert len(stand.told) == told


def test_a_report_may_be_delivered_as_well(tmp_path: Path) -> None:
    stand = Stand(tmp_path, then="continue")
    assert stand.returned(dsn()) == Continue(evidence=(FeedbackResult("bounce", "verp"),))
    assert len(stand.told) == 1


def test_encoded_parts(stand: Stand) -> None:
    fields = b"Feedback-Type: abuse\nUser-Agent: X\nOriginal-Mail-From: <%b>\n" % str(PATH).encode()
    text = (
        'Content-Type: multipart/report; boundary="B"\n\n--B\n'
        "Content-Type: message/feedback-report\nContent-Transfer-Encoding: base64\n\n"
        f"{base64.b64encode(fields).decode()}\n--B--\n"
    )
    stand.gets(text)
    assert len(stand.events.of(Complained)) == 1


def nested(depth: int) -> bytes:
    inner = crlf(dsn())
    for number in range(depth):
        mark = b"x%d" % number
        inner = b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n%b\r\n--%b--\r\n" % (
            mark,
            mark,
            inner,
            mark,
        )
    return inner


def huge(line: bytes) -> bytes:
    return crlf(dsn()).replace(b"Hello.\r\n", line * (3 * MAX_REPORT // len(line)))


HOSTILE = {
    "a deep one": nested(300),
    "one in another": nested(1),
    "boundaries without end": huge(b"--ABC\r\nContent-Type: message/rfc822\r\n\r\n"),
    "a large message in it": huge(b"x" * 76 + b"\r\n"),
    "blocks without end": arf(PATH)
    .encode()
    .replace(b"\n", b"\r\n")
    .replace(b"Version: 1\r\n", b"A: b\r\n\r\n" * 50_000),
    "a field without end": crlf(dsn(diagnostic="550 5.1.1 " + "x" * 100_000)),
    "brackets without end": crlf(arf("<" * 50_000)),
    "tokens without end": arf(returned=RETURNED + "\nList-Unsubscribe: " + "a.b-" * 10_000)
    .encode()
    .replace(b"\n", b"\r\n"),
    "no header": b"\r\n\r\n" + b"550 5.1.1\r\n" * 1000,
    "nothing": b"",
    "octets": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("octets", HOSTILE.values(), ids=HOSTILE)
def test_hostile_reports(stand: Stand, octets: bytes) -> None:
    for verdict in (stand.gets(octets), stand.returned(octets)):
        assert verdict is None or isinstance(verdict, Continue | Discard)
    for event in stand.told:
        assert isinstance(event, BouncedBack | Complained)
        assert event.recipient == "bob@example.net"
        assert len(repr(event)) < 5000


def test_a_large_message_in_a_report_hides_nothing_before_it(stand: Stand) -> None:
    stand.returned(HOSTILE["a large message in it"])
    assert [one.category for one in stand.events.of(BouncedBack)] == ["no-such-user"]


@given(st.binary(max_size=2000))
def test_whatever_comes_is_read(octets: bytes) -> None:
    read_report(octets)
    read_report(crlf(dsn()).replace(b"Hello.", octets).replace(b"Status", octets[:5] or b"S"))


@pytest.fixture(autouse=True, scope="class")
def secrets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.cls is not None:
        request.cls.path = tmp_path_factory.mktemp("feedback") / "secrets"
        request.cls.path.write_text(SECRET + "\n")


class TestContract(FilterContract):
    factory = FilterMaker("feedback", "mailgate.filters.feedback", "reports about our mail")
    path: Path

    @property
    def settings(self) -> Mapping[str, object]:  # type: ignore[override]  # the file is a test's own
        return {"addresses": ["fbl@example.org"], "verp_secrets": str(self.path)}

    def occasions(self) -> Iterable[Occasion]:
        assert PATH is not None
        mail, back = transaction("", [FBL]), transaction("", [PATH])
        back.evidence.add(VerpResult(PATH, VerpReturn(NEWS, BOB)))
        return [
            Occasion(),
            Occasion(transaction=mail, message=message(arf(PATH))),
            Occasion(transaction=mail, message=message(arf())),
            Occasion(transaction=back, message=message(dsn())),
        ]


DAEMON = f"From: MAILER-DAEMON@mx.example.net\nTo: <{PATH}>\nSubject: failure notice\n"
LOCAL_QMAIL = f"""
Hi. This is the qmail-send program at mx.example.net, version 5.2.1.
I'm afraid I wasn't able to deliver your message to the following addresses.

<bob@example.net>:
Sorry, no mailbox here by that name. (#5.1.1)

--- Below this line is a copy of the message.

Return-Path: <{PATH}>
Subject: 450 4.1.8 Sender address rejected
"""
REMOTE_QMAIL = """
<bob@example.net>:
192.0.2.5 does not like recipient.
Remote host said: 550 No such user
Giving up on 192.0.2.5.

--- Enclosed is a copy of the message.
"""
EXIM = """Auto-Submitted: auto-replied
X-Failed-Recipients: bob@example.net

A message that you sent could not be delivered to one or more of its recipients.

  bob@example.net
    host mx.example.net [192.0.2.5]
    SMTP error from remote mail server after RCPT TO:<bob@example.net>:
    550 5.1.1 <bob@example.net>: User unknown

------ This is a copy of the message, including all the headers. ------

Subject: 450 4.1.8 Sender address rejected
"""
#: The next hop waits, whatever version its program has.
VERSION = "\nThis is Mail Server 5.2.1 speaking.\n\n<bob@example.net>: 450 4.2.0 try again later\n"
EXCHANGE = "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"
GMAIL = "550-5.1.1 The email account that you tried to reach does not exist. Please try\n 550 5.1.1 again"


@pytest.mark.parametrize(
    ("text", "category", "status", "is_permanent"),
    [
        (DAEMON + LOCAL_QMAIL, "no-such-user", "5.1.1", True),
        (DAEMON + REMOTE_QMAIL, "no-such-user", "", True),
        (DAEMON.replace("MAILER-DAEMON", "bounces") + EXIM, "no-such-user", "5.1.1", True),
        (DAEMON + VERSION, None, "4.2.0", False),
        (dsn(status="5.1.10", diagnostic=EXCHANGE), "no-such-user", "5.1.10", True),
        (dsn(diagnostic=GMAIL), "no-such-user", "5.1.1", True),
        # Without the type before the diagnostic, and without a diagnostic.
        (dsn().replace("smtp; 550", "550"), "no-such-user", "5.1.1", True),
        (dsn().replace("Diagnostic-Code:", "X-Notes:"), "no-such-user", "5.1.1", True),
        (dsn().replace("Original-Recipient:", "X-Notes:"), "no-such-user", "5.1.1", True),
    ],
    ids=["qmail", "qmail remote", "exim", "version", "exchange", "gmail", "no type", "no diagnostic", "no original"],
)
def test_reports_of_many_systems(
    stand: Stand, text: str, category: str | None, status: str, is_permanent: bool
) -> None:
    assert isinstance(stand.returned(text), Discard)
    (event,) = stand.told
    assert isinstance(event, BouncedBack)
    assert event.recipient == "bob@example.net"
    assert (event.status, event.is_permanent) == (status, is_permanent)
    assert category in (None, event.category)


HOLIDAY = "I am out until Monday, in room 550 of building 5.1.1: no such user here before.\n"


@pytest.mark.parametrize(
    "fields",
    [
        "Subject: Out of office\n",
        "Subject: Automatic reply\nAuto-Submitted: auto-generated\n",
        "Subject: Out of office\nX-Autoreply: yes\nPrecedence: bulk\n",
        "Subject: read\nMIME-Version: 1.0\nContent-Type: multipart/report; report-type=disposition-notification\n",
    ],
)
def test_answers_of_people_who_are_away_are_no_bounces(stand: Stand, fields: str) -> None:
    assert stand.returned(f"From: Bob <bob@example.net>\n{fields}\n{HOLIDAY}") is None
    assert not stand.told


def test_what_is_looked_at_of_a_report_is_bounded() -> None:
    """Parts without end, and nested without end, are not all looked at; what comes first counts."""
    head = "MIME-Version: 1.0\nContent-Type: multipart/report; boundary=A\n\n"
    status = "--A\nContent-Type: message/delivery-status\n\nReporting-MTA: x\n\nFinal-Recipient: rfc822; {}\n\n"
    many = crlf(head + status.format("bob@example.net") + "--A\n\nx\n" * 30_000)
    assert len(_beginning(many)) < 4000
    assert read_report(many).recipients[0].typed("final-recipient") == "bob@example.net"
    late = crlf(head + "--A\n\nx\n" * 1000 + status.format("bob@example.net"))
    assert read_report(late).kind == ""


def test_a_wish_to_unsubscribe_by_mail(stand: Stand) -> None:
    token = TOKENS.make(Unsubscription(NEWS, BOB, "letters"))
    for text in (f"Subject: {token[:-1]}x\n\n", f"Subject: Re: {token}\n\n", "Subject: x\n\n", "\n"):
        assert stand.gets(text, sender="bob@example.net") is None
    everybody = TOKENS.make(Unsubscription(NEWS, None))
    assert stand.gets(f"Subject: {everybody}\n\n", sender="bob@example.net") is None
    assert not stand.told
    verdict = stand.gets(f"Subject:\n {token}\n\n", sender="bob@example.net")
    assert isinstance(verdict, Discard)
    assert verdict.evidence == (FeedbackResult("unsubscribe", "token"),)
    (event,) = stand.told
    assert isinstance(event, Unsubscribed)
    assert (event.recipient, event.sender, event.stream) == ("bob@example.net", "news@example.org", "letters")
    (entry,) = wait_for(stand.list.list(10))
    assert (entry.address, entry.scope, entry.reason) == ("bob@example.net", "letters", "unsubscribe")
    assert isinstance(stand.gets(f"Subject: {token}\n\n", sender="bob@example.net"), Discard)
    assert len(stand.told) == 1


def test_a_wish_that_cannot_be_kept_is_not_taken(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "list.db").mkdir()
    with pytest.raises(sqlite3.OperationalError):
        stand.gets(f"Subject: {TOKENS.make(Unsubscription(NEWS, BOB))}\n\n", sender="bob@example.net")
    assert not stand.told
