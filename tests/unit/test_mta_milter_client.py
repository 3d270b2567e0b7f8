"""Our own client of milters, the filter, at our own milter: what one says the other understands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailgate.envelope import Identity
from mailgate.events import Judged, Refused
from mailgate.message import AddHeader, Edit, RemoveHeader, Splice, apply_edits, edited_body
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from mailgate.wire.milter.codec import packet
from mailgate.wire.milter.words import Code
from tests.unit.milter_peer import MilterPeer, Said
from tests.unit.milter_stand import Desk
from tests.unit.test_filter_milter import BOB, EVE, Mail

TEXT = b"Subject: one\r\nX-Odd:two\r\n\tlines\r\n\r\nHello\r\n"
NO = Reply.of(550, "5.7.1", "Not 100% liked")
LATER = Reply(450, "4.7.1", ("Come", "again"))


class Ours(MilterPeer):
    """What the client says goes to our milter."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.desk = Desk(folder)

    def answers(self, code: Code, data: bytes) -> Said:
        return self.desk.send(packet(code, data))


@pytest.fixture
def ours(tmp_path: Path) -> Ours:
    return Ours(tmp_path)


def test_a_session_goes_through(ours: Ours) -> None:
    mail = Mail(ours, protocol=6)
    assert mail.opens(identity=Identity("ann", "PLAIN")) is None
    assert isinstance(mail.brings(BOB, EVE, text=TEXT), Continue)
    assert isinstance(mail.brings(BOB, number="M2"), Continue)
    found = ours.desk.judge
    assert found.session is not None
    assert str(found.session.client) == str(mail.session.client)
    assert found.session.identity == Identity("ann", "PLAIN")
    assert [event.ident for event in ours.desk.events.of(Judged)] == ["M1", "M2"]
    mail.closes()
    assert not ours.desk.transport.is_open


@pytest.mark.parametrize("version", [2, 3, 4, 6])
def test_the_content_comes_through_as_it_is(ours: Ours, version: int) -> None:
    mail = Mail(ours, protocol=version)
    mail.opens()
    assert isinstance(mail.brings(text=TEXT), Continue)
    assert ours.desk.judge.content == (TEXT if version == 6 else TEXT.replace(b"X-Odd:two", b"X-Odd: two"))


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt", "data", "message"])
@pytest.mark.parametrize("verdict", [Reject(NO, "why"), Defer(LATER, "why"), Disconnect(LATER, "why")])
def test_what_one_refuses_the_other_refuses_in_the_same_words(ours: Ours, stage: str, verdict: Any) -> None:
    ours.desk.judge.says[stage] = lambda *_: verdict
    mail = Mail(ours)
    found = mail.opens() or mail.brings()
    assert isinstance(found, Reject | Defer | Disconnect)
    assert found.reply.lines == verdict.reply.lines
    if isinstance(verdict, Disconnect) or (stage == "connect" and isinstance(verdict, Defer)):
        assert found.reply.code == 421
    else:
        assert found.reply.code == verdict.reply.code
    assert ours.desk.events.of(Refused)[0].stage == stage


@pytest.mark.parametrize("verdict", [Quarantine("odd"), Discard("odd")])
def test_what_is_kept_back_is_kept_back(ours: Ours, verdict: Verdict) -> None:
    ours.desk.judge.says["message"] = lambda *_: verdict
    mail = Mail(ours)
    mail.opens()
    found = mail.brings()
    assert type(found) is type(verdict)


@pytest.mark.parametrize("version", [4, 6])
def test_what_one_changes_the_other_changes(ours: Ours, version: int) -> None:
    edits: list[Edit] = [
        RemoveHeader("subject"),
        AddHeader("Subject", "[EXT] one"),
        AddHeader("X-End", "a\r\n\tb", at_end=True),
    ]

    def message(_session: Any, transaction: Any, message: Any) -> Verdict:
        size = message.content.size
        transaction.edits += [*edits, Splice(size - len(b"Hello\r\n"), size, b"Bye\r\n")]
        return Continue()

    ours.desk.judge.says["message"] = message
    mail = Mail(ours, protocol=version)
    mail.opens()
    assert isinstance(mail.brings(text=TEXT if version == 6 else TEXT.replace(b":two", b": two")), Continue)
    content = mail.message.content
    changed = mail.edits()
    assert apply_edits(content.header, changed) == apply_edits(content.header, edits)
    assert b"".join(edited_body(content, changed)) == b"Bye\r\n"
