"""A DMARC aggregate report as octets, and the names that go with it (RFC 9990 section 3)."""

from __future__ import annotations

import gzip
import re
from ipaddress import ip_address
from typing import Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from mailgate.mailauth.dmarc.aggregate import AggregateReport, AggregateRow, PublishedPolicy, SpfOutcome

__all__ = ["Form", "compress", "report_name", "report_subject", "report_xml"]

Form = Literal["rfc9990", "rfc7489"]

#: Signatures in one row, at most (RFC 9990 section 3.1.3).
_MOST_SIGNATURES = 100
#: Characters of one value: nothing that mail has is longer, but for what others make up.
_LONGEST = 1000
_NAMESPACE = "urn:ietf:params:xml:ns:dmarc-2.0"
# What XML 1.0 cannot hold, however it is written (section 2.2 of that), and what is not one line.
_NO_CHARACTER = re.compile("[^ -\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Words that a schema has under another name, or not at all.
_OLD_DISPOSITIONS = {"pass": "none"}
_OLD_OVERRIDES = {"policy_test_mode": "other"}
_NEW_OVERRIDES = {"forwarded": "other", "sampled_out": "other"}


def report_xml(report: AggregateReport, form: Form = "rfc9990") -> bytes:
    """The report as XML of the schema of RFC 9990, or of that of RFC 7489, which its readers know.

    Well-formed whatever the values hold: what XML has no way to write becomes U+FFFD, and what is longer than anything
    that mail has is cut. The same report gives the same octets. ValueError where there are no rows: such a report
    is none.
    """
    if not report.rows:
        raise ValueError("a report has one row at least")
    is_new = form == "rfc9990"
    root = Element("feedback", {"xmlns": _NAMESPACE} if is_new else {})
    _text(root, "version", "1.0")
    metadata = SubElement(root, "report_metadata")
    _text(metadata, "org_name", report.organization)
    _text(metadata, "email", report.email)
    _text(metadata, "extra_contact_info", report.contact, optional=True)
    _text(metadata, "report_id", report.report_id)
    span = SubElement(metadata, "date_range")
    _text(span, "begin", str(report.begin))
    _text(span, "end", str(report.end))
    if is_new:
        _text(metadata, "error", "; ".join(report.errors), optional=True)
        _text(metadata, "generator", report.generator, optional=True)
    else:
        for error in report.errors:
            _text(metadata, "error", error)
    _published(root, report.published, is_new=is_new)
    for row in report.rows:
        _row(root, row, is_new=is_new)
    octets: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return octets


def compress(xml: bytes) -> bytes:
    """The report as it is attached: gzip, the same octets for the same report."""
    return gzip.compress(xml, mtime=0)


def report_name(receiver: str, report: AggregateReport) -> str:
    """The name of the attachment (RFC 9990 section 3.5.2). `receiver` is our name, a domain."""
    unique = re.sub("[^A-Za-z0-9]", "", report.report_id)
    parts = [_domain(receiver), _domain(report.published.domain), str(report.begin), str(report.end)]
    return "!".join([*parts, unique] if unique else parts) + ".xml.gz"


def report_subject(receiver: str, report: AggregateReport) -> str:
    """The Subject of the mail that carries it (RFC 9990 section 3.5.2)."""
    domain = _domain(report.published.domain)
    return f"Report Domain: {domain} Submitter: {_domain(receiver)} Report-ID: <{_plain(report.report_id)}>"


def _published(root: Element, published: PublishedPolicy, *, is_new: bool) -> None:
    element = SubElement(root, "policy_published")
    _text(element, "domain", published.domain)
    if is_new:
        _text(element, "discovery_method", published.discovery, optional=True)
    else:
        _text(element, "adkim", published.dkim_alignment, optional=True)
        _text(element, "aspf", published.spf_alignment, optional=True)
    _text(element, "p", published.policy)
    _text(element, "sp", published.subdomain_policy, optional=True)
    if is_new:
        _text(element, "np", published.missing_policy, optional=True)
        _text(element, "fo", published.failure_options, optional=True)
        _text(element, "adkim", published.dkim_alignment, optional=True)
        _text(element, "aspf", published.spf_alignment, optional=True)
        _text(element, "testing", "y" if published.is_testing else "n")
    else:
        _text(element, "pct", str(published.percent))
        _text(element, "fo", published.failure_options, optional=True)


def _row(root: Element, row: AggregateRow, *, is_new: bool) -> None:
    record = SubElement(root, "record")
    element = SubElement(record, "row")
    _text(element, "source_ip", row.source if is_new else _in_full(row.source))
    _text(element, "count", str(row.count))
    evaluated = SubElement(element, "policy_evaluated")
    disposition = row.disposition if is_new else _OLD_DISPOSITIONS.get(row.disposition, row.disposition)
    _text(evaluated, "disposition", disposition)
    _text(evaluated, "dkim", row.dkim)
    _text(evaluated, "spf", row.spf)
    words = _NEW_OVERRIDES if is_new else _OLD_OVERRIDES
    for override in row.overrides:
        reason = SubElement(evaluated, "reason")
        _text(reason, "type", words.get(override.kind, override.kind))
        _text(reason, "comment", override.comment, optional=True)
    identifiers = SubElement(record, "identifiers")
    _text(identifiers, "header_from", row.header_from)
    # Empty for the null reverse-path (RFC 9990 section 3.1.1).
    _text(identifiers, "envelope_from", row.envelope_from)
    _text(identifiers, "envelope_to", row.envelope_to, optional=True)
    results = SubElement(record, "auth_results")
    for dkim in row.dkim_results[:_MOST_SIGNATURES]:
        signature = SubElement(results, "dkim")
        _text(signature, "domain", dkim.domain)
        _text(signature, "selector", dkim.selector)
        _text(signature, "result", dkim.result)
        _text(signature, "human_result", dkim.detail, optional=True)
    checks = row.spf_results
    if is_new:
        # One at most, and not of HELO, which DMARC has no use for (RFC 9990 section 3.1.1).
        checks = tuple(spf for spf in checks if spf.scope != "helo")[:1]
    elif not checks:
        checks = (SpfOutcome(row.envelope_from or row.header_from, "mfrom", "none"),)  # one at least
    for spf in checks:
        checked = SubElement(results, "spf")
        _text(checked, "domain", spf.domain)
        _text(checked, "scope", spf.scope, optional=is_new)
        _text(checked, "result", spf.result)
        if is_new:
            _text(checked, "human_result", spf.detail, optional=True)


def _text(parent: Element, name: str, text: str, *, optional: bool = False) -> None:
    if text or not optional:
        SubElement(parent, name).text = _NO_CHARACTER.sub("\ufffd", text[:_LONGEST])


def _in_full(address: str) -> str:
    """An address without "::", which the schema of RFC 7489 does not know."""
    try:
        return ip_address(address).exploded
    except ValueError:
        return address


def _domain(domain: str) -> str:
    """A domain for a name or a Subject: of what is no domain nothing stays that means something there."""
    return re.sub("[^a-z0-9._-]", "_", domain.lower())[:253] or "unknown"


def _plain(report_id: str) -> str:
    return re.sub("[^A-Za-z0-9.@_+=-]", "_", report_id)[:253]
