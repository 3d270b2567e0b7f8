"""What came of TLS on the way out, as it is counted for reports (RFC 8460)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from mailgate.stores.counted_file import Batch as CountedBatch
from mailgate.stores.counted_file import CountedFile
from mailgate.stores.gatherer import DAY, Gatherer

__all__ = ["TlsBatch", "TlsFile", "TlsGatherer", "TlsReported", "TlsSession", "TlsTally", "counted_session"]

#: Characters that are kept of one value, and of a reason; lines of a policy.
_LONGEST, _LONGEST_REASON, _MOST_LINES = 500, 200, 40


class TlsReported(Struct, frozen=True):
    """What one report is about."""

    domain: str


class TlsTally(Struct, frozen=True, kw_only=True):
    """One kind of session, or of trouble with a policy.

    `policy_type` is "sts", "tlsa" or "no-policy-found", with the lines or records of the policy and the hosts that it
    is about; `failure` is a result type (see TlsFailure), "" where all went well. The rest tells of failures: which of
    our addresses (may be ""), which host and address of theirs, and why in words.
    """

    policy_type: str
    policy_strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()
    failure: str = ""
    sending_ip: str = ""
    receiving_host: str = ""
    receiving_ip: str = ""
    reason: str = ""


class TlsSession(Struct, frozen=True, kw_only=True):
    """That it happened now (seconds since the epoch), on the way to this domain."""

    at: float
    domain: str
    tally: TlsTally


def counted_session(session: TlsSession) -> tuple[int, TlsReported, TlsTally]:
    """The day (since the epoch, UTC), what it is reported under, and which kind it is, all bounded."""
    tally = session.tally
    bounded = replace(
        tally,
        policy_strings=tuple(one[:_LONGEST] for one in tally.policy_strings[:_MOST_LINES]),
        mx_hosts=tuple(one[:_LONGEST] for one in tally.mx_hosts[:_MOST_LINES]),
        receiving_host=tally.receiving_host[:_LONGEST],
        reason=tally.reason[:_LONGEST_REASON],
    )
    return int(session.at // DAY), TlsReported(session.domain), bounded


TlsBatch = CountedBatch[TlsReported]
"""The sessions of a day with the hosts of one domain."""


class TlsFile(CountedFile[TlsReported, TlsTally]):
    """The file; bounds as in CountedFile."""

    def __init__(self, path: Path, *, domain_rows: int = 1000, day_rows: int = 200_000) -> None:
        super().__init__(path, TlsReported, TlsTally, policies=1, domain_rows=domain_rows, day_rows=day_rows)


class TlsGatherer(Gatherer[TlsSession, TlsReported, TlsTally, TlsFile]):
    """Counts sessions."""

    def __init__(self, path: Path, *, call_from_thread: Callable[..., object], delay: float = 1.0) -> None:
        super().__init__(
            path,
            what="TLS",
            counted=counted_session,
            open_file=TlsFile,
            call_from_thread=call_from_thread,
            delay=delay,
        )
