"""The history, in real files: what is found, by which words, and what goes when."""

from __future__ import annotations

import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.envelope import TraceStep, new_id
from mailgate.events import (
    Bounced,
    Delivered,
    Event,
    FilterFailed,
    MessageAccepted,
    OperatorActed,
    Refused,
    SessionClosed,
    Started,
)
from mailgate.observe.history import Found, History, read_history
from mailgate.observe.parts import SEGMENT, list_parts
from mailgate.observe.recorder import Recorder, Written
from mailgate.observe.render import Renderer

NOW = 1_772_357_400.0
DAY = 86400.0


class Account:
    """A history whose clock the test sets."""

    def __init__(self, directory: Path, keep: float = 14 * DAY, max_size: int = 2**30, min_free: int = 0) -> None:
        self.directory = directory
        self.now = NOW
        self.history = History(directory, keep=keep, max_size=max_size, min_free=min_free, now=lambda: self.now)
        self._renderer = Renderer()

    def write(self, *events: Event) -> None:
        self.history.write([Written(event, self._renderer.render(event)) for event in events])
        self.history.tidy()

    def find(self, subject: str, since: float = 0.0, limit: int = 10) -> Found:
        return read_history(self.directory, subject, since=since, limit=limit)

    def events_of(self, subject: str) -> list[list[str]]:
        return [[entry["event"] for entry in story.entries] for story in self.find(subject).stories]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    account = Account(tmp_path / "history")
    yield account
    account.history.close()


def accepted(queue_id: str = "3DQ5Y2VK8M7H1R0C", at: float = NOW, **more: object) -> MessageAccepted:
    return msgspec.structs.replace(
        MessageAccepted(
            at=at,
            queue_id=queue_id,
            session="3DQ5Y2VK8M7H1R0A",
            client="mail.example.net[192.0.2.7]",
            listener="mx",
            helo="client.test",
            sender="Ann@client.test",
            recipients=("bob@box.test", "carol@box.test"),
            size=4096,
            message_id="<One.Two@client.test>",
            trace=(TraceStep("rcpt", "recipients", "continue"),),
        ),
        **more,
    )


def delivered(queue_id: str = "3DQ5Y2VK8M7H1R0C", at: float = NOW, **more: object) -> Delivered:
    return msgspec.structs.replace(
        Delivered(
            at=at,
            queue_id=queue_id,
            sender="Ann@client.test",
            recipient="bob@box.test",
            route="box",
            host="h",
            reply="250 ok",
            attempt=1,
            seconds=0.1,
            delay=0.2,
        ),
        **more,
    )


@pytest.mark.parametrize(
    "subject",
    [
        "3DQ5Y2VK8M7H1R0C",
        "3dq5y2vk8m7h1r0c",
        "3DQ5Y2VK8M7H1R0A",
        "<one.two@CLIENT.test>",
        "One.Two@client.test",
        "ann@client.TEST",
        "bob@box.test",
        "carol@box.test",
        "192.0.2.7",
    ],
)
def test_a_mail_is_found_by_what_a_person_knows_of_it(account: Account, subject: str) -> None:
    account.write(accepted(), delivered())
    account.write(accepted(new_id(), session="S", client="[192.0.2.70]", sender="", message_id="", recipients=()))
    (story,) = account.find(subject).stories
    assert story.id == "3DQ5Y2VK8M7H1R0C"
    assert [entry["event"] for entry in story.entries] == ["message_accepted", "delivered"]
    assert story.entries[0]["trace"] == [{"stage": "rcpt", "filter": "recipients"}]


@pytest.mark.parametrize("subject", ["", "<>", "nobody@box.test", "box.test", "%", "3DQ5Y2VK8M7H1R0", "250 ok", "mx"])
def test_what_is_not_known_is_not_found(account: Account, subject: str) -> None:
    account.write(accepted(sender=""), delivered(sender=""))
    assert account.find(subject) == Found(())


def test_nothing_is_found_where_there_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "none", "bob@box.test") == Found(())


def test_a_story_has_everything_of_its_message_and_nothing_else(account: Account) -> None:
    account.write(
        accepted("A"),
        accepted("B"),
        OperatorActed(at=NOW, action="hold", queue_id="A", recipients=("bob@box.test",)),
        Bounced(
            at=NOW,
            queue_id="A",
            sender="Ann@client.test",
            recipient="bob@box.test",
            route="box",
            host="h",
            reply="550 no",
            attempt=3,
            seconds=0.1,
            reason="expired",
            report="R",
        ),
        delivered("R", sender="", recipient="ann@client.test"),
        SessionClosed(at=NOW, session="S", client="c", listener="mx", helo="h", messages=1, seconds=1.0, cause="quit"),
        Started(at=NOW, listeners=("mx",)),
    )
    assert account.events_of("A") == [["message_accepted", "operator_acted", "bounced"]]
    assert sorted(account.events_of("bob@box.test")) == [
        ["message_accepted"],
        ["message_accepted", "operator_acted", "bounced"],
    ]
    # A report's id leads to the mail that it is about, too.
    assert sorted(account.events_of("R")) == [["delivered"], ["message_accepted", "operator_acted", "bounced"]]
    assert account.find("S").stories == ()


def test_refusals_before_mail_belong_to_their_session(account: Account) -> None:
    refused = Refused(
        at=NOW,
        session="SESSION",
        client="unknown[2001:db8::5]",
        listener="mx",
        helo="",
        stage="connect",
        filter="access",
        reason="listed",
        reply="550 no",
    )
    failed = FilterFailed(
        at=NOW, filter="x", stage="connect", error="boom", on_failure="defer", session="SESSION", queue_id=""
    )
    account.write(
        failed, refused, msgspec.structs.replace(refused, queue_id="Q", recipient="bob@box.test", stage="rcpt")
    )
    assert account.events_of("2001:db8::5") == [["refused"], ["filter_failed", "refused"]]
    assert account.events_of("bob@box.test") == [["refused"]]


def test_the_parts_of_a_split_message_are_told_together(account: Account) -> None:
    other = accepted("OTHER", NOW + 1, recipients=("eve@box.test",), message_id="<other@x>")
    first = accepted("FIRST", recipients=("bob@box.test",))
    parts = [
        accepted(name, NOW + at, recipients=(f"{name}@box.test",), split_from="FIRST", trace=())
        for at, name in enumerate(("SECOND", "THIRD"))
    ]
    account.write(first, *parts, other, delivered("THIRD", NOW + 5, recipient="third@box.test"))
    for subject in ("FIRST", "second", "THIRD", "third@box.test", "bob@box.test", "<One.Two@client.test>"):
        found = account.find(subject)
        assert [story.id for story in found.stories] == ["FIRST", "SECOND", "THIRD"], subject
        assert [len(story.entries) for story in found.stories] == [1, 1, 2]
    assert [story.id for story in account.find("eve@box.test").stories] == ["OTHER"]
    assert [story.id for story in account.find("ann@client.test", limit=1).stories] == ["FIRST", "SECOND", "THIRD"]


def test_the_newest_come_first_and_the_limit_is_told(account: Account) -> None:
    for number in range(5):
        account.write(accepted(f"Q{number}", NOW + number), delivered(f"Q{number}", NOW + number))
    found = account.find("bob@box.test", limit=2)
    assert ([story.id for story in found.stories], found.more) == (["Q4", "Q3"], True)
    found = account.find("bob@box.test", since=NOW + 3)
    assert ([story.id for story in found.stories], found.more) == (["Q4", "Q3"], False)


def test_a_story_is_told_whole_also_before_since(account: Account) -> None:
    account.write(accepted(at=NOW))
    account.write(delivered(at=NOW + 1000))
    (story,) = account.find("bob@box.test", since=NOW + 500).stories
    assert len(story.entries) == 2


def test_more_than_one_segment(account: Account) -> None:
    count = SEGMENT + 10
    account.write(*(accepted(f"Q{number}", recipients=(f"u{number}@box.test",)) for number in range(count)))
    account.write(delivered("Q0", recipient="u0@box.test"))
    assert account.events_of("u0@box.test") == [["message_accepted", "delivered"]]
    assert account.events_of(f"u{count - 1}@box.test") == [["message_accepted"]]
    assert account.find("ann@client.test", limit=1).stories[0].id == "Q0"


@given(texts=st.lists(st.text(st.characters(), min_size=1, max_size=300), min_size=1, max_size=5))
def test_no_text_of_a_peer_spoils_the_account(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    account = Account(tmp_path_factory.mktemp("history"))
    for text in texts:
        account.write(accepted(helo=text, sender=text, recipients=(text, "bob@box.test"), message_id=text, client=text))
    assert account.history.lost == 0
    (story,) = account.find("bob@box.test").stories
    assert [entry["helo"] for entry in story.entries] == [
        text.encode("utf-8", "backslashreplace").decode() for text in texts
    ]
    account.history.close()


def test_a_name_with_brackets_does_not_hide_the_address(account: Account) -> None:
    account.write(accepted(client="a[10.0.0.1]b[192.0.2.9]"))
    assert account.events_of("192.0.2.9") == [["message_accepted"]]
    assert account.events_of("10.0.0.1") == []


def test_files_are_private(account: Account) -> None:
    account.write(accepted())
    assert account.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in account.directory.iterdir()} == {0o600}


def test_it_goes_on_after_a_restart_and_after_a_kill(tmp_path: Path) -> None:
    for number, kill in enumerate((True, False, True)):
        account = Account(tmp_path)
        account.write(accepted(f"Q{number}"))
        if not kill:
            account.history.close()
        assert len(account.find("bob@box.test").stories) == number + 1
    assert len(list_parts(tmp_path)) == 1


# -- what goes


def test_the_oldest_go_by_age(tmp_path: Path) -> None:
    account = Account(tmp_path, keep=16 * DAY)
    for day in range(40):
        account.now = NOW + day * DAY
        account.write(accepted(f"Q{day}", account.now))
    assert 16 <= len(account.find("bob@box.test", limit=100).stories) <= 19
    assert account.find("Q20").stories == ()
    # Without any mail the rest goes too.
    for day in range(40, 80):
        account.now = NOW + day * DAY
        account.history.tidy()
    assert account.find("bob@box.test") == Found(())
    assert len(list_parts(tmp_path)) == 1
    account.history.close()


def test_the_oldest_go_by_size(tmp_path: Path) -> None:
    most = 2 * 1024 * 1024
    account = Account(tmp_path, max_size=most)
    for number in range(0, 8000, 100):
        account.now += 1.0
        account.write(*(accepted(f"Q{one}", account.now, message_id=f"{one}") for one in range(number, number + 100)))
    sizes = [part.size for part in list_parts(tmp_path)]
    assert len(sizes) > 5
    assert most * 0.7 < sum(sizes) < most * 1.1
    assert account.find("Q7999").stories
    assert account.find("Q0").stories == ()
    account.history.close()
    again = Account(tmp_path, max_size=most // 2)
    again.now = account.now
    again.write(accepted("LAST"))
    assert sum(part.size for part in list_parts(tmp_path)) < most * 0.6
    assert again.find("LAST").stories
    again.history.close()


# -- what cannot be written or read


@contextmanager
def no_file_grows() -> Iterator[None]:
    """Every write behind the first octets of a file fails, as on a disk that is full."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_entries_and_the_gap_is_told(account: Account) -> None:
    account.write(accepted("A"))
    with no_file_grows():
        account.write(accepted("B"), delivered("B"))
        account.history.missed(4)
        account.write(accepted("C"))
        assert account.history.lost == 7
    account.write(accepted("D"))
    assert account.history.lost == 0
    found = account.find("bob@box.test")
    assert [story.id for story in found.stories] == ["D", "A"]
    assert found.lost == 7
    assert account.find("bob@box.test", since=NOW + 10).lost == 0


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with no_file_grows():
        account = Account(tmp_path)
        account.write(accepted("A"))
    assert account.history.lost == 1
    account.write(accepted("B"))
    assert [story.id for story in account.find("bob@box.test").stories] == ["B"]
    account.history.close()


def test_it_leaves_the_disk_to_the_mail(tmp_path: Path) -> None:
    account = Account(tmp_path, min_free=2**62)
    account.write(accepted("A"))
    assert account.history.lost == 1
    account.history.close()
    assert account.find("A").stories == ()


def test_a_file_that_is_no_history_is_set_aside(tmp_path: Path) -> None:
    account = Account(tmp_path)
    account.write(accepted("A"))
    account.history.close()
    (part,) = list_parts(tmp_path)
    part.path.write_bytes(b"not a database at all " * 1000)
    found = read_history(tmp_path, "A")
    assert (found.stories, found.unreadable) == ((), (part.path.name,))
    again = Account(tmp_path)
    again.now += 1
    again.write(accepted("B"))
    assert again.find("bob@box.test").stories[0].id == "B"
    assert (tmp_path / f"{part.path.stem}.unreadable").read_bytes().startswith(b"not a database")
    again.history.close()


def test_a_file_that_breaks_while_it_is_written_is_set_aside(account: Account) -> None:
    account.write(accepted("A"))
    (part,) = list_parts(account.directory)
    with sqlite3.connect(part.path) as other:
        other.execute("DROP TABLE entries")
        other.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, at, line, CHECK (id < 0))")
    account.write(accepted("B"))
    assert account.history.lost == 0
    account.now += 1
    account.write(accepted("C"))
    found = account.find("bob@box.test")
    assert [story.id for story in found.stories] == ["C"]
    assert found.lost == 1
    assert (account.directory / f"{part.path.stem}.unreadable").exists()


def test_a_newer_history_is_not_touched(tmp_path: Path) -> None:
    account = Account(tmp_path)
    account.history.close()
    (part,) = list_parts(tmp_path)
    with sqlite3.connect(part.path) as other:
        other.execute("PRAGMA user_version = 99")
    assert read_history(tmp_path, "A").unreadable == (part.path.name,)
    again = Account(tmp_path)
    again.now += 1
    again.write(accepted("B"))
    assert len(again.find("B").stories) == 1
    again.history.close()
    with sqlite3.connect(tmp_path / f"{part.path.stem}.unreadable") as other:
        assert other.execute("PRAGMA user_version").fetchone() == (99,)


def test_it_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    history = History(tmp_path, keep=DAY, max_size=2**23)
    recorder = Recorder([history], delay=0.0)
    counts: list[int] = []
    failures: list[str] = []

    def read() -> None:
        for _ in range(50):
            found = read_history(tmp_path, "bob@box.test", limit=10_000)
            failures.extend(found.unreadable)
            counts.append(len(found.stories))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(3000):
        recorder.observe(accepted(f"Q{number}"))
    reader.join()
    recorder.close()
    assert failures == []
    assert counts == sorted(counts)
    assert history.lost == 0
    assert len(list_parts(tmp_path)) > 2
    assert len(read_history(tmp_path, "bob@box.test", limit=10_000).stories) == 3000
