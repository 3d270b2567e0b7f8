"""Names of Postfix's tables, and the sections that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mailgate.config.section import Section
from mailgate.config.units import Form
from mailgate.config.values import Hostname

__all__ = ["EXPRESSIONS", "INDEXED", "PostfixAliases", "PostfixRecipients", "split_map"]

#: Types of tables that postmap reads for us, and those of expressions.
INDEXED = ("hash", "btree", "lmdb", "cdb", "dbm", "sdbm")
EXPRESSIONS = ("pcre", "regexp")
_TYPES = ("texthash", *INDEXED, *EXPRESSIONS)
_ELSEWHERE = {
    "cidr": "is about addresses of clients: write them into a file of the filter access",
    "ldap": "has a kind of its own: ldap",
    "mysql": "cannot be asked: export it to a file",
    "pgsql": "has a kind of its own: sql",
    "sqlite": "has a kind of its own: sql",
    "tcp": "cannot be asked: the kind http asks a service",
    "socketmap": "cannot be asked: the kind http asks a service",
    "unix": "cannot be read: name the users in a file",
    "static": "knows everybody: leave it out",
}


def split_map(name: str) -> tuple[str, Path]:
    """The type and the file of a table; ValueError where it is none that we read."""
    kind, colon, path = name.removeprefix("proxy:").partition(":")
    kind = kind.lower()
    if not colon:
        raise ValueError(f'"{name}" is no table of the form TYPE:/PATH')
    if kind in _ELSEWHERE:
        raise ValueError(f'a table of type "{kind}" {_ELSEWHERE[kind]}')
    if kind not in _TYPES:
        raise ValueError(f'a table of type "{kind}" cannot be read (valid types are: {", ".join(_TYPES)})')
    if not path.startswith("/"):
        raise ValueError(f'"{name}": the path begins with a slash')
    return kind, Path(path)


def _map(name: str) -> str:
    split_map(name)
    return name


MapName = Annotated[str, AfterValidator(_map), Form("TYPE:/PATH")]


class _Maps(Section):
    maps: list[MapName] = Field(min_length=1)
    """Postfix's tables, as its main.cf names them, asked in their order: ["hash:/etc/postfix/virtual"]. Files of the
    types texthash, pcre and regexp are read (the last two with the extra mailgate[content]); hash, btree, lmdb and cdb
    are read for us by Postfix's `postmap -s`. All are read again when they change, as mailgate's user"""
    domains: list[Hostname] = []
    """the domains of names without one, as in local_recipient_maps and alias_maps: mydestination. Empty: such lines
    count for nothing, as in virtual_alias_maps, where they name domains"""


class PostfixRecipients(_Maps):
    """`[recipients.NAME]` of kind postfix: tables such as relay_recipient_maps and virtual_mailbox_maps."""

    kind: Literal["postfix"]
    """whatever an address stands for in one of the tables, it exists; `@example.org` stands for every address there"""


class PostfixAliases(_Maps):
    """`[aliases.NAME]` of kind postfix: tables such as virtual_alias_maps and alias_maps."""

    kind: Literal["postfix"]
    """what an address stands for in the first of the tables that has it. Commands, files and :include: of alias_maps
    are refused"""
    origin: Hostname | None = None
    """the domain of targets that are written without one: myorigin"""
