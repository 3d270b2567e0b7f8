"""Mail to people whom an event names."""

from __future__ import annotations

from collections.abc import Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailgate.address import NULL_PATH, Address
from mailgate.events import AccountSuspected, LimitNear, Stopping
from mailgate.reporting.notices import Notices


class Post:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.sent: list[tuple[Address, list[str], bytes]] = []
        self.refuses = False
        self.notices = Notices(self._send, "gw.example.org", self.clock)

    def _send(self, sender: Address, recipients: Sequence[Address], octets: bytes) -> Deferred[str]:
        self.sent.append((sender, [str(one) for one in recipients], octets))
        return fail(OSError("full")) if self.refuses else succeed("Q")

    def last(self) -> EmailMessage:
        return message_from_bytes(self.sent[-1][2], policy=policy.default)

    def near(self, *notify: str, subject: str = "ann@example.org", is_reached: bool = False) -> None:
        now = self.clock.seconds()
        self.notices.observe(
            LimitNear(
                at=now,
                filter="quota",
                rule="messages per identity",
                subject=subject,
                count=80,
                limit=100,
                window=3600.0,
                until=now + 1800,
                is_reached=is_reached,
                notify=notify,
            )
        )


def test_a_limit_that_is_near() -> None:
    post = Post()
    post.near("ann@example.org", "postmaster@example.org")
    sender, recipients, octets = post.sent[0]
    assert sender == NULL_PATH
    assert recipients == ["ann@example.org", "postmaster@example.org"]
    assert b"\n" not in octets.replace(b"\r\n", b"")
    mail = post.last()
    assert mail["Subject"] == "The limit for mail of ann@example.org is near"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["From"] == "Mail gateway <postmaster@gw.example.org>"
    text = mail.get_content()
    assert "80 in 1h" in text
    assert "It begins anew in 30m" in text
    post.near("ann@example.org", is_reached=True)
    assert "More is not sent on before it begins anew, in 30m." in post.last().get_content()


def test_an_account_that_may_be_stolen() -> None:
    post = Post()
    post.notices.observe(
        AccountSuspected(
            at=0.0,
            user="ann",
            signals=("networks 12 in 1h, limit 5",),
            action="quarantine",
            until=1_800_003_600.0,
            notify=("postmaster@example.org",),
        )
    )
    assert post.last()["Subject"] == "The account ann may be stolen"
    text = post.last().get_content()
    assert "- networks 12 in 1h, limit 5" in text
    assert "2027-01-15 09:00 UTC" in text


def test_events_that_name_nobody_are_no_mail() -> None:
    post = Post()
    post.near()
    post.near("no address")
    post.notices.observe(Stopping(at=0.0))
    assert not post.sent


def test_what_others_have_written_makes_no_header() -> None:
    post = Post()
    post.near("ann@example.org", subject="x\r\nBcc: eve@example.net\r\n\r\nhello \ud800 " + "y" * 5000)
    mail = post.last()
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("The limit for mail of x Bcc: eve@example.net hello y")
    assert len(post.sent[0][2]) < 5000


def test_a_flood_of_events_is_no_flood_of_mail() -> None:
    post = Post()
    for _ in range(1000):
        post.near("ann@example.org")
    assert len(post.sent) == 60
    post.clock.advance(3600)
    post.near("ann@example.org")
    assert len(post.sent) == 61


def test_a_spool_that_takes_nothing_is_logged() -> None:
    post = Post()
    post.refuses = True
    post.near("ann@example.org")
    assert len(post.sent) == 1
