"""`[reports]`: DMARC aggregate reports that are sent to the owners of domains."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Size, at_least, format_size
from mailgate.config.values import Domain, Flag, Hostname, Network, OneMailbox

__all__ = ["ReportsDkimSection", "ReportsSection", "TlsReportsSection"]


class ReportsDkimSection(Section):
    """`[reports.dkim]`: how the reports are signed."""

    domain: Hostname
    """the domain that signs (d=): that of `from`, or one above it, so that the reports themselves pass DMARC"""
    selector: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]
    """where the public key is in DNS: SELECTOR._domainkey.DOMAIN"""
    key: ConfigPath
    """a file with the private key (PEM, RSA or Ed25519); nobody but mailgate should be able to read it"""


class _ReporterSection(Section):
    enabled: Flag = False
    """whether anything is gathered and reports are sent"""
    sender: OneMailbox | None = Field(default=None, alias="from")
    """the address that reports come from, as author and as envelope sender; required where they are enabled. Answers
    come to it, so somebody should read them"""
    organization: Annotated[str, Field(max_length=200)] = ""
    """who reports, in words; the domain of `from` if empty"""
    contact: Annotated[str, Field(max_length=500)] = ""
    """how else we can be reached about reports: a page, a telephone number"""
    dkim: ReportsDkimSection | None = None
    """the signature of the reports: without one they may be refused as forged"""
    only: list[Domain] = []
    """domains that are reported on, like "example.org" or "*.example.org"; all if empty"""
    never: list[Domain] = []
    """domains that are not reported on"""
    max_size: Annotated[Size, at_least(64 * 1024, format_size)] = 10 * 1024**2
    """a report whose mail is larger is not sent"""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.enabled and self.sender is None:
            raise ValueError('reports need a sender: from = "reports@..."')
        domain = self.sender.rpartition("@")[2] if self.sender else ""
        if self.dkim and domain and domain != self.dkim.domain and not domain.endswith(f".{self.dkim.domain}"):
            raise ValueError(f"dkim.domain {self.dkim.domain} is not the domain of from ({domain}), nor above it")
        return self


class ReportsSection(_ReporterSection):
    """`[reports]`: what we tell the owners of domains that ask for it (rua) about mail in their name, once a day."""

    enabled: Flag = False
    """whether results of the filter dmarc are gathered, and reports are sent"""
    form: Literal["rfc9990", "rfc7489"] = "rfc9990"
    """the schema of the reports: that of 2026, or the one before, which does not tell np and t"""


class TlsReportsSection(_ReporterSection):
    """`[tls_reports]`: what we tell domains that ask for it (_smtp._tls) about TLS with their mail hosts, once a day:
    how many sessions there were, and what was wrong (RFC 8460)."""

    enabled: Flag = False
    """whether what comes of TLS is gathered, of routes with `security`, and reports are sent"""
    private_networks: list[Network] = []
    """networks of ours in which somebody gets reports over HTTPS. Where these go is what anybody writes into DNS, so
    addresses that are not of the Internet are asked only if they are in one of these"""
