"""Whether a forwarder that is trusted saw a message pass, before it changed it (RFC 8617 section 7.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mailgate.mailauth.authentication_results import AuthenticationResults, AuthenticationResultsError
from mailgate.mailauth.dkim.signature import is_within
from mailgate.mailauth.dmarc.author import author_domain
from mailgate.mailauth.results import ArcResult, DmarcResult

__all__ = ["vouching_sealer"]


def vouching_sealer(arc: ArcResult, result: DmarcResult, is_trusted: Callable[[str], bool]) -> str:
    """The trusted sealer (d=) by whose account the message passed when it came there; "" where there is none.

    A chain that passes proves who wrote its seals, and nothing about the content before the last of them: with an
    untrusted hop behind it, a trusted seal may stand on another message. So only sealers count behind whom all are
    trusted. What they tell must be about the same author's domain, and the last of them must have covered what readers
    are shown of the header.
    """
    if arc.result != "pass" or arc.uncovered:
        return ""
    for hop in reversed(arc.sets):
        if not is_trusted(hop.domain):
            return ""
        if _saw_it_pass(hop.authentication_results, result):
            return hop.domain
    return ""


def _saw_it_pass(told: str, result: DmarcResult) -> bool:
    try:
        found = AuthenticationResults.parse(told)
    except AuthenticationResultsError:
        return False
    verdicts = [(one.result, one.get("header", "from")) for one in found.of("dmarc")]
    ours = {word for word, author in verdicts if author and author_domain(_domain_of(author)) == result.domain}
    nameless = {word for word, author in verdicts if author is None}
    if "fail" in ours | nameless:
        return False
    if any(author is not None for _, author in verdicts):
        return "pass" in ours
    return any(_is_aligned(*identity, result) for identity in _identities(found))


def _identities(found: AuthenticationResults) -> Iterator[tuple[str, str]]:
    """Method and domain of what passed."""
    for one in found.results:
        if one.result != "pass":
            continue
        if one.method == "spf":
            yield "spf", _domain_of(one.get("smtp", "mailfrom"))
        elif one.method == "dkim":
            yield "dkim", _domain_of(one.get("header", "d") or one.get("header", "i"))


def _domain_of(value: str | None) -> str:
    return (value or "").rpartition("@")[2]


def _is_aligned(method: str, text: str, result: DmarcResult) -> bool:
    domain = author_domain(text)
    if not domain or domain == result.domain:
        return bool(domain)
    record = result.record
    if record is None or (record.strict_spf if method == "spf" else record.strict_dkim):
        return False
    return is_within(domain, result.organization)
