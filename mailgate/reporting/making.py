"""From a configuration to how reports about DMARC and TLS are made."""

from __future__ import annotations

from mailgate.config.load import ConfigError, Loaded
from mailgate.reporting.compose import make_signer
from mailgate.reporting.office import Reporting
from mailgate.reporting.tls_office import TlsReporting

__all__ = ["make_reporting", "make_tls_reporting"]


def make_reporting(loaded: Loaded) -> Reporting | None:
    """How reports about mail in others' name are made; None where there are none. They go by the standard of the first
    filter of kind dmarc. ConfigError where the key cannot be used."""
    section = loaded.config.reports
    if not section.enabled:
        return None
    try:
        sign = make_signer(section.dkim)
    except ValueError as error:
        raise ConfigError((loaded.error(("reports", "dkim", "key"), str(error)),)) from error
    judges = [one for name, one in loaded.options.items() if (loaded.config.filter(name).kind or name) == "dmarc"]
    standard = getattr(judges[0], "standard", "") if judges else ""
    return Reporting(section, sign, "rfc7489" if standard == "rfc7489" else "rfc9989")


def make_tls_reporting(loaded: Loaded) -> TlsReporting | None:
    """How reports about TLS are made; None where there are none. ConfigError where the key cannot be used."""
    section = loaded.config.tls_reports
    if not section.enabled:
        return None
    try:
        return TlsReporting(section, make_signer(section.dkim))
    except ValueError as error:
        raise ConfigError((loaded.error(("tls_reports", "dkim", "key"), str(error)),)) from error
