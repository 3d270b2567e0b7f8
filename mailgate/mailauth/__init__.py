"""Who a message is from: SPF, DKIM, ARC and DMARC as plain functions of octets, addresses and answers of DNS.

The coroutines wait for nothing but the resolver they are given, an `IResolver`; with one that answers at once
(`mailgate.testing.MemoryResolver`) they run without a reactor. Messages are whole, as received. Nothing here knows of
sessions or policy, and whatever a peer has sent is bounded in time and memory.
"""

from __future__ import annotations

from mailgate.mailauth.arc.seal import CannotSealError, seal_arc
from mailgate.mailauth.arc.verify import verify_arc
from mailgate.mailauth.authentication_results import (
    AuthenticationResults,
    AuthenticationResultsError,
    MethodResult,
)
from mailgate.mailauth.dkim.keys import SigningKey
from mailgate.mailauth.dkim.sign import sign_dkim
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.mailauth.dmarc.author import author_domains
from mailgate.mailauth.dmarc.evaluate import evaluate_dmarc
from mailgate.mailauth.results import ArcResult, ArcSet, DkimResult, DmarcRecord, DmarcResult, SpfResult
from mailgate.mailauth.spf import check_spf

__all__ = [
    "ArcResult",
    "ArcSet",
    "AuthenticationResults",
    "AuthenticationResultsError",
    "CannotSealError",
    "DkimResult",
    "DmarcRecord",
    "DmarcResult",
    "MethodResult",
    "SigningKey",
    "SpfResult",
    "author_domains",
    "check_spf",
    "evaluate_dmarc",
    "seal_arc",
    "sign_dkim",
    "verify_arc",
    "verify_dkim",
]
