"""How the name that a client gave gets into a filter (RFC 4515) or a DN (RFC 4514): as a value and nothing else."""

from __future__ import annotations

import string
import warnings
from collections.abc import Iterator
from typing import Any

from ldaptor.protocols import pureldap  # type: ignore[import-untyped]  # ldaptor has no types

with warnings.catch_warnings():
    # ldaptor uses names of pyparsing 2, which pyparsing 3 still has and warns of
    warnings.simplefilter("ignore", DeprecationWarning)
    from ldaptor.ldapfilter import InvalidLDAPFilter, parseFilter  # type: ignore[import-untyped]  # ldaptor has no types

__all__ = ["USERNAME", "UserFilter", "fill_dn"]

#: What stands for the name.
USERNAME = "{username}"

#: ASCII that means nothing in a DN, wherever it stands. The @ is for Active Directory, which takes name@domain too.
_PLAIN = frozenset(string.ascii_letters + string.digits + "-_.@")


class UserFilter:
    """A filter with a place for the name. It is parsed once, so that no name can change its structure."""

    def __init__(self, template: str) -> None:
        """ValueError, for an administrator, where it is no filter or has no place for the name."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self._filter = parseFilter(template.strip())
        except InvalidLDAPFilter as error:
            raise ValueError(f"filter: no LDAP filter (RFC 4515): {error.msg} at character {error.loc + 1}") from None
        self._places = [(leaf, text) for leaf in _values(self._filter) if USERNAME in (text := _text(leaf.value))]
        if not self._places:
            raise ValueError(f"filter: {USERNAME} must stand in the place of a value")

    def fill(self, username: str) -> Any:
        """ldaptor's filter for this user. It is the same object each time: write it before the next is asked for."""
        for leaf, text in self._places:
            leaf.value = text.replace(USERNAME, username).encode()
        return self._filter


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
