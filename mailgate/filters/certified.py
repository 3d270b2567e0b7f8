"""Clients that prove by their certificate what they are called (RFC 9525 section 6.3)."""

from __future__ import annotations

from collections.abc import Sequence

from mailgate.envelope import Session
from mailgate.stores.domains import DomainTable

__all__ = ["CertifiedNames"]


class CertifiedNames:
    """Names of certificates: "mail.example.org", or "*.example.org" for every name below it."""

    def __init__(self, names: Sequence[str]) -> None:
        """ValueError where one is no name."""
        self._names = DomainTable(dict.fromkeys(names, True))
        self._is_empty = not names

    def __bool__(self) -> bool:
        return not self._is_empty

    def has(self, session: Session) -> bool:
        """Whether the client has shown a certificate with one of the names, by an authority that we trust. A name with
        a wildcard in it stands for those below it, not for one that we ask for."""
        tls = session.tls
        if self._is_empty or tls is None or not tls.is_verified:
            return False
        return any(self._names.has(name.lower()) for name in tls.names if "*" not in name and "@" not in name)
