"""Whether the listeners that run show the certificates that lie there now."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from twisted.internet.defer import TimeoutError as DeferredTimeout

from mailgate.doctor.certificates import read_pairs
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.open_relay import Entrance, entrances, knock, stranger_to
from mailgate.doctor.site import Site
from mailgate.relay.attempt import ConnectFailedError
from mailgate.tls.check import fingerprint

__all__ = ["shown_checks"]


def shown_checks(site: Site) -> Iterator[Check]:
    """One for each port at which there is TLS."""
    path = site.config.tls.certificate
    for one in entrances(site):
        if path is not None and one.listener.tls != "off":
            yield Check("certificates", str(one), partial(_look, site, one, path))


async def _look(site: Site, entrance: Entrance, path: Path, notes: Notes) -> None:
    if entrance.listener.client_certificates == "require":
        notes.note("what it shows was not looked at: it insists on a certificate of ours")
        return
    source = await stranger_to(site, entrance)
    if source is None and entrance.listener.proxy_protocol_from:
        notes.note("what it shows was not looked at: it expects a PROXY header from this machine")
        return
    try:
        connection = await knock(site, entrance, source, secured=True)
    except DeferredTimeout:
        notes.warn("TLS could not be tried: no answer", "see the gateway's log")
        return
    except ConnectFailedError as error:
        if error.stage == "tls":
            notes.fail(f"there is no TLS: {error.reason}", "see [tls], and the gateway's log")
        else:
            notes.note(f"what it shows could not be seen: {error.reason}", "start the gateway, and ask again")
        return
    try:
        shown = connection.tls.fingerprint if connection.tls is not None else ""
    finally:
        connection.close()
    pairs, _ = await site.in_thread(partial(read_pairs, path))
    if any(fingerprint(one.certificate) == shown for one in pairs):
        notes.ok("shows a certificate that lies there")
    else:
        text = "shows another certificate than those that lie there: another program answers, or the new one is refused"
        notes.warn(text, "see the gateway's log")
