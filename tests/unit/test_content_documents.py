"""Files in documents and messages of Outlook, in PDF, in texts; and what nobody can look into."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import sys
import zlib
from collections.abc import Mapping
from itertools import pairwise

import pikepdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.content.compound import compound_files, package_of, rtf_files
from mailgate.content.examine import Examiner
from mailgate.content.intext import files_in
from mailgate.content.kinds import matches_kind
from mailgate.content.models import Limits, Question
from mailgate.content.office import OLE_MAGIC
from mailgate.content.pdf import Pdf
from mailgate.content.walk import Walk
from tests.unit.mime_carriers import MARKER, TEXT, binhexed, mixed, part, yencoded
from tests.unit.test_content_archives import EXE, Look, packed, tnef

_NONE, _END = 0xFFFFFFFF, 0xFFFFFFFE


def compound(files: Mapping[str, bytes]) -> bytes:
    """A compound file (MS-CFB) with these streams, each at a path of storages."""
    names: list[tuple[str, int, bytes]] = [("Root Entry", 5, b"")]
    children: dict[int, list[int]] = {0: []}
    known = {"": 0}
    for path, data in files.items():
        above = ""
        for name in path.split("/")[:-1]:
            here = f"{above}/{name}"
            if here not in known:
                known[here] = len(names)
                children[known[above]].append(len(names))
                children[len(names)] = []
                names.append((name, 1, b""))
            above = here
        children[known[above]].append(len(names))
        names.append((path.rpartition("/")[2], 2, data))
    right = {one: (two,) for many in children.values() for one, two in pairwise(many)}
    count = -(-len(names) // 4)
    blocks_of = [-(-max(len(data), 4096) // 512) for _, _, data in names if data]
    tables = -(-(count + sum(blocks_of) + 8) // 120)
    fat = [0xFFFFFFFD] * tables + [tables + n + 1 for n in range(count - 1)] + [_END]
    directory, blocks = b"", b""
    for number, (name, kind, data) in enumerate(names):
        start = _END
        if data:
            data = data.ljust(4096, b"\0")
            start, length = len(fat), -(-len(data) // 512)
            fat += [start + n + 1 for n in range(length - 1)] + [_END]
            blocks += data.ljust(512 * length, b"\0")
        text = name.encode("utf-16-le") + b"\0\0"
        child = children.get(number) or [_NONE]
        directory += text.ljust(64, b"\0") + struct.pack(
            "<HBBIII16sIQQIQ", len(text), kind, 1, _NONE, right.get(number, (_NONE,))[0], child[0], bytes(16), 0, 0, 0,
            start, len(data),
        )  # fmt: skip
    assert len(fat) <= 128 * tables
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack(
        "<HHHHH6xIIIIIIIII", 0x3E, 3, 0xFFFE, 9, 6, 0, tables, tables, 0, 4096, _END, 0, _END, 0
    )  # fmt: skip
    header += b"".join(struct.pack("<I", one) for one in range(tables))
    table = b"".join(struct.pack("<I", one) for one in fat).ljust(512 * tables, b"\xff")
    return header.ljust(512, b"\xff") + table + directory.ljust(512 * count, b"\0") + blocks


def outlook(name: str, data: bytes, within: str = "") -> dict[str, bytes]:
    """An attachment of a message of Outlook (MS-OXMSG 2.2.2)."""
    place = f"{within}__attach_version1.0_#00000000/__substg1.0_"
    return {f"{place}3707001F": name.encode("utf-16-le"), f"{place}37010102": data}


def package(name: bytes, data: bytes) -> bytes:
    """A stream of the object packager."""
    inner = b"\x02\0" + name + b"\0C:\\x\\" + name + b"\0\0\0\x03\0" + struct.pack("<I", 5) + b"C:\\x\0"
    inner += struct.pack("<I", len(data)) + data
    return struct.pack("<I", len(inner)) + inner


def document(files: Mapping[str, bytes], *, action: str = "", user: str | None = None, filler: int = 0) -> bytes:
    """A PDF with all that can be compressed in compressed objects."""
    made = pikepdf.new()
    made.add_blank_page()
    for name, data in files.items():
        made.attachments[name] = pikepdf.AttachedFileSpec(made, data, filename=name)
    if action:
        made.Root.OpenAction = made.make_indirect(pikepdf.Dictionary(S=pikepdf.Name(f"/{action}"), JS="x", F="y"))
    for _ in range(filler):
        made.make_indirect(pikepdf.Dictionary())
    buffer = io.BytesIO()
    encryption = pikepdf.Encryption(owner="owner", user=user) if user is not None else None
    made.save(buffer, object_stream_mode=pikepdf.ObjectStreamMode.generate, encryption=encryption or False)
    return buffer.getvalue()


MESSAGE = {"__properties_version1.0": bytes(32), **outlook("a.exe", EXE)}


def test_attachments_of_a_message_of_outlook() -> None:
    look = Look(compound(MESSAGE), "a.msg")
    assert "archive" in look.marks
    assert [one.name for one in look.members] == ["a.exe"]
    assert matches_kind(look.members[0].types, "executable")


def test_a_message_in_a_message_of_outlook() -> None:
    inner = "__attach_version1.0_#00000000/__substg1.0_3701000D/"
    look = Look(compound({"__properties_version1.0": bytes(32), **outlook("b.js", b"x", inner)}), "a.msg")
    assert "b.js" in [one.name for one in look.members]


def test_an_archive_in_a_message_of_outlook_is_looked_into() -> None:
    look = Look(compound(outlook("a.zip", packed({"b.exe": EXE}))), "a.msg")
    assert {one.path for one in look.members} >= {"a.zip", "a.zip/b.exe"}


def test_an_attachment_of_outlook_that_lies_elsewhere_has_its_name() -> None:
    files = {"__attach_version1.0_#00000000/__substg1.0_3704001E": b"a.lnk"}
    assert [one.name for one in Look(compound(files), "a.msg").members] == ["a.lnk"]


def test_what_outlook_displays_names_a_file_that_has_no_other_name() -> None:
    place = "__attach_version1.0_#00000000/__substg1.0_"
    shown = {f"{place}3001001F": "About example.com".encode("utf-16-le")}
    inner = {f"{place}3701000D/__properties_version1.0": bytes(32)}  # of a message it is the subject
    assert Look(compound(shown | inner), "a.msg").members == []
    assert [one.name for one in Look(compound(shown | {f"{place}37010102": EXE}), "a.msg").members] == [
        "About example.com"
    ]
    assert [one.name for one in Look(compound(shown | outlook("a.txt", EXE)), "a.msg").members] == ["a.txt"]


def test_a_message_of_outlook_to_many_is_looked_into() -> None:
    streams = ("__properties_version1.0", *(f"__substg1.0_{tag:04X}001F" for tag in range(0x3001, 0x300E)))
    many = {f"__recip_version1.0_#{n:08X}/{stream}": b"" for n in range(140) for stream in streams}
    look = Look(compound({**many, **MESSAGE}), "a.msg")
    assert look.marks == ["archive"]
    assert [one.name for one in look.members] == ["a.exe"]


@pytest.mark.parametrize("user", ["", "secret"])
def test_a_document_with_a_password_makes_no_encrypted_archive_of_what_it_lies_in(user: str) -> None:
    inner = document({}, user=user)
    message = {"__properties_version1.0": bytes(32), **outlook("a.pdf", inner)}
    for data, name in ((compound(message), "a.msg"), (packed({"a.pdf": inner}), "a.zip")):
        look = Look(data, name)
        assert "encrypted" in look.members[0].marks
        assert "encrypted" not in look.marks


@pytest.mark.parametrize("name", ["a.msg", "A.OFT"])
def test_a_message_of_outlook_that_cannot_be_read_is_broken(name: str) -> None:
    assert {"archive", "broken"} <= set(Look(compound(MESSAGE)[:600], name).marks)


def test_a_document_that_cannot_be_read_is_opaque() -> None:
    marks = Look(compound({"WordDocument": b"x"})[:600], "a.doc").marks
    assert "opaque" in marks
    assert "archive" not in marks


@pytest.mark.parametrize(
    "files",
    [
        {"ObjectPool/_1/\x01Ole10Native": package(b"a.exe", EXE)},
        {"MBD0001/Package": packed({"a.exe": EXE})},
        {"MBD0001/CONTENTS": EXE},
        {"PowerPoint Document": bytes(8) + b"\x10\0\x11\x10" + struct.pack("<II", 5000, 0)
         + zlib.compress(compound({"\x01Ole10Native": package(b"a.exe", EXE)}))},
    ],
    ids=["package", "document", "contents", "slides"],
)  # fmt: skip
def test_objects_in_documents_are_looked_into(files: Mapping[str, bytes]) -> None:
    look = Look(compound(files), "a.doc")
    assert any(matches_kind(one.types, "executable") for one in look.members)


def test_a_package_has_all_of_its_names() -> None:
    assert package_of(package(b"a.exe", b"x" * 20)) == (["a.exe", "C:\\x\\a.exe", "C:\\x"], b"x" * 20)
    assert package_of(b"") == ([], b"")
    assert package_of(bytes(4) + b"MZ") == ([], b"MZ")


@given(st.binary(max_size=200))
def test_nothing_makes_a_package_fail(noise: bytes) -> None:
    package_of(noise)
    package_of(bytes(4) + b"\x02\0" + noise)


def test_streams_of_a_compound_file_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.content.compound._MOST_STREAMS", 3)
    data = compound({f"CONTENTS{n}": b"" for n in range(10)})
    with pytest.raises(ValueError, match="too many"):
        list(compound_files(data, 100))
    assert "opaque" in Look(data, "a.doc").marks


def test_what_slides_unpack_to_is_bounded() -> None:
    packed_object = b"\x10\0\x11\x10" + struct.pack("<II", 50_000, 0) + zlib.compress(bytes(10_000_000))
    look = Look(compound({"PowerPoint Document": packed_object}), "a.ppt", Limits(octets=100_000))
    assert look.spent <= 120_000
    assert look.marks == ["archive", "unread"]


def rtf(data: bytes, before: bytes = b"") -> bytes:
    return b"{\\rtf1{\\object\\objemb{\\*\\objdata " + before + binascii.hexlify(data, b"\n", 20) + b"}}}"


def test_objects_in_rtf_are_looked_into() -> None:
    head = struct.pack("<III", 0x501, 2, 8) + b"Package\0" + bytes(8)
    for data in (head + package(b"a.exe", EXE), bytes(20) + compound({"\x01Ole10Native": package(b"a.exe", EXE)})):
        assert any(one.name in ("a.exe",) for one in Look(rtf(data), "a.rtf").members)
    assert "opaque" not in Look(rtf(head, b"\\par1 "), "a.rtf").marks


@pytest.mark.parametrize("start", [b"{\\rt ", b"{\\rtf1 %PDF-1.4 ", b"{\\RTF%PDF-"])
def test_what_begins_otherwise_is_rtf_too(start: bytes) -> None:
    """Word asks for four octets; and a text may speak of PDF."""
    head = struct.pack("<III", 0x501, 2, 8) + b"Package\0" + bytes(8)
    data = rtf(head + package(b"a.exe", EXE)).replace(b"{\\rtf1", start)
    assert "a.exe" in [one.name for one in Look(data, "a.doc").members]


@pytest.mark.parametrize("start", [b"Hello", b"%PDF-1.4"])
def test_a_word_about_pdf_hides_nothing_in_other_forms(start: bytes) -> None:
    winmail = tnef((0x18004, start + b"\0"), (0x69002, b""), (0x18010, b"a.exe\0"), (0x6800F, EXE))
    assert [one.name for one in Look(winmail, "winmail.dat").members] == ["a.exe"]
    active = (b"ActiveMime" + start).ljust(0x32, b"\0") + zlib.compress(compound({"VBA/Module1": b"x"}))
    assert "macro" in {mark for one in Look(active, "a.mso").members for mark in one.marks}


@pytest.mark.parametrize(("called", "behind"), [(b"package", b""), (b"Package", OLE_MAGIC + bytes(600))])
def test_a_package_in_rtf_is_one_whatever_else_it_looks_like(called: bytes, behind: bytes) -> None:
    head = struct.pack("<III", 0x501, 2, 8) + called + bytes(9)
    look = Look(rtf(head + package(b"a.exe", EXE + behind)), "a.rtf")
    assert "a.exe" in [one.name for one in look.members]


@pytest.mark.parametrize("before", [b"{\\x ab}", b"\\bin10 xxxxxxxxxx"])
def test_objects_in_rtf_that_are_disguised_are_opaque(before: bytes) -> None:
    assert "opaque" in Look(rtf(EXE, before), "a.rtf").marks


def test_objects_in_rtf_are_bounded() -> None:
    with pytest.raises(ValueError, match="too many"):
        list(rtf_files(b"{\\rtf" + b"{\\objdata 00}" * 1000))


def test_files_in_a_pdf_are_looked_into() -> None:
    look = Look(document({"a.exe": EXE, "b.zip": packed({"c.js": b"x"})}), "a.pdf")
    assert {one.path for one in look.members} == {"a.exe", "b.zip", "b.zip/c.js"}
    assert "embedded" in look.marks
    assert "archive" not in look.marks


@pytest.mark.parametrize(("action", "mark"), [("JavaScript", "script"), ("Launch", "launch")])
def test_what_lies_in_compressed_objects_of_a_pdf_is_seen(action: str, mark: str) -> None:
    data = document({}, action=action)
    assert action.encode() not in data
    assert mark in Look(data, "a.pdf").marks


def test_a_pdf_whose_password_is_empty_is_looked_into_and_no_other() -> None:
    empty, secret = (Look(document({"a.exe": EXE}, user=user), "a.pdf") for user in ("", "secret"))
    assert [one.name for one in empty.members] == ["a.exe"]
    assert not secret.members
    assert "encrypted" in empty.marks
    assert "encrypted" in secret.marks
    assert "opaque" not in secret.marks


def test_a_file_in_a_pdf_that_is_no_object_of_its_own_names_is_found() -> None:
    """A specification within an annotation."""
    made = pikepdf.new()
    page = made.add_blank_page()
    stream = made.make_stream(EXE)
    page.Annots = pikepdf.Array(
        [pikepdf.Dictionary(FS=pikepdf.Dictionary(UF="b.scr", EF=pikepdf.Dictionary(F=stream)))]
    )
    buffer = io.BytesIO()
    made.save(buffer)
    assert [one.name for one in Look(buffer.getvalue(), "a.pdf").members] == ["b.scr"]


def test_a_pdf_that_cannot_be_read_is_opaque_and_a_text_about_it_is_not() -> None:
    assert "opaque" in Look(b"%PDF-1.7\n", "a.pdf").marks
    assert Look(b"It begins with %PDF-1.7, they say.", "a.txt").marks == []


def test_a_file_in_a_pdf_with_another_filter_is_opaque() -> None:
    made = pikepdf.new()
    made.add_blank_page()
    made.attachments["a.exe"] = pikepdf.AttachedFileSpec(made, EXE, filename="a.exe")
    for one in made.objects:
        if isinstance(one, pikepdf.Stream):
            one.write(binascii.hexlify(EXE), filter=pikepdf.Name.ASCIIHexDecode)
    buffer = io.BytesIO()
    made.save(buffer, compress_streams=False, stream_decode_level=pikepdf.StreamDecodeLevel.none)
    look = Look(buffer.getvalue(), "a.pdf")
    assert "opaque" in look.marks
    assert [one.name for one in look.members] == ["a.exe"]


def test_what_a_pdf_unpacks_to_is_bounded() -> None:
    look = Look(document({"a.bin": bytes(10_000_000)}), "a.pdf", Limits(octets=100_000))
    assert look.spent == 100_001
    assert "unread" in look.marks


def test_objects_of_a_pdf_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgate.content.pdf._MOST_OBJECTS", 3)
    assert "opaque" in Look(document({"a.exe": EXE}), "a.pdf").marks


def test_too_many_objects_of_a_pdf_are_not_read_to_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = document({"a.exe": EXE})
    with pikepdf.open(io.BytesIO(data)) as whole:
        monkeypatch.setattr("mailgate.content.pdf._MOST_OBJECTS", int(whole.trailer.Size) - 1)
    monkeypatch.setattr(pikepdf.Pdf, "objects", property(lambda _: pytest.fail("all of them are read")))
    look = Look(data, "a.pdf")
    assert [one.name for one in look.members] == ["a.exe"]
    assert "opaque" in look.marks


def test_without_the_library_a_pdf_with_more_in_it_is_opaque(monkeypatch: pytest.MonkeyPatch) -> None:
    data = document({}, action="JavaScript")
    monkeypatch.setitem(sys.modules, "pikepdf", None)
    assert "opaque" in Look(data, "a.pdf").marks
    assert Look(b"%PDF-1.7\n", "a.pdf").marks == []


def test_deep_documents_are_left_alone_at_their_depth() -> None:
    data = EXE
    for _ in range(6):
        data = compound(outlook("a.msg", data))[: 64 * 512] if len(data) < 20_000 else packed({"a.msg": data})
    look = Look(data, "a.msg", Limits(depth=2))
    assert "depth" in look.notes


@pytest.mark.parametrize("made", [binhexed, yencoded])
def test_files_in_texts_have_their_names(made: object) -> None:
    assert callable(made)
    text = made(b"Readme.txt", MARKER * 30 + bytes(range(256)) + b"\x90\x90" + bytes(500) + b"=\r\n.")
    (found,) = files_in(b"Hello\r\n" + text, 1_000_000)
    assert found.name == b"Readme.txt"
    assert found.data == MARKER * 30 + bytes(range(256)) + b"\x90\x90" + bytes(500) + b"=\r\n."


def test_what_binhex_unpacks_to_is_bounded() -> None:
    (found,) = files_in(binhexed(b"a", bytes(5_000_000)), 1000)
    assert 1000 < len(found.data) <= 2000
    message = mixed(TEXT, part(b"Content-Type: application/mac-binhex40", body=binhexed(b"a", bytes(5_000_000))))
    walk = Walk(message, Limits(octets=1_000_000))
    list(walk.leaves())
    assert [one.kind for one in walk.problems] == ["octets"]


def test_binhex_that_unpacks_to_nothing_is_none() -> None:
    nothing = binascii.b2a_base64(b"\x90\x01" * 12, newline=False)
    base64_letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    letters = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
    assert list(files_in(b":" + nothing.translate(bytes.maketrans(base64_letters, letters)) + b":", 1000)) == []


@given(st.binary(max_size=300))
def test_nothing_makes_files_in_texts_fail(noise: bytes) -> None:
    for begins in (b"", b":", b"(This file must be converted with BinHex 4.0)\r\n:", b"=ybegin line=1 name=a\r\n"):
        list(files_in(begins + noise, 1000))


@pytest.mark.parametrize(
    ("message", "mark"),
    [
        (mixed(part(b"Content-Type: message/partial; id=x; number=1; total=2", body=b"Subject: a\r\n\r\nb")), "opaque"),
        (mixed(part(b"Content-Type: message/external-body; access-type=url", body=b"\r\n")), "opaque"),
        (mixed(part(b"Content-Type: application/pgp-encrypted", body=b"Version: 1")), "sealed"),
        (mixed(TEXT, head=b"Content-Type: multipart/encrypted; boundary=b"), "sealed"),
        (mixed(part(b"Content-Type: text/plain", body=b"Hi\r\n-----BEGIN PGP MESSAGE-----\r\n\r\nab")), "sealed"),
        (
            mixed(part(
                b"Content-Type: application/pkcs7-mime", b"Content-Transfer-Encoding: base64",
                body=base64.b64encode(bytes.fromhex("308006092a864886f70d010703a080")),
            )),
            "sealed",
        ),
        (
            mixed(part(
                b"Content-Type: application/octet-stream; name=smime.p7z", b"Content-Transfer-Encoding: base64",
                body=base64.b64encode(bytes.fromhex("3080060b2a864886f70d0109100109a080")),
            )),
            "opaque",
        ),
    ],
)  # fmt: skip
def test_what_only_others_can_read_is_told(message: bytes, mark: str) -> None:
    assert any(mark in leaf.marks for leaf in Walk(message, Limits()).leaves())


def test_a_folder_of_outlook_is_opaque() -> None:
    assert Look(b"!BDN" + bytes(600), "a.pst").marks == ["opaque"]


def test_a_pdf_is_read_from_any_octets() -> None:
    whole = document({"a.txt": b"Hello"})
    for at in range(0, len(whole), 37):
        list(Pdf(whole[:at], 1000).files())
        list(Pdf(whole[:at] + b"\xff" + whole[at + 1 :], 1000).files())


def web_archive(editdata: bytes) -> bytes:
    """A document as Word saves it as a web page in one file, with macros."""
    macros = part(
        b"Content-Location: file:///C:/1/editdata.mso",
        b"Content-Transfer-Encoding: base64",
        b"Content-Type: application/x-mso",
        body=base64.encodebytes(editdata).replace(b"\n", b"\r\n"),
    )
    return mixed(TEXT, macros, head=b'Content-Type: multipart/related; boundary="b"')


def test_macros_of_a_document_that_is_a_web_archive_are_seen() -> None:
    inner = compound({"VBA/Module1": b"x"})
    editdata = b"ActiveMime".ljust(0x32, b"\0") + zlib.compress(inner)
    assert "macro" in {mark for one in Look(editdata, "a.mso").members for mark in one.marks}
    assert "opaque" in Look(b"ActiveMime" + bytes(1000), "a.mso").marks
    carried = part(
        b"Content-Type: application/msword; name=a.doc",
        b"Content-Transfer-Encoding: base64",
        body=base64.encodebytes(web_archive(editdata)),
    )
    for message in (mixed(TEXT, carried), mixed(TEXT, zipped(web_archive(editdata)))):
        found = Examiner().answer(Question(data=message, archives=True))
        assert "macro" in {mark for one in found.members for mark in one.marks}


def zipped(data: bytes) -> bytes:
    return part(
        b"Content-Type: application/zip; name=a.zip",
        b"Content-Transfer-Encoding: base64",
        body=base64.encodebytes(packed({"a.doc": data})),
    )
