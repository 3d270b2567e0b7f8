"""What facts weigh, and the sum of a mail's evidence by them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from mailgate.findings import Finding, Points

__all__ = ["DEFAULT_WEIGHTS", "Part", "is_fact", "parts_of", "total"]

Part = tuple[str, float]
"""A fact, or "points", with what it weighs."""

#: Characters of a reason that a part is told with.
_MOST_TOLD = 80
_FACT = re.compile(r"[a-z0-9_-]{1,255}(?:\.[a-z0-9_-]{1,255}){0,30}")

#: What is weighed unless the configuration says otherwise. No single one of these makes a message spam; the signatures
#: of a mail are the sender's own work, and prove little in its favour.
DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "arc.fail": 0.5,
        "clamav.suspected": 3.0,
        "dkim.fail": 0.5,
        "dkim.pass": -0.2,
        "dkim.permerror": 0.5,
        "dmarc.fail": 1.0,
        "dmarc.fail.quarantine": 3.0,
        "dmarc.fail.reject": 4.0,
        # A failure for which the filter dmarc has found good reason weighs as if its owner had asked for nothing.
        "dmarc.override.mailing_list": -3.0,
        "dmarc.override.trusted_forwarder": -3.0,
        "dmarc.pass": -0.5,
        "dmarc.permerror": 0.5,
        "dnsbl": 3.0,
        "dnswl": -2.0,
        "fcrdns.dynamic": 2.0,
        "fcrdns.fail": 1.0,
        "fcrdns.permerror": 1.0,
        "helo.bare_ip": 1.5,
        "helo.invalid": 1.0,
        "helo.literal": 0.5,
        "helo.mismatch": 0.5,
        "helo.own_domain": 2.0,
        "helo.single_label": 1.0,
        "helo.unresolvable": 1.0,
        "resolvable.bogus_mx": 3.0,
        "resolvable.dead_mx": 3.0,
        "resolvable.literal": 1.0,
        "resolvable.no_host": 3.0,
        "resolvable.null_mx": 3.0,
        "resolvable.unknown": 3.0,
        "rspamd.add-header": 4.0,
        "rspamd.rewrite-subject": 4.0,
        "spamassassin.spam": 4.0,
        "spf.fail": 2.5,
        "spf.helo.fail": 1.5,
        "spf.none": 0.5,
        "spf.pass": -0.2,
        "spf.permerror": 1.0,
        "spf.softfail": 1.5,
    }
)


def is_fact(text: str) -> bool:
    """Whether this looks like a fact: "dnsbl.zen.spamhaus.org"."""
    return _FACT.fullmatch(text) is not None


def parts_of(findings: Iterable[object], weights: Mapping[str, float]) -> tuple[Part, ...]:
    """What weighs something, the heaviest first.

    Of a finding's facts one counts: the one with the longest entry in `weights`, which is that of the fact itself or of
    what it begins with ("dnsbl" for every "dnsbl.zen.example"). A fact counts once, however often it was found; Points
    count as they are, those that are equal in all once.
    """
    found: dict[tuple[str, str], Part] = {}
    points: dict[Points, None] = {}
    for finding in findings:
        if isinstance(finding, Points):
            points[finding] = None
        elif isinstance(finding, Finding) and (match := _heaviest(finding, weights)):
            entry, fact = match
            found.setdefault((entry, fact), (fact, weights[entry]))
    parts = [part for part in found.values() if part[1]]
    parts += [(_told(one), one.points) for one in points if math.isfinite(one.points) and one.points]
    return tuple(sorted(parts, key=lambda part: (-abs(part[1]), -part[1], part[0])))


def _told(points: Points) -> str:
    """Whose points they are, as the filter says."""
    reason = " ".join(points.reason.split())
    return f"points ({reason[:_MOST_TOLD]})" if reason else "points"


def total(parts: Iterable[Part]) -> float:
    """The sum; of what floats leave behind, nothing."""
    return round(math.fsum(weight for _, weight in parts), 6)


def _heaviest(finding: Finding, weights: Mapping[str, float]) -> tuple[str, str] | None:
    """The longest entry that one of the facts has, and that fact."""
    best: tuple[str, str] | None = None
    for fact in finding.facts():
        for entry in _beginnings(fact):
            if entry in weights:
                if best is None or len(entry) > len(best[0]):
                    best = entry, fact
                break
    return best


def _beginnings(fact: str) -> Iterator[str]:
    """The fact itself, then each word of it less."""
    while fact:
        yield fact
        fact = fact.rpartition(".")[0]
