"""What a DMARC aggregate report says, as values (RFC 9990 section 3.1; RFC 7489 appendix C)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AggregateReport",
    "AggregateRow",
    "DkimOutcome",
    "Override",
    "PublishedPolicy",
    "SpfOutcome",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPolicy:
    """The policy that a report is about, as it was found at `domain`.

    `policy`, `subdomain_policy` and `missing_policy` are p, sp and np; `dkim_alignment` and `spf_alignment` are "r" or
    "s", `failure_options` is fo, and `discovery` how the record was found: "treewalk" or "psl". What a report does not
    say is "". `percent` is pct of RFC 7489.
    """

    domain: str
    policy: str
    subdomain_policy: str = ""
    missing_policy: str = ""
    dkim_alignment: str = ""
    spf_alignment: str = ""
    is_testing: bool = False
    failure_options: str = ""
    discovery: str = ""
    percent: int = 100


@dataclass(frozen=True, slots=True)
class Override:
    """Why a disposition is not what the policy asked for: a word of RFC 9990 section 3.1.6, and a text."""

    kind: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class DkimOutcome:
    """What became of one signature: its d= and s=, the result in the words of RFC 8601, and a text."""

    domain: str
    selector: str
    result: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SpfOutcome:
    """What SPF said of a domain, "mfrom" or (RFC 7489) "helo"; a report that does not say which has ""."""

    domain: str
    scope: str
    result: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateRow:
    """So many messages of one source that fared alike.

    `source` is the client's address. `disposition` is what was done: "none", "pass", "quarantine" or "reject"; `dkim`
    and `spf` are "pass" or "fail" and count alignment in. The identifiers are domains.
    """

    source: str
    count: int
    disposition: str
    dkim: str
    spf: str
    header_from: str
    envelope_from: str = ""
    envelope_to: str = ""
    overrides: tuple[Override, ...] = ()
    dkim_results: tuple[DkimOutcome, ...] = ()
    spf_results: tuple[SpfOutcome, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether the messages passed DMARC."""
        return "pass" in (self.dkim, self.spf)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateReport:
    """One report: who made it, for which time (seconds since the epoch, the last one included), on which policy."""

    organization: str
    email: str
    report_id: str
    begin: int
    end: int
    published: PublishedPolicy
    rows: tuple[AggregateRow, ...]
    contact: str = ""
    errors: tuple[str, ...] = ()
    generator: str = ""
