"""What may be wrong with TLS or with what is published about it, by the names of TLS reports."""

from __future__ import annotations

from typing import Literal

__all__ = ["TlsFailure"]

#: The result types of RFC 8460 section 4.3; "" where nothing is wrong.
TlsFailure = Literal[
    "",
    "starttls-not-supported",
    "certificate-host-mismatch",
    "certificate-expired",
    "certificate-not-trusted",
    "validation-failure",
    "tlsa-invalid",
    "dnssec-invalid",
    "dane-required",
    "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-webpki-invalid",
]
