"""Recipients whose mail a Postfix returns or holds back by its transports error and retry, as filters of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mailgate.filters.access_rules import RuleTable, parse_rule
from mailgate.moving.postfix.access import Covering, extended, ordered
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Entry
from mailgate.rewriting.tables import split_targets

__all__ = ["Closed"]

#: Recipients that stand in the configuration itself; more have a file.
_FEW = 10


class Closed:
    """Gathers the entries of transport_maps that refuse, then those that do not, and writes what comes of both."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rules: dict[tuple[str, str], str] = {}

    def __contains__(self, pattern: str) -> bool:
        rule = self._rules.get(("recipient", pattern), "allow ")
        return not rule.startswith("allow ")

    def add(self, key: str, text: str, entry: Entry, *, for_now: bool) -> None:
        """A rule that refuses; `for_now`, or by a text that begins with 4, it defers."""
        action = "defer" if for_now or text.startswith("4") else "deny"
        text = re.sub(r"^[45]\.\d+\.\d+\s*", "", text).replace("#", "")
        pattern = f"*{key}" if key.startswith(".") else key
        error = _wrong(f"{action} recipient {pattern} {text}".strip())
        if error or key.startswith("@"):
            error = error or "is neither an address nor a domain"
            self._site.draft.leave("missing", f"{entry.origin}: {key}", error)
            return
        for one in filter(None, (pattern, extended(pattern, self._site))):
            self._rules[("recipient", one)] = f"{action} recipient {one} {text}".strip()

    def spare(self, entries: Mapping[str, Entry]) -> None:
        """Keep from what is closed those below it whose mail goes somewhere: by another one of these entries, or as
        aliases, which Postfix looks up before."""
        if not self._rules:
            return
        site = self._site
        aliases = site.listed("virtual_alias_maps")
        for key in entries:
            if key.startswith("@"):
                continue  # no look-up is for that
            self._allow(f"*{key}" if key.startswith(".") else key)
        for entry in (one for table in aliases for one in table.entries):
            key = entry.key.lower()
            if "@" in key and key not in split_targets(entry.value.lower()):
                self._allow(key.removeprefix("@"), in_any_case=True)
        for table in aliases:
            if not table.entries and table.content != ():
                text = "cannot be listed: aliases in it that transport_maps closes are refused, and Postfix takes them"
                where = f"{site.parameters.origin('virtual_alias_maps')}: {table.name}"
                site.draft.leave("differs", where, text, "Put them into except_for of the filter closed")
        for domain, kind in site.local.items():
            if kind == "alias":
                self._allow(domain, in_any_case=True)

    def _allow(self, pattern: str, *, in_any_case: bool = False) -> None:
        """Spare those, with any extension that they may have; also from a rule that is about just them where that is
        said."""
        for one in filter(None, (pattern, extended(pattern, self._site))):
            rule = f"allow recipient {one}"
            key = ("recipient", one)
            if (in_any_case or key not in self._rules) and not _wrong(rule):  # or nobody has such an address
                self._rules[key] = rule

    def refuse(self) -> None:
        """Put the rules into filters, and these into every pipeline before all others."""
        draft = self._site.draft
        groups = ordered(self._rules)
        made: list[str] = []
        for rules in (*groups.before, groups.rules):
            refusing = {rule for rule in rules if not rule.startswith("allow ")}
            if not refusing:
                continue
            closed = {key: rule for key, rule in self._rules.items() if rule in refusing}
            made.append(f"closed-{len(made) + 1}" if made else "closed")
            section = draft.section("filters", made[-1])
            section.set("kind", "access")
            section.set("files", [draft.file("access-closed", closed.values())], "transport_maps: error")
            section.set("reachable", [], "Postfix refuses mail to the postmaster as well")
            about = Covering(closed)
            spared = [key[1] for key, rule in self._rules.items() if rule.startswith("allow ") and about.covers(key)]
            if len(spared) > _FEW:
                spared = [f"file:{draft.file('closed-except', spared)}"]
            if spared:
                section.set("except_for", list(spared), "transport_maps, virtual_alias_maps")
        for pipeline in draft.below("pipelines") if made else ():
            names = pipeline.values["filters"]
            if isinstance(names, list):
                pipeline.set("filters", [*made, *names])


def _wrong(rule: str) -> str:
    """Why this can be no rule of access; "" where it can."""
    try:
        RuleTable([parse_rule(rule, "rule", 0)])
    except ValueError as error:
        return str(error)
    return ""
