"""`[senders.NAME]`: systems that know who may use an address as a sender."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mailgate.config.aliases import HttpAliases, LdapAliases, SqlAliases

__all__ = ["HttpSenders", "LdapSenders", "SenderSection", "SqlSenders"]


class SqlSenders(SqlAliases):
    """`[senders.NAME]` of kind sql: a query finds who may use an address; the filter sender-login asks."""

    kind: Literal["sql"]
    """sqlite, or postgresql with the extra mailgate[postgresql]"""
    query: str = "SELECT login FROM senders WHERE address = :address"
    """gives a row for each identity that may use the address (or several of them in one text, with commas between
    them), and none where nobody may; :address, :local_part and :domain stand for the parts of the address, in lower
    case. About a whole domain :address is "@example.org", and :local_part empty"""


class HttpSenders(HttpAliases):
    """`[senders.NAME]` of kind http: a service of one's own says who may use an address."""

    kind: Literal["http"]
    """200 with a JSON list of identities; 404, 410, 204 and an empty list say that nobody may, and all else that it
    cannot be told now"""


class LdapSenders(LdapAliases):
    """`[senders.NAME]` of kind ldap: entries of a directory say who may use an address."""

    kind: Literal["ldap"]
    """needs the extra mailgate[ldap]"""
    base: str
    """below which entry is searched: "ou=people,dc=example,dc=org" """
    filter: str
    """which entries are of those who may use an address, by {address}, {local_part} or {domain}, which stand for its
    parts as for the kind sql: "(&(objectClass=person)(proxyAddresses=smtp:{address}))" """
    attributes: list[str] = Field(min_length=1)
    """where the identities stand, as they log in: "uid", "userPrincipalName" """


SenderSection = Annotated[SqlSenders | HttpSenders | LdapSenders, Field(discriminator="kind")]
