"""Files in archives: of every format, nested, with passwords, broken, bombs; documents that can do more."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from pathlib import Path

import libarchive  # type: ignore[import-untyped]  # it has no types
import pytest

from mailgate.content.archives import Unpacker
from mailgate.content.kinds import Sniffer, fits_extension, matches_kind
from mailgate.content.models import Limits, Member
from mailgate.content.office import ole_marks, package_marks, rtf_marks
from mailgate.content.pdf import pdf_marks

EXE = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0\x4c\x01" + bytes(400)


def packed(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def made(kind: str, tmp_path: Path, passphrase: str | None = None, options: str = "") -> bytes:
    """An archive that libarchive writes."""
    path = tmp_path / "archive"
    with libarchive.file_writer(str(path), kind, passphrase=passphrase, options=options) as archive:
        archive.add_file_from_memory("dir/a.exe", len(EXE), EXE)
    return path.read_bytes()


def tarred(data: bytes = EXE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("a.exe")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Look:
    """One look into a part; `spent` are the octets that unpacking has yielded."""

    def __init__(self, data: bytes, name: str = "a.zip", limits: Limits | None = None) -> None:
        self.notes: list[str] = []
        self.spent = 0
        self._limits = limits or Limits()
        sniffer = Sniffer()
        self.found: list[str] = []
        unpacker = Unpacker(self._limits, sniffer.type_of, self.notes.append, self._spend, self._find)
        self.marks = unpacker.marks(0, data, [sniffer.type_of(data)], name)
        self.members: list[Member] = unpacker.members

    def _find(self, name: str, data: bytes) -> None:
        self.found.append(name)

    def _spend(self, octets: int) -> bool:
        self.spent += octets
        if self.spent > self._limits.octets:
            self.notes.append("octets")
            return False
        return True

    def paths(self) -> list[str]:
        return [one.path for one in self.members]


@pytest.mark.parametrize(
    ("data", "name", "path"),
    [
        (packed({"a.exe": EXE}), "a.zip", "a.exe"),
        (packed({"a.exe": EXE}, zipfile.ZIP_STORED), "a.zip", "a.exe"),
        (packed({"a.exe": EXE}, zipfile.ZIP_LZMA), "a.zip", "a.exe"),
        (tarred(), "a.tar", "a.exe"),
        (gzip.compress(tarred()), "a.tgz", "a.exe"),
        (bz2.compress(tarred()), "a.tar.bz2", "a.exe"),
        (lzma.compress(tarred()), "a.tar.xz", "a.exe"),
        (gzip.compress(EXE), "a.exe.gz", "a.exe"),
        (bz2.compress(EXE), "a.exe.bz2", "a.exe"),
        (lzma.compress(EXE), "a.exe.xz", "a.exe"),
        (b"GIF89a" + bytes(100) + packed({"a.exe": EXE}), "a.gif", "a.exe"),
    ],
)
def test_formats_of_python(data: bytes, name: str, path: str) -> None:
    look = Look(data, name)
    assert "archive" in look.marks
    assert look.paths() == [path]
    assert matches_kind(look.members[0].types, "executable")
    assert look.members[0].size == len(EXE)


@pytest.mark.parametrize("kind", ["7zip", "zip", "ustar", "cpio", "ar_bsd", "iso9660", "xar"])
def test_formats_of_libarchive(kind: str, tmp_path: Path) -> None:
    look = Look(made(kind, tmp_path))
    assert "archive" in look.marks
    assert [one.lower().rpartition("/")[2] for one in look.paths()] == ["a.exe"]
    assert matches_kind(look.members[0].types, "executable")


def test_an_archive_in_an_archive_in_an_archive() -> None:
    inner = packed({"deep/a.exe": EXE})
    look = Look(packed({"b.tar.gz": gzip.compress(tarred(inner)), "c.txt": b"Hello"}))
    assert look.paths() == ["b.tar.gz", "b.tar.gz/a.exe", "b.tar.gz/a.exe/deep/a.exe", "c.txt"]
    assert [one.depth for one in look.members] == [1, 2, 3, 1]


def test_depth_is_bounded_and_the_rest_is_looked_at() -> None:
    data = packed({"a.exe": EXE})
    for _ in range(6):
        data = packed({"in.zip": data})
    look = Look(packed({"in.zip": data, "b.exe": EXE}), limits=Limits(depth=3))
    assert look.notes == ["depth"]
    assert max(one.depth for one in look.members) == 3
    assert "b.exe" in look.paths()


@pytest.mark.parametrize("size", [50_000_000, 100_000_000])
def test_a_bomb_is_left_alone_at_its_ratio(size: int) -> None:
    look = Look(packed({"zeros": bytes(size), "a.exe": EXE}), limits=Limits(ratio=100))
    assert look.notes == ["ratio"]
    assert "unread" in look.marks
    assert look.spent <= 12_000_000


def test_a_bomb_of_bombs_is_left_alone_at_its_octets() -> None:
    bomb = packed({f"{number}": bytes(1_000_000) for number in range(50)})
    look = Look(packed({f"{number}.zip": bomb for number in range(50)}), limits=Limits(octets=5_000_000))
    assert look.notes == ["octets"]
    assert look.spent <= 5_000_000 + 2_000_000


def test_files_are_bounded() -> None:
    look = Look(packed({f"{number}": b"" for number in range(5000)}), limits=Limits(parts=100))
    assert look.notes[0] == "parts"
    assert len(look.members) <= 100


@pytest.mark.parametrize(("times", "mark"), [(3, "archive"), (24, "archive"), (50, "broken")])
def test_a_file_that_is_compressed_again_and_again(times: int, mark: str) -> None:
    data = EXE
    for _ in range(times):
        data = gzip.compress(data)
    look = Look(data, "a.gz")
    assert mark in look.marks
    if mark == "archive":
        assert matches_kind(look.members[-1].types, "executable")


def test_passwords_are_seen(tmp_path: Path) -> None:
    look = Look(made("zip", tmp_path, "secret", "encryption=traditional"))
    assert "encrypted" in look.marks
    assert look.paths() == ["dir/a.exe"]
    assert "encrypted" in look.members[0].marks


def test_a_password_in_an_inner_archive_is_seen(tmp_path: Path) -> None:
    look = Look(packed({"b.zip": made("zip", tmp_path, "secret", "encryption=aes256")}))
    assert "encrypted" in look.marks


def test_what_only_one_table_of_contents_names_is_seen() -> None:
    data = packed({"harmless.txt": b"Hello", "a.exe": EXE}, zipfile.ZIP_STORED)
    central = data.index(b"PK\x01\x02")
    hidden = data[:central] + data[central:].replace(b"a.exe", b"b.txt")
    look = Look(hidden)
    assert {"a.exe", "b.txt"} <= set(look.paths())
    assert any("hidden" in one.marks for one in look.members)


def test_what_is_cut_off_is_told() -> None:
    data = packed({"a.exe": EXE * 100})
    for cut in (40, len(data) // 2):
        look = Look(data[:cut])
        assert "broken" in look.marks or "damaged" in {mark for one in look.members for mark in one.marks}
        assert "a.exe" in look.paths() or cut == 40


def test_no_file_of_the_disk_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(EXE)
    look = Look(f"#mtree\na.exe type=file contents={secret}\n".encode(), "a.tar")
    assert look.members == []


def test_hostile_names_are_bounded() -> None:
    look = Look(packed({"../" * 1000 + "a.exe": b"x", "b\u202etxt.exe": b"x", "c.exe .": b"x"}))
    assert [one.name for one in look.members] == ["a.exe", "btxt.exe", "c.exe"]
    assert all(len(one.path) <= 500 for one in look.members)


def test_macros_of_a_package() -> None:
    document = {"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<w/>"}
    assert "macro" not in Look(packed(document), "a.docx").marks
    assert "macro" in Look(packed({**document, "word/vbaProject.bin": b"x"}), "a.docx").marks
    renamed = {**document, "[Content_Types].xml": b'<Override ContentType="application/vnd.ms-office.vbaProject"/>'}
    assert "macro" in Look(packed({**renamed, "word/x.bin": b"x"}), "a.docx").marks
    assert "macro" in Look(packed({**document, "xl/macrosheets/sheet1.xml": b"x"}), "a.xlsx").marks
    assert "embedded" in Look(packed({**document, "word/embeddings/o.bin": b"x"}), "a.docx").marks


def test_macros_and_passwords_of_opendocument() -> None:
    manifest = {"META-INF/manifest.xml": b"<m/>"}
    assert "macro" in Look(packed({**manifest, "Basic/Standard/Module1.xml": b"x"}), "a.odt").marks
    assert "encrypted" in Look(packed({"META-INF/manifest.xml": b"<manifest:encryption-data/>"}), "a.odt").marks
    assert package_marks(["a.txt"], {}) == []


def test_templates_that_are_fetched() -> None:
    settings = b'<R Type="http://x/attachedTemplate" Target="http://x.example/a.dotm" TargetMode="External"/>'
    contents = {"word/_rels/settings.xml.rels": settings}
    assert package_marks(["[Content_Types].xml", *contents], contents) == ["template"]


@pytest.mark.parametrize(
    ("data", "marks"),
    [
        (b"%PDF-1.7\ntrailer << /Root 1 0 R /Encrypt 5 0 R >>", ["encrypted"]),
        (b"%PDF-1.7\ntrailer << /Root 1 0 R /#45ncrypt 5 0 R >>", ["encrypted"]),
        (b"%PDF-1.7\n<< /OpenAction << /S /JavaScript /JS (x) >> >>", ["script"]),
        (b"%PDF-1.7\n<< /S /Launch >> << /Type /EmbeddedFile >>", ["embedded", "launch"]),
        (b"%PDF-1.7\n<< /EncryptMetadata false >>", []),
    ],
)
def test_marks_of_pdf(data: bytes, marks: list[str]) -> None:
    assert pdf_marks(data) == marks
    assert set(marks) <= set(Look(data, "a.pdf").marks)


def test_marks_of_rtf() -> None:
    assert rtf_marks(b"{\\rtf1 {\\object\\objdata 01}{\\*\\template http://x}}") == ["embedded", "template"]


def compound(*names: str, streams: dict[str, bytes] | None = None) -> bytes:
    """A compound file (MS-CFB) with these entries in its root: a header, a FAT, a directory, and streams."""
    streams = streams or {}
    entries = [("Root Entry", 5, b"")] + [(one, 1, b"") for one in names] + [(k, 2, v) for k, v in streams.items()]
    count = -(-len(entries) // 4)
    sectors, fat = [b"" for _ in range(count)], [0xFFFFFFFD] + [n + 2 for n in range(count - 1)] + [0xFFFFFFFE]
    starts = []
    for _, _, data in entries:
        if not data:
            starts.append(0xFFFFFFFE)
            continue
        data = data.ljust(4096, b"\0")  # below this it would lie in the stream of small ones
        starts.append(len(fat))
        blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
        fat += [len(fat) + n + 1 for n in range(len(blocks) - 1)] + [0xFFFFFFFE]
        sectors += blocks
    directory = b""
    for number, (name, kind, data) in enumerate(entries):
        text = name.encode("utf-16-le") + b"\0\0"
        right = number + 1 if 0 < number < len(entries) - 1 else 0xFFFFFFFF
        child = 1 if number == 0 and len(entries) > 1 else 0xFFFFFFFF
        directory += text.ljust(64, b"\0") + struct.pack(
            "<HBBIII16sIQQIQ", len(text), kind, 1, 0xFFFFFFFF, right, child, bytes(16), 0, 0, 0,
            starts[number], max(len(data), 4096) if data else 0,
        )  # fmt: skip
    directory = directory.ljust(512 * count, b"\0")
    table = b"".join(struct.pack("<I", one) for one in fat).ljust(512, b"\xff")
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack(
        "<HHHHH6xIIIIIIIII", 0x3E, 3, 0xFFFE, 9, 6, 0, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0
    )  # fmt: skip
    header += struct.pack("<I", 0)
    header = header.ljust(512, b"\xff")
    return header + table + directory + b"".join(sectors[count:])


def test_macros_and_passwords_of_compound_files() -> None:
    assert ole_marks(compound("Macros")) == ["macro"]
    assert ole_marks(compound("_VBA_PROJECT_CUR")) == ["macro"]
    assert ole_marks(compound("EncryptedPackage")) == ["encrypted"]
    assert ole_marks(compound("ObjectPool")) == ["embedded"]
    assert ole_marks(compound("Something")) == []
    sheet = struct.pack("<HHIBB", 0x85, 6, 0, 0, 1)
    assert ole_marks(compound(streams={"Workbook": sheet})) == ["macro"]
    assert ole_marks(compound(streams={"Workbook": struct.pack("<HH", 0x2F, 0)})) == ["encrypted"]
    flags = bytes(10) + struct.pack("<H", 0x0100)
    assert ole_marks(compound(streams={"WordDocument": flags})) == ["encrypted"]


def test_a_broken_compound_file_is_told() -> None:
    assert ole_marks(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 600) == ["broken"]


def test_records_of_a_workbook_are_bounded() -> None:
    assert ole_marks(compound(streams={"Workbook": bytes(4 * 100_000)})) == []


@pytest.mark.parametrize(
    ("types", "extension", "fits"),
    [
        (["image/png"], "jpg", True),
        (["application/x-dosexec"], "jpg", False),
        (["application/octet-stream"], "jpg", True),
        ([], "jpg", True),
        (["text/html"], "pdf", False),
        (["application/zip"], "docx", True),
        (["application/x-dosexec"], "unknown", True),
        (["text/html"], "txt", True),
    ],
)
def test_octets_go_with_extensions(types: list[str], extension: str, fits: bool) -> None:
    assert fits_extension(types, extension) is fits


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (EXE, "executable"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\x3e\0\x01\0\0\0" + bytes(200), "executable"),
        (b"#!/bin/sh\necho\n", "script"),
        (b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46" + bytes(60), "shortcut"),
        (bytes(32768) + b"\x01CD001\x01\0" + bytes(4000), "disk-image"),
    ],
)
def test_kinds_by_octets(data: bytes, kind: str) -> None:
    assert matches_kind([Sniffer().type_of(data)], kind)


def test_an_archive_behind_other_octets_is_found(tmp_path: Path) -> None:
    commented = io.BytesIO(packed({"a.exe": EXE}))
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = b"c" * 60_000  # libarchive looks for the end in the last 16 KiB only
    for data in (commented.getvalue(), packed({"a.exe": EXE}) + b"j" * 40_000, made("7zip", tmp_path)):
        look = Look(b"GIF89a" + bytes(100) + data, "a.gif")
        assert "archive" in look.marks
        assert any(path.endswith("a.exe") for path in look.paths())
    assert Look(b"GIF89a" + b"PK\x03\x04" * 1000 + b"Rar!\x1a\x07", "a.gif").marks == []


def test_a_file_that_is_two_archives_is_looked_into_as_both(tmp_path: Path) -> None:
    look = Look(made("7zip", tmp_path) + packed({"b.txt": b"Hello"}), "a.7z")
    assert {"dir/a.exe", "b.txt"} <= set(look.paths())
    behind = Look(packed({"b.txt": b"Hello"}) + made("7zip", tmp_path), "a.7z")
    assert {"dir/a.exe", "b.txt"} <= set(behind.paths())


@pytest.mark.parametrize("kind", [0o120777, 0o040755, 0o010644, 0o020644])
def test_attributes_do_not_hide_what_is_in_a_zip(kind: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("b.zip")
        info.create_system, info.external_attr = 3, kind << 16
        archive.writestr(info, packed({"a.exe": EXE}))
    assert "b.zip/a.exe" in Look(buffer.getvalue()).paths()


def test_a_compression_that_is_not_known_is_damage() -> None:
    data = bytearray(packed({"b.zip": packed({"a.exe": EXE})}))
    struct.pack_into("<H", data, 8, 9)  # Deflate64, which Windows opens
    struct.pack_into("<H", data, data.rfind(b"PK\x01\x02") + 10, 9)
    look = Look(bytes(data))
    assert look.members[0].marks == ("damaged",)


def test_an_end_in_a_comment_does_not_hide_the_table() -> None:
    buffer = io.BytesIO(packed({"a.exe": EXE}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(18)
    assert "a.exe" in Look(b"GIF89a" + buffer.getvalue(), "a.gif").paths()


def test_a_stored_zip_in_a_zip_is_looked_at_once() -> None:
    look = Look(packed({"b.zip": packed({"a.exe": EXE})}, zipfile.ZIP_STORED))
    assert look.paths() == ["b.zip", "b.zip/a.exe"]


def test_the_name_in_gzip_is_a_name() -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile("a.js", "wb", fileobj=buffer) as file:
        file.write(b"Hello")
    assert {one.name for one in Look(buffer.getvalue(), "b.txt.gz").members} == {"b.txt", "a.js"}


def tnef(*attributes: tuple[int, bytes]) -> bytes:
    return struct.pack("<IH", 0x223E9F78, 1) + b"".join(
        struct.pack("<BII", 2, tag, len(data)) + data + struct.pack("<H", sum(data) & 0xFFFF)
        for tag, data in attributes
    )


def test_files_in_tnef_are_looked_at() -> None:
    long_name = struct.pack("<IIII", 1, 0x3707001F, 1, 12) + "c.js\0\0".encode("utf-16-le")
    inner = (0x69005, bytes(20) + tnef((0x69002, b""), (0x18010, b"d.exe\0"), (0x6800F, EXE)))
    data = tnef(
        (0x69002, bytes(14)), (0x18010, b"b.txt\0"), (0x6800F, EXE), (0x69005, long_name), (0x69002, b""), inner
    )
    look = Look(data, "winmail.dat")
    assert look.marks == ["archive", "tnef"]
    assert [one.name for one in look.members] == ["b.txt", "c.js", "message", "d.exe"]
    assert matches_kind(look.members[0].types, "executable")
    assert "broken" in Look(data[:-10], "winmail.dat").marks
    assert "broken" in Look(tnef(*[(1, b"")] * 20_001), "winmail.dat").marks
    for _ in range(5):
        data = tnef((0x69005, data))
    assert "depth" in Look(data, "winmail.dat").marks or "depth" in Look(data, "winmail.dat").notes


def test_content_types_in_utf_16_show_macros() -> None:
    types = "<Override ContentType='application/vnd.ms-office.vbaProject'/>".encode("utf-16")
    assert package_marks(["[Content_Types].xml"], {"[content_types].xml": types}) == ["macro"]
