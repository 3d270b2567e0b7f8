"""`[quarantine]`: how long mail is kept back, and when filters are asked again."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from mailgate.config.digest import DigestSection
from mailgate.config.section import Section
from mailgate.config.units import Duration, at_least, format_duration
from mailgate.config.values import Flag

__all__ = ["QuarantineSection"]

_HOUR = 3600.0


class QuarantineSection(Section):
    """`[quarantine]`: what becomes of mail that filters keep back, and of mail that waits in the queue, when they would
    judge otherwise now."""

    retention: Annotated[Duration, at_least(_HOUR, format_duration)] = 30 * 86400.0
    """how long mail stays in quarantine; then it is deleted, and the history tells so"""
    rescan_every: Annotated[Duration, at_least(_HOUR, format_duration)] | Literal["off"] = "off"
    """how often the content filters (clamav, rspamd, attachments, score...) are asked again about what is in
    quarantine, like "6h"; "off" for never"""
    on_pass: Literal["tell", "release"] = "tell"  # noqa: S105  no password
    """what is done with mail in quarantine that no content filter objects to any more: tell (the history says so), or
    release. What another filter (dmarc, access), which cannot be asked again, has objected to as well stays in any
    case"""
    rescan_queue: Flag = False
    """whether they are then asked about mail that waits in the queue as well: what they object to now goes into
    quarantine. What is under delivery at that moment goes on"""
    digest: DigestSection = DigestSection()

    @model_validator(mode="after")
    def _has_a_time(self) -> Self:
        idle = [name for name in ("on_pass", "rescan_queue") if getattr(self, name) not in ("tell", False)]
        if idle and self.rescan_every == "off":
            raise ValueError(f'{idle[0]} means nothing without rescan_every, like "6h"')
        return self
