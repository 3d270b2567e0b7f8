"""Received DMARC aggregate reports, out of whatever they come in: the bounds are for files made to be too much."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from binascii import Error as BadBase64Error
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator

from mailgate.mailauth.dmarc.aggregate import AggregateReport
from mailgate.mailauth.dmarc.report_parse import Budget, ReportError, parse_report
from mailgate.mime.structure import RecodeError, Role, scan

__all__ = ["MAX_FILE", "MAX_ROWS", "MAX_UNPACKED", "ReportError", "read_reports"]

#: Octets of a file as it came, and of all reports in it when they are unpacked.
MAX_FILE, MAX_UNPACKED = 32 * 1024 * 1024, 64 * 1024 * 1024
#: Rows of all reports in a file.
MAX_ROWS = 100_000
#: Reports in one file.
_MOST_REPORTS = 20
#: Octets that are unpacked and parsed at a time.
_CHUNK = 64 * 1024

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_XML = re.compile(rb"(?:\xef\xbb\xbf)?\s*+<[?!a-zA-Z_]|\xff\xfe<\0|\xfe\xff\0<")


def read_reports(octets: bytes) -> list[AggregateReport]:
    """The reports in a file: XML of RFC 9990 or RFC 7489, packed by gzip or zip or not, or a mail that carries such.

    ReportError where there is none, where one is damaged or hostile, or where there is more than the limits above.
    """
    if len(octets) > MAX_FILE:
        raise ReportError(f"is larger than {MAX_FILE // 1024**2} MiB")
    if not octets.strip():
        raise ReportError("is empty")
    budget = Budget(MAX_UNPACKED, MAX_ROWS)
    return _read(octets, budget) if _may_be_one(octets) else _read_mail(octets, budget)


def _may_be_one(octets: bytes) -> bool:
    return octets.startswith((_GZIP, _ZIP)) or _XML.match(octets) is not None


def _read(octets: bytes, budget: Budget) -> list[AggregateReport]:
    if octets.startswith(_ZIP):
        return _read_zip(octets, budget)
    if octets.startswith(_GZIP):
        return [parse_report(_once(_gunzipped(octets)), budget)]
    return [parse_report((octets[start : start + _CHUNK] for start in range(0, len(octets), _CHUNK)), budget)]


def _once(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What was unpacked, unless it is packed again, as no report is."""
    first = next(pieces, b"")
    if first.startswith((_GZIP, _ZIP)):
        raise ReportError("is packed twice")
    yield first
    yield from pieces


def _gunzipped(octets: bytes) -> Iterator[bytes]:
    """The content of one gzip member after the other, in pieces."""
    left = octets
    while left.startswith(_GZIP):  # what else stands behind a member is fill
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            try:
                piece = member.decompress(left, _CHUNK)
            except zlib.error as error:
                raise ReportError(f"is no gzip file that can be read: {_line(error)}") from None
            left = member.unconsumed_tail
            if piece:
                yield piece
            elif not left and not member.eof:
                raise ReportError("is cut off: the gzip file has no end")
        left = member.unused_data


def _read_zip(octets: bytes, budget: Budget) -> list[AggregateReport]:
    try:
        with zipfile.ZipFile(io.BytesIO(octets)) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            named = [one for one in members if one.filename.lower().endswith(".xml")] or members[:1]
            if not named:
                raise ReportError("is an archive with nothing in it")
            _check_count(len(named))
            return [parse_report(_once(_unzipped(archive, one)), budget) for one in named]
    except ReportError:
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # What the module raises on archives that are damaged, encrypted, or of a later version.
        raise ReportError(f"is no archive that can be read: {_line(error)}") from None


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    # Those that are unpacked in bounded pieces; of the other kinds a few octets may become very many at once.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ReportError("is an archive that is packed in an unusual way")
    with archive.open(member) as stream:
        while piece := stream.read(_CHUNK):
            yield piece


def _read_mail(octets: bytes, budget: Budget) -> list[AggregateReport]:
    found = [part for part in _parts(octets) if _may_be_one(part)]
    if not found:
        raise ReportError("is neither a report nor a mail with one")
    _check_count(len(found))
    return [report for part in found for report in _read(part, budget)]


def _parts(octets: bytes) -> Iterator[bytes]:
    """The bodies in a mail, decoded; those of mails within it, too."""
    header, blank, _ = octets.partition(b"\r\n\r\n")
    if not blank:  # as files of mail on this side of the wire are
        octets = octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        header, blank, _ = octets.partition(b"\r\n\r\n")
    if not blank:
        return
    try:
        pieces = scan(octets, header + b"\r\n", len(header) + len(blank))[1]
    except RecodeError as error:
        raise ReportError(f"is no mail that can be read: {_line(error)}") from None
    for piece in pieces:
        if piece.role is Role.BODY:
            yield _decoded(octets[piece.start : piece.end], piece.entity.label)


def _decoded(body: bytes, label: str) -> bytes:
    try:
        return a2b_base64(body) if label == "base64" else a2b_qp(body) if label == "quoted-printable" else body
    except BadBase64Error:
        return b""


def _check_count(count: int) -> None:
    if count > _MOST_REPORTS:
        raise ReportError(f"has {count} reports in it, and {_MOST_REPORTS} are read at most")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
