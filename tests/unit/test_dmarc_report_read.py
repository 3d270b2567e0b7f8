"""Reports that others made: in whatever they come, and made to be too much."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.mailauth.dmarc import report_parse, report_read
from mailgate.mailauth.dmarc.aggregate import Override, SpfOutcome
from mailgate.mailauth.dmarc.report_parse import Budget, parse_report
from mailgate.mailauth.dmarc.report_read import MAX_FILE, ReportError, read_reports
from mailgate.mailauth.dmarc.report_xml import report_xml
from tests.unit.test_dmarc_report_xml import REPORT

XML = report_xml(REPORT)
ORGANIZATION = REPORT.organization
#: As some write it: by RFC 7489, without a namespace, in another order, with what no schema knows.
OLD = b"""<?xml version="1.0"?>
<feedback>
  <report_metadata>
    <date_range><begin> 1750032000 </begin><end>1750118400</end></date_range>
    <org_name>google.com</org_name><email>noreply@google.com</email><report_id>17</report_id>
  </report_metadata>
  <policy_published><domain>Example.ORG</domain><p>none</p><pct>50</pct><strange><p>reject</p></strange></policy_published>
  <record>
    <row><source_ip>2001:0DB8:0:0:0:0:0:1</source_ip><count>2</count>
      <policy_evaluated><disposition>none</disposition><dkim>fail</dkim><spf>Pass</spf>
        <reason><type>sampled_out</type><comment>half</comment></reason></policy_evaluated></row>
    <identifiers><header_from>example.org</header_from></identifiers>
    <auth_results><spf><domain>example.org</domain><result>pass</result></spf></auth_results>
  </record>
</feedback>
"""


def zipped(*members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, octets in members:
            archive.writestr(name, octets)
    return out.getvalue()


def mailed(*attachments: bytes, subtype: str = "gzip") -> bytes:
    message = EmailMessage()
    message["Subject"] = "Report Domain: example.org"
    message.set_content("A report <not XML>.")
    for octets in attachments:
        message.add_attachment(octets, maintype="application", subtype=subtype, filename="report")
    return message.as_bytes()


def reason(octets: bytes) -> str:
    with pytest.raises(ReportError) as caught:
        read_reports(octets)
    (text,) = caught.value.args
    assert "\n" not in text
    return str(text)


# -- what it comes in


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(lambda xml: xml, id="plain"),
        pytest.param(lambda xml: b"\xef\xbb\xbf" + xml, id="with a byte order mark"),
        pytest.param(lambda xml: b"\n  " + xml.partition(b"?>")[2], id="space before it"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lambda xml: gzip.compress(xml) + b"\0" * 100, id="gzip with fill"),
        pytest.param(lambda xml: gzip.compress(xml[:500]) + gzip.compress(xml[500:]), id="gzip of two members"),
        pytest.param(lambda xml: zipped(("report.XML", xml)), id="zip"),
        pytest.param(lambda xml: zipped(("a.txt", b"no report"), ("b.xml", xml)), id="zip with something beside"),
        pytest.param(lambda xml: mailed(gzip.compress(xml)), id="mail"),
        pytest.param(lambda xml: mailed(gzip.compress(xml)).replace(b"\n", b"\r\n"), id="mail as on the wire"),
        pytest.param(lambda xml: mailed(zipped(("r.xml", xml)), subtype="octet-stream"), id="mail with zip"),
        pytest.param(
            lambda xml: b"Content-Type: text/xml\nContent-Transfer-Encoding: base64\n\n" + base64.encodebytes(xml),
            id="mail that is all report",
        ),
        pytest.param(
            lambda xml: b"Content-Type: message/rfc822\n\n" + mailed(gzip.compress(xml)), id="mail passed on in a mail"
        ),
    ],
)
def test_a_report_is_found_in_what_it_comes_in(pack: Callable[[bytes], bytes]) -> None:
    (report,) = read_reports(pack(XML))
    assert report.organization == ORGANIZATION
    assert len(report.rows) == 2


def test_several_in_one_file_are_all_read() -> None:
    assert len(read_reports(zipped(("a.xml", XML), ("b.xml", OLD)))) == 2
    assert [one.organization for one in read_reports(mailed(gzip.compress(XML), gzip.compress(OLD)))] == [
        ORGANIZATION,
        "google.com",
    ]


def test_what_the_older_standard_allowed_is_read() -> None:
    (report,) = read_reports(OLD)
    assert (report.published.domain, report.published.policy, report.published.percent) == ("example.org", "none", 50)
    assert (report.begin, report.end) == (1750032000, 1750118400)
    (row,) = report.rows
    assert (row.source, row.count, row.spf, row.passes) == ("2001:db8::1", 2, "pass", True)
    assert row.overrides == (Override("sampled_out", "half"),)
    assert row.spf_results == (SpfOutcome("example.org", "", "pass"),)


def test_elements_of_other_namespaces_are_passed_over() -> None:
    foreign = XML.replace(
        b"</row>",
        b'</row><x:row xmlns:x="urn:other"><x:count>99</x:count><count>98</count></x:row>'
        b'<identifiers xmlns="urn:other"><header_from>evil.example</header_from></identifiers>',
    )
    assert read_reports(foreign) == read_reports(XML)


@pytest.mark.parametrize("namespace", ["urn:wrong", "http://dmarc.org/dmarc-xml/0.1"])
def test_the_namespace_of_the_whole_may_be_any(namespace: str) -> None:
    odd = XML.replace(b"urn:ietf:params:xml:ns:dmarc-2.0", namespace.encode())
    assert read_reports(odd) == read_reports(XML)


# -- what is none


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"hello", "is neither a report nor a mail with one"),
        (b"Subject: hello\n\nno report\n", "is neither a report nor a mail with one"),
        (b"<html><body/></html>", "is no DMARC aggregate report: it begins with <html>"),
        (XML[:-20], "is no well-formed XML"),
        (b"<feedback><a:b/></feedback>", "is no well-formed XML: unbound prefix"),
        (b"<feedback/>", "is a report without rows"),
        (XML.replace(b"<count>3<", b"<count>many<"), "has a <count> that is no number"),
        (XML.replace(b"<begin>1750032000<", b"<begin>-1<"), "has a <begin> that is no number"),
        (XML.replace(b"<count>3<", b"<count>" + b"9" * 5000 + b"<"), "has a <count> that is no number"),
        (XML.replace(b"<domain>example.org</domain><disc", b"<disc"), "does not say which domain it is about"),
        (gzip.compress(XML)[:-20], "is cut off"),
        (gzip.compress(XML)[:200], "is cut off"),
        (b"\x1f\x8b\x08" + b"\xff" * 100, "is no gzip file that can be read"),
        (gzip.compress(gzip.compress(XML)), "is packed twice"),
        (zipped(("a.xml", gzip.compress(XML))), "is packed twice"),
        (b"PK\x03\x04" + b"\0" * 100, "is no archive that can be read"),
        (zipped(("folder/", b"")), "is an archive with nothing in it"),
        (mailed(b"<feedback/>", b"<feedback/>"), "is a report without rows"),
    ],
)
def test_what_is_no_report_is_told_in_a_line(octets: bytes, why: str) -> None:
    assert why in reason(octets)


def test_an_archive_that_is_damaged_or_locked_is_told_in_a_line() -> None:
    archive = bytearray(zipped(("a.xml", XML)))
    archive[60] ^= 0xFF
    reason(bytes(archive))
    locked = bytearray(zipped(("a.xml", XML)))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in reason(bytes(locked))


# -- what is made to be too much


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE f [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><feedback>&b;</feedback>',
        b'<!DOCTYPE f [<!ENTITY a SYSTEM "file:///etc/passwd">]><feedback>&a;</feedback>',
        b'<!DOCTYPE f SYSTEM "http://192.0.2.1/x.dtd"><feedback/>',
        b'<?xml version="1.0"?><!DOCTYPE feedback><feedback/>',
    ],
)
def test_document_types_and_entities_are_refused(document: bytes) -> None:
    assert "document type" in reason(document)
    assert "document type" in reason(gzip.compress(document))


def test_an_entity_that_nobody_declared_stands_for_nothing() -> None:
    assert "undefined entity" in reason(b"<feedback><version>&xxe;</version></feedback>")


def test_a_file_that_is_too_large_is_not_looked_at() -> None:
    assert reason(b"<" * (MAX_FILE + 1)) == "is larger than 32 MiB"


class _Endless:
    """Pieces of a report without end, which counts those that were taken."""

    def __init__(self, piece: bytes, start: bytes = b"<feedback>") -> None:
        self.taken = 0
        self._start, self._piece = start, piece

    def __iter__(self) -> _Endless:
        return self

    def __next__(self) -> bytes:
        self.taken += 1
        return self._start if self.taken == 1 else self._piece


@pytest.mark.parametrize("piece", [b" " * 65536, b"<a>b</a>" * 8192, b"&amp;" * 13000], ids=["space", "tags", "text"])
def test_unpacked_octets_are_bounded(piece: bytes) -> None:
    pieces = _Endless(piece)
    with pytest.raises(ReportError, match="too large when it is unpacked"):
        parse_report(pieces, Budget(1024 * 1024, 10))
    assert pieces.taken < 20


@pytest.mark.parametrize("start", [b"<feedback ", b"<feedback a='", b"<feedback><!--", b"<feedback><?p "])
def test_what_does_not_end_is_given_up(start: bytes) -> None:
    pieces = _Endless(b"a" * 65536, start)
    with pytest.raises(ReportError, match="too long"):
        parse_report(pieces, Budget(1024**4, 10))
    assert pieces.taken < 20


def test_elements_do_not_go_deep() -> None:
    assert "too deep" in reason(b"<feedback>" + b"<a>" * 100_000)


def test_rows_are_bounded_over_all_reports_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_read, "MAX_ROWS", 3)
    assert len(read_reports(XML)) == 1
    assert reason(zipped(("a.xml", XML), ("b.xml", XML))) == "has too many rows"


def test_unpacking_is_bounded_over_all_reports_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_read, "MAX_UNPACKED", len(XML) + 100)
    assert len(read_reports(gzip.compress(XML))) == 1
    assert reason(zipped(("a.xml", XML), ("b.xml", XML))) == "is too large when it is unpacked"


@pytest.mark.parametrize("pack", [gzip.compress, lambda octets: zipped(("a.xml", octets))], ids=["gzip", "zip"])
def test_a_bomb_takes_no_memory(pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(b"<feedback>" + b" " * (100 * 1024 * 1024))
    tracemalloc.start()
    try:
        assert reason(bomb) == "is too large when it is unpacked"
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_that_unpack_without_bounds_are_refused(kind: int) -> None:
    assert reason(zipped(("a.xml", XML), kind=kind)) == "is an archive that is packed in an unusual way"


def test_a_member_that_lies_about_its_size_is_bounded_like_others() -> None:
    archive = zipped(("a.xml", b"<feedback>" + b" " * 1_000_000))
    small = archive.replace((1_000_010).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert small != archive
    reason(small)


def test_a_file_holds_a_few_reports_only() -> None:
    many = [(f"{number}.xml", XML) for number in range(25)]
    assert len(read_reports(zipped(*many[:20]))) == 20
    assert "25 reports" in reason(zipped(*many))
    assert "25 reports" in reason(mailed(*(gzip.compress(XML) for _ in many)))


def test_a_mail_of_parts_within_parts_is_given_up() -> None:
    header = "".join(f'Content-Type: multipart/mixed; boundary="{n}"\r\n\r\n--{n}\r\n' for n in range(200))
    assert "inside one another" in reason(header.encode())


def test_values_and_lists_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_parse, "_MOST_RESULTS", 1)
    long = XML.replace(b"<org_name>", b"<org_name>" + b"x" * 5000)
    (report,) = read_reports(long)
    assert report.organization == "x" * 1000
    assert [len(row.dkim_results) for row in report.rows] == [1, 0]


@given(st.binary(max_size=300), st.sampled_from([b"", XML, gzip.compress(XML), zipped(("a.xml", XML)), mailed(XML)]))
def test_octets_end_in_reports_or_in_a_reason(octets: bytes, start: bytes) -> None:
    for made in (octets + start, start + octets, start[: len(octets) * 5] + octets, start[len(octets) :]):
        with contextlib.suppress(ReportError):
            read_reports(made)


@given(st.integers(0, len(XML) - 1), st.binary(min_size=1, max_size=4))
def test_a_changed_report_is_read_or_refused(at: int, octets: bytes) -> None:
    changed = XML[:at] + octets + XML[at + len(octets) :]
    for made in (changed, zlib.compress(changed, wbits=31)):
        with contextlib.suppress(ReportError):
            read_reports(made)
