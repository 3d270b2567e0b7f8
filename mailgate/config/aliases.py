"""`[aliases.NAME]` and `[forwarding]`: addresses that stand for others, and mail that is forwarded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mailgate.config.section import Section
from mailgate.config.units import ConfigPath, Form, Timeout
from mailgate.config.values import Hostname, Mailbox

__all__ = ["AliasSection", "ForwardingSection", "MapAliases", "PatternAliases", "PatternRule"]


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


AliasSection = Annotated[MapAliases | PatternAliases, Field(discriminator="kind")]


class ForwardingSection(Section):
    """`[forwarding]`: mail that aliases send on to domains that are not ours."""

    srs_domain: Hostname | None = None
    """with it, such mail has a reverse-path of ours (SRS), so that SPF passes at the next host and reports come back by
    us; reports to it are taken and sent on. The domain needs an MX record that leads here, and SPF for our addresses"""
    srs_secrets: ConfigPath | None = None
    """a file with a secret a line, for `srs_domain`: the first makes addresses, all are good for those that return"""
    srs_max_age: Timeout = 21 * 86400.0
    """how long a rewritten address is good"""
