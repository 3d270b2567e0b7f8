"""`[recipients.NAME]`: who knows which recipients exist."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mailgate.config.postfix import PostfixRecipients
from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Duration, Form, Timeout
from mailgate.config.values import Count, Flag, HttpUrl, Mailbox, Name, OneMailbox, Rate

__all__ = [
    "CalloutRecipients",
    "HttpRecipients",
    "LdapRecipients",
    "ListRecipients",
    "RecipientsSection",
    "Sources",
    "SqlRecipients",
]


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


Sources = Annotated[list[Name], BeforeValidator(_names), Field(min_length=1), Form("name or list of names")]
"""One name, or several in their order."""


class ListRecipients(Section):
    """`[recipients.NAME]` of kind list: the addresses stand in the configuration or in a file."""

    kind: Literal["list"]
    """where the addresses come from; list: `addresses` and the file at `path` together"""
    addresses: list[Mailbox] = []
    """addresses that exist; `@example.org` stands for every address there. Case does not matter, and postmaster always
    exists"""
    path: ConfigPath | None = None
    """a file with one address a line, in the same forms, and # for comments; read again when it changes"""


class _Asked(Section):
    """What is asked for each address, and remembers the answers."""

    cache: Duration = 300.0
    """how long an address that is known counts as known without asking again"""
    cache_unknown: Duration = 60.0
    """how long one that is not known counts as unknown: a new mailbox waits so long"""
    cache_size: Annotated[int, Field(strict=True, ge=1)] = 20000
    """answers of each of the two kinds that are remembered at one time"""
    stale: Duration = 86400.0
    """how long an address that was known still counts as known while nobody can be asked; the others are deferred"""
    connections: Count = 4
    """questions at one time"""
    timeout: Timeout = 5.0
    """how long we wait for the answer; less than the `deadline` of the filter recipients"""


class SqlRecipients(_Asked):
    """`[recipients.NAME]` of kind sql: a query finds a row for an address that exists."""

    kind: Literal["sql"]
    """sqlite, or postgresql with the extra mailgate[postgresql]"""
    url: str
    """"sqlite:/path" or "postgresql://user@host/database" """
    password_file: ConfigPath | None = None
    """a file with the database's password"""
    query: str = "SELECT 1 FROM recipients WHERE address = :address"
    """gives a row for an address that exists, whatever stands in it, and none for another; :address, :local_part and
    :domain stand for the parts of the address, in lower case, internationalized domains in A-labels"""


class HttpRecipients(_Asked):
    """`[recipients.NAME]` of kind http: a service of one's own is asked."""

    kind: Literal["http"]
    """200 and 204 say that the address exists, 404 and 410 that it does not, and all else that it cannot be told now"""
    url: HttpUrl
    """the address of the service: https, or http on this machine or a trusted network; with GET {address}, {local_part}
    and {domain} in it stand for the parts of the address, in lower case"""
    method: Literal["GET", "POST"] = "GET"
    """GET, or POST with a JSON object (address, local_part, domain)"""
    ca: ConfigPath | None = None
    """the authorities (PEM) that the service's certificate must come from; the system's if not given"""
    token_file: ConfigPath | None = None
    """a file with a bearer token that is sent along"""


class LdapRecipients(_Asked):
    """`[recipients.NAME]` of kind ldap: a directory, above all Active Directory with Exchange."""

    kind: Literal["ldap"]
    """needs the extra mailgate[ldap]"""
    urls: list[str] = Field(min_length=1)
    """"ldap://host:389" or "ldaps://host:636", in the order in which they are tried; the global catalog of Active
    Directory, for several domains, is at the ports 3268 and 3269"""
    starttls: Flag = False
    """whether an ldap:// connection goes on under TLS before anything is said; passwords never go out in clear text
    but to this machine"""
    ca: ConfigPath | None = None
    """the authorities (PEM) that the server's certificate must come from; the system's if not given"""
    bind_dn: str = ""
    """as whom we ask, with `bind_password_file`: a DN, or name@domain with Active Directory; anonymous if empty"""
    bind_password_file: ConfigPath | None = None
    """a file with the password of `bind_dn`"""
    base: str
    """below which entry recipients are searched: "dc=example,dc=org" """
    filter: str = ""
    """which entries are recipients. Empty: all that have one of `attributes`. With `snapshot = false` it must name the
    address by {address}, {local_part} or {domain}, and is, if empty, made of `attributes` too"""
    attributes: list[str] = Field(["proxyAddresses", "mail"], min_length=1)
    """where addresses stand, as "smtp:ann@example.org" or plain; values with another prefix (x500:, sip:) are none.
    userPrincipalName may be added where people get mail under the name that they log in with"""
    restricted_attribute: str = "msExchRequireAuthToSendTo"
    """entries of which this is TRUE, groups for internal mail above all, get mail from clients only that may relay; for
    others there is 550 5.7.1. Empty: there are none"""
    skip_disabled: Flag = False
    """whether accounts that are disabled (userAccountControl) are unknown; shared mailboxes and rooms are such, too"""
    snapshot: Flag = True
    """whether all addresses are read and kept, so that mail does not depend on the directory at that moment; otherwise
    it is asked for each address. `cache`, `cache_unknown`, `cache_size` and `connections` are for the latter only"""
    refresh: Timeout = 300.0
    """how often the snapshot is brought up to date: with Active Directory by what has changed since, with others by
    reading all"""
    full_refresh: Timeout = 86400.0
    """how often all is read where otherwise changes are: what was deleted is seen at once only where we may see
    deleted objects"""
    page_size: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1000
    """entries in one page (RFC 2696); Active Directory gives 1000 at most"""
    max_entries: Annotated[int, Field(strict=True, ge=1)] = 500_000
    """a directory that has more entries than this is not read"""
    max_change: Annotated[int, Field(strict=True, ge=1, le=100)] = 20
    """where more than this many percent of the addresses, and more than 50, would vanish at once, they stay, and the
    log says so; delete the snapshot's file in the state directory to have it so"""


class CalloutRecipients(Section):
    """`[recipients.NAME]` of kind callout: the server behind is asked whether it would take the mail."""

    kind: Literal["callout"]
    """asks by MAIL and RCPT, on the terms of the route, without sending anything, and remembers the answer for long"""
    route: Name
    """the [routes.NAME] whose server is asked; mostly that of the domain"""
    stage: Literal["rcpt", "data"] = "rcpt"
    """after which command it counts as taken: data is for servers that refuse recipients only there"""
    sender: OneMailbox | Literal[""] = ""
    """whom the mail seems to come from; the null sender if empty, which some servers refuse"""
    known_for: Timeout = 31 * 86400.0
    """how long an address that was accepted counts as known"""
    known_refresh: Timeout = 7 * 86400.0
    """after which it is asked about again, beside the mail"""
    unknown_for: Timeout = 3 * 86400.0
    """how long an address that was refused counts as unknown"""
    unknown_refresh: Timeout = 3 * 3600.0
    """after which it is asked about again, beside the mail: a new mailbox waits so long"""
    detect_catch_all: Flag = True
    """whether an address that cannot exist is asked about as well: a server that accepts it knows no recipients at this
    stage, which the log says once, and all are known then without asking"""
    connections: Count = 2
    """connections for this at one time, in each process"""
    rate: Rate = 5.0
    """how many addresses are asked about at most; what would wait longer than `timeout` is deferred"""
    timeout: Timeout = 8.0
    """how long the mail waits for an answer; the question goes on to its own end, and helps the next attempt. Less than
    the `deadline` of the filter recipients"""


RecipientsSection = Annotated[
    ListRecipients | SqlRecipients | HttpRecipients | LdapRecipients | CalloutRecipients | PostfixRecipients,
    Field(discriminator="kind"),
]
