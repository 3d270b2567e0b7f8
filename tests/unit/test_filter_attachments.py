"""Attachments: what is found in them, what is done about it, and what is left of a message."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mailgate.content.models import Examination, Problem, Question
from mailgate.envelope import Transaction
from mailgate.filters.attachments import AttachmentResult, Attachments, Options, build
from mailgate.filters.examining import UnreadResult
from mailgate.message import AddHeader, Edit, Message, RemoveHeader, Splice, check_body_edits
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict
from tests.unit.mime_carriers import TEXT, binhexed, mixed, part, yencoded
from tests.unit.test_content_archives import EXE, packed
from tests.unit.test_content_documents import MESSAGE, compound, document

FACTORY = FilterMaker("attachments", "mailgate.filters.attachments", "attachments by what they are")


def file(name: str, data: bytes, kind: str = "application/octet-stream") -> bytes:
    return part(
        f'Content-Type: {kind}; name="{name}"'.encode(),
        b"Content-Transfer-Encoding: base64",
        body=base64.encodebytes(data).replace(b"\n", b"\r\n").rstrip(),
    )


def mail(*parts: bytes) -> Message:
    return message(mixed(TEXT, *parts))


class Desk:
    def __init__(self, **options: Any) -> None:
        built = build(Options.model_validate(options), services())
        assert isinstance(built, Attachments)
        self.filter = built
        self.transaction: Transaction = transaction()

    def judge(self, mail: Message) -> Verdict | None:
        verdict = wait_for(self.filter.on_message(session(), self.transaction, mail))
        for one in getattr(verdict, "evidence", ()):
            self.transaction.evidence.add(one)
        return verdict

    def edits(self, mail: Message) -> list[Edit]:
        return list(wait_for(self.filter.modify(session(), self.transaction, mail)))

    def kinds(self) -> set[tuple[str, str]]:
        return {(one.kind, one.detail) for one in self.transaction.evidence.all(AttachmentResult)}


def spliced(mail: Message, edits: Sequence[Edit]) -> bytes:
    data = mail.content.read()
    for one in sorted((one for one in edits if isinstance(one, Splice)), key=lambda one: -one.start):
        data = data[: one.start] + one.data + data[one.end :]
    return data


def test_harmless_mail_passes() -> None:
    desk = Desk()
    assert desk.judge(mail(file("a.pdf", document({}), "application/pdf"), file("b.txt", b"Hello"))) is None
    assert desk.edits(mail()) == []


@pytest.mark.parametrize(
    ("one", "detail"),
    [
        (file("a.exe", b"Hello"), "exe"),
        (file("A.EXE. ", b"Hello"), "exe"),
        (file("a.pdf.scr", b"Hello"), "scr"),
        (file("a.txt", EXE), "executable"),
        (file("a", b"Hello", "application/x-msdownload"), "executable"),
        (file("a.zip", packed({"b.exe": b"Hello"})), "exe"),
        (file("a.zip", packed({"b.txt": EXE})), "executable"),
        (file("a.msg", compound(MESSAGE), "application/vnd.ms-outlook"), "exe"),
        (file("a.pdf", document({"b.txt": EXE}), "application/pdf"), "executable"),
        (part(b"Content-Type: text/plain", body=binhexed(b"b.txt", EXE)), "executable"),
        (part(b"Content-Type: text/plain", body=yencoded(b"b.js", b"Hello")), "js"),
        (part(b"Content-Type: text/plain", b"Content-Type: application/x-msdownload", body=b"Hello"), "executable"),
        (file("a.zip", packed({"b.zip": packed({"c.js": b"x"})})), "js"),
        (file("a.dat", packed({"b.exe": b"Hello"})), "exe"),
    ],
)
def test_files_that_run_are_rejected(one: bytes, detail: str) -> None:
    desk = Desk()
    verdict = desk.judge(mail(one))
    assert isinstance(verdict, Reject)
    assert str(verdict.reply).startswith("550 5.7.1 An attachment of this message is not accepted here: ")
    assert ("blocked", detail) in desk.kinds()
    assert any(
        f"attachments.blocked.{detail}" in one.facts() for one in desk.transaction.evidence.all(AttachmentResult)
    )


def test_names_and_types_of_ones_own() -> None:
    desk = Desk(names=["*invoice*.html"], types=["video/*"], extensions=["xyz"])
    assert isinstance(desk.judge(mail(file("My Invoice 7.HTML", b"x"))), Reject)
    assert isinstance(desk.judge(mail(file("a", b"x", "video/mp4"))), Reject)
    assert isinstance(desk.judge(mail(file("a.xyz", b"x"))), Reject)
    assert desk.judge(mail(file("a.exe", b"x"))) is None


def test_archives_can_be_left_alone() -> None:
    assert Desk(in_archives=False).judge(mail(file("a.zip", packed({"b.exe": b"Hello"})))) is None


def test_each_kind_has_its_action() -> None:
    macro = packed({"[Content_Types].xml": b"<x/>", "word/vbaProject.bin": b"x"})
    pdf = b"%PDF-1.7\n<< /Encrypt 1 0 R >>"
    broken = packed({"a.txt": b"Hello" * 100})[:40]
    for option, one, kind in (
        ("macros", file("a.docm", macro), "macro"),
        ("encrypted_documents", file("a.pdf", pdf), "encrypted-document"),
        ("broken", file("a.zip", broken), "broken"),
        ("mismatch", file("a.jpg", pdf), "mismatch"),
        ("embedded", file("a.pdf", b"%PDF-1.7\n<< /JS (x) >>"), "embedded"),
        ("opaque", file("a.pst", b"!BDN" + bytes(100)), "opaque"),
        ("opaque", file("a.pdf", b"%PDF-1.7\n<< /JS (x) >>"), "opaque"),
        ("sealed", part(b"Content-Type: text/plain", body=b"-----BEGIN PGP MESSAGE-----\r\n\r\nab"), "sealed"),
    ):
        words = ("macros", "encrypted", "encrypted_documents", "broken", "mismatch", "opaque")
        quiet = dict.fromkeys(words, "continue")
        for action, expected in (("reject", Reject), ("quarantine", Quarantine), ("tag", Continue)):
            desk = Desk(**quiet | {option: action})
            verdict = desk.judge(mail(one))
            assert isinstance(verdict, expected), (option, action, verdict)
            assert kind in {found for found, _ in desk.kinds()}
            tags = [edit.value for edit in desk.edits(mail(one)) if isinstance(edit, AddHeader)]
            assert tags == ([kind] if action == "tag" else [])


def test_a_tag_of_the_sender_is_removed() -> None:
    forged = message(b"X-Mailgate-Attachments: none\r\n" + mixed(TEXT))
    assert Desk().edits(forged) == [RemoveHeader("X-Mailgate-Attachments")]


def test_a_part_is_stripped_and_the_rest_stays() -> None:
    desk = Desk(blocked="strip", note="{name} was {kind} in {id}")
    other = file("b.txt", b"Hello")
    original = mail(file("a.exe", EXE), other)
    verdict = desk.judge(original)
    assert isinstance(verdict, Continue)
    changed = spliced(original, desk.edits(original))
    start = original.content.read().index(b'Content-Type: application/octet-stream; name="a.exe"')
    assert changed[:start] == original.content.read()[:start]
    assert other in changed
    assert EXE not in changed
    note = base64.b64encode(b"a.exe was blocked in 01TESTMESSAGE000")
    assert note in changed.replace(b"\r\n", b"")
    assert wait_for(Desk(blocked="reject").filter.on_message(session(), transaction(), message(changed))) is None


def test_a_part_is_stripped_for_what_is_in_it_and_in_what_it_is() -> None:
    archive = file("a.zip", packed({"b.exe": EXE}))
    encoded = part(
        b"Content-Type: message/rfc822",
        b"Content-Transfer-Encoding: base64",
        body=base64.encodebytes(mixed(archive)).replace(b"\n", b"\r\n"),
    )
    for original in (mail(archive), mail(encoded), mail(part(b"Content-Type: message/rfc822", body=mixed(archive)))):
        desk = Desk(blocked="strip")
        assert isinstance(desk.judge(original), Continue)
        changed = spliced(original, desk.edits(original))
        assert TEXT in changed
        assert wait_for(Desk().filter.on_message(session(), transaction(), message(changed))) is None


def test_a_message_that_is_nothing_but_the_file_becomes_the_note() -> None:
    desk = Desk(blocked="strip")
    original = message(b"From: a@client.example\r\n" + file("a.exe", EXE))
    desk.judge(original)
    edits = desk.edits(original)
    assert [one.name for one in edits if isinstance(one, RemoveHeader)] == ["Content-Type", "Content-Transfer-Encoding"]
    added = {one.name: one.value for one in edits if isinstance(one, AddHeader)}
    assert added["Content-Transfer-Encoding"] == "base64"
    body = spliced(original, edits).partition(b"\r\n\r\n")[2]
    assert b"a.exe" in base64.b64decode(body)


def test_originals_are_kept_before_anything_is_stripped(tmp_path: Path) -> None:
    desk = Desk(blocked="strip", originals=str(tmp_path))
    original = mail(file("a.exe", EXE))
    desk.judge(original)
    assert desk.edits(original)
    kept = tmp_path / "01TESTMESSAGE000.eml"
    assert kept.read_bytes() == original.content.read()
    assert kept.stat().st_mode & 0o777 == 0o600
    desk = Desk(blocked="strip", originals=str(tmp_path / "missing"))
    desk.judge(original)
    with pytest.raises(FileNotFoundError):
        desk.edits(original)


def test_what_cannot_be_stripped_is_kept_back() -> None:
    bomb = mail(file("a.zip", packed({"a": bytes(50_000_000)})))
    assert isinstance(Desk(beyond_limits="strip").judge(bomb), Quarantine)


def test_limits_have_their_action() -> None:
    bomb = mail(file("a.zip", packed({"a": bytes(50_000_000)})))
    desk = Desk()
    assert isinstance(desk.judge(bomb), Quarantine)
    assert ("limits", "ratio") in desk.kinds()
    assert isinstance(Desk(beyond_limits="continue").judge(bomb), Continue)
    deep = b"x"
    for _ in range(6):
        deep = packed({"a.zip": deep})
    desk = Desk(beyond_limits="reject")
    assert isinstance(desk.judge(mail(file("a.zip", deep))), Reject)
    assert ("limits", "depth") in desk.kinds()
    assert isinstance(Desk(max_files=10).judge(mail(*[TEXT] * 20)), Quarantine)


def test_many_findings_are_bounded_and_hide_none() -> None:
    desk = Desk(mismatch="continue")
    parts = [file(f"{number}.jpg", b"%PDF-1.7\n") for number in range(200)]
    assert isinstance(desk.judge(mail(*parts, file("a.exe", EXE))), Reject)
    assert len(list(desk.transaction.evidence.all(AttachmentResult))) <= 50


class Failing:
    def __init__(self, failure: Problem) -> None:
        self._found = Examination(failure=failure)

    async def ask(self, question: Question) -> Examination:
        return self._found


@pytest.mark.parametrize(
    ("word", "kind"), [("reject", Reject), ("defer", Defer), ("quarantine", Quarantine), ("continue", Continue)]
)
def test_what_cannot_be_read_has_its_action(word: str, kind: type[Verdict]) -> None:
    desk = Desk(unreadable=word)
    desk.filter._examining._examiner = Failing(Problem("time", "8 s were not enough"))
    verdict = desk.judge(mail())
    assert isinstance(verdict, kind)
    (result,) = desk.transaction.evidence.all(UnreadResult)
    assert result.facts() == ("attachments.unreadable", "attachments.unreadable.time")


def test_what_is_too_large_is_not_read() -> None:
    desk = Desk(max_size="1KiB")
    desk.judge(message(b"\r\n" + bytes(2000)))
    assert [one.kind for one in desk.transaction.evidence.all(UnreadResult)] == ["size"]


def test_a_file_of_another_filter_is_not_stripped_here() -> None:
    first, second = Desk(blocked="strip"), Desk(blocked="strip")
    original = mail(file("a.exe", EXE))
    first.judge(original)
    second.transaction = first.transaction
    assert second.edits(original) == []


@pytest.mark.parametrize(
    "options",
    [{"types": ["nonsense"]}, {"note": "{nonsense}"}, {"note": "{"}, {"header": "a b"}, {"timeout": "1h"}],
)
def test_mistakes_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each in its own words
        build(Options.model_validate(options), services())


class TestContract(FilterContract):
    factory = FACTORY
    settings: Mapping[str, object] = {"blocked": "strip"}

    def occasions(self) -> Iterable[Occasion]:
        yield Occasion()
        yield Occasion(message=mail(file("a.exe", EXE)))
        yield Occasion(message=mail(file("a.docm", packed({"[Content_Types].xml": b"vbaProject"}))))


def test_what_cannot_be_unpacked_is_broken() -> None:
    data = bytearray(packed({"b.txt": b"Hello" * 100}))
    for at in (8, data.rfind(b"PK\x01\x02") + 10):
        data[at] = 9  # Deflate64
    desk = Desk()
    assert isinstance(desk.judge(mail(file("a.zip", bytes(data)))), Quarantine)
    assert ("broken", "") in desk.kinds()


def test_a_part_without_a_body_leaves_the_delimiter_whole() -> None:
    empty = b"Content-Type: application/octet-stream; name=a.exe\r\n"
    original = mail(empty, TEXT)
    data = original.content.read().replace(empty + b"\r\n", empty)
    original = message(data)
    desk = Desk(blocked="strip")
    desk.judge(original)
    edits = desk.edits(original)
    check_body_edits(original.content, [], edits)
    changed = spliced(original, edits)
    assert changed.count(b"\r\n--b") == data.count(b"\r\n--b")
    unended = message(data[: data.index(empty)] + empty + b"\r\nMZ")
    desk = Desk(blocked="strip")
    desk.judge(unended)
    assert spliced(unended, desk.edits(unended)).endswith(b"\r\n")


def test_parts_inside_a_part_that_is_stripped_go_with_it() -> None:
    inner = b"--x\r\nContent-Type: application/octet-stream; name=b.exe\r\n\r\nMZ"
    original = mail(part(b"Content-Type: text/plain; name=a.exe", body=inner), TEXT)
    desk = Desk(blocked="strip")
    desk.judge(original)
    assert len({one.place for one in desk.transaction.evidence.all(AttachmentResult)}) == 2
    edits = desk.edits(original)
    check_body_edits(original.content, [], edits)
    assert TEXT in spliced(original, edits)


def test_very_many_parts_are_not_stripped_but_kept_back() -> None:
    assert isinstance(Desk(blocked="strip").judge(mail(*[file("a.exe", b"x")] * 101)), Quarantine)


def test_nothing_stays_of_a_message_that_says_it_holds_one() -> None:
    original = message(b"Content-Type: message/rfc822\r\n\r\nX-Inner: y\r\n" + file("a.exe", EXE))
    desk = Desk(blocked="strip")
    desk.judge(original)
    edits = desk.edits(original)
    check_body_edits(original.content, [], edits)
    body = spliced(original, edits).partition(b"\r\n\r\n")[2]
    assert b"a.exe" in base64.b64decode(body, validate=False)
    assert b"X-Inner" not in body


@pytest.mark.parametrize("text", [b"[image: logo]", b"[EXTERNAL]\r\n\r\nHello", b"[blue ball]", b"MZ, hello"])
def test_text_that_looks_like_something_else_passes(text: bytes) -> None:
    assert Desk().judge(mail(part(b"Content-Type: text/plain", body=text))) is None


def test_a_message_in_an_archive_is_looked_into() -> None:
    held = file("a.zip", packed({"b.eml": mixed(file("c.exe", b"Hello"))}))
    desk = Desk(blocked="strip")
    original = mail(held)
    desk.judge(original)
    assert ("blocked", "exe") in desk.kinds()
    assert held not in spliced(original, desk.edits(original))
    deep = mixed(file("c.exe", b"Hello"))
    for _ in range(60):
        deep = mixed(file("a.zip", packed({"b.eml": deep})))
    desk = Desk()
    assert isinstance(desk.judge(message(deep)), Quarantine)
    assert ("limits", "nesting") in desk.kinds()
