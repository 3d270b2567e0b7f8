"""`[quarantine.digest]`: the mail that tells recipients, once a day, what is kept back from them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Protocol, Self

from pydantic import BeforeValidator, Field, model_validator

from mailgate.config.section import Section
from mailgate.config.site_templates import TemplateFolder
from mailgate.config.units import Form
from mailgate.config.values import Count, Flag, Name, OneMailbox, Pattern

__all__ = ["DigestSection", "TimeOfDay", "excluded_filters"]


def _time_of_day(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.time.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime.time) or value.tzinfo is not None:
        raise ValueError('must be a time of day like "07:00"')
    return value


TimeOfDay = Annotated[
    datetime.time, BeforeValidator(_time_of_day), Form('time of day, like "07:00"', lambda value: f"{value:%H:%M}")
]
"""A time of day in the machine's time zone."""


class DigestSection(Section):
    """`[quarantine.digest]`: once a day each recipient with new mail in quarantine gets one mail about it, with a link
    for each message by which that recipient has it released. The links lead to `[http]`, which needs its `url` then."""

    enabled: Flag = False
    """whether these mails are sent"""
    at: TimeOfDay = datetime.time(7, 0)
    """when, in the machine's time zone; where the gateway does not run then, soon after its next start"""
    sender: OneMailbox | None = Field(default=None, alias="from")
    """the address that they come from, as author; required where they are enabled. Answers come to it, so somebody
    should read them. The envelope's sender is empty: nothing that answers by itself is to answer them"""
    organization: Annotated[str, Field(max_length=200)] = ""
    """who keeps the mail back, in words, for the mail and the page; the domain of `from` if empty"""
    contact: Annotated[str, Field(max_length=500)] = ""
    """whom recipients ask about it: an address, a telephone number"""
    templates: TemplateFolder | None = None
    """a folder with templates of your own for the mail and its pages, in other words or another language:
    digest-subject.txt, digest.txt, digest.html, ask.html, said.html, layout.html (Jinja; ours take the place of those
    that are not there). They are read at the start and by a reload"""
    recipients: list[Pattern] = []
    """who gets them: addresses, domains, or "*.domain" for all below it; every recipient of our [domains] if empty.
    Recipients of other domains never do"""
    never: list[Pattern] = []
    """who gets none, in the same forms: lists, machines"""
    exclude: list[Name] = ["clamav", "attachments"]
    """filters, by name or kind, whose decisions recipients neither see nor undo: what any of these has objected to is
    left to administrators"""
    scan: Flag = True
    """whether the content filters are asked again before a recipient's link releases a message: where one of `exclude`
    objects by now, it stays; what others object to is the recipient's decision. Where nobody can be asked, because the
    listener is gone, it stays as well"""
    max_entries: Annotated[Count, Field(le=1000)] = 100
    """messages that one mail lists, the latest first; it counts the others"""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.enabled and self.sender is None:
            raise ValueError('the mails need a sender: from = "quarantine@..."')
        return self

    @property
    def name(self) -> str:
        """Who keeps the mail back."""
        return self.organization or (self.sender or "").rpartition("@")[2]


class _HasKind(Protocol):
    @property
    def kind(self) -> str | None: ...


def excluded_filters(section: DigestSection, filters: Mapping[str, _HasKind]) -> frozenset[str]:
    """The names of the filters that `exclude` means; `filters` are the file's."""
    meant = frozenset(section.exclude)
    return meant | {name for name, one in filters.items() if one.kind in meant}
