"""postscreen: greeting, lists in DNS and lists of networks before a client comes to a session."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailgate.config.units import format_duration
from mailgate.moving.draft import Value
from mailgate.moving.postfix.access import access_rules
from mailgate.moving.postfix.filters import Pipeline
from mailgate.moving.postfix.reading import Parameters
from mailgate.moving.postfix.site import Site

__all__ = ["screened"]

_SITE = re.compile(r"([^=*\s]+)(?:=([^*\s]+))?(?:\*(-?\d+))?")
_ENFORCED = {"enforce", "drop"}
_DEEP = ("postscreen_pipelining_enable", "postscreen_non_smtp_command_enable", "postscreen_bare_newline_enable")
#: Our wait is shorter than that of postscreen, since the filter has a deadline.
_LONGEST_WAIT = 9


def screened(site: Site, parameters: Parameters) -> Pipeline:
    """The filters of postscreen, which stand before all others."""
    pipeline = Pipeline()
    site.use(parameters, "postscreen_denylist_action", "postscreen_blacklist_action", "postscreen_greet_action",
             "postscreen_dnsbl_action", "postscreen_access_list")  # fmt: skip
    _lists(site, parameters, pipeline)
    if parameters.get("postscreen_greet_action").lower() in _ENFORCED:
        wait = min(parameters.seconds("postscreen_greet_wait") or 6, _LONGEST_WAIT)
        section = site.draft.section("filters", "early-talker")
        section.set("wait", format_duration(wait), parameters.origin("postscreen_greet_wait"))
        if parameters.is_set("mynetworks") and "permit_mynetworks" in parameters.words("postscreen_access_list"):
            exempt = [one for one, _ in site.networks("mynetworks", parameters)]
            section.set("exempt", list(exempt), "permit_mynetworks of postscreen_access_list")
        pipeline.add("early-talker")
    _dnsbl(site, parameters, pipeline)
    for name in _DEEP:
        if parameters.is_yes(name):
            text = "the session itself refuses what breaks the protocol, without having clients come twice"
            site.draft.leave("covered", parameters.origin(name), text)
    return pipeline


def _lists(site: Site, parameters: Parameters, pipeline: Pipeline) -> None:
    origin = parameters.origin("postscreen_access_list")
    actions = [parameters.get(one).lower() for one in ("postscreen_denylist_action", "postscreen_blacklist_action")]
    rules: list[str] = []
    for word in parameters.words("postscreen_access_list"):
        if ":" not in word:
            continue
        ruled = access_rules(site, "client", site.tables.read(word), origin)
        for group in ruled.before:
            _list(site, pipeline, group, origin, refuses=bool(set(actions) & _ENFORCED))
        rules += ruled.rules
    _list(site, pipeline, rules, origin, refuses=bool(set(actions) & _ENFORCED))


def _list(site: Site, pipeline: Pipeline, rules: Sequence[str], origin: str, *, refuses: bool) -> None:
    """A filter of these rules; without those that refuse, where postscreen has ignored them."""
    if not refuses and any(not one.startswith("allow ") for one in rules):
        rules = [one for one in rules if one.startswith("allow ")]
        text = "its reject entries did nothing (postscreen_denylist_action = ignore), and are left out"
        site.draft.leave("differs", origin, text)
    if not rules:
        return
    name = f"postscreen-access{len(pipeline.strangers) + 1 if pipeline.strangers else ''}"
    section = site.draft.section("filters", name)
    section.set("kind", "access")
    section.set("files", [site.draft.file("postscreen-access", rules)], origin)
    section.set("reachable", [], "Postfix refuses mail to the postmaster as well")
    pipeline.add(name)


def _dnsbl(site: Site, parameters: Parameters, pipeline: Pipeline) -> None:
    origin = parameters.origin("postscreen_dnsbl_sites")
    zones: list[Value] = []
    for word in parameters.words("postscreen_dnsbl_sites"):
        match = _SITE.fullmatch(word)
        if not match:
            site.draft.leave("missing", f"{origin}: {word}", "is no list in DNS")
            continue
        weight = int(match[3] or 1)
        zone: dict[str, Value] = {"zone": match[1]}
        if match[2]:
            zone["replies"] = [match[2]]
        if weight < 0:
            zone |= {"allow": True, "skip": False}
        if abs(weight) != 1:
            zone["weight"] = float(abs(weight))
        zones.append(zone)
    if not zones:
        return
    section = site.draft.section("filters", "postscreen-dnsbl")
    section.set("kind", "dnsbl")
    section.set("zones", zones, origin)
    section.set("reachable", [], "Postfix refuses mail to the postmaster as well")
    threshold = parameters.number("postscreen_dnsbl_threshold") or 1
    section.set("threshold", float(threshold), parameters.origin("postscreen_dnsbl_threshold"))
    if parameters.get("postscreen_dnsbl_action").lower() not in _ENFORCED:
        section.set("verdict", "continue", parameters.origin("postscreen_dnsbl_action"))
    if parameters.get("postscreen_dnsbl_reply_map"):
        text = "the name of a list that holds a key of yours is told to clients"
        site.draft.leave("decide", parameters.origin("postscreen_dnsbl_reply_map"), text, "Give its zone a name")
    pipeline.add("postscreen-dnsbl")
