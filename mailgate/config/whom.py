"""Whom something is for, as the file says it: addresses, domains, and lists of them in files of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from mailgate.config.hosts import parse_routing_pattern
from mailgate.config.units import Form, absolute

__all__ = ["LIST", "Whom"]

#: What an entry begins with that names a file.
LIST = "file:"


def _whom(text: str, info: ValidationInfo) -> str:
    if text.startswith(LIST):
        return LIST + absolute(text.removeprefix(LIST), info)
    return parse_routing_pattern(text)


Whom = Annotated[str, AfterValidator(_whom), Form("address, domain or file:")]
"""An address, "ann+*@domain" for that with any extension, a domain, "*.domain", or "file:" and the path of a file with
one of these a line."""
