"""`[aliases.NAME]` and `[forwarding]`: addresses that stand for others, and mail that is forwarded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mailgate.config.postfix import PostfixAliases
from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Duration, Form, Timeout
from mailgate.config.values import Count, Flag, Hostname, HttpUrl, Mailbox

__all__ = [
    "AliasSection",
    "ForwardingSection",
    "HttpAliases",
    "LdapAliases",
    "MapAliases",
    "PatternAliases",
    "PatternRule",
    "SqlAliases",
]


def _targets(value: str | list[str]) -> list[str]:
    targets = [value] if isinstance(value, str) else value
    if not targets:
        raise ValueError("an alias has one target at least")
    return targets


Targets = Annotated[Mailbox | list[Mailbox], AfterValidator(_targets), Form("address or list of addresses")]


class MapAliases(Section):
    """`[aliases.NAME]` of kind map: aliases in the configuration, and in a file."""

    kind: Literal["map"]
    """an address stands for one or more others; "@old.example" for every address there, and a target "@new.example"
    keeps what stands before the @"""
    entries: dict[Mailbox, Targets] = {}
    """{ "info@example.org" = ["ann@example.org", "bob@example.net"], "@old.example" = "@example.org" }"""
    path: ConfigPath | None = None
    """a file with one alias a line, "ADDRESS TARGET, TARGET", and # for comments; read again when it changes"""


class PatternRule(Section):
    """One of `rules`."""

    match: str
    """a regular expression for the whole address, in lower case; write one that cannot take long"""
    to: Annotated[str | list[str], AfterValidator(_targets)]
    """what such an address stands for; \\1 is what the first group has matched"""


class PatternAliases(Section):
    """`[aliases.NAME]` of kind pattern: aliases by regular expressions."""

    kind: Literal["pattern"]
    """the first rule that fits decides"""
    rules: list[PatternRule] = Field(min_length=1)
    """{ match = '(.+)\\.(.+)@people\\.example\\.org', to = '\\1@example.org' }"""


class _Asked(Section):
    """What is asked about each address, and remembers the answers."""

    cache: Duration = 300.0
    """how long it is remembered what an address stands for: a change in the source waits so long"""
    cache_unknown: Duration = 60.0
    """how long it is remembered that an address is no alias"""
    cache_size: Annotated[int, Field(strict=True, ge=1)] = 20000
    """answers of each of the two kinds that are remembered at one time"""
    stale: Duration = 86400.0
    """how long answers still count while nobody can be asked; addresses that were not asked about for so long are
    deferred then"""
    connections: Count = 4
    """questions at one time"""
    timeout: Timeout = 5.0
    """how long we wait for one answer; there are up to three questions about an address: as it stands, without its
    extension, and about its domain"""


class SqlAliases(_Asked):
    """`[aliases.NAME]` of kind sql: a query finds what an address stands for."""

    kind: Literal["sql"]
    """sqlite, or postgresql with the extra mailgate[postgresql]"""
    url: str
    """"sqlite:/path" or "postgresql://user@host/database" """
    password_file: ConfigPath | None = None
    """a file with the database's password"""
    query: str = "SELECT target FROM aliases WHERE address = :address"
    """gives a row for each target (or several of them in one text, with commas between them), and none for an address
    that is no alias; :address, :local_part and :domain stand for the parts of the address, in lower case. About a whole
    domain :address is "@example.org", and :local_part empty"""


class HttpAliases(_Asked):
    """`[aliases.NAME]` of kind http: a service of one's own is asked."""

    kind: Literal["http"]
    """200 with a JSON list of addresses tells the targets; 404, 410, 204 and an empty list say that the address is no
    alias, and all else that it cannot be told now"""
    url: HttpUrl
    """the address of the service: https, or http on this machine or a trusted network; with GET {address}, {local_part}
    and {domain} in it stand for the parts of the address, as for the kind sql"""
    method: Literal["GET", "POST"] = "GET"
    """GET, or POST with a JSON object (address, local_part, domain)"""
    ca: ConfigPath | None = None
    """the authorities (PEM) that the service's certificate must come from; the system's if not given"""
    token_file: ConfigPath | None = None
    """a file with a bearer token that is sent along"""


class LdapAliases(_Asked):
    """`[aliases.NAME]` of kind ldap: entries of a directory say what an address stands for."""

    kind: Literal["ldap"]
    """needs the extra mailgate[ldap]"""
    urls: list[str] = Field(min_length=1)
    """"ldap://host:389" or "ldaps://host:636", in the order in which they are tried"""
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
    """below which entry aliases are searched: "ou=aliases,dc=example,dc=org" """
    filter: str
    """which entries are the alias of an address, by {address}, {local_part} or {domain}, which stand for its parts as
    for the kind sql: "(&(objectClass=nisMailAlias)(cn={address}))" """
    attributes: list[str] = Field(min_length=1)
    """where the targets stand, as "ann@example.org" or "smtp:ann@example.org"; an entry without one is no alias"""


AliasSection = Annotated[
    MapAliases | PatternAliases | SqlAliases | HttpAliases | LdapAliases | PostfixAliases, Field(discriminator="kind")
]


class ForwardingSection(Section):
    """`[forwarding]`: mail that aliases send on to domains that are not ours."""

    srs_domain: Hostname | None = None
    """with it, such mail has a reverse-path of ours (SRS), so that SPF passes at the next host and reports come back by
    us; reports to it are taken and sent on. The domain needs an MX record that leads here, and SPF for our addresses"""
    srs_secrets: ConfigPath | None = None
    """a file with a secret a line, for `srs_domain`, and # for comments: the first makes addresses, all are good for
    those that return"""
    srs_max_age: Timeout = 21 * 86400.0
    """how long a rewritten address is good"""
