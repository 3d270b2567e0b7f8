"""`[auth.NAME]`: who knows the users and their secrets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Timeout
from mailgate.config.values import Count, Flag, HttpUrl, SocketAddress

__all__ = [
    "AuthSection",
    "DovecotAuth",
    "FileAuth",
    "HttpAuth",
    "LdapAuth",
    "OAuthAuth",
    "SqlAuth",
]


class _Auth(Section):
    cache: Timeout = 300.0
    """how long a secret that was right is taken for right again without asking; in memory, as a keyed hash"""
    cache_size: Annotated[int, Field(strict=True, ge=0)] = 10000
    """secrets that are remembered at one time; 0 asks each time"""


class FileAuth(_Auth):
    """`[auth.NAME]` of kind file: users and hashed secrets in a file."""

    kind: Literal["file"]
    """lines of `mailgate password USER`"""
    path: ConfigPath
    """the file, read again when it changes, of lines NAME:SECRET; nobody but mailgate should be able to read it"""


class HttpAuth(_Auth):
    """`[auth.NAME]` of kind http: a service of one's own decides."""

    kind: Literal["http"]
    """POST with a JSON object (username, password, client, listener); 200 says yes, with nothing or with a JSON object
    that may name the user (username), 401 or 403 no, all else not now"""
    url: HttpUrl
    """the address of the service: https, or http on this machine or a trusted network"""
    ca: ConfigPath | None = None
    """the authorities (PEM) that the service's certificate must come from; the system's if not given"""
    token_file: ConfigPath | None = None
    """a file with a bearer token that is sent along"""
    connections: Count = 16
    """questions at one time"""
    timeout: Timeout = 10.0
    """how long we wait for the answer"""


class LdapAuth(_Auth):
    """`[auth.NAME]` of kind ldap: a directory is asked, by a bind as the user."""

    kind: Literal["ldap"]
    """needs the extra mailgate[ldap]"""
    urls: list[str] = Field(min_length=1)
    """"ldap://host:389" or "ldaps://host:636", in the order in which they are tried"""
    starttls: Flag = False
    """whether an ldap:// connection goes on under TLS before anything is said; passwords never go out in clear text
    but to this machine"""
    ca: ConfigPath | None = None
    """the authorities (PEM) that the server's certificate must come from; the system's if not given"""
    base: str = ""
    """where users are searched; not needed with `user_dn`"""
    filter: str = "(&(objectClass=person)(|(mail={username})(uid={username})))"
    """which entry is the user; {username} stands for the name, whatever it holds. Exactly one must be found"""
    user_dn: str = ""
    """the user's DN without a search: "uid={username},ou=people,dc=example,dc=org" """
    bind_dn: str = ""
    """as whom the search is made, with `bind_password_file`; anonymous if empty"""
    bind_password_file: ConfigPath | None = None
    """a file with the password of `bind_dn`"""
    name_attribute: str = ""
    """the attribute of the found entry that is the user's one name from then on, like "uid"; the name that was given,
    in lower case, if not given. Where users can log in under several names, limits by user need it"""
    connections: Count = 4
    """connections at one time"""
    timeout: Timeout = 10.0
    """how long we wait for the answer, all servers together"""


class SqlAuth(_Auth):
    """`[auth.NAME]` of kind sql: a query gives the stored secret."""

    kind: Literal["sql"]
    """sqlite, or postgresql with the extra mailgate[postgresql]"""
    url: str
    """"sqlite:/path" or "postgresql://user@host/database" """
    password_file: ConfigPath | None = None
    """a file with the database's password"""
    query: str = "SELECT secret FROM users WHERE name = :username"
    """gives no row for an unknown user, else the secret, in a form of `mailgate password`, in the first column, and in
    a second, if there is one, the user's one name from then on; :username stands for the name that was given"""
    scram: Flag = False
    """whether SCRAM is offered; clients prefer it, so that each user then needs a secret for it"""
    connections: Count = 4
    """connections at one time, each with a thread of its own"""
    timeout: Timeout = 10.0
    """how long we wait for the answer"""


class DovecotAuth(_Auth):
    """`[auth.NAME]` of kind dovecot: Dovecot's auth service, as Postfix uses it."""

    kind: Literal["dovecot"]
    """the client protocol of Dovecot's auth service: passwords, and tokens where Dovecot knows them; no SCRAM"""
    socket: SocketAddress
    """"unix:/var/run/dovecot/auth-client" or "host:port" """
    timeout: Timeout = 10.0
    """how long we wait for the answer"""


class OAuthAuth(_Auth):
    """`[auth.NAME]` of kind oauth: bearer tokens, for XOAUTH2 and OAUTHBEARER."""

    kind: Literal["oauth"]
    """tokens are checked by a key set (JWT) or by introspection (RFC 7662): give `jwks` or `introspection`"""
    jwks: HttpUrl | None = None
    """the address of the issuer's key set (RFC 7517), fetched again each hour and where a key is not known"""
    introspection: HttpUrl | None = None
    """the issuer's introspection endpoint"""
    ca: ConfigPath | None = None
    """the authorities (PEM) that the issuer's certificate must come from; the system's if not given"""
    client_id: str = ""
    """as whom the introspection endpoint is asked"""
    client_secret_file: ConfigPath | None = None
    """a file with that client's secret"""
    issuer: str = ""
    """what a token's `iss` must be; with `jwks` required"""
    audience: str = ""
    """what a token's `aud` must contain; with `jwks` required"""
    scope: str = ""
    """a scope that a token must have, if given"""
    username_claim: str = "email"
    """the claim that names the user; it must be the name that the client gave, in upper or lower case"""
    connections: Count = 16
    """questions at one time"""
    timeout: Timeout = 10.0
    """how long we wait for an answer"""


AuthSection = Annotated[FileAuth | HttpAuth | LdapAuth | SqlAuth | DovecotAuth | OAuthAuth, Field(discriminator="kind")]
