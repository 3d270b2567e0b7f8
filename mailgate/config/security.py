"""TLS on the way out, by what destinations publish and by our own word: `[tls_policies."DOMAIN"]` and `[mta_sts]`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Timeout
from mailgate.config.values import Domain, Fingerprint, Hostname

__all__ = ["MtaStsSection", "TlsPolicySection"]


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
    """of our own policy, as `mailgate mta-sts` writes it: begin with testing, and read the reports"""
    mx: list[Hostname] = []
    """the hosts that our policy names; gateway.hostname if empty"""
    max_age: Timeout = 7 * 86400.0
    """how long others may keep our policy"""
