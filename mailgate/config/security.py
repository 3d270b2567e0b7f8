"""TLS on the way out, by what destinations publish and by our own word: `[tls_policies."DOMAIN"]` and `[mta_sts]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Duration, Timeout, at_least, at_most, format_duration
from mailgate.config.values import Domain, Fingerprint, Flag, Hostname

__all__ = ["LONGEST_AGE", "MtaStsSection", "TlsPolicySection"]

#: Seconds that a policy of MTA-STS may be kept at most (RFC 8461 section 3.2).
LONGEST_AGE = 31_557_600


class TlsPolicySection(Section):
    """`[tls_policies."DOMAIN"]`: what we ask of TLS with the mail hosts of a domain, whatever it publishes; `*.NAME`
    means all below it. It is for mail that goes by MX, on routes with tls = "opportunistic" or "required"."""

    level: Literal["published", "clear", "opportunistic", "required", "verified", "dane"] = "published"
    """published: what the domain publishes, as the route's `security` says; clear: no TLS, for hosts where it is
    broken; opportunistic: TLS where it is there, whatever is published; required: no mail without TLS; verified: nor
    without a certificate for the host by an authority (the route's `tls_ca`, or the system's); dane: nor without TLSA
    records that match, which need `dns.dnssec`"""
    mx: list[Domain] = []
    """the only hosts that may get its mail, whatever MX says; "*.NAME" means one label more. Where MX records are not
    signed, a certificate proves no more than that the host has the name which they gave: this says which are right"""
    fingerprints: list[Fingerprint] = []
    """SHA-256 fingerprints of certificates or public keys, one of which must be shown; with level = "required" """

    @model_validator(mode="after")
    def _whole(self) -> TlsPolicySection:
        if self.fingerprints and self.level != "required":
            raise ValueError(f'fingerprints are for level = "required", not for "{self.level}"')
        return self


class MtaStsSection(Section):
    """`[mta_sts]`: MTA-STS (RFC 8461): policies of others, and our own."""

    ca: ConfigPath | None = None
    """authorities (PEM) that policy hosts of others must have their certificates from; the system's if not given"""
    timeout: Timeout = 30.0
    """how long a policy may take to come; mail waits for it where the domain has none from before"""
    mode: Literal["testing", "enforce", "none"] = "testing"
    """of our own policy, as `mailgate mta-sts` prints it and [http] serves it: begin with testing, and read the
    reports"""
    mx: list[Hostname] = []
    """the hosts that our policy names; gateway.hostname if empty"""
    max_age: Annotated[Duration, at_least(1.0, format_duration), at_most(LONGEST_AGE, format_duration)] = 7 * 86400.0
    """how long others may keep our policy: weeks, once it is "enforce". A year (365d6h) at most"""
    serve: Flag = False
    """whether [http] serves the policy, at /.well-known/mta-sts.txt of mta-sts.DOMAIN for each of our [domains], to
    everybody. Others ask at port 443, and want a certificate for mta-sts.DOMAIN"""
