"""Digests of the quarantine: when they are sent, to whom, of what; what a restart, a clock or a spool does to them."""

from __future__ import annotations

import datetime
import email
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from mailgate.address import NULL_PATH, Address
from mailgate.config.digest import DigestSection, excluded_filters
from mailgate.config.schema import FilterSection
from mailgate.interfaces import SpoolError
from mailgate.quarantine.digest import Digests, wanted_recipient
from mailgate.quarantine.digest_file import DigestFile
from mailgate.web.digest_mail import DigestMail
from mailgate.web.links import Links
from mailgate.web.quarantine_models import KeptEntry, KeptPage
from mailgate.web.rendering import Templates
from tests.unit.relaying import failures_logged

ZONE = ZoneInfo("Europe/Berlin")
LINKS = Links(b"s" * 32)
TEMPLATES = Templates()


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


def entry(queue_id: str, recipient: str = "ann@example.org", number: int = 0, **more: Any) -> KeptEntry:
    return KeptEntry(
        **{
            "queue_id": queue_id,
            "number": number,
            "sender": "eve@far.test",
            "recipient": recipient,
            "subject": f"offer {queue_id}",
            "from_": "Eve <eve@far.test>",
            "size": 1000,
            "reason": "looks like spam",
            "filter": "score",
            "received": at("2027-03-01 05:00"),
            "since": at("2027-03-01 05:00"),
            "expires": at("2027-04-01 05:00"),
            **more,
        }
    )


class Quarantine:
    """What recipients may see of it."""

    def __init__(self) -> None:
        self.entries: list[KeptEntry] = []
        self.hidden: set[str] = set()
        self.pages = 0
        self.fails = False

    async def listed(self, limit: int, after: str) -> KeptPage:
        if self.fails:
            raise SpoolError("disk")
        self.pages += 1
        start = int(after or 0)
        found = self.entries[start : start + limit]
        return KeptPage(entries=tuple(found), after=str(start + limit) if start + limit < len(self.entries) else "")

    async def is_for_recipients(self, queue_id: str, number: int, recipient: str) -> bool:
        there = any((one.queue_id, one.number) == (queue_id, number) for one in self.entries)
        return there and queue_id not in self.hidden


class Stand:
    """A gateway's digests, in Berlin, from a moment on."""

    def __init__(self, folder: Path, start: str = "2027-03-01 06:00", **section: Any) -> None:
        self.path = folder / "digests.db"
        self.clock = Clock()
        self.clock.rightNow = at(start)
        self.quarantine = Quarantine()
        self.section = DigestSection(**{"enabled": True, "from": "quarantine@example.org", **section})
        self.sent: list[tuple[str, bytes]] = []
        self.envelopes: set[Address] = set()
        self.before_send: Callable[[], None] = lambda: None
        self.begin()

    def begin(self) -> None:
        """A process."""
        mail = DigestMail(self.section, LINKS, TEMPLATES, url="https://mail.example.org", hostname="gate.example.org")
        self.digests = Digests(
            self.path,
            self.section,
            shown=self.quarantine,
            compose=mail.compose,
            send=self.send,
            wanted=wanted_recipient(self.section, {"example.org", "example.net"}.__contains__),
            clock=self.clock,
            zone=ZONE,
        )
        self.digests.start()

    async def send(self, sender: Address, recipients: Sequence[Address], octets: bytes) -> str:
        self.before_send()
        (recipient,) = recipients
        self.envelopes.add(sender)
        self.sent.append((str(recipient), octets))
        return "ID"

    def end(self) -> None:
        """The process ends."""
        stopped = Deferred.fromCoroutine(self.digests.stop())
        self.clock.advance(0)
        assert stopped.called

    def run(self, until: str) -> list[str]:
        """Who has been sent a digest until then."""
        count = len(self.sent)
        while self.clock.seconds() < at(until):
            # Zero seconds are between two mails of a round.
            calls = [call.getTime() for call in self.clock.getDelayedCalls()]
            due = min(min(calls, default=at(until)), at(until))
            self.clock.advance(max(due - self.clock.seconds(), 0.0))
        for _ in range(50):
            self.clock.advance(0)
        return [recipient for recipient, _ in self.sent[count:]]

    def mails(self) -> list[EmailMessage]:
        found = [email.message_from_bytes(octets, policy=SMTP) for _, octets in self.sent]
        assert all(isinstance(one, EmailMessage) for one in found)
        return found


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_each_recipient_is_told_once_at_its_time(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1"), entry("A1", "bob@example.org", 1), entry("A2")]
    assert stand.run("2027-03-01 06:59") == []
    assert stand.run("2027-03-01 07:01") == ["ann@example.org", "bob@example.org"]
    assert stand.run("2027-03-04 06:59") == []
    stand.quarantine.entries += [entry("A3", "bob@example.org")]
    assert stand.run("2027-03-04 07:01") == ["bob@example.org"]
    assert stand.envelopes == {NULL_PATH}
    ann, bob, again = (str(one.get_body(("plain",)).get_content()) for one in stand.mails())  # type: ignore[union-attr]
    assert ["offer A1" in ann, "offer A2" in ann] == [True, True]
    assert "offer A2" not in bob
    assert ["offer A1" in again, "offer A3" in again] == [False, True]


def test_the_mail_is_whole_and_for_nobody_else(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1"), entry("A2", "bob@example.org")]
    stand.run("2027-03-01 07:01")
    first, second = stand.mails()
    assert (str(first["To"]), str(second["To"])) == ("ann@example.org", "bob@example.org")
    assert first["From"].addresses[0].addr_spec == "quarantine@example.org"
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["List-Id"] == "<quarantine-digest.gate.example.org>"
    assert not first.defects
    assert not any(part.defects for part in first.walk())
    assert first.get_content_type() == "multipart/alternative"
    assert first["Message-ID"] != second["Message-ID"]
    octets = stand.sent[0][1]
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))
    assert octets.count(b"\n") == octets.count(b"\r\n")
    assert octets.isascii()
    for one, queue_id, recipient in ((first, "A1", "ann@example.org"), (second, "A2", "bob@example.org")):
        for kind in ("plain", "html"):
            text = str(one.get_body((kind,)).get_content())  # type: ignore[union-attr]
            links = {word.strip('"<>') for word in text.replace("=", " ").split() if "/release/" in word}
            tokens = {link.partition("/release/")[2].partition('"')[0] for link in links}
            meant = [LINKS.read(token) for token in tokens]
            assert meant == [(queue_id, 0, recipient, int(at("2027-04-01 05:00")))]
            assert all(link.startswith("https://mail.example.org/release/") for link in links)


def test_what_others_wrote_is_text_in_the_mail(stand: Stand) -> None:
    evil = "<script>alert(1)</script>\r\nBcc: x@far.test\r\n\r\n<img src=x>\u202e{{7*7}}"
    names = ["ann@example.org", '"<b>"@example.org']
    stand.quarantine.entries = [entry("A1", one, subject=evil, from_=evil, reason=evil) for one in names]
    assert stand.run("2027-03-01 07:01") == sorted(names, key=str.lower)
    for one in stand.mails():
        assert one["Bcc"] is None
        assert not one.defects
        html = str(one.get_body(("html",)).get_content())  # type: ignore[union-attr]
        assert "<script" not in html
        assert "<img" not in html
        assert "<b>" not in html
        assert "{{7*7}}" in html
        text = str(one.get_body(("plain",)).get_content())  # type: ignore[union-attr]
        assert "\nBcc:" not in text
        assert "\u202e" not in text + html


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_text_makes_a_mail(subject: str, author: str) -> None:
    section = DigestSection(**{"from": "q@example.org", "organization": "Größe & Söhne", "contact": subject})  # type: ignore[arg-type]
    mail = DigestMail(section, LINKS, TEMPLATES, url="https://m.test", hostname="gate.test")
    one = entry("A1", subject=subject, from_=author)
    octets = mail.compose(Address.parse("ann@example.org"), [one], 3, "digest.x", 0.0)  # type: ignore[list-item]
    parsed = email.message_from_bytes(octets, policy=SMTP)
    assert not parsed.defects
    assert str(parsed["To"]) == "ann@example.org"
    assert [part.get_content_type() for part in parsed.walk()] == ["multipart/alternative", "text/plain", "text/html"]


def test_only_recipients_of_ours_that_are_wanted(tmp_path: Path) -> None:
    stand = Stand(tmp_path, recipients=["example.org", "carl@example.net"], never=["list@example.org"])
    names = ["ann@example.org", "List@example.org", "dora@example.net", "Carl@example.net", "eve@far.test", "x@y@z"]
    names += ["jörg@example.org"]
    stand.quarantine.entries = [entry(f"A{number}", one) for number, one in enumerate(names)]
    assert stand.run("2027-03-01 07:01") == ["ann@example.org", "Carl@example.net", "jörg@example.org"]
    octets = stand.sent[-1][1]
    assert "To: jörg@example.org\r\n".encode() in octets  # RFC 6532
    assert all(octets.isascii() for _, octets in stand.sent[:-1])


def test_no_digest_about_digests(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1", sender="", from_="Example <Quarantine@example.org>")]
    assert stand.run("2027-03-03 08:00") == []


def test_what_is_hidden_or_gone_is_not_told_and_crowds_nobody_out(tmp_path: Path) -> None:
    stand = Stand(tmp_path, max_entries=2)
    late = at("2027-03-01 06:00")
    stand.quarantine.entries = [entry("A1"), *(entry(one, received=late) for one in ("B1", "B2"))]
    stand.quarantine.hidden = {"B1", "B2"}
    assert stand.run("2027-03-01 07:01") == []
    assert stand.run("2027-03-02 07:01") == ["ann@example.org"]
    assert "offer A1" in str(stand.mails()[0].get_body(("plain",)).get_content())  # type: ignore[union-attr]


def test_more_than_a_mail_holds_comes_in_the_next(tmp_path: Path) -> None:
    stand = Stand(tmp_path, max_entries=2)
    stand.quarantine.entries = [entry(f"A{n}", received=at("2027-03-01 05:00") + n) for n in range(5)]
    for day, shown, more in ((1, {4, 3}, "3 more"), (2, {2, 1}, "1 more"), (3, {0}, None)):
        assert stand.run(f"2027-03-0{day} 07:01") == ["ann@example.org"]
        text = str(stand.mails()[-1].get_body(("plain",)).get_content())  # type: ignore[union-attr]
        assert {n for n in range(5) if f"offer A{n}" in text} == shown
        assert ("more, which are not listed" in text) == (more is not None)
        assert more is None or more in text
    assert stand.run("2027-03-09 07:01") == []


# -- restarts


def test_a_first_start_does_not_tell_in_the_middle_of_a_day(tmp_path: Path) -> None:
    stand = Stand(tmp_path, "2027-03-01 12:00")
    stand.quarantine.entries = [entry("A1")]
    assert stand.run("2027-03-02 06:59") == []
    assert stand.run("2027-03-02 07:01") == ["ann@example.org"]


def test_a_round_that_was_missed_comes_with_the_next_start(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1")]
    stand.run("2027-03-01 06:30")
    stand.end()
    stand.clock.rightNow = at("2027-03-03 11:00")
    stand.begin()
    assert stand.run("2027-03-03 11:01") == ["ann@example.org"]
    assert stand.run("2027-03-05 08:00") == []


def test_a_restart_in_the_middle_neither_loses_nor_doubles(stand: Stand) -> None:
    names = [f"user{n}@example.org" for n in range(6)]
    stand.quarantine.entries = [entry(f"A{n}", one) for n, one in enumerate(names)]

    def end() -> None:
        if len(stand.sent) == 2:
            stand.before_send = lambda: None
            stand.digests._is_running = False  # as `stop` does, which waits for this mail

    stand.before_send = end
    first = stand.run("2027-03-01 07:30")
    assert len(first) == 3
    stand.end()
    # What came meanwhile for whom has been told today waits for tomorrow.
    stand.quarantine.entries.append(entry("B1", names[0]))
    stand.begin()
    second = stand.run("2027-03-01 08:00")
    assert sorted(first + second) == names
    assert stand.run("2027-03-02 07:01") == [names[0]]


def test_killed_between_the_spool_and_the_file_the_same_mail_comes_again(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1")]

    real, killed = DigestFile.served, False

    def served(file: DigestFile, *values: Any) -> None:
        nonlocal killed
        if not killed:
            killed = True
            raise OSError("killed here")
        real(file, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DigestFile, "served", served)
        assert stand.run("2027-03-01 07:30") == ["ann@example.org"] * 2
    first, second = stand.mails()
    assert first["Message-ID"] == second["Message-ID"]
    assert stand.run("2027-03-03 08:00") == []


def test_a_spool_that_cannot_be_read_or_written_is_tried_again(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1")]
    stand.quarantine.fails = True
    assert stand.run("2027-03-01 07:20") == []
    stand.quarantine.fails = False

    def fail() -> None:
        raise SpoolError("full")

    stand.before_send = fail
    assert stand.run("2027-03-01 07:40") == []
    stand.before_send = lambda: None
    assert stand.run("2027-03-01 08:00") == ["ann@example.org"]


def test_one_mail_that_cannot_be_sent_stops_no_other(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1"), entry("A2", recipient="zoe@example.org")]

    def fail() -> None:
        stand.before_send = lambda: None
        raise ValueError("no route")

    stand.before_send = fail
    with failures_logged():
        assert stand.run("2027-03-01 08:00") == ["zoe@example.org"]
    assert stand.run("2027-03-02 08:00") == ["ann@example.org"]  # of whom nobody has told


# -- clocks


@pytest.mark.parametrize(
    ("time", "day"),
    [("02:30", "2027-03-28"), ("02:30", "2027-10-31"), ("03:00", "2027-03-28"), ("00:00", "2027-10-31")],
)
def test_days_that_have_an_hour_twice_or_not_at_all(tmp_path: Path, time: str, day: str) -> None:
    that = datetime.date.fromisoformat(day)
    before, after = that - datetime.timedelta(days=1), that + datetime.timedelta(days=1)
    stand = Stand(tmp_path, f"{before} 12:00", at=time)
    days: list[datetime.date] = []

    def sending() -> None:
        days.append(datetime.datetime.fromtimestamp(stand.clock.seconds(), ZONE).date())
        stand.quarantine.entries = [entry(f"A{len(days)}")]  # there is always something new

    stand.before_send = sending
    stand.quarantine.entries = [entry("A0")]
    stand.run(f"{after} 23:00")
    assert days == [that, after]


def test_a_clock_that_is_put_back_doubles_nothing(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1")]
    assert stand.run("2027-03-01 07:01") == ["ann@example.org"]
    stand.quarantine.entries.append(entry("A2"))
    stand.clock.rightNow = at("2027-03-01 06:00")
    for call in stand.clock.getDelayedCalls():
        call.reset(0)
    assert stand.run("2027-03-01 23:00") == []
    assert stand.run("2027-03-02 07:01") == ["ann@example.org"]


def test_a_clock_that_was_years_ahead_stops_nothing_for_long(stand: Stand) -> None:
    stand.end()
    stand.clock.rightNow = at("2040-01-01 08:00")
    file = DigestFile(stand.path)
    file.correct(datetime.date(2040, 1, 1))
    file.close()
    stand.clock.rightNow = at("2027-03-01 08:00")
    stand.quarantine.entries = [entry("A1")]
    stand.begin()
    assert stand.run("2027-03-02 06:59") == []
    assert stand.run("2027-03-02 07:01") == ["ann@example.org"]


# -- bounds


def test_a_hundred_thousand_entries_are_read_in_pages(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 100_000
    most = 0

    class Many(Sequence[KeptEntry]):
        """Made when they are asked for."""

        def __len__(self) -> int:
            return count

        def __getitem__(self, place: Any) -> Any:
            nonlocal most
            chosen = range(count)[place]
            most = max(most, len(chosen))
            return [entry(f"A{n:06}", f"user{n % 3}@example.org", received=float(n)) for n in chosen]

    stand.quarantine.entries = Many()  # type: ignore[assignment]

    async def yes(*_: object) -> bool:
        return True

    monkeypatch.setattr(stand.quarantine, "is_for_recipients", yes)
    assert stand.run("2027-03-01 07:01") == [f"user{n}@example.org" for n in range(3)]
    assert (most, stand.quarantine.pages) == (500, 200)
    assert all(len(octets) < 400_000 for _, octets in stand.sent)
    text = str(stand.mails()[0].get_body(("plain",)).get_content())  # type: ignore[union-attr]
    assert "There are 33234 more" in text


def test_what_is_gone_is_forgotten(stand: Stand) -> None:
    stand.quarantine.entries = [entry("A1"), entry("A2")]
    stand.run("2027-03-01 07:01")
    stand.quarantine.entries = [entry("A2")]
    stand.run("2027-03-02 07:01")
    stand.end()
    file = DigestFile(stand.path)
    assert [row[0] for row in file._database.execute("SELECT queue_id FROM told")] == ["A2"]
    assert file._database.execute("SELECT count(*) FROM pending").fetchone() == (0,)
    file.close()
    assert stand.path.stat().st_mode & 0o077 == 0


def test_filters_are_excluded_by_name_or_kind() -> None:
    filters = {"virus": FilterSection(kind="clamav"), "clamav": FilterSection(kind="score"), "x": FilterSection()}
    section = DigestSection(exclude=["clamav"])
    assert excluded_filters(section, filters) == {"clamav", "virus"}


# -- templates of the site

GERMAN = Path(__file__).parents[2] / "examples" / "digest-de"


def section(folder: Path) -> DigestSection:
    return DigestSection.model_validate({"templates": str(folder)}, context={"base": folder.parent})


def test_templates_of_a_site_speak_its_language() -> None:
    templates = Templates(section(GERMAN).templates)
    about = DigestSection(**{"from": "q@example.org", "contact": "Hausruf 12"})  # type: ignore[arg-type]
    mail = DigestMail(about, LINKS, templates, url="https://m.test", hostname="gate.test")
    octets = mail.compose(Address.parse("ann@example.org"), [entry("A1", subject="<b>")], 0, "digest.x", 0.0)  # type: ignore[list-item]
    one = email.message_from_bytes(octets, _class=EmailMessage, policy=SMTP)
    assert one["Subject"] == "1 Nachricht wird zurückgehalten"
    text, page = (str(one.get_body((kind,)).get_content()) for kind in ("plain", "html"))  # type: ignore[union-attr]
    assert "Betreff:   <b>" in text
    assert "<title>Zurückgehaltene Nachrichten</title>" in page
    assert "<td>&lt;b&gt;</td>" in page
    for what in ("wrong-link", "expired", "gone", "not-yours", "later", "no-form", "released"):
        values = {"organization": "", "contact": "", "title": "In English", "text": "In English", "what": what}
        said = templates.render("said.html", values)
        assert "English" not in said
        assert '<html lang="de">' in said


def test_a_template_that_fails_is_replaced_by_ours(tmp_path: Path) -> None:
    (tmp_path / "digest-subject.txt").write_text("{{ 1 // (count - 1) }}")
    templates = Templates(section(tmp_path).templates)
    with capturedLogs() as logged:
        assert templates.render("digest-subject.txt", {"count": 1}) == "1 mail is kept back\n"
        assert templates.render("digest-subject.txt", {"count": 2}) == "1"
    assert [one["name"] for one in logged] == ["digest-subject.txt"]


def test_templates_are_those_of_the_last_reload(tmp_path: Path) -> None:
    path = tmp_path / "digest-subject.txt"
    path.write_text("one")
    templates = Templates(section(tmp_path).templates)
    path.write_text("two")
    assert templates.render("digest-subject.txt", {}) == "one"
    assert Templates(tmp_path).render("digest-subject.txt", {}) == "two"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("digest.text.txt", b"", "is none of digest-subject.txt"),
        ("digest.txt", b"\n{% for %}", "digest.txt, line 2"),
        ("digest.txt", b"{{ recepient }}", "recepient is none of"),
        ("digest.txt", b"\xff", "not in UTF-8"),
        ("digest.txt", b"x" * 300_000, "longer than 256 KiB"),
    ],
)
def test_mistakes_in_templates_are_told(tmp_path: Path, name: str, text: bytes, error: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=error):
        section(tmp_path)


def test_a_folder_of_templates_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        section(tmp_path / "none")
