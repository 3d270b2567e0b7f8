"""Aggregate reports as XML: valid by both schemas, well-formed whatever the values hold, and the same for the same."""

from __future__ import annotations

import gzip
from dataclasses import replace
from importlib.resources import files
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree  # type: ignore[import-untyped]  # it has no types of its own

from mailgate.mailauth.dmarc.aggregate import (
    AggregateReport,
    AggregateRow,
    DkimOutcome,
    Override,
    PublishedPolicy,
    SpfOutcome,
)
from mailgate.mailauth.dmarc.report_read import read_reports
from mailgate.mailauth.dmarc.report_xml import Form, compress, report_name, report_subject, report_xml

FORMS: dict[Form, str] = {"rfc9990": "dmarc-2.0.xsd", "rfc7489": "dmarc.xsd"}
ROW = AggregateRow(
    source="192.0.2.1",
    count=3,
    disposition="pass",
    dkim="pass",
    spf="fail",
    header_from="example.org",
    envelope_from="bounces.example.net",
    envelope_to="gate.test",
    dkim_results=(DkimOutcome("example.org", "s1", "pass"), DkimOutcome("example.net", "s2", "fail", "body hash")),
    spf_results=(SpfOutcome("bounces.example.net", "mfrom", "pass"),),
)
REPORT = AggregateReport(
    organization="Gate & Sons <test>",
    email="dmarc-reports@gate.test",
    report_id="0123456789abcdef",
    begin=1_750_032_000,
    end=1_750_118_399,
    published=PublishedPolicy(
        domain="example.org",
        policy="reject",
        subdomain_policy="quarantine",
        missing_policy="none",
        dkim_alignment="r",
        spf_alignment="s",
        is_testing=True,
        failure_options="1",
        discovery="treewalk",
    ),
    rows=(
        ROW,
        replace(
            ROW,
            source="2001:db8::1",
            disposition="none",
            dkim="fail",
            overrides=(Override("policy_test_mode", "t=y"), Override("mailing_list")),
            envelope_from="",
            envelope_to="",
            dkim_results=(),
            spf_results=(),
        ),
    ),
    contact="https://gate.test/dmarc",
    errors=("12 more messages", "another"),
    generator="mailgate",
)


def faults(xml: bytes, form: Form) -> list[str]:
    """What the schema of a form says against it."""
    schema = etree.XMLSchema(etree.fromstring(files("dmarc").joinpath(f"report/schemas/{FORMS[form]}").read_bytes()))
    schema.validate(etree.fromstring(xml))
    return [str(entry) for entry in schema.error_log]


@pytest.mark.parametrize("form", FORMS)
def test_a_report_is_valid_by_the_schema_of_its_form(form: Form) -> None:
    assert faults(report_xml(REPORT, form), form) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_report_of_the_other_form_is_not(form: Form) -> None:
    other: Form = "rfc7489" if form == "rfc9990" else "rfc9990"
    assert faults(report_xml(REPORT, other), form) != []


@pytest.mark.parametrize("form", FORMS)
def test_words_that_a_schema_does_not_have_become_others(form: Form) -> None:
    rows = tuple(
        replace(ROW, disposition=disposition, overrides=(Override(kind),))
        for disposition in ("none", "pass", "quarantine", "reject")
        for kind in ("local_policy", "mailing_list", "trusted_forwarder", "policy_test_mode", "forwarded", "other")
    )
    helo = replace(ROW, spf_results=(SpfOutcome("mx.example.net", "helo", "pass"),))
    assert faults(report_xml(replace(REPORT, rows=(*rows, helo)), form), form) == []


def test_what_is_read_is_what_was_written() -> None:
    assert read_reports(report_xml(REPORT)) == [replace(REPORT, errors=("12 more messages; another",))]
    (old,) = read_reports(report_xml(REPORT, "rfc7489"))
    assert old.errors == REPORT.errors
    assert [row.source for row in old.rows] == ["192.0.2.1", "2001:db8::1"]
    assert [row.disposition for row in old.rows] == ["none", "none"]
    assert old.published.missing_policy == ""


@given(st.text(), st.text(max_size=3000))
def test_it_is_well_formed_whatever_the_values_hold(text: str, longer: str) -> None:
    published = PublishedPolicy(domain=text, policy=text, failure_options=longer)
    row = AggregateRow(
        source=text,
        count=1,
        disposition=text,
        dkim=text,
        spf=longer,
        header_from=text,
        envelope_from=longer,
        overrides=(Override(text, longer),),
        dkim_results=(DkimOutcome(text, longer, text, longer),),
        spf_results=(SpfOutcome(longer, text, text, longer),),
    )
    report = replace(REPORT, organization=text, contact=longer, published=published, rows=(row,), errors=(text,))
    for form in FORMS:
        ElementTree.fromstring(report_xml(report, form))  # noqa: S314  our own
        report_subject("gate.test", report).encode("ascii")
    assert set(report_name(text, report)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-!")


def test_what_xml_cannot_hold_is_replaced_and_what_is_too_long_is_cut() -> None:
    (read,) = read_reports(report_xml(replace(REPORT, organization="a\0\x1b\ud800\uffffb", contact="c" * 5000)))
    assert read.organization == "a\ufffd\ufffd\ufffd\ufffdb"
    assert read.contact == "c" * 1000


def test_a_row_has_a_hundred_signatures_at_most() -> None:
    row = replace(ROW, dkim_results=tuple(DkimOutcome("example.org", f"s{number}", "pass") for number in range(150)))
    (read,) = read_reports(report_xml(replace(REPORT, rows=(row,))))
    assert [one.selector for one in read.rows[0].dkim_results] == [f"s{number}" for number in range(100)]


def test_a_report_without_rows_is_none() -> None:
    with pytest.raises(ValueError, match="one row at least"):
        report_xml(replace(REPORT, rows=()))


def test_packed_it_is_the_same_for_the_same() -> None:
    xml = report_xml(REPORT)
    assert compress(xml) == compress(report_xml(REPORT))
    assert gzip.decompress(compress(xml)) == xml


def test_the_names_are_those_of_the_standard() -> None:
    assert report_name("MX.gate.test", REPORT) == (
        "mx.gate.test!example.org!1750032000!1750118399!0123456789abcdef.xml.gz"
    )
    assert report_subject("mx.gate.test", REPORT) == (
        "Report Domain: example.org Submitter: mx.gate.test Report-ID: <0123456789abcdef>"
    )
