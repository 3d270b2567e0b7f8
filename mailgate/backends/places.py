"""An address in a question: its parts, by the names under which queries, filters and URLs have them."""

from __future__ import annotations

from mailgate.address import Address

__all__ = ["PLACES", "values_of"]

PLACES = ("address", "local_part", "domain")


def values_of(local_part: str, domain: str) -> dict[str, str]:
    """The values by their names. With an empty local part it is about the whole domain: the address is "@" and it."""
    address = str(Address(local_part, domain)) if local_part else f"@{domain}"
    return {"address": address, "local_part": local_part, "domain": domain}
