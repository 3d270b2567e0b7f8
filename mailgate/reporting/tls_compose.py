"""From counted sessions to a TLS report and the mail that carries it (RFC 8460): pure functions."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address as NamedAddress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any

import msgspec

from mailgate.address import Address
from mailgate.config.reports import TlsReportsSection
from mailgate.reporting.compose import Signer
from mailgate.stores.gatherer import DAY
from mailgate.stores.tls_sessions import TlsBatch, TlsTally

__all__ = ["TlsPacked", "compose_tls_mail", "pack_tls"]

_POLICY = SMTP.clone(max_line_length=998)
_Policy = tuple[str, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class TlsPacked:
    """A report as it is attached, or posted."""

    report_id: str
    domain: str
    day: int
    name: str
    octets: bytes


def pack_tls(
    batch: TlsBatch, rows: Sequence[tuple[TlsTally, int]], section: TlsReportsSection, hostname: str
) -> TlsPacked:
    """The report on a day with one domain; for the same counts the same again, with the same names."""
    domain, begin = batch.policy.domain, batch.day * DAY
    identity = "\0".join([hostname, str(batch.day), domain])
    report_id = hashlib.sha256(identity.encode()).hexdigest()[:32]
    sender = section.sender or ""
    report: dict[str, Any] = {
        "organization-name": section.organization or sender.rpartition("@")[2],
        "date-range": {"start-datetime": _time(begin), "end-datetime": _time(begin + DAY - 1)},
        "contact-info": section.contact or sender,
        "report-id": f"{report_id}@{hostname}",
        "policies": _policies(domain, rows),
    }
    name = f"{hostname}!{domain}!{begin}!{begin + DAY - 1}!{report_id}.json.gz"
    return TlsPacked(report_id, domain, batch.day, name, gzip.compress(msgspec.json.encode(report), mtime=begin))


def compose_tls_mail(
    packed: TlsPacked, to: Address, section: TlsReportsSection, hostname: str, now: float, sign: Signer | None
) -> bytes:
    """The mail to one address, with CRLF line ends, signed where we sign. `now` is in seconds since the epoch."""
    sender = Address.parse(section.sender or "")
    organization = section.organization or sender.domain
    message = EmailMessage(policy=_POLICY)
    message["From"] = NamedAddress(organization, sender.local_part, sender.domain)
    message["To"] = NamedAddress("", to.local_part, to.domain)
    report_id = f"<{packed.report_id}@{hostname}>"
    message["Subject"] = f"Report Domain: {packed.domain} Submitter: {sender.domain} Report-ID: {report_id}"
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    place = hashlib.sha256(str(to).encode()).hexdigest()[:12]
    message["Message-ID"] = f"<{packed.report_id}.{place}@{hostname}>"
    message["Auto-Submitted"] = "auto-generated"
    message["TLS-Report-Domain"] = packed.domain
    message["TLS-Report-Submitter"] = sender.domain
    # It may be just their TLS that is broken (RFC 8460 section 3).
    message["TLS-Required"] = "No"
    day = datetime.fromtimestamp(packed.day * DAY, UTC).date()
    message.set_content(
        f"This is a TLS report (RFC 8460) on mail for {packed.domain}\n"
        f"on {day} (UTC), by {organization}.\n\n"
        "It is attached for programs to read. Its address is in the record\n"
        f"at _smtp._tls.{packed.domain}, as rua.\n",
        cte="7bit" if organization.isascii() else "quoted-printable",
    )
    message.add_attachment(packed.octets, maintype="application", subtype="tlsrpt+gzip", filename=packed.name)
    message.replace_header("Content-Type", 'multipart/report; report-type="tlsrpt"')
    message.set_boundary(f"=_{packed.report_id}")
    octets = message.as_bytes()
    return sign(octets, now) if sign else octets


def _policies(domain: str, rows: Sequence[tuple[TlsTally, int]]) -> list[dict[str, Any]]:
    """Each policy with its numbers and failures (RFC 8460 section 4.4)."""
    found: dict[_Policy, list[tuple[TlsTally, int]]] = {}
    for tally, count in rows:
        found.setdefault((tally.policy_type, tally.policy_strings, tally.mx_hosts), []).append((tally, count))
    return [_policy(domain, policy, found[policy]) for policy in sorted(found)]


def _policy(domain: str, policy: _Policy, rows: Sequence[tuple[TlsTally, int]]) -> dict[str, Any]:
    kind, strings, hosts = policy
    # A policy of DANE is that of the host that has the records (RFC 8460 section 1.1).
    of_host = kind == "tlsa" and bool(hosts)
    told: dict[str, Any] = {"policy-type": kind, "policy-domain": hosts[0] if of_host else domain}
    if strings:
        told["policy-string"] = list(strings)
    if hosts and not of_host:
        told["mx-host"] = list(hosts)
    failures = [_failure(tally, count) for tally, count in rows if tally.failure]
    summary = {
        "total-successful-session-count": sum(count for tally, count in rows if not tally.failure),
        "total-failure-session-count": sum(count for tally, count in rows if tally.failure),
    }
    return {"policy": told, "summary": summary} | ({"failure-details": failures} if failures else {})


def _failure(tally: TlsTally, count: int) -> dict[str, Any]:
    told = {
        "result-type": tally.failure,
        "sending-mta-ip": tally.sending_ip,
        "receiving-mx-hostname": tally.receiving_host,
        "receiving-ip": tally.receiving_ip,
        "failure-reason-code": tally.reason,
    }
    return {**{key: value for key, value in told.items() if value}, "failed-session-count": count}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
