"""The file in which evaluations of DMARC are counted until they are reported."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from mailgate.stores.counted_file import Batch as CountedBatch
from mailgate.stores.counted_file import CountedFile

__all__ = ["AggregateFile", "Batch", "Policy", "Tally"]


class Policy(Struct, frozen=True, kw_only=True):
    """The record that was found at `domain`; the fields as in DmarcEvaluated."""

    domain: str
    policy: str
    subdomain_policy: str
    missing_policy: str
    strict_dkim: bool
    strict_spf: bool
    is_testing: bool
    rua: tuple[str, ...]


class Tally(Struct, frozen=True, kw_only=True):
    """One kind of message, of which several are counted; the fields as in DmarcEvaluated.

    `envelope_to` is "" where there were recipients in several domains.
    """

    source: str
    header_from: str
    envelope_from: str
    envelope_to: str
    result: str
    disposition: str
    override: str
    comment: str
    aligned: tuple[str, ...]
    dkim: tuple[tuple[str, str, str], ...]
    spf: tuple[str, str, str]


Batch = CountedBatch[Policy]
"""The messages of a day that were judged by one record."""


class AggregateFile(CountedFile[Policy, Tally]):
    """The file; bounds as in CountedFile."""

    def __init__(self, path: Path, *, policies: int = 4, domain_rows: int = 10_000, day_rows: int = 200_000) -> None:
        super().__init__(path, Policy, Tally, policies=policies, domain_rows=domain_rows, day_rows=day_rows)
