"""Whether a mail server that uses us as its content filter says from which clients its mail comes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mailgate.config.places import Places
from mailgate.config.schema import ListenerSection
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import Site
from mailgate.observe.search import newest_entries

__all__ = ["origin_checks"]

#: Entries of the history that are looked at, in each of its files.
_MOST = 5000
_HINT = (
    "its address has to be in xforward_from, and in Postfix, after the queue, -o smtp_send_xforward_command=yes in "
    "master.cf: try with a mail from outside"
)


def origin_checks(site: Site) -> Iterator[Check]:
    """One for each listener with judge_origin."""
    for listener in site.config.listeners:
        if listener.judge_origin:
            yield Check("relay", f"listeners[{listener.name}]", partial(_origins, site, listener))


async def _origins(site: Site, listener: ListenerSection, notes: Notes) -> None:
    def look() -> tuple[int, int]:
        came = [
            bool(entry.get("origin"))
            for entry in newest_entries(Places(site.config.gateway.state_dir).history, _MOST)
            if entry.get("event") in ("message_accepted", "refused") and entry.get("listener") == listener.name
            if entry.get("queue_id")
        ]
        return len(came), sum(came)

    try:
        came, named = await site.in_thread(look)
    except OSError as error:
        notes.note(f"not checked: the history cannot be read: {error.strerror}")
        return
    if not came:
        notes.note("the history knows of no mail by it, so that nothing can be said of whose it is", _HINT)
    elif not named:
        text = (
            f"mails of late: {came}; of none was it said from which client it comes, and filters take all for your own"
        )
        notes.warn(text, _HINT)
    else:
        notes.ok(f"mails of late: {came}; of {named} it was said from which client they come")
