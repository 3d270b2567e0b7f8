"""Who wants TLS reports: the record at _smtp._tls.DOMAIN (RFC 8460 section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from mailgate.address import Address
from mailgate.mailauth.dmarc.destinations import parse_uri

__all__ = ["TlsDestination", "destinations_in"]

#: Destinations of one domain, and characters of one.
_MOST, _LONGEST = 10, 500


@dataclass(frozen=True, slots=True)
class TlsDestination:
    """Where a report goes: by mail to `address`, or to the URL `url` where that is None."""

    url: str
    address: Address | None = None

    def __str__(self) -> str:
        return self.url if self.address is None else str(self.address)


def destinations_in(records: Iterable[object]) -> tuple[TlsDestination, ...]:
    """The destinations that TXT records name, without those that we cannot use; none where there is no one record."""
    texts = [one.decode("ascii", "replace") for one in records if isinstance(one, bytes)]
    found = [one for one in texts if one.partition(";")[0].strip(" \t") == "v=TLSRPTv1"]
    if len(found) != 1:
        return ()
    fields = dict(_field(one) for one in reversed(found[0].split(";")))
    uris = [one.strip(" \t") for one in fields.get("rua", "").split(",")]
    destinations: dict[TlsDestination, None] = {}
    for uri in uris[:_MOST]:
        if (one := _destination(uri)) is not None:
            destinations[one] = None
    return tuple(destinations)


def _field(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(" \t"), value.strip(" \t")


def _destination(uri: str) -> TlsDestination | None:
    if len(uri) > _LONGEST or not uri.isprintable() or " " in uri:
        return None
    try:
        if uri.lower().startswith("https://"):
            return TlsDestination(uri) if _is_elsewhere(uri) else None
        return TlsDestination(uri, parse_uri(uri).address)
    except ValueError:
        return None


def _is_elsewhere(url: str) -> bool:
    """Whether it names a web server by a name: what anybody writes into DNS is not to lead us to services inside."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port not in (None, 443) or "@" in parts.netloc or "." not in host or not host.isascii():
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False
