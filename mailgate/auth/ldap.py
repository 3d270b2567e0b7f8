"""`[auth.NAME]` of kind ldap: a directory is asked, by a bind as the user (RFC 4513 section 5.1.3).

Either the entry is searched, as `bind_dn` or anonymously, or `user_dn` says its DN. Servers are asked in their order; a
clear answer is the answer, and whatever else leads to the next one.
"""

from __future__ import annotations

import math

from ldaptor.protocols import pureldap  # type: ignore[import-untyped]  # ldaptor has no types
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.auth.checker import PASSWORD_MECHANISMS, AuthTools, AuthUnavailable, AvatarId, IAuthReactor, IChecker
from mailgate.auth.remote import Questions, octets_of, text_of
from mailgate.backends.ldap_connection import SUCCESS, DirectoryConnection, DirectoryError
from mailgate.backends.ldap_names import USERNAME, FilterTemplate, fill_dn
from mailgate.backends.ldap_servers import DirectoryServers
from mailgate.backends.questions import read_secret, verifying
from mailgate.config.auth import LdapAuth
from mailgate.wire.sasl_text import SaslError, prepare

__all__ = ["LdapChecker", "build"]

#: Results (RFC 4511 section 4.1.9) of a bind that are about this user: constraintViolation, noSuchObject,
#: invalidDNSyntax, inappropriateAuthentication, invalidCredentials, insufficientAccessRights, unwillingToPerform.
#: Directories answer with the odd ones where an account is locked, or has no password.
_NO = frozenset({19, 32, 34, 48, 49, 50, 53})
_SIZE_LIMIT_EXCEEDED = 4
#: Asks for no attribute (RFC 4511 section 4.5.1.8).
_NO_ATTRIBUTES = "1.1"


def build(section: LdapAuth, tools: AuthTools) -> LdapChecker:
    """See `mailgate.auth.checker`."""
    return LdapChecker(section, tools.reactor)


@implementer(IChecker)
class LdapChecker:
    """Asks the directory of `section`; ValueError where the section cannot work."""

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815 (twisted.cred's)
    mechanisms = PASSWORD_MECHANISMS
    version: object = None
    depends_on_client = False

    def __init__(self, section: LdapAuth, reactor: IAuthReactor) -> None:
        self._filter: FilterTemplate | None = None
        if not section.user_dn:
            self._filter = FilterTemplate(section.filter)
        elif USERNAME not in section.user_dn:
            raise ValueError(f"user_dn: {USERNAME} must stand in it")
        elif section.bind_dn or section.name_attribute:
            raise ValueError("user_dn: bind_dn and name_attribute are for a search, which user_dn is instead of")
        if bool(section.bind_dn) != (section.bind_password_file is not None):
            raise ValueError("bind_dn: bind_dn and bind_password_file go together")
        self._bind_password = read_secret(section.bind_password_file) if section.bind_password_file else ""
        creators = verifying(reactor, section.ca)
        self._section = section
        self._reactor = reactor
        self._servers = DirectoryServers(section.urls, starttls=section.starttls, creators=creators, reactor=reactor)
        self._questions = Questions(reactor, "the directory", limit=section.connections, timeout=section.timeout)

    def requestAvatarId(self, credentials: IUsernamePassword) -> Deferred[AvatarId]:  # noqa: N802 (twisted.cred's)
        """The value of `name_attribute`, or the name as the directory compares it: in lower case."""
        deadline = self._reactor.seconds() + self._section.timeout
        return self._questions.ask(lambda: self._check(credentials, deadline))

    def close(self) -> None:
        """End what is asked, and the connections."""
        self._questions.close()
        self._servers.close()

    async def _check(self, credentials: IUsernamePassword, deadline: float) -> AvatarId:
        # A bind with a name and without a password counts as anonymous, and succeeds (RFC 4513 section 5.1.2).
        password = text_of(credentials.password)
        try:
            name = " ".join(prepare(text_of(credentials.username), stored=False).lower().split())
        except SaslError:
            name = ""
        if not name:
            raise UnauthorizedLogin("a name that no directory can have")
        return await self._servers.ask(
            lambda connection, is_new: self._login(connection, name, password, is_new=is_new),
            deadline,
            answers=(UnauthorizedLogin,),
        )

    async def _login(self, connection: DirectoryConnection, name: str, password: str, *, is_new: bool) -> bytes:
        if self._filter is None:
            dn, told = fill_dn(self._section.user_dn, name), name.encode()
        else:
            # a kept connection is still bound as the user before
            if self._section.bind_dn or not is_new:
                code = await connection.bind(self._section.bind_dn, self._bind_password)
                if code != SUCCESS:
                    raise DirectoryError(f"the bind for the search is refused with result {code}")
            dn, told = await self._search(connection, self._filter, name)
        code = await connection.bind(dn, password)
        if code in _NO:
            raise UnauthorizedLogin(f"the bind as the user is refused with result {code}")
        if code != SUCCESS:
            raise DirectoryError(f"the bind as the user fails with result {code}")
        return told

    async def _search(
        self, connection: DirectoryConnection, user_filter: FilterTemplate, name: str
    ) -> tuple[str, bytes]:
        """The DN of the one entry, and the user's name."""
        attribute = self._section.name_attribute
        answer = await connection.ask(
            pureldap.LDAPSearchRequest(
                baseObject=self._section.base,
                scope=pureldap.LDAP_SCOPE_wholeSubtree,
                derefAliases=pureldap.LDAP_DEREF_neverDerefAliases,
                sizeLimit=2,
                timeLimit=math.ceil(self._section.timeout),
                filter=user_filter.fill({"username": name}),
                attributes=[attribute or _NO_ATTRIBUTES],
            )
        )
        if len(answer.entries) > 1 or answer.code == _SIZE_LIMIT_EXCEEDED:
            raise UnauthorizedLogin("more than one entry fits the filter")
        if answer.code != SUCCESS:
            raise DirectoryError(f"the search fails with result {answer.code}")
        if not answer.entries:
            raise UnauthorizedLogin("no entry fits the filter")
        dn, attributes = answer.entries[0]
        if not dn:
            raise UnauthorizedLogin("the entry has no name to bind as")
        told = name.encode()
        if attribute:
            values = attributes.get(attribute.lower().encode(), [])
            if len(values) != 1:
                raise AuthUnavailable(f"the entry has {len(values)} values of {attribute}, and one is needed")
            told = octets_of(values[0], "the directory")
        return dn.decode("utf-8", "surrogateescape"), told
