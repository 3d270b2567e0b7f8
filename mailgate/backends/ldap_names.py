"""How what a client gave gets into a filter (RFC 4515) or a DN (RFC 4514): as a value and nothing else."""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ldaptor.protocols import pureldap  # type: ignore[import-untyped]  # ldaptor has no types

with warnings.catch_warnings():
    # ldaptor uses names of pyparsing 2, which pyparsing 3 still has and warns of
    warnings.simplefilter("ignore", DeprecationWarning)
    from ldaptor.ldapfilter import InvalidLDAPFilter, parseFilter  # type: ignore[import-untyped]  # ldaptor has no types

__all__ = ["USERNAME", "FilterTemplate", "fill_dn", "parse_filter"]

#: What stands for the name of a user.
USERNAME = "{username}"

#: ASCII that means nothing in a DN, wherever it stands. The @ is for Active Directory, which takes name@domain too.
_PLAIN = frozenset(string.ascii_letters + string.digits + "-_.@")


class FilterTemplate:
    """A filter with places for values. It is parsed once, so that no value can change its structure."""

    def __init__(self, template: str, places: Collection[str] = ("username",)) -> None:
        """`places` are the names of the values, of which one at least must stand there in braces. ValueError, for an
        administrator, where it is no filter or has no such place."""
        self._filter = parse_filter(template)
        self._pattern = re.compile(f"{{({'|'.join(places)})}}")
        self._leaves = [
            (leaf, text) for leaf in _values(self._filter) if self._pattern.search(text := _text(leaf.value))
        ]
        if not self._leaves:
            words = " or ".join(f"{{{place}}}" for place in places)
            raise ValueError(f"filter: {words} must stand in the place of a value")

    def fill(self, values: Mapping[str, str]) -> Any:
        """ldaptor's filter with these values: the same object each time, to be written before the next is asked for."""
        for leaf, text in self._leaves:
            leaf.value = self._pattern.sub(lambda found: values[found[1]], text).encode()
        return self._filter


def parse_filter(text: str) -> Any:
    """ldaptor's filter of a text; ValueError, for an administrator, where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return parseFilter(text.strip())
    except InvalidLDAPFilter as error:
        raise ValueError(f"filter: no LDAP filter (RFC 4515): {error.msg} at character {error.loc + 1}") from None


def fill_dn(template: str, username: str) -> str:
    """The DN with the name in its place: all that could mean anything is written as hexadecimal pairs."""
    escaped = "".join(
        char if char in _PLAIN else "".join(f"\\{octet:02x}" for octet in char.encode()) for char in username
    )
    return template.replace(USERNAME, escaped)


def _values(node: Any) -> Iterator[Any]:
    """The values in a filter; names of attributes and rules are none."""
    if isinstance(node, pureldap.LDAPFilterSet):
        for one in node:
            yield from _values(one)
    elif isinstance(node, pureldap.LDAPFilter_not):
        yield from _values(node.value)
    elif isinstance(node, pureldap.LDAPAttributeValueAssertion):
        yield node.assertionValue
    elif isinstance(node, pureldap.LDAPFilter_substrings):
        yield from node.substrings
    elif isinstance(node, pureldap.LDAPFilter_extensibleMatch):
        yield node.matchValue


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
