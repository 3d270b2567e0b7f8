"""Searches of a directory for what belongs to one address."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ldaptor.protocols import pureldap  # type: ignore[import-untyped]  # ldaptor has no types

from mailgate.backends.ldap_connection import SUCCESS, Attributes, DirectoryConnection, DirectoryError
from mailgate.backends.ldap_names import FilterTemplate
from mailgate.backends.ldap_servers import DirectoryServers
from mailgate.backends.questions import IBackendReactor, read_secret, verifying

__all__ = ["SMTP_PREFIX", "DirectoryOptions", "DirectorySearch", "Login", "addresses_in", "servers_of"]

#: What Active Directory writes before a mail address, in any case, to tell it from addresses of other kinds.
SMTP_PREFIX = "smtp:"

_SIZE_LIMIT_EXCEEDED = 4


class DirectoryOptions(Protocol):
    """What sections that ask a directory have in common; `timeout` in seconds."""

    @property
    def urls(self) -> Sequence[str]: ...
    @property
    def starttls(self) -> bool: ...
    @property
    def ca(self) -> Path | None: ...
    @property
    def bind_dn(self) -> str: ...
    @property
    def bind_password_file(self) -> Path | None: ...
    @property
    def base(self) -> str: ...
    @property
    def timeout(self) -> float: ...


class Login:
    """As whom we ask; ValueError where the section cannot work."""

    def __init__(self, section: DirectoryOptions) -> None:
        if bool(section.bind_dn) != (section.bind_password_file is not None):
            raise ValueError("bind_dn: bind_dn and bind_password_file go together")
        self._dn = section.bind_dn
        self._password = read_secret(section.bind_password_file) if section.bind_password_file else ""

    async def login(self, connection: DirectoryConnection) -> None:
        """Over a new connection; DirectoryError where we are refused."""
        if self._dn and (code := await connection.bind(self._dn, self._password)) != SUCCESS:
            raise DirectoryError(f"our bind is refused with result {code}")


def servers_of(section: DirectoryOptions, reactor: IBackendReactor) -> DirectoryServers:
    """The servers that the section names; ValueError where it cannot work."""
    creators = verifying(reactor, section.ca)
    return DirectoryServers(section.urls, starttls=section.starttls, creators=creators, reactor=reactor)


def addresses_in(attributes: Attributes, names: Collection[bytes]) -> Iterator[str]:
    """The values of the attributes with these names (in lower case), without "smtp:"; any may be no address."""
    for name, values in attributes.items():
        # a long list of values comes in ranges: "proxyaddresses;range=0-1499"
        if name.partition(b";")[0] in names:
            for value in values:
                text = value.decode("utf-8", "replace").strip()
                yield text[len(SMTP_PREFIX) :] if text[: len(SMTP_PREFIX)].lower() == SMTP_PREFIX else text


class DirectorySearch:
    """Asks for `attributes` of the entries that fit the filter, `most` at most. `cuts`: where there are more, those
    that the server gives are enough; otherwise that is no answer."""

    def __init__(
        self,
        section: DirectoryOptions,
        reactor: IBackendReactor,
        template: FilterTemplate,
        attributes: Sequence[str],
        *,
        most: int,
        cuts: bool,
    ) -> None:
        """ValueError where the section cannot work."""
        self._section = section
        self._clock = reactor
        self._servers = servers_of(section, reactor)
        self._login = Login(section)
        self._template = template
        self._attributes = attributes
        self._most = most
        self._fine = (SUCCESS, _SIZE_LIMIT_EXCEEDED) if cuts else (SUCCESS,)

    async def find(self, values: Mapping[str, str]) -> list[Attributes]:
        """What the entries hold; DirectoryError where no server answers."""
        deadline = self._clock.seconds() + self._section.timeout

        async def work(connection: DirectoryConnection, is_new: bool) -> list[Attributes]:
            if is_new:
                await self._login.login(connection)
            return await self._search(connection, values)

        return await self._servers.ask(work, deadline)

    def close(self) -> None:
        """Close the connections."""
        self._servers.close()

    async def _search(self, connection: DirectoryConnection, values: Mapping[str, str]) -> list[Attributes]:
        answer = await connection.ask(
            pureldap.LDAPSearchRequest(
                baseObject=self._section.base,
                scope=pureldap.LDAP_SCOPE_wholeSubtree,
                derefAliases=pureldap.LDAP_DEREF_neverDerefAliases,
                sizeLimit=self._most,
                timeLimit=math.ceil(self._section.timeout),
                filter=self._template.fill(values),
                attributes=list(self._attributes),
            ),
            most=self._most,
        )
        if answer.code not in self._fine:
            raise DirectoryError(f"the search fails with result {answer.code}")
        return [attributes for _, attributes in answer.entries]
