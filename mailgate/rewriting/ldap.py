"""`[aliases.NAME]` of kind ldap: entries of a directory say what an address stands for."""

from __future__ import annotations

from collections.abc import Mapping

from mailgate.backends.ldap_names import FilterTemplate
from mailgate.backends.ldap_search import DirectorySearch, addresses_in
from mailgate.backends.places import PLACES
from mailgate.config.aliases import LdapAliases
from mailgate.rewriting.asked import AskedAliases, bounded
from mailgate.rewriting.source import AliasTools

__all__ = ["build"]

#: Entries that one address may have.
_MOST = 100


def build(section: LdapAliases, name: str, tools: AliasTools) -> AskedAliases:
    """See `mailgate.rewriting.source`."""
    return AskedAliases(_Entries(section, tools), section, name, tools)


class _Entries:
    """Searches the entries of one address."""

    whom = "the directory"

    def __init__(self, section: LdapAliases, tools: AliasTools) -> None:
        template = FilterTemplate(section.filter, PLACES)
        self._names = [name.lower().encode() for name in section.attributes]
        self._search = DirectorySearch(section, tools.reactor, template, section.attributes, most=_MOST, cuts=False)

    async def find(self, values: Mapping[str, str]) -> tuple[str, ...] | None:
        entries = await self._search.find(values)
        return bounded(target for attributes in entries for target in addresses_in(attributes, self._names))

    def close(self) -> None:
        self._search.close()
