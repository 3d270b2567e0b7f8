"""What the checks of a message's origin come to, as values; the words are those of RFC 8601 section 2.7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mailgate.findings import Finding

__all__ = ["ArcResult", "ArcSet", "DkimResult", "DmarcRecord", "DmarcResult", "SpfResult"]


@dataclass(frozen=True, slots=True)
class SpfResult(Finding):
    """SPF (RFC 7208) for one identity of a session.

    `result` is "pass", "fail", "softfail", "neutral", "none", "temperror" or "permerror". `domain` (lower case,
    A-labels) was checked as `identity`: "mailfrom", or "helo" where the reverse-path is null or HELO was asked for.
    `mechanism` is the one that matched, as it stands in the record; `explanation` what the domain says to those that it
    fails (exp=, never to be trusted), and `reason` why there is an error.
    """

    result: str
    domain: str = ""
    identity: str = "mailfrom"
    mechanism: str = ""
    explanation: str = ""
    reason: str = ""

    def summary(self) -> str:
        by = f" by {self.mechanism}" if self.mechanism else ""
        why = f": {self.reason}" if self.reason else ""
        return f"spf={self.result} smtp.{self.identity}={self.domain or 'none'}{by}{why}"

    def facts(self) -> Sequence[str]:
        return (f"spf.{self.result}",) if self.identity == "mailfrom" else (f"spf.helo.{self.result}",)


@dataclass(frozen=True, slots=True)
class DkimResult(Finding):
    """One DKIM signature (RFC 6376).

    `result` is "pass", "fail", "neutral", "policy", "temperror" or "permerror", and `reason` why it is not pass.
    `domain` (d=, lower case), `selector` (s=), `identity` (i=), `algorithm` (a=) and `body_length` (l=, None for the
    whole body) are the signature's; `signature` is the beginning of b=, enough to tell it from the others (RFC 6008).
    `key_bits` is 0 where no key was read; `is_testing` the key's t=y. `signed` holds the names in h=, lower case.
    """

    result: str
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    signature: str = ""
    reason: str = ""
    body_length: int | None = None
    key_bits: int = 0
    is_testing: bool = False
    signed: tuple[str, ...] = ()

    def summary(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"dkim={self.result} header.d={self.domain or 'none'} header.s={self.selector or 'none'}{why}"

    def facts(self) -> Sequence[str]:
        return (f"dkim.{self.result}",)


@dataclass(frozen=True, slots=True)
class ArcSet:
    """One hop of a chain: who sealed it (d= and s= of its ARC-Seal), and what it had found (the payload of its
    ARC-Authentication-Results without `i=`, as text)."""

    instance: int
    domain: str
    selector: str
    authentication_results: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ArcResult(Finding):
    """The chain of a message (RFC 8617 section 5.2).

    `result` is "none", "pass" or "fail"; with `is_temporary` it failed because DNS could not say, and may pass later.
    `sets` are its hops in their order, empty where they cannot be read. `oldest_pass` is the lowest instance whose
    ARC-Message-Signature holds for the message as it is now, 0 for the first and where not looked at. `uncovered` holds
    the names (lower case) of fields that readers show, and that the newest one does not cover, or not each of them:
    what they say may have come in later.
    """

    result: str
    reason: str = ""
    sets: tuple[ArcSet, ...] = ()
    oldest_pass: int = 0
    is_temporary: bool = False
    uncovered: tuple[str, ...] = ()

    def summary(self) -> str:
        sealers = f" sealed by {', '.join(one.domain for one in self.sets[-5:])}" if self.sets else ""
        why = f": {self.reason}" if self.reason else ""
        return f"arc={self.result}{sealers}{why}"

    def facts(self) -> Sequence[str]:
        return (f"arc.{self.result}",)


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """A domain's policy record (RFC 9989 section 4.7) with its defaults filled in.

    `policy`, `subdomain_policy` and `missing_policy` (p, sp, np) are "none", "quarantine" or "reject"; `psd` is "y",
    "n" or "u". `strict_spf` and `strict_dkim` are aspf=s and adkim=s, `is_testing` t=y. `aggregate` and `failure` are
    the URIs of rua and ruf, `failure_options` the letters of fo=. `percent` is pct= of RFC 7489, 100 by default.
    """

    domain: str
    policy: str
    subdomain_policy: str
    missing_policy: str
    psd: str = "u"
    strict_spf: bool = False
    strict_dkim: bool = False
    is_testing: bool = False
    aggregate: tuple[str, ...] = ()
    failure: tuple[str, ...] = ()
    failure_options: tuple[str, ...] = ("0",)
    percent: int = 100

    def policies_for(self, author: str) -> frozenset[str]:
        """The policies that may be the published ones for an author's domain (lower case, A-labels)."""
        if self.domain == author:
            return frozenset((self.policy,))
        return frozenset((self.subdomain_policy, self.missing_policy))


@dataclass(frozen=True, slots=True)
class DmarcResult(Finding):
    """DMARC (RFC 9989, or RFC 7489) for one message.

    `result` is "pass", "fail", "none", "temperror" or "permerror". `policy` is what the domain's owner asks to be done
    with this message: "none" unless it failed, then "none", "quarantine" or "reject" (t=y and pct= are counted in).
    `domain` is the author's, `organization` the organizational domain, `record` the record that was found (`published`
    in the reports), `aligned` which of "spf" and "dkim" passed in alignment.
    """

    result: str
    policy: str = "none"
    domain: str = ""
    organization: str = ""
    record: DmarcRecord | None = None
    aligned: tuple[str, ...] = ()
    reason: str = ""

    @property
    def may_ask(self) -> bool:
        """Whether what is known of the owner's policy asks for anything where a message fails."""
        return self.record is not None and self.record.policies_for(self.domain) != {"none"}

    def summary(self) -> str:
        asked = f" policy={self.policy}" if self.result == "fail" else ""
        why = f": {self.reason}" if self.reason else ""
        return f"dmarc={self.result}{asked} header.from={self.domain or 'none'}{why}"

    def facts(self) -> Sequence[str]:
        if self.result == "fail":
            return ("dmarc.fail", f"dmarc.fail.{self.policy}")
        return (f"dmarc.{self.result}",)
