"""Plugins of Haraka that ask a scanner, as filters of ours."""

from __future__ import annotations

import re

from mailgate.config.hosts import parse_host
from mailgate.config.units import format_duration, format_size
from mailgate.moving.draft import Section
from mailgate.moving.haraka.reading import Haraka, Ini

__all__ = ["clamd", "rspamd", "spamassassin"]

#: The longest that a filter waits for a scanner before mail is deferred.
_LONGEST = 55


def _scanner(haraka: Haraka, plugin: str, ini: Ini, kind: str, servers: list[str], port: int) -> Section:
    section = haraka.draft.section("filters", kind)
    good = []
    for one in servers:
        written = f"unix:{one}" if one.startswith("/") else one
        try:
            parse_host(written, port)
        except ValueError as error:
            haraka.draft.leave("decide", f"{ini.name}: {one}", str(error), f"Write servers of [filters.{kind}]")
        else:
            good.append(written)
    if good:
        section.set("servers", list(good), ini.name if haraka.has(ini.name) else plugin)
    seconds = min(ini.number("timeout") or 0, _LONGEST)
    if seconds >= 1:
        section.set("timeout", format_duration(seconds), ini.origin("timeout"))
        section.set("deadline", format_duration(seconds + 2))
    if size := ini.number("max_size"):
        section.set("max_size", format_size(int(size)), ini.origin("max_size"))
    return section


def clamd(haraka: Haraka, plugin: str) -> Section:
    """The filter clamav."""
    ini = haraka.ini("clamd.ini")
    servers = re.split(r"[,;\s]+", ini.get("clamd_socket", "localhost:3310"))
    section = _scanner(haraka, plugin, ini, "clamav", servers, 3310)
    section.set("oversize", "continue", "larger mail was not scanned")
    if not ini.is_true("virus", "reject", default=True):
        section.set("found", "continue", ini.origin("virus", "reject"))
    if not ini.is_true("error", "reject", default=True):
        section.set("on_failure", "continue", ini.origin("error", "reject"))
    if haraka.lines("clamd.excludes"):
        text = "names that are no virus for certain are beginnings here"
        haraka.draft.leave("decide", "clamd.excludes", text, "See suspicions of [filters.clamav]")
    return section


def spamassassin(haraka: Haraka, plugin: str) -> Section:
    """The filter spamassassin."""
    ini = haraka.ini("spamassassin.ini")
    servers = re.split(r"[,;\s]+", ini.get("spamd_socket", "127.0.0.1:783"))
    section = _scanner(haraka, plugin, ini, "spamassassin", servers, 783)
    threshold = ini.number("reject_threshold")
    section.set("reject", False if threshold is None else threshold, ini.origin("reject_threshold"))
    if user := ini.get("spamd_user"):
        if user == "first-recipient":
            section.set("user_by", "address", ini.origin("spamd_user"))
        elif re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=@-]{0,63}", user):
            section.set("user", user, ini.origin("spamd_user"))
        else:
            haraka.draft.leave("decide", ini.origin("spamd_user"), "is no name of a user", "See user of the filter")
    if ini.get("munge_subject_threshold"):
        text = "the subject is tagged by another filter"
        haraka.draft.leave("differs", ini.origin("munge_subject_threshold"), text, "See tag of edit-headers")
    return section


def rspamd(haraka: Haraka, plugin: str) -> Section:
    """The filter rspamd."""
    ini = haraka.ini("rspamd.ini")
    host = ini.get("unix_socket") or f"{ini.get('host', 'localhost')}:{ini.get('port', '11333')}"
    section = _scanner(haraka, plugin, ini, "rspamd", [host], 11333)
    if not ini.is_true("spam", "reject", default=True):
        section.set("reject", "continue", ini.origin("spam", "reject"))
    if message := ini.get("message", section="reject"):
        section.set("text", message, ini.origin("message", "reject"))
    return section
