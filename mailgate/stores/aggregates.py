"""Gathers evaluations of DMARC for the reports, off the reactor's hot path: see Gatherer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zope.interface import implementer

from mailgate.events import DmarcEvaluated, Event
from mailgate.interfaces import IEventObserver
from mailgate.stores.aggregate_file import AggregateFile, Policy, Tally
from mailgate.stores.gatherer import DAY, Gatherer

__all__ = ["DAY", "Aggregates", "counted"]

#: Characters of one value that are kept, of a comment and of a URI; URIs of a record, and signatures of a message.
_LONGEST, _LONGEST_COMMENT, _LONGEST_URI, _MOST_URIS, _MOST_SIGNATURES = 253, 120, 500, 20, 20


def counted(event: DmarcEvaluated) -> tuple[int, Policy, Tally]:
    """The day (since the epoch, UTC) of an evaluation, the record by which it was made, and of which kind it is.

    Everything that peers chose is bounded. Of the signatures those come first that say most to the domain's owner (RFC
    9990 section 3.1.3).
    """
    policy = Policy(
        domain=_name(event.domain),
        policy=event.policy,
        subdomain_policy=event.subdomain_policy,
        missing_policy=event.missing_policy,
        strict_dkim=event.strict_dkim,
        strict_spf=event.strict_spf,
        is_testing=event.is_testing,
        rua=tuple(_text(uri, _LONGEST_URI) for uri in event.rua[:_MOST_URIS]),
    )
    header_from = _name(event.header_from)
    spf_domain, spf_scope, spf_result = event.spf
    tally = Tally(
        source=_text(event.source),
        header_from=header_from,
        envelope_from=_name(event.envelope_from),
        envelope_to=_name(event.envelope_to[0]) if len(set(event.envelope_to)) == 1 else "",
        result=event.result,
        disposition=event.disposition,
        override=event.override,
        comment=_text(event.comment, _LONGEST_COMMENT),
        aligned=tuple(sorted(event.aligned)),
        dkim=tuple(
            (_name(domain), _text(selector), result)
            for domain, selector, result in sorted(event.dkim, key=lambda one: _rank(one, header_from))
        )[:_MOST_SIGNATURES],
        spf=(_name(spf_domain), spf_scope, spf_result),
    )
    return int(event.at // DAY), policy, tally


@implementer(IEventObserver)
class Aggregates(Gatherer[DmarcEvaluated, Policy, Tally, AggregateFile]):
    """Counts the evaluations that `wants` says yes to, where the record asks for reports; the rest as in Gatherer."""

    def __init__(
        self,
        path: Path,
        *,
        wants: Callable[[DmarcEvaluated], bool],
        call_from_thread: Callable[..., object],
        delay: float = 1.0,
        limit: int = 20_000,
        open_file: Callable[[Path], AggregateFile] = AggregateFile,
    ) -> None:
        self.wants = wants
        super().__init__(
            path,
            what="DMARC",
            counted=counted,
            open_file=open_file,
            call_from_thread=call_from_thread,
            delay=delay,
            limit=limit,
        )

    def observe(self, event: Event) -> None:
        if isinstance(event, DmarcEvaluated) and event.rua and self.wants(event):
            self.add(event)


def _rank(signature: tuple[str, str, str], header_from: str) -> int:
    domain, _, result = signature
    if result != "pass":
        return 3
    name = domain.lower()
    if name == header_from:
        return 0
    return 1 if name.endswith(f".{header_from}") or header_from.endswith(f".{name}") else 2


def _name(domain: str) -> str:
    """A domain, or that of an address, as it is compared."""
    return _text(domain.rpartition("@")[2].lower().removesuffix("."))


def _text(text: str, longest: int = _LONGEST) -> str:
    return text[:longest].encode("utf-8", "replace").decode()
