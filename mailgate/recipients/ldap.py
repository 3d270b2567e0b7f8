"""`[recipients.NAME]` of kind ldap: a directory, of which a snapshot is kept, or which is asked for each address."""

from __future__ import annotations

from mailgate.backends.ldap_search import DirectorySearch, servers_of
from mailgate.backends.places import values_of
from mailgate.config.recipients import LdapRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.cached import Cached
from mailgate.recipients.ldap_entries import EntryReader, template_of
from mailgate.recipients.snapshot_source import SnapshotSource
from mailgate.recipients.source import ISource, SourceTools

__all__ = ["build"]

#: Entries that may have one address: one is right, and more happens.
_MOST = 8


def build(section: LdapRecipients, name: str, tools: SourceTools) -> ISource:
    """See `mailgate.recipients.source`."""
    if section.snapshot:
        return SnapshotSource(section, name, servers_of(section, tools.reactor), tools)
    return Cached(_Search(section, tools), section, name, tools, restricts=bool(section.restricted_attribute))


class _Search:
    """Searches the entries of one address."""

    whom = "the directory"

    def __init__(self, section: LdapRecipients, tools: SourceTools) -> None:
        self._reader = EntryReader(section)
        template = template_of(section)
        self._search = DirectorySearch(section, tools.reactor, template, self._reader.marks, most=_MOST, cuts=True)

    async def find(self, local_part: str, domain: str) -> RecipientStatus | None:
        entries = await self._search.find(values_of(local_part, domain))
        found = [attributes for attributes in entries if not self._reader.is_skipped(attributes)]
        if not found:
            return None
        is_restricted = all(self._reader.is_restricted(attributes) for attributes in found)
        return RecipientStatus.RESTRICTED if is_restricted else RecipientStatus.KNOWN

    def close(self) -> None:
        self._search.close()
