"""From what was counted to a report, and from a report to the mail that carries it: pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address as NamedAddress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

import msgspec

from mailgate.address import Address
from mailgate.config.reports import ReportsDkimSection, ReportsSection
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.sign import sign_dkim
from mailgate.mailauth.dmarc.aggregate import (
    AggregateReport,
    AggregateRow,
    DkimOutcome,
    Override,
    PublishedPolicy,
    SpfOutcome,
)
from mailgate.mailauth.dmarc.report_xml import compress, report_name, report_subject, report_xml
from mailgate.stores.aggregate_file import Batch, Policy, Tally
from mailgate.stores.aggregates import DAY

__all__ = ["Packed", "Signer", "compose_mail", "compose_report", "make_signer", "pack"]

Signer = Callable[[bytes, float], bytes]
"""The message, signed at a time (seconds since the epoch)."""

# Fields are not folded: some readers of reports cannot put a file name together again (RFC 2231).
_POLICY = SMTP.clone(max_line_length=998)
_RESULTS = frozenset(("none", "pass", "fail", "policy", "neutral", "temperror", "permerror"))
_SPF_RESULTS = _RESULTS | {"softfail"}
#: What is asked of mail that fails, once t=y is counted in (RFC 9989 section 4.7).
_IN_TEST = {"reject": "quarantine", "quarantine": "none", "none": "none"}


@dataclass(frozen=True, slots=True)
class Packed:
    """A report as it is attached, with its names."""

    report_id: str
    domain: str
    day: int
    name: str
    subject: str
    octets: bytes


def compose_report(
    batch: Batch, tallies: Sequence[tuple[Tally, int]], section: ReportsSection, hostname: str, mode: str
) -> AggregateReport:
    """The report on what was counted; the same again for the same counts, with the same name."""
    policy = batch.policy
    begin = batch.day * DAY
    sender = section.sender or ""
    missed = f"{batch.missed} more messages were not counted by kind" if batch.missed else ""
    return AggregateReport(
        organization=section.organization or sender.rpartition("@")[2],
        email=sender,
        contact=section.contact,
        report_id=_report_id(batch, hostname),
        begin=begin,
        end=begin + DAY - 1,
        published=PublishedPolicy(
            domain=policy.domain,
            policy=policy.policy,
            subdomain_policy=policy.subdomain_policy,
            missing_policy=policy.missing_policy,
            dkim_alignment="s" if policy.strict_dkim else "r",
            spf_alignment="s" if policy.strict_spf else "r",
            is_testing=policy.is_testing,
            discovery="treewalk" if mode == "rfc9989" else "psl",
        ),
        rows=tuple(_row(tally, count, policy) for tally, count in tallies),
        errors=(missed,) if missed else (),
        generator="mailgate",
    )


def pack(report: AggregateReport, section: ReportsSection, hostname: str) -> Packed:
    """The report as octets, with what the mail says of it."""
    return Packed(
        report_id=report.report_id,
        domain=report.published.domain,
        day=report.begin // DAY,
        name=report_name(hostname, report),
        subject=report_subject(hostname, report),
        octets=compress(report_xml(report, section.form)),
    )


def compose_mail(
    packed: Packed, to: Address, section: ReportsSection, hostname: str, now: float, sign: Signer | None
) -> bytes:
    """The mail to one destination, with CRLF line ends, signed where we sign. `now` is in seconds since the epoch."""
    sender = Address.parse(section.sender or "")
    organization = section.organization or sender.domain
    message = EmailMessage(policy=_POLICY)
    message["From"] = NamedAddress(organization, sender.local_part, sender.domain)
    message["To"] = NamedAddress("", to.local_part, to.domain)
    message["Subject"] = packed.subject
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    # The same for the same report to the same address: whoever gets it twice can tell.
    place = hashlib.sha256(str(to).encode()).hexdigest()[:12]
    message["Message-ID"] = f"<{packed.report_id}.{place}@{hostname}>"
    message["Auto-Submitted"] = "auto-generated"
    day = datetime.fromtimestamp(packed.day * DAY, UTC).date()
    message.set_content(
        f"This is a DMARC aggregate report (RFC 9990) on {packed.domain}\n"
        f"for {day} (UTC), by {organization}.\n\n"
        "It is attached for programs to read. Its address is in the record\n"
        f"at _dmarc.{packed.domain}, as rua.\n",
        cte="7bit" if organization.isascii() else "quoted-printable",
    )
    message.add_attachment(packed.octets, maintype="application", subtype="gzip", filename=packed.name)
    message.set_boundary(f"=_{packed.report_id}")
    octets = message.as_bytes()
    return sign(octets, now) if sign else octets


def make_signer(section: ReportsDkimSection | None) -> Signer | None:
    """How reports are signed; None where they are not. ValueError, with the path, for a key that cannot be used."""
    if section is None:
        return None
    try:
        key = SigningKey.load(section.key.read_bytes())
    except OSError as error:
        raise ValueError(f"{section.key}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{section.key}: {error}") from None

    def sign(message: bytes, now: float) -> bytes:
        return sign_dkim(message, key, domain=section.domain, selector=section.selector, now=now) + message

    return sign


def _report_id(batch: Batch, hostname: str) -> str:
    """Unique among our reports, of letters and digits only (RFC 9990 section 3.5.2), and never another for a batch."""
    policy = msgspec.json.encode(batch.policy)
    return hashlib.sha256(b"\0".join([hostname.encode(), str(batch.day).encode(), policy])).hexdigest()[:32]


def _row(tally: Tally, count: int, policy: Policy) -> AggregateRow:
    domain, scope, result = tally.spf
    return AggregateRow(
        source=tally.source,
        count=count,
        disposition=_disposition(tally, policy),
        dkim="pass" if "dkim" in tally.aligned else "fail",
        spf="pass" if "spf" in tally.aligned else "fail",
        header_from=tally.header_from,
        envelope_from=tally.envelope_from,
        envelope_to=tally.envelope_to,
        overrides=_overrides(tally, policy),
        dkim_results=tuple(
            DkimOutcome(domain, selector, result if result in _RESULTS else "neutral")
            for domain, selector, result in tally.dkim
            if domain
        ),
        spf_results=(SpfOutcome(domain, scope, result),) if result in _SPF_RESULTS else (),
    )


def _disposition(tally: Tally, policy: Policy) -> str:
    """What was done; "pass" where a policy that asks for something found nothing to do."""
    if tally.disposition == "none" and tally.result == "pass" and _asked(tally, policy) != {"none"}:
        return "pass"
    return tally.disposition


def _overrides(tally: Tally, policy: Policy) -> tuple[Override, ...]:
    """Why less, or more, was done than the policy asks for: that must be told (RFC 9990 section 3.1.1)."""
    if tally.override:
        return (Override(tally.override, tally.comment),)
    asked = _asked(tally, policy)
    if tally.result == "pass" or tally.disposition in asked:
        return ()
    if policy.is_testing and tally.disposition in {_IN_TEST.get(one) for one in asked}:
        return (Override("policy_test_mode", tally.comment),)
    return (Override("local_policy", tally.comment),)


def _asked(tally: Tally, policy: Policy) -> set[str]:
    """What the policy may ask for: whether a subdomain exists was not kept."""
    if tally.header_from == policy.domain:
        return {policy.policy}
    return {policy.subdomain_policy, policy.missing_policy}
