"""`[rehearsal]`: how copies of mail are read that another gateway handles."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import AfterValidator, Field

from mailgate.config.section import Section
from mailgate.config.units import Duration, Size
from mailgate.config.values import Count, Hostname, Network

__all__ = ["USUAL_TAGS", "RehearsalSection"]

USUAL_TAGS = ("X-Spam-Flag: yes", "X-Spam-Status: yes", "X-Spam: yes")
"""What SpamAssassin, amavis and rspamd add to what they take for spam."""


def _tag(text: str) -> str:
    name, colon, pattern = text.partition(":")
    if not colon or not name.strip():
        raise ValueError('a field and the beginning of its value are wanted, like "X-Spam-Flag: yes"')
    try:
        re.compile(pattern.strip())
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return text


class RehearsalSection(Section):
    """`[rehearsal]`: about listeners with `rehearse = true`, which take copies of mail that another gateway handles,
    judge them as they had come to that one, and keep what they have found for `mailgate rehearsal report`. Nothing is
    delivered, and nobody is told anything; what filters count or learn from copies is apart from all else."""

    copies_from: list[Network] = [IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")]
    """who may bring copies: the other gateway. Who else connects is refused"""
    inside: list[Network] = []
    """hosts of the site, beside `copies_from` and private networks: the client is the first host in the Received fields
    that is none of them, where the copy does not come with XFORWARD"""
    suffix: Hostname = "rehearsal.invalid"
    """what stands behind the domain of a recipient of a copy: bob@example.org.rehearsal.invalid is judged as
    bob@example.org. Mail to any other address is judged for whom its fields name"""
    tagged: list[Annotated[str, AfterValidator(_tag)]] = list(USUAL_TAGS)
    """how the other gateway marks what it takes for spam: a field, and how its value begins (a regular expression, in
    whatever case). Such a mail counts as quarantined there, every other one as taken"""
    keep: Duration = 14 * 86400.0
    """how long what was found is kept"""
    max_mails: Annotated[Count, Field(ge=100)] = 100_000
    """of how many mails it is kept, the newest ones"""
    max_size: Annotated[Size, Field(ge=1024**2)] = 256 * 1024**2
    """how many octets the file of what was found (`rehearsal.db`) may take on the disk, beside some MiB of its journal;
    the oldest go first. The report tells how many mails were left out for that and for `max_mails`"""
