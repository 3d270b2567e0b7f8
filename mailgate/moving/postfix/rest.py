"""What no part of an import has said: noted, so that nothing that is set is forgotten without a word.

A setting counts as said where the new file names it: behind a line, in a comment, or in the list of what is left. That
some part has asked for it is not enough, since what came of that may be nothing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from mailgate.moving.draft import Draft, Weight
from mailgate.moving.files import as_it_was
from mailgate.moving.postfix.defaults import ALWAYS, CONDITIONAL, DEFAULTS, INSIDE, OTHERWISE
from mailgate.moving.postfix.reading import Service
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.unlike import unlike

__all__ = ["tell_rest"]

#: A name with the line that it stands in.
_NAMED = re.compile(r"\b([A-Za-z0-9_-]+) \(([^()]+:\d+)\)")
#: What the programs of Postfix do that are neither read here nor told of elsewhere.
_OURS = frozenset({"smtpd", "postscreen", "smtp", "lmtp", "relay", "local", "virtual", "discard", "error"})
_INSIDE_SERVICES = frozenset(
    {"cleanup", "qmgr", "oqmgr", "nqmgr", "tlsmgr", "trivial-rewrite", "bounce", "flush", "proxymap", "showq", "anvil",
     "scache", "postlogd", "dnsblog", "tlsproxy", "verify"}
)  # fmt: skip
_PROGRAMS = {"pipe": "hands mail to a program", "spawn": "runs a program of the policy protocol or the like"}
#: Settings of a service that are about the inside of Postfix, beside those of all.
_OF_SERVICES = ("smtpd_*_limit_exceptions", "milter_macro_daemon_name", "syslog_name", "*_service_name")
#: What asks for nothing.
_NOTHING = frozenset({"", "no", "none", "0", "0s"})


def tell_rest(site: Site) -> None:
    """Note every setting of main.cf and every service of master.cf, with its options, that nothing tells of yet."""
    said = _said(site.draft) | site.uses
    for name, setting in sorted(site.parameters.settings.items()):
        if (name, setting.origin) not in said:
            _setting(site, name, setting.value, site.parameters.origin(name))
    for service in site.services:
        _service(site, service)
        for name, value in service.own.items():
            if (name, service.origin) not in said:
                _own(site, service, name, value)


def _said(draft: Draft) -> set[tuple[str, str]]:
    """The settings that the draft names, each with where it stands."""
    return {(match[1], match[2]) for text in _texts(draft) for match in _NAMED.finditer(text)}


def _texts(draft: Draft) -> Iterator[str]:
    for section in draft.sections:
        yield from section.origins.values()
        yield from section.comments
    for leftover in draft.leftovers:
        yield leftover.setting


def _setting(site: Site, name: str, value: str, origin: str) -> None:
    weight, why, advice = _reason(site, name, value)
    site.draft.leave(weight, origin, why, advice)


def _reason(site: Site, name: str, value: str) -> tuple[Weight, str, str]:
    """What is to be said of a setting that nothing came of."""
    parameters = site.parameters
    known = name in DEFAULTS or name in CONDITIONAL
    found = unlike(name)
    if name in OTHERWISE and value.lower() == OTHERWISE[name][0]:
        return "differs", OTHERWISE[name][1], ""
    if name in ALWAYS:
        return "covered", ALWAYS[name], ""
    if name in DEFAULTS and _is_default(site, name, value):
        return "covered", "it is as by default", ""
    if found is not None:
        return ("covered" if value.lower() in _NOTHING else "missing"), found[0], _advised(found[1], name, value)
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in INSIDE):
        return "covered", "it is about the inside of Postfix", ""
    if value.lower() in _NOTHING and (known or name in parameters.used):
        return "covered", "it asks for nothing", ""
    if name in parameters.expanded and name not in parameters.asked:
        return "covered", "it is part of the values of others", ""
    if name in parameters.asked or known:
        # Nobody can tell here whether the rest of the configuration makes it count.
        return (
            "missing",
            "nothing in the new file comes from it, as far as the rest has made it count",
            as_it_was(name, value),
        )
    return "missing", "the import does not know it", as_it_was(name, value)


def _is_default(site: Site, name: str, value: str) -> bool:
    return " ".join(value.split()) == DEFAULTS[name] or site.parameters.get(name) == site.parameters.default(name)


def _advised(advice: str, name: str, value: str) -> str:
    return ". ".join(filter(None, (advice, as_it_was(name, value))))


def _service(site: Site, service: Service) -> None:
    where = f"{service.origin}: {service.name}"
    leave = site.draft.leave
    if any(one.setting.startswith(where) for one in site.draft.leftovers) or service.origin in site.made:
        return
    if service.command in _PROGRAMS and service.kind in ("unix", "fifo"):
        text = f"it {_PROGRAMS[service.command]}: where something leads to it, that is told there"
        leave("covered", where, text)
    elif service.command == "pickup":
        text = "the sendmail command hands mail to Postfix; mailgate takes mail by SMTP only"
        leave("missing", where, text, "Let programs use SMTP, or a small sendmail that does (msmtp, dma)")
    elif service.command == "smtpd" and service.kind == "pass":
        leave("missing", where, "of several services that take clients over from postscreen the first is read",
              "Compare its options with those of the listener")  # fmt: skip
    elif service.command in ("smtpd", "postscreen"):
        text = f"it takes mail by a socket of kind {service.kind}"
        leave("missing", where, text, 'Add a listener: endpoints = ["unix:/PATH"]')
    elif service.kind == "inet":
        text = f"{service.command} listens on the network, and does what nothing here does"
        leave("missing", where, text, "See who uses this port")
    elif service.command in _OURS:
        leave("covered", where, "it delivers: where something leads to it, that is a route")
    elif service.command in _INSIDE_SERVICES:
        leave("covered", where, "it is about the inside of Postfix")
    else:
        leave("missing", where, f"{service.command} is no program of Postfix that the import knows")


def _own(site: Site, service: Service, name: str, value: str) -> None:
    """A setting of a single service that nothing came of."""
    where = f"{service.origin}: {service.name} -o {name}"
    leave = site.draft.leave
    is_listener = service.command in ("smtpd", "postscreen")
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in _OF_SERVICES):
        leave("covered", where, "it is about the inside of Postfix")
    elif not is_listener and service.command in _OURS and service.origin not in site.made:
        leave("covered", where, "nothing is sent by it here")
    elif is_listener and service.origin not in site.made:
        leave("covered", where, "no listener was made of this service")
    else:
        weight, why, advice = _reason(site, name, value)
        if weight == "missing" and unlike(name) is None:
            why = "for one service alone it cannot be said"
        leave(weight, where, why, advice)
