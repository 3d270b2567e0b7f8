"""The addresses that fields like From name, where programs agree on what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import getaddresses

from mailgate.address import Address, AddressError
from mailgate.mailauth.dmarc.author import author_domains

__all__ = ["AmbiguousFieldError", "addresses_in"]

#: What programs that do not mind the quotes take for the end of an address, or the beginning of another.
_MISLEADING = re.compile(r'[@<>,;:()"\\]')


class AmbiguousFieldError(ValueError):
    """A field does not say beyond doubt whom it names; the text says why."""


def addresses_in(values: Sequence[str]) -> list[Address]:
    """The addresses in the values of one field's occurrences, at most four domains and 16 KiB of text.

    Two readers, of which one is strict, must find the same: whoever writes such a field may want one address checked
    and have another one shown. AmbiguousFieldError where they do not, or there is no address.
    """
    authors = author_domains(values)
    if authors.problem:
        raise AmbiguousFieldError(authors.problem)
    found: dict[Address, None] = {}
    try:
        read = getaddresses([value.replace("\r\n", "") for value in values])
    except RecursionError:
        raise AmbiguousFieldError("its comments are nested too deeply") from None
    for _, text in read:
        if not text:
            continue
        try:
            address = Address.parse(text)
        except AddressError as error:
            raise AmbiguousFieldError(f"an address is malformed: {error}") from None
        if _MISLEADING.search(address.local_part):
            raise AmbiguousFieldError("a quoted local part has in it what separates addresses")
        found[address] = None
    if {one.domain for one in found} != set(authors.domains):
        raise AmbiguousFieldError("its addresses can be read in more than one way")
    return list(found)
