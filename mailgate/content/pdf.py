"""PDF (ISO 32000): what it can do beside being read, and the files in it; for worker processes only.

The octets as they stand are searched, for programs that find objects without any table of them; and the objects by
qpdf, for those that lie compressed or encrypted with a password that is empty.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any

__all__ = ["Pdf", "pdf_marks"]

_ESCAPED = re.compile(rb"/[A-Za-z0-9]{0,40}#[0-9A-Fa-f]{2}[A-Za-z0-9#]{0,64}")
_HEX = re.compile(rb"#([0-9A-Fa-f]{2})")
_WORDS = {
    b"/Encrypt": "encrypted",
    b"/JavaScript": "script",
    b"/JS": "script",
    b"/Launch": "launch",
    b"/EmbeddedFile": "embedded",
}
_NAME = re.compile(rb"/(?:Encrypt|JavaScript|JS|Launch|EmbeddedFile)(?![A-Za-z0-9])")
#: Escaped names of one PDF that are undone.
_MOST_NAMES = 10_000
#: Objects of one PDF that are looked at, containers in one of them, and names of one file.
_MOST_OBJECTS, _MOST_WITHIN, _MOST_CALLED = 200_000, 10_000, 8
#: The keys by which a file specification names its file (7.11.3).
_CALLED = ("/UF", "/F", "/DOS", "/Unix", "/Mac")


def pdf_marks(data: bytes) -> list[str]:
    """By its octets as they stand: "encrypted", "script", "launch", "embedded". What lies in compressed objects is not
    seen; the word for encryption never does."""
    found = {match[0] for match in _NAME.finditer(data)}
    for match in islice(_ESCAPED.finditer(data), _MOST_NAMES):
        found.add(_HEX.sub(lambda one: bytes([int(one[1], 16)]), match[0]))
    return sorted({_WORDS[name] for name in found if name in _WORDS})


class Pdf:
    """One PDF. `marks` are complete when `files` has ended: those of `pdf_marks`, and "opaque" where there is more in
    it than can be looked at."""

    def __init__(self, data: bytes, most: int) -> None:
        """Of one file `most` octets are decoded, and one more where there are more."""
        self.marks = set(pdf_marks(data))
        self._data = data
        self._most = most
        # Others have octets before it; a text that only speaks of PDF is none.
        self._is_sure = data[:64].lstrip(b"\0\t\n\f\r \xef\xbb\xbf").startswith(b"%PDF-")

    def files(self) -> Iterator[tuple[list[str], bytes]]:
        """The files in it, each with all names that it has; one that cannot be decoded is empty. MemoryError."""
        try:
            import pikepdf  # only worker processes need it; a site may be without
        except ImportError:
            if "embedded" in self.marks or b"/ObjStm" in self._data:
                self.marks.add("opaque")
            return
        try:
            with pikepdf.open(BytesIO(self._data)) as document:
                yield from self._of(document, pikepdf)
        except pikepdf.PasswordError:
            self.marks.add("encrypted")
        except MemoryError:
            raise
        except Exception:  # a hostile file makes the reader raise anything
            if self._is_sure:
                self.marks.add("opaque")

    def _of(self, document: Any, pikepdf: Any) -> Iterator[tuple[list[str], bytes]]:
        streams: dict[tuple[int, int], Any] = {}
        names: dict[tuple[int, int], list[str]] = {}
        for one in self._objects(document):
            is_stream = isinstance(one, pikepdf.Stream)
            if not is_stream and not isinstance(one, (pikepdf.Dictionary, pikepdf.Array)):
                continue
            text = one.stream_dict.unparse() if is_stream else one.unparse(resolved=True)
            self.marks |= {_WORDS[match[0]] for match in _NAME.finditer(text)}
            if is_stream and b"/EmbeddedFile" in text:
                streams[one.objgen] = one
            if b"/EF" in text:
                for called, stream in _specified(one, pikepdf):
                    streams[stream.objgen] = stream
                    names.setdefault(stream.objgen, []).extend(called)
        for key, stream in streams.items():
            yield list(dict.fromkeys(names.get(key, ())))[:_MOST_CALLED], self._decoded(stream, pikepdf)

    def _objects(self, document: Any) -> Iterator[Any]:
        """The library's list of them reads all at once, however many there are: what is too many is told before."""
        size = document.trailer.get("/Size", 0)
        if isinstance(size, int) and size > _MOST_OBJECTS:
            self.marks.add("opaque")
            yield from (document.get_object(number, 0) for number in range(1, _MOST_OBJECTS))
            return
        objects = document.objects
        if len(objects) > _MOST_OBJECTS:
            self.marks.add("opaque")
        yield from islice(objects, _MOST_OBJECTS)

    def _decoded(self, stream: Any, pikepdf: Any) -> bytes:
        """Without the library's decoding, which has no bound."""
        filters = stream.get("/Filter")
        kinds = [str(one) for one in filters] if isinstance(filters, pikepdf.Array) else [str(filters or "")]
        raw = bytes(stream.read_raw_bytes())
        if kinds in ([""], []):
            return raw
        if kinds == ["/FlateDecode"] and not stream.get("/DecodeParms"):
            try:
                return zlib.decompressobj().decompress(raw, self._most + 1)
            except zlib.error:
                pass
        self.marks.add("opaque")
        return b""


def _specified(top: Any, pikepdf: Any) -> Iterator[tuple[list[str], Any]]:
    """The files that specifications in an object lead to, in whichever of its containers they stand."""
    waiting = [top]
    for _ in range(_MOST_WITHIN):
        if not waiting:
            return
        one = waiting.pop()
        if isinstance(one, pikepdf.Array):
            children = list(one)
        else:
            children = [value for _, value in one.items()]
            files = one.get("/EF")
            if isinstance(files, pikepdf.Dictionary):
                called = [str(one[key]) for key in _CALLED if isinstance(one.get(key), pikepdf.String)]
                for _, stream in files.items():
                    if isinstance(stream, pikepdf.Stream):
                        yield called, stream
        waiting += [
            child
            for child in children
            if isinstance(child, (pikepdf.Dictionary, pikepdf.Array)) and not child.is_indirect
        ]
