"""Whom `RCPT TO:<postmaster>` means, which every server takes mail for (RFC 5321 section 4.5.1)."""

from __future__ import annotations

from mailgate.config.schema import Config
from mailgate.stores.domains import DomainTable

__all__ = ["postmaster_domain"]


def postmaster_domain(config: Config) -> str:
    """The domain of a postmaster who is named without one: the hostname where its mail is ours, else our first domain.

    The hostname, too, where no domain is ours, or only patterns ("*.example.org") are.
    """
    hostname = config.gateway.hostname.lower()
    if DomainTable(config.domains).match(hostname) is not None:
        return hostname
    return next((name for name in config.domains if not name.startswith("*.")), hostname)
