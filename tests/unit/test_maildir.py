"""Delivery into real Maildirs below a temporary folder; the thread pool runs its work at once."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import AddHeader, Content
from mailgate.relay.attempt import ITransport, Result
from mailgate.relay.discard import DiscardTransport
from mailgate.relay.maildir import IMaildirReactor, MaildirTransport

MESSAGE = b"From: ann@client.test\r\nSubject: one\r\n\r\n.dot\r\nGr\xc3\xbc\xc3\x9fe\r\n"

DELIVERED, DEFERRED, FAILED = OutcomeKind.DELIVERED, OutcomeKind.DEFERRED, OutcomeKind.FAILED


class Reactor(Clock):
    """A clock whose thread is the test's."""

    def callFromThread(  # noqa: N802  Twisted's name
        self, call: Callable[..., object], *values: Any, **more: Any
    ) -> None:
        call(*values, **more)


class Pool(ThreadPool):
    """A pool that works at once."""

    def callInThreadWithCallback(  # type: ignore[override]  # noqa: N802  Twisted's name
        self, done: Callable[[bool, Any], object], func: Callable[..., Any], *values: Any, **more: Any
    ) -> None:
        done(True, func(*values, **more))


class Box:
    def __init__(self, folder: Path, template: str = "{domain}/{local_part}", hostname: str = "gw.example") -> None:
        self.folder = folder
        self.clock = Reactor()
        self.clock.advance(1_700_000_000.25)
        self.transport = MaildirTransport(
            f"{folder}/{template}", hostname=hostname, reactor=cast(IMaildirReactor, self.clock), pool=Pool()
        )

    def deliver(self, *addresses: Address, content: Content | bytes = MESSAGE, **more: Any) -> list[Result]:
        content = content if isinstance(content, Content) else Content(content)
        recipients = tuple(EnvelopeRecipient(number, one, "box") for number, one in enumerate(addresses))
        values: dict[str, Any] = {"sender": Address("ann", "client.test"), **more}
        envelope = Envelope(queue_id="0Q", recipients=recipients, received=0.0, size=content.size, **values)
        found: list[Result] = []
        done = cast("Any", self.transport.deliver(envelope, recipients, content))
        done.addCallback(lambda results: found.extend(cast("Sequence[Result]", results)))
        return found

    def mails(self, box: str) -> list[bytes]:
        assert list((self.folder / box / "tmp").iterdir()) == []
        assert list((self.folder / box / "cur").iterdir()) == []
        return [path.read_bytes() for path in sorted((self.folder / box / "new").iterdir())]


BOB = Address("Bob", "example.org")


def test_a_mail_is_stored_with_its_trace_fields_and_lf_line_ends(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert verifyObject(ITransport, box.transport)
    (result,) = box.deliver(BOB, edits=(AddHeader("Received", "by gw.example"),))
    assert (result.kind, result.reply.code, result.next_host) == (DELIVERED, 250, False)
    assert box.mails("example.org/bob") == [
        b"Return-Path: <ann@client.test>\nDelivered-To: Bob@example.org\nReceived: by gw.example\n"
        + MESSAGE.replace(b"\r\n", b"\n")
    ]
    (path,) = (tmp_path / "example.org/bob/new").iterdir()
    assert path.name in str(result.reply)
    assert path.name.startswith("1700000000.M250000P")
    assert path.name.endswith("Q0.gw.example")


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    Box(tmp_path).deliver(BOB)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_every_mail_has_its_own_name_and_every_recipient_its_own_copy(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for _ in range(3):
        assert [one.kind for one in box.deliver(BOB, Address("carl", "example.org"))] == [DELIVERED, DELIVERED]
    assert len(box.mails("example.org/bob")) == 3
    assert [mail.count(b"Delivered-To: carl@example.org\n") for mail in box.mails("example.org/carl")] == [1, 1, 1]


def test_a_return_path_that_came_along_goes(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.deliver(BOB, content=b"Return-Path: <forged@x.test>\r\nreturn-path: <b@x.test>\r\n\r\nx\r\n", sender=NULL_PATH)
    assert box.mails("example.org/bob") == [b"Return-Path: <>\nDelivered-To: Bob@example.org\n\nx\n"]


def test_content_in_a_file_keeps_its_line_ends_whole_at_every_cut(tmp_path: Path) -> None:
    data = b"A: b\r\n\r\n" + (b"x" * 5 + b"\r\n") * 100_000 + b"no line end"
    path = tmp_path / "content"
    path.write_bytes(data)
    box = Box(tmp_path / "mail")
    assert [one.kind for one in box.deliver(BOB, content=Content.in_file(path))] == [DELIVERED]
    (mail,) = box.mails("example.org/bob")
    assert mail.endswith(data.replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("local_part", ["..", ".", "../../etc", "a/b", "/etc", ".hidden", "x\0y", "a\nb", "", "\udc80"])
def test_a_local_part_that_is_no_name_of_a_folder(tmp_path: Path, local_part: str) -> None:
    box = Box(tmp_path / "mail")
    (result, good) = box.deliver(Address(local_part, "example.org"), BOB)
    assert (result.kind, result.reply.code, result.reply.status) == (FAILED, 553, "5.1.3")
    assert good.kind is DELIVERED
    assert [path.name for path in (tmp_path / "mail/example.org").iterdir()] == ["bob"]


@pytest.mark.parametrize("domain", ["..", "a/b", "", "x" * 256])
def test_a_domain_that_is_no_name_of_a_folder(tmp_path: Path, domain: str) -> None:
    assert Box(tmp_path).deliver(Address("bob", domain))[0].kind is FAILED
    assert list(tmp_path.iterdir()) == []


def test_only_the_parts_that_the_path_names_have_to_be_names(tmp_path: Path) -> None:
    box = Box(tmp_path, "{domain}")
    assert box.deliver(Address("a/b", "Example.org"))[0].kind is DELIVERED
    assert len(box.mails("example.org")) == 1


def test_odd_but_possible_names(tmp_path: Path) -> None:
    box = Box(tmp_path, hostname="a/b:c")
    for local_part in ("bob+lists", "a b", "{domain}", "x" * 64, "jürgen"):
        assert box.deliver(Address(local_part, "[ipv6:::1]"))[0].kind is DELIVERED
        assert len(box.mails(f"[ipv6:::1]/{local_part}")) == 1
    (path,) = (tmp_path / "[ipv6:::1]/a b/new").iterdir()
    assert path.name.endswith(r".a\057b\072c")


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.ENOSPC, "4.3.1"), (errno.EDQUOT, "4.2.2"), (errno.EIO, "4.3.0")],
)
def test_a_disk_that_fails_defers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: str
) -> None:
    box = Box(tmp_path)
    box.deliver(BOB)

    def fail(_descriptor: int) -> None:
        raise OSError(number, "the disk says no", "/secret/path")

    monkeypatch.setattr(os, "fsync", fail)
    (result,) = box.deliver(BOB)
    assert (result.kind, result.reply.status) == (DEFERRED, status)
    assert "/secret/path" in result.reason
    assert "/secret/path" not in str(result.reply)
    assert len(box.mails("example.org/bob")) == 1


def test_a_mail_is_synced_before_it_appears_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path)
    box.deliver(BOB)
    new = tmp_path / "example.org/bob/new"
    synced: list[tuple[bool, int]] = []

    def note(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), len(list(new.iterdir()))))

    monkeypatch.setattr(os, "fsync", note)
    box.deliver(BOB)
    assert synced == [(False, 1), (True, 2)]


def test_a_path_that_cannot_be_a_maildir_defers(tmp_path: Path) -> None:
    (tmp_path / "example.org").write_text("a file")
    assert Box(tmp_path).deliver(BOB)[0].kind is DEFERRED


def test_content_that_is_gone_defers_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(MESSAGE)
    content = Content.in_file(path)
    content.discard()
    box = Box(tmp_path / "mail")
    assert box.deliver(BOB, content=content)[0].kind is DEFERRED
    assert box.mails("example.org/bob") == []


def test_discard_says_why() -> None:
    transport = DiscardTransport("a test system sends no mail")
    assert verifyObject(ITransport, transport)
    recipients = (EnvelopeRecipient(0, BOB, "nowhere"), EnvelopeRecipient(1, BOB, "nowhere"))
    envelope = Envelope(queue_id="0Q", sender=NULL_PATH, recipients=recipients, received=0.0, size=5)
    found: list[Result] = []
    transport.deliver(envelope, recipients, Content(b"hello")).addCallback(found.extend)
    assert [(one.recipient, one.kind, one.reason) for one in found] == [
        (recipient, OutcomeKind.DISCARDED, "a test system sends no mail") for recipient in recipients
    ]
