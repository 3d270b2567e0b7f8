"""Mail in files: what is found and what is left out, and that nothing of it is changed."""

from __future__ import annotations

import mailbox
import os
import re
from pathlib import Path

import pytest

from mailgate.address import Address
from mailgate.config.rehearsal import USUAL_TAGS
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.rehearsal import files
from mailgate.rehearsal.files import FileReader
from mailgate.rehearsal.recorded import Recorded, UnreadableError
from mailgate.rehearsal.tags import Tag, outcome_of

RECEIVED = "Received: from far.test (far.test [192.0.2.1])\n\tby old.test; Thu, 26 Nov 2026 10:00:00 +0000\n"
TRACE = f"Return-Path: <ann@far.test>\nDelivered-To: bob@box.test\n{RECEIVED}"
SENT = "From: ann@far.test\nSubject: hello\n\nthe text\n"
MAIL = (TRACE + SENT).encode()
ON_THE_WIRE = SENT.encode().replace(b"\n", b"\r\n")
LOCAL = NetworkSet(LOCAL_NETWORKS)


class Reader:
    """A reader, and what it has left out."""

    def __init__(self, *to: str, tags: tuple[str, ...] = USUAL_TAGS) -> None:
        self.skipped: list[str] = []
        self.reader = FileReader(
            LOCAL.__contains__,
            lambda domain: domain == "box.test",
            tuple(map(Address.parse, to)),
            [Tag.parse(one) for one in tags],
            lambda name, reason: self.skipped.append(f"{Path(name).name}: {reason}"),
        )

    def read(self, path: Path) -> list[Recorded]:
        return [place.read() for place in self.reader.places(path)]

    def names(self, path: Path) -> list[str]:
        return [str(Path(place.name).relative_to(path)) for place in self.reader.places(path)]


def octets(mail: Recorded) -> bytes:
    assert mail.content is not None
    return mail.content.read()


def write(path: Path, data: bytes = MAIL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data", [MAIL, MAIL.replace(b"\n", b"\r\n"), MAIL.replace(b"hello\n", b"hello\r\n")], ids=["file", "wire", "mixed"]
)
def test_a_message_is_judged_as_it_came(tmp_path: Path, data: bytes) -> None:
    (mail,) = Reader().read(write(tmp_path / "any name", data))
    assert octets(mail) == ON_THE_WIRE
    assert (str(mail.sender), [str(one) for one in mail.recipients]) == ("ann@far.test", ["bob@box.test"])
    assert (str(mail.address), mail.helo, mail.then) == ("192.0.2.1", "far.test", ("taken",))
    assert mail.received == 1795687200.0


def test_a_maildir_and_folders_within(tmp_path: Path) -> None:
    for name in ("cur/1:2,S", "new/2", "tmp/3", ".Junk/cur/4", "notes/5.eml", "notes/6.txt", "dovecot.index"):
        write(tmp_path / name)
    reader = Reader()
    assert reader.names(tmp_path) == [".Junk/cur/4", "cur/1:2,S", "new/2", "notes/5.eml"]
    assert reader.skipped == []


def test_no_link_leads_elsewhere_or_round_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "box" / "a.eml")
    (tmp_path / "box" / "again").symlink_to(tmp_path / "box")
    os.mkfifo(tmp_path / "box" / "pipe.eml")
    reader = Reader()
    assert reader.names(tmp_path / "box") == ["a.eml"]
    deep = tmp_path.joinpath("deep", *"abcdefghijklmnopqrstuvwxyz")
    write(deep / "b.eml")
    assert reader.names(tmp_path / "deep") == []
    assert reader.skipped == ["u: folders within folders, too many"]


def test_an_mbox_is_read_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "box"
    box = mailbox.mbox(path)
    for number in (1, 2):
        message = mailbox.mboxMessage(SENT.replace("hello", f"number {number}"))
        message.set_from(f"eve{number}@far.test Thu Nov 26 10:00:00 2026")
        box.add(message)
    box.close()
    before = path.read_bytes(), path.stat().st_mtime_ns
    found = Reader("bob@box.test").read(path)
    assert [str(one.sender) for one in found] == ["eve1@far.test", "eve2@far.test"]
    assert b"number 2" in octets(found[1])
    assert octets(found[0]).startswith(b"From: ann@far.test\r\n")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    path.rename(tmp_path / "x.mbox")
    assert [place.name for place in Reader().reader.places(tmp_path)] == [
        f"{tmp_path}/x.mbox, number 1",
        f"{tmp_path}/x.mbox, number 2",
    ]


def test_what_cannot_be_judged_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.eml", SENT.encode())
    with pytest.raises(UnreadableError, match="--to says so"):
        Reader().read(path)
    assert [str(one) for one in Reader("x@y.test").read(path)[0].recipients] == ["x@y.test"]
    monkeypatch.setattr(files, "MOST_OCTETS", 10)
    with pytest.raises(UnreadableError, match="larger than 10 octets"):
        Reader("x@y.test").read(path)
    box = write(tmp_path / "b.mbox", b"From a@b.test Thu Nov 26 10:00:00 2026\n" + MAIL)
    with pytest.raises(UnreadableError, match="larger than 10 octets"):
        Reader().read(box)
    reader = Reader()
    assert reader.read(tmp_path / "none") == []
    assert reader.skipped == ["none: No such file or directory"]


@pytest.mark.parametrize(
    ("field", "tags", "expected"),
    [
        ("X-Spam-Flag: YES", USUAL_TAGS, "quarantined"),
        ("X-Spam-Status: Yes, score=9", USUAL_TAGS, "quarantined"),
        ("X-Spam-Status: No, score=1", USUAL_TAGS, "taken"),
        ("X-Verdict: virus found", ("X-Verdict: virus|spam",), "quarantined"),
        ("X-Spam-Flag: YES", ("X-Verdict: virus",), "taken"),
    ],
)
def test_what_was_taken_for_spam(tmp_path: Path, field: str, tags: tuple[str, ...], expected: str) -> None:
    path = write(tmp_path / "a.eml", f"{field}\n".encode() + MAIL)
    assert Reader(tags=tags).read(path)[0].then == (expected,)


@pytest.mark.parametrize("text", ["X-Spam", ": yes", "X-Spam: (", ""])
def test_a_tag_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Tag.parse(text)
    assert outcome_of([], [Tag.parse("X: y")]) == "taken"
