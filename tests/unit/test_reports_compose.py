"""From counts to the report and its mail."""

from __future__ import annotations

import gzip
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailgate.address import Address
from mailgate.config.reports import ReportsDkimSection, ReportsSection
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.mailauth.dmarc.aggregate import AggregateReport, Override
from mailgate.mailauth.dmarc.report_read import read_reports
from mailgate.mailauth.dmarc.report_xml import Form
from mailgate.reporting.compose import compose_mail, compose_report, make_signer, pack
from mailgate.stores.aggregate_file import Batch
from mailgate.stores.aggregates import counted
from mailgate.testing import MemoryResolver
from tests.unit.test_dmarc_aggregates import NOON, TODAY, evaluated
from tests.unit.test_dmarc_report_xml import faults
from tests.unit.test_reports_gathering import section

TO = Address("d", "example.org")


def report(*events: Any, missed: int = 0, section_: ReportsSection | None = None) -> AggregateReport:
    tallies = [(counted(event)[2], 2) for event in events]
    batch = Batch(1, TODAY, counted(events[0])[1], missed, 0, "")
    return compose_report(batch, tallies, section_ or section(), "mx.gate.test", "rfc9989")


def mail(section_: ReportsSection | None = None, **more: Any) -> tuple[bytes, EmailMessage]:
    made = section_ or section()
    packed = pack(report(evaluated(), section_=made), made, "mx.gate.test")
    octets = compose_mail(packed, TO, made, "mx.gate.test", NOON, **{"sign": None, **more})
    parsed = message_from_bytes(octets, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return octets, parsed


def test_a_report_says_who_made_it_and_for_when() -> None:
    made = report(evaluated(is_testing=True, strict_spf=True), missed=7, section_=section(contact="see there"))
    assert (made.organization, made.email, made.contact) == ("gate.test", "dmarc-reports@gate.test", "see there")
    assert (made.begin, made.end) == (TODAY * 86400, TODAY * 86400 + 86399)
    assert made.errors == ("7 more messages were not counted by kind",)
    published = made.published
    assert (published.domain, published.policy, published.is_testing) == ("example.org", "reject", True)
    assert (published.dkim_alignment, published.spf_alignment, published.discovery) == ("r", "s", "treewalk")


def test_a_row_says_what_was_found_and_done() -> None:
    event = evaluated(
        aligned=("dkim",),
        dkim=(("example.org", "s1", "pass"), ("", "", "permerror"), ("x.test", "s", "odd")),
        override="mailing_list",
        comment="List-Id",
    )
    (row,) = report(event).rows
    assert (row.source, row.count, row.disposition, row.dkim, row.spf) == ("192.0.2.1", 2, "pass", "pass", "fail")
    assert (row.header_from, row.envelope_from, row.envelope_to) == ("example.org", "bounces.example.org", "gate.test")
    assert [(one.domain, one.result) for one in row.dkim_results] == [("example.org", "pass"), ("x.test", "neutral")]
    assert [(one.domain, one.scope, one.result) for one in row.spf_results] == [
        ("bounces.example.org", "mfrom", "pass")
    ]
    assert row.overrides == (Override("mailing_list", "List-Id"),)
    assert report(evaluated(spf=("", "", ""))).rows[0].spf_results == ()


@pytest.mark.parametrize(
    ("more", "disposition", "overrides"),
    [
        ({}, "pass", []),
        ({"policy": "none"}, "none", []),
        ({"header_from": "a.example.org", "subdomain_policy": "none", "missing_policy": "none"}, "none", []),
        ({"result": "fail", "disposition": "reject"}, "reject", []),
        ({"result": "fail", "disposition": "none"}, "none", ["local_policy"]),
        ({"result": "fail", "disposition": "quarantine"}, "quarantine", ["local_policy"]),
        ({"result": "fail", "disposition": "quarantine", "is_testing": True}, "quarantine", ["policy_test_mode"]),
        ({"result": "fail", "disposition": "none", "is_testing": True, "policy": "none"}, "none", []),
        ({"result": "fail", "disposition": "none", "override": "mailing_list"}, "none", ["mailing_list"]),
        (
            {"result": "fail", "disposition": "none", "header_from": "a.example.org", "missing_policy": "none"},
            "none",
            [],
        ),
    ],
)
def test_what_differs_from_the_policy_has_its_reason(
    more: dict[str, Any], disposition: str, overrides: list[str]
) -> None:
    (row,) = report(evaluated(**more)).rows
    assert row.disposition == disposition
    assert [one.kind for one in row.overrides] == overrides


def test_the_same_counts_are_the_same_report_and_others_are_another() -> None:
    made = section()
    assert pack(report(evaluated()), made, "mx.gate.test") == pack(report(evaluated()), made, "mx.gate.test")
    ids = {
        report(evaluated()).report_id,
        report(evaluated(policy="none")).report_id,
        report(evaluated(domain="x.test")).report_id,
    }
    assert len(ids) == 3
    assert all(one.isalnum() for one in ids)


@pytest.mark.parametrize("form", ["rfc9990", "rfc7489"])
def test_what_is_attached_is_valid_and_can_be_read(form: Form) -> None:
    octets, parsed = mail(section(form=form))
    (attachment,) = parsed.iter_attachments()
    assert attachment.get_content_type() == "application/gzip"
    xml = gzip.decompress(attachment.get_content())
    assert faults(xml, form) == []
    assert read_reports(octets) == read_reports(xml)


def test_the_mail_is_as_the_standard_wants_it() -> None:
    octets, parsed = mail(section(organization="Gate & Söhne"))
    made = report(evaluated())
    assert parsed["From"].addresses[0].display_name == "Gate & Söhne"
    assert parsed["From"].addresses[0].addr_spec == "dmarc-reports@gate.test"
    assert parsed["To"] == "d@example.org"
    assert parsed["Subject"] == f"Report Domain: example.org Submitter: mx.gate.test Report-ID: <{made.report_id}>"
    assert parsed["Message-ID"].startswith(f"<{made.report_id}.")
    assert parsed["Auto-Submitted"] == "auto-generated"
    assert parsed["Date"].datetime.timestamp() == NOON
    (attachment,) = parsed.iter_attachments()
    name = f"mx.gate.test!example.org!{TODAY * 86400}!{TODAY * 86400 + 86399}!{made.report_id}.xml.gz"
    assert attachment.get_filename() == name
    assert f'filename="{name}"'.encode() in octets
    assert b"2024-10-04" in octets
    assert octets.isascii()
    assert all(len(line) <= 998 and b"\n" not in line for line in octets.split(b"\r\n"))


def test_the_same_report_to_the_same_address_has_the_same_message_id() -> None:
    made = section()
    packed = pack(report(evaluated()), made, "mx.gate.test")
    ids = [
        message_from_bytes(compose_mail(packed, to, made, "mx.gate.test", at, None))["Message-ID"]
        for to, at in ((TO, NOON), (TO, NOON + 100), (Address("e", "example.org"), NOON))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_the_mail_is_signed_so_that_it_verifies(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    sign = make_signer(ReportsDkimSection(domain="gate.test", selector="s1", key=path))
    octets, _ = mail(sign=sign)
    resolver = MemoryResolver({"s1._domainkey.gate.test": {"TXT": [SigningKey.load(path.read_bytes()).record]}})
    with pytest.raises(StopIteration) as end:
        verify_dkim(resolver, octets, now=NOON + 60).send(None)
    (result,) = end.value.value
    assert (result.result, result.domain, result.selector) == ("pass", "gate.test", "s1")
    assert {"from", "to", "subject", "date"} <= set(result.signed)


def test_a_key_that_cannot_be_used_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    section_ = ReportsDkimSection(domain="gate.test", selector="s1", key=path)
    with pytest.raises(ValueError, match=r"key\.pem: cannot be read: No such file"):
        make_signer(section_)
    path.write_text("nothing of a key")
    with pytest.raises(ValueError, match=r"key\.pem: "):
        make_signer(section_)
    assert make_signer(None) is None
