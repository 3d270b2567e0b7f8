"""Documents that can do more than be read: macros, objects in them, passwords, what they fetch."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from io import BytesIO

__all__ = ["OLE_MAGIC", "OOXML_CONTENTS", "ole_marks", "package_marks", "rtf_marks"]

OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
#: Members of a document's package whose octets tell more than their names.
OOXML_CONTENTS = ("[content_types].xml", "meta-inf/manifest.xml", "word/_rels/settings.xml.rels")

#: Streams of one OLE file that are looked at, and octets of one that are read.
_MOST_STREAMS, _MOST_READ = 8000, 8 * 1024 * 1024
#: Records of a workbook that are looked at (MS-XLS 2.1.4): BOUNDSHEET names its sheets, FILEPASS says it is encrypted.
_MOST_RECORDS, _BOUNDSHEET, _FILEPASS, _EOF = 200_000, 0x85, 0x2F, 0x0A


def rtf_marks(data: bytes) -> list[str]:
    """Of a document in RTF: "embedded" for objects, "template" for a template that is fetched."""
    lower = data[:_MOST_READ].lower()
    marks = ["embedded"] if b"\\objdata" in lower or b"\\objupdate" in lower else []
    return [*marks, "template"] if b"\\*\\template" in lower else marks


def package_marks(names: Iterable[str], contents: dict[str, bytes]) -> list[str]:
    """Of a document that is a ZIP (OOXML, ODF), by the names in it and what OOXML_CONTENTS hold: "macro", "embedded",
    "template", "encrypted"."""
    names = [name.lower().replace("\\", "/") for name in names]
    if not any(name in ("[content_types].xml", "meta-inf/manifest.xml") for name in names):
        return []
    # They may be in UTF-16.
    types, manifest, settings = (contents.get(name, b"").replace(b"\0", b"").lower() for name in OOXML_CONTENTS)
    marks = set()
    if b"vbaproject" in types or b"macrosheet" in types or b"macroenabled" in types:
        marks.add("macro")
    for name in names:
        if name.endswith("vbaproject.bin") or "/macrosheets/" in f"/{name}" or name.startswith(("basic/", "scripts/")):
            marks.add("macro")
        if "/embeddings/" in f"/{name}" or "/activex/" in f"/{name}":
            marks.add("embedded")
    if b"encryption-data" in manifest:
        marks.add("encrypted")
    if b"attachedtemplate" in settings and b"external" in settings:
        marks.add("template")
    return sorted(marks)


def ole_marks(data: bytes) -> list[str]:
    """Of a compound file (MS-CFB): "macro", "embedded", "encrypted", "damaged" where there is more in it than is looked
    at, or "broken" where it cannot be read."""
    import olefile  # type: ignore[import-untyped]  # it has no types; only worker processes need it

    try:
        with olefile.OleFileIO(BytesIO(data)) as ole:
            streams = ole.listdir(streams=True, storages=True)
            names = ["/".join(one) for one in streams[:_MOST_STREAMS]]
            marks = _by_names(names)
            if len(streams) > _MOST_STREAMS:
                marks.add("damaged")
            for name in names:
                last = name.rpartition("/")[2].lower()
                if last in ("workbook", "book") and ole.get_type(name) == olefile.STGTY_STREAM:
                    marks |= _workbook(ole.openstream(name).read(_MOST_READ))
                elif last == "worddocument" and ole.get_type(name) == olefile.STGTY_STREAM:
                    start = ole.openstream(name).read(
                        12
                    )  # the flags of FibBase (MS-DOC 2.5.2), of which one is fEncrypted
                    if len(start) == 12 and struct.unpack_from("<H", start, 10)[0] & 0x0100:
                        marks.add("encrypted")
            return sorted(marks)
    except MemoryError:
        raise
    except Exception:  # a hostile file makes the reader raise anything
        return ["broken"]


def _by_names(names: Iterable[str]) -> set[str]:
    marks = set()
    for name in names:
        lower = name.lower()
        last = lower.rpartition("/")[2]
        if last in ("_vba_project", "vba", "macros", "_vba_project_cur"):
            marks.add("macro")
        elif last in ("encryptedpackage", "encryptioninfo", "encryptedsummary"):
            marks.add("encrypted")
        elif last in ("objectpool", "\x01ole10native", "package"):
            marks.add("embedded")
    return marks


def _workbook(stream: bytes) -> set[str]:
    """Of the records of a workbook: whether it is encrypted, and has sheets of Excel 4 macros."""
    marks: set[str] = set()
    at = 0
    has_ended = False  # the substream in which both are
    for _ in range(_MOST_RECORDS):
        if at + 4 > len(stream):
            break
        kind, length = struct.unpack_from("<HH", stream, at)
        if kind == _FILEPASS:
            marks.add("encrypted")
        elif kind == _BOUNDSHEET and at + 10 <= len(stream) and stream[at + 9] == 1:
            marks.add("macro")
        has_ended = has_ended or kind == _EOF
        at += 4 + length
    else:
        if not has_ended:
            marks.add("damaged")
    return marks
