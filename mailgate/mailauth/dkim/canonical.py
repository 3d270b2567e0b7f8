"""The canonical forms of header fields and bodies (RFC 6376 section 3.4), and the digests of bodies.

Each is linear in what it is given, whatever that holds, and works with whole runs at a time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

__all__ = [
    "Bodies",
    "BodyHasher",
    "Canon",
    "Field",
    "Wanted",
    "canonical_fields",
    "split_header",
    "split_message",
    "whole_lines",
]

Canon = Literal["simple", "relaxed"]
#: A header field: its name in lower case, and all its octets as they stand but for the last CRLF.
Field = tuple[bytes, bytes]
#: What is asked of a body: its form, and how many octets of that (l=), None for all.
Wanted = tuple[Canon, int | None]

_BARE_LF = re.compile(rb"\n(?<!\r\n)")
_NEXT_FIELD = re.compile(rb"\r\n(?![ \t])")
_HEADER_END = re.compile(rb"\r?\n")
_EMPTY_LINE = re.compile(rb"\n\r?\n")
_SPACES = re.compile(rb"  ")
# A LF alone, a CRLF behind white space, or one at the beginning. Led by the LF, which the search finds fast.
_UNTIDY_LINE = re.compile(rb"\n(?<![^ \t]\r\n)")
_PIECE = 256 * 1024


def whole_lines(data: bytes) -> bytes:
    """The octets with a CRLF for each LF that stands alone."""
    return data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") if _BARE_LF.search(data) else data


def split_message(message: bytes) -> tuple[list[Field], bytes]:
    """The header fields, first to last, and the body as it came; there is none without an empty line."""
    end = _HEADER_END.match(message) or _EMPTY_LINE.search(message)
    if end is None:
        return split_header(message), b""
    return split_header(message[: end.start()].removesuffix(b"\r")), message[end.end() :]


def split_header(header: bytes) -> list[Field]:
    """The fields of a header section, first to last. Lines that are no field have a name that no field can have."""
    fields: list[Field] = []
    for octets in _NEXT_FIELD.split(whole_lines(header)):
        name, colon, _ = octets.partition(b":")
        fields.append((name.rstrip(b" \t").lower() if colon else b"", octets))
    if fields[-1] == (b"", b""):
        fields.pop()
    return fields


def canonical_fields(fields: Iterable[Field], canon: Canon) -> bytes:
    """The fields as they are hashed, with a CRLF between them and none behind the last."""
    if canon == "simple":
        return b"\r\n".join([octets for _, octets in fields])
    lines = []
    for name, octets in fields:
        value = octets.partition(b":")[2].lstrip(b" \t")
        if value.startswith(b"\r\n"):
            value = value.replace(b"\r\n", b"").lstrip(b" \t")
        lines.append(name + b":" + value)
    # No field begins with white space: a CRLF before it is folding.
    unfolded = b"\r\n".join(lines).replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")
    return _collapsed(unfolded).replace(b" \r\n", b"\r\n").rstrip(b" ")


def _collapsed(data: bytes) -> bytes:
    """One space for each run of spaces and tabs."""
    if b"\t" in data:
        data = data.replace(b"\t", b" ")
    # Each turn halves the runs that are left.
    while _SPACES.search(data):
        data = data.replace(b"  ", b" ")
    return data


class Bodies:
    """The digests (SHA-256) of one message's body, for whoever asks: each is computed once.

    Whoever knows what will be asked for says so to `prepare`: then one pass over the body is enough.
    """

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._digests: dict[Wanted, bytes] = {}
        self._sizes: dict[Canon, int] = {}

    @classmethod
    def found(cls, hasher: BodyHasher) -> Bodies:
        """What a hasher that has been given the whole body found; it can say nothing else (KeyError)."""
        bodies = cls(b"")
        bodies._body = None
        bodies._digests, bodies._sizes = hasher.finish()
        return bodies

    def prepare(self, wanted: Iterable[Wanted]) -> None:
        """Compute what will be asked for."""
        missing = [one for one in dict.fromkeys(wanted) if one not in self._digests]
        if missing and self._body is not None:
            hasher = BodyHasher(missing)
            for at in range(0, len(self._body), _PIECE):
                hasher.feed(self._body[at : at + _PIECE])
            digests, sizes = hasher.finish()
            self._digests |= digests
            self._sizes |= sizes

    def digest(self, canon: Canon, length: int | None = None) -> bytes:
        """The digest of the first `length` octets of the canonical body, of all where it has no more."""
        if (canon, length) not in self._digests:
            self.prepare([(canon, length)])
        return self._digests[canon, length]

    def size(self, canon: Canon) -> int:
        """Octets of the canonical body."""
        if canon not in self._sizes:
            self.prepare([(canon, None)])
        return self._sizes[canon]


class BodyHasher:
    """Computes digests of a body that comes in pieces; it keeps none of them."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        lengths: dict[Canon, set[int | None]] = {}
        for canon, length in wanted:
            lengths.setdefault(canon, set()).add(length)
        self._forms = [_Form(canon, one) for canon, one in lengths.items()]
        self._has_return = False

    def feed(self, data: bytes) -> None:
        """The next octets, however the body is cut."""
        if self._has_return:
            data = b"\r" + data
        self._has_return = data.endswith(b"\r")
        if self._has_return:
            data = data[:-1]
        is_tidy = _UNTIDY_LINE.search(data) is None
        if not is_tidy:
            data = whole_lines(data)
        for form in self._forms:
            form.feed(data, is_tidy)

    def finish(self) -> tuple[dict[Wanted, bytes], dict[Canon, int]]:
        """The digests that were wanted, and the sizes of the canonical forms. Once, when all has been fed."""
        digests: dict[Wanted, bytes] = {}
        for form in self._forms:
            if self._has_return:
                form.feed(b"\r", True)
            for length, digest in form.finish().items():
                digests[form.canon, length] = digest
        return digests, {form.canon: form.size for form in self._forms}


class _Form:
    """One canonical form of a body, as it is hashed. Empty lines wait until something follows them."""

    def __init__(self, canon: Canon, lengths: set[int | None]) -> None:
        self.canon = canon
        self.size = 0
        self._wants_all = None in lengths
        # The next place to stop at is the last of the list.
        self._stops = sorted((one for one in lengths if one is not None), reverse=True)
        self._digests: dict[int | None, bytes] = {}
        self._hash = hashlib.sha256()
        self._empty_lines = 0
        self._has_space = False

    def feed(self, data: bytes, is_tidy: bool) -> None:
        """Octets that do not end within a CRLF, and hold no LF without one; tidy, where no line ends in space."""
        if self.canon == "relaxed":
            if self._has_space:
                data = b" " + data
            data = _collapsed(data)
            if not is_tidy:
                data = data.replace(b" \r\n", b"\r\n")
            self._has_space = data.endswith(b" ")
            if self._has_space:
                data = data[:-1]
        ends = _final_crlfs(data)
        if 2 * ends == len(data):
            self._empty_lines += ends
            return
        self._take_empty_lines()
        self._take(data[: len(data) - 2 * ends])
        self._empty_lines = ends

    def finish(self) -> dict[int | None, bytes]:
        if self.canon == "simple" or self.size:
            self._take(b"\r\n")
        digest = self._hash.digest()
        for stop in self._stops:
            self._digests[stop] = digest
        if self._wants_all:
            self._digests[None] = digest
        return self._digests

    def _take_empty_lines(self) -> None:
        while self._empty_lines:
            count = min(self._empty_lines, _PIECE)
            self._take(b"\r\n" * count)
            self._empty_lines -= count

    def _take(self, data: bytes) -> None:
        while self._stops and self._stops[-1] <= self.size + len(data):
            stop = self._stops.pop()
            self._hash.update(data[: stop - self.size])
            self._digests[stop] = self._hash.digest()
            data = data[stop - self.size :]
            self.size = stop
        if self._stops or self._wants_all:
            self._hash.update(data)
        self.size += len(data)


def _final_crlfs(data: bytes) -> int:
    """How many CRLFs are at the end."""
    if not data.endswith(b"\r\n"):
        return 0
    if not data.endswith(b"\n\r\n"):
        return 1
    # What is left of the end without its CRs and LFs may hold CRs that are alone.
    marks = data[len(data.rstrip(b"\r\n")) :].replace(b"\r\n", b"\n")
    return len(marks) - len(marks.rstrip(b"\n"))
