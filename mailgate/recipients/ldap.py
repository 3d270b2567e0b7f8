"""`[recipients.NAME]` of kind ldap: a directory, of which a snapshot is kept, or which is asked for each address."""

from __future__ import annotations

import math

from ldaptor.protocols import pureldap  # type: ignore[import-untyped]  # ldaptor has no types

from mailgate.backends.ldap_connection import SUCCESS, DirectoryConnection, DirectoryError
from mailgate.backends.ldap_servers import DirectoryServers
from mailgate.backends.questions import verifying
from mailgate.config.recipients import LdapRecipients
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.cached import Cached, values_of
from mailgate.recipients.ldap_entries import EntryReader, Login, template_of
from mailgate.recipients.snapshot_source import SnapshotSource
from mailgate.recipients.source import ISource, SourceTools

__all__ = ["build"]

_SIZE_LIMIT_EXCEEDED = 4
#: Entries that may have one address: one is right, and more happens.
_MOST = 8


def build(section: LdapRecipients, name: str, tools: SourceTools) -> ISource:
    """See `mailgate.recipients.source`."""
    creators = verifying(tools.reactor, section.ca)
    servers = DirectoryServers(section.urls, starttls=section.starttls, creators=creators, reactor=tools.reactor)
    if section.snapshot:
        return SnapshotSource(section, name, servers, tools)
    restricts = bool(section.restricted_attribute)
    return Cached(_Search(section, servers, tools), section, name, tools, restricts=restricts)


class _Search:
    """Searches the entries of one address."""

    whom = "the directory"

    def __init__(self, section: LdapRecipients, servers: DirectoryServers, tools: SourceTools) -> None:
        self._section = section
        self._servers = servers
        self._clock = tools.reactor
        self._login = Login(section)
        self._template = template_of(section)
        self._reader = EntryReader(section)

    async def find(self, local_part: str, domain: str) -> RecipientStatus:
        deadline = self._clock.seconds() + self._section.timeout

        async def work(connection: DirectoryConnection, is_new: bool) -> RecipientStatus:
            if is_new:
                await self._login.login(connection)
            return await self._search(connection, local_part, domain)

        return await self._servers.ask(work, deadline)

    def close(self) -> None:
        self._servers.close()

    async def _search(self, connection: DirectoryConnection, local_part: str, domain: str) -> RecipientStatus:
        answer = await connection.ask(
            pureldap.LDAPSearchRequest(
                baseObject=self._section.base,
                scope=pureldap.LDAP_SCOPE_wholeSubtree,
                derefAliases=pureldap.LDAP_DEREF_neverDerefAliases,
                sizeLimit=_MOST,
                timeLimit=math.ceil(self._section.timeout),
                filter=self._template.fill(values_of(local_part, domain)),
                attributes=list(self._reader.marks),
            ),
            most=_MOST,
        )
        if answer.code not in (SUCCESS, _SIZE_LIMIT_EXCEEDED):
            raise DirectoryError(f"the search fails with result {answer.code}")
        found = [attributes for _, attributes in answer.entries if not self._reader.is_skipped(attributes)]
        if not found:
            return RecipientStatus.UNKNOWN
        is_restricted = all(self._reader.is_restricted(attributes) for attributes in found)
        return RecipientStatus.RESTRICTED if is_restricted else RecipientStatus.KNOWN
