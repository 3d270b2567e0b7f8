"""Which evaluations of DMARC are reported."""

from __future__ import annotations

from collections.abc import Callable

from mailgate.config.reports import ReportsSection
from mailgate.events import DmarcEvaluated
from mailgate.stores.domains import DomainTable

__all__ = ["wanted", "wanted_domain"]


def wanted_domain(section: ReportsSection) -> Callable[[str], bool]:
    """Whether a domain is reported on."""
    only, never = (DomainTable(dict.fromkeys(domains, True)) for domains in (section.only, section.never))
    return lambda domain: not never.has(domain) and (not section.only or only.has(domain))


def wanted(section: ReportsSection) -> Callable[[DmarcEvaluated], bool]:
    """Whether an evaluation is reported.

    Reports are not: gateways would report on each other's reports for ever. They come from our own address, or pass
    DMARC with the null reverse-path or our own domain. What fails with these is somebody else's, and the domain's
    owner wants to know.
    """
    is_wanted = wanted_domain(section)
    ours = (section.sender or "").lower()
    our_domain = ours.rpartition("@")[2]

    def decide(event: DmarcEvaluated) -> bool:
        if not is_wanted(event.domain):
            return False
        if not ours:
            return True
        if event.envelope_from.lower() == ours:
            return False
        if event.result != "pass":
            return True
        return bool(event.envelope_from) and event.header_from.rpartition("@")[2].lower() != our_domain

    return decide
