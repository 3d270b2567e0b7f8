"""Access tables (access(5)) as rules of our filter access."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from mailgate.filters.access_rules import RuleTable, parse_rule
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Entry, Question, Table, Unreadable
from mailgate.stores.extensions import DELIMITERS

__all__ = ["SUBJECTS", "Covering", "Ruled", "access_rules", "action_of", "extended", "ordered"]

#: The subject of our rule, by that of the restriction.
SUBJECTS = {
    "client": "client",
    "helo": "helo",
    "sender": "sender",
    "recipient": "recipient",
    "reverse_client_hostname": "",
}
_ALLOW = {"ok", "permit", "relay"}
_PARTIAL = re.compile(r"\d{1,3}(?:\.\d{1,3}){0,2}\.?")
_CODE = re.compile(r"([45])\d\d(?:\s+\d\.\d+\.\d+)?\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Ruled:
    """A table as rules. Of one filter an allow goes before all that refuses, whatever is narrower: so what refuses some
    of those that an allow of the same table is for stands in `before`, with what it is itself too wide for. Each group
    there belongs into a filter of its own, in this order."""

    before: tuple[tuple[str, ...], ...] = ()
    rules: tuple[str, ...] = ()

    @property
    def allows(self) -> bool:
        """Whether one of them is an allow."""
        return any(one.startswith("allow ") for one in self.rules)

    @property
    def refuses(self) -> bool:
        """Whether one of them, of those that stand together, is none."""
        return any(not one.startswith("allow ") for one in self.rules)


def access_rules(site: Site, subject: str, table: Table, origin: str) -> Ruled:
    """The rules that a table is; what cannot be one is noted."""
    where = f"{origin}: {table.name}"
    content = table.content
    if not SUBJECTS.get(subject):
        site.draft.leave("missing", where, f"there are no rules about {subject}")
        return Ruled()
    if isinstance(content, Question | Unreadable) or table.rules:
        why = content.why if isinstance(content, Unreadable) else "the filter access has lists, and no expressions"
        site.draft.leave("missing", where, why, "Write its rules into a file of access, or a filter of your own")
        return Ruled()
    refuses = any(action_of(entry.value)[0] in ("deny", "defer") for entry in table.entries)
    is_cidr = table.name.removeprefix("proxy:").startswith("cidr:")
    made: dict[tuple[str, str], str] = {}
    for entry in table.entries:
        action, text = action_of(entry.value)
        found = _rules(site, SUBJECTS[subject], entry, action, text, refuses=refuses, has_networks=is_cidr)
        for rule in found:
            _, about, pattern, *_ = rule.split(" ")
            # Of two entries with one key the first counts.
            made.setdefault((about, pattern), rule)
    return ordered(made, first_counts=is_cidr)


def ordered(made: Mapping[tuple[str, str], str], *, first_counts: bool = False) -> Ruled:
    """Rules by subject and pattern, put into filters so that the narrowest one counts; or the first one, with
    `first_counts`."""
    seen = Covering()
    kept: dict[tuple[str, str], str] = {}
    for key, rule in made.items():
        if first_counts and seen.covers(key):
            continue  # an entry before it is for all of these
        seen.add(key)
        kept[key] = rule
    groups: list[tuple[str, ...]] = []
    while True:
        inner = _inner(kept)
        groups.append(tuple(rule for key, rule in kept.items() if key not in inner))
        if not inner:
            return Ruled(tuple(reversed(groups[1:])), groups[0])
        kept = {key: rule for key, rule in kept.items() if key in inner}


def _inner(rules: Mapping[tuple[str, str], str]) -> set[tuple[str, str]]:
    """The rules that refuse some of those that an allow is for, and those within them that allow: fewer than all, since
    the widest allow is none of them."""
    allows = {key for key, rule in rules.items() if rule.startswith("allow ")}
    allowed = Covering(allows)
    refusing = {key for key in rules.keys() - allows if allowed.covers(key)}
    refused = Covering(refusing)
    return refusing | {key for key in allows if refused.covers(key)}


class Covering:
    """Patterns, and whether one of them is for all that another one is for."""

    def __init__(self, keys: Iterable[tuple[str, str]] = ()) -> None:
        self._names: set[tuple[str, str]] = set()
        self._networks: set[IPv4Network | IPv6Network] = set()
        self._prefixes: set[int] = set()
        for key in keys:
            self.add(key)

    def add(self, key: tuple[str, str]) -> None:
        """Take a pattern, with what it is about."""
        if key[0] == "client":
            network = ip_network(key[1])
            self._networks.add(network)
            self._prefixes.add(network.prefixlen)
        else:
            self._names.add(key)

    def covers(self, key: tuple[str, str]) -> bool:
        """Whether a wider pattern is there, or the same."""
        about, pattern = key
        if about == "client":
            network = ip_network(pattern)
            wider = (one for one in self._prefixes if one <= network.prefixlen)
            return any(network.supernet(new_prefix=one) in self._networks for one in wider)
        if key in self._names or (about, "*") in self._names:
            return True
        local_part, at, name = pattern.rpartition("@")
        for place, one in enumerate(local_part):
            if one in DELIMITERS and (about, f"{local_part[: place + 1]}*@{name}") in self._names:
                return True
        name = name.removeprefix("*.").removeprefix(".")
        if at and (about, name) in self._names:
            return True
        while name:
            if {(about, f"*.{name}"), (about, f".{name}")} & self._names and name != pattern:
                return True
            name = name.partition(".")[2]
        return False


def action_of(value: str) -> tuple[str, str]:
    """Our action for a result, "" where there is none; and its text."""
    word, *more = value.split(None, 1) or [""]
    lower, rest = word.lower(), "".join(more)
    if lower in _ALLOW or (lower.isdigit() and not _CODE.fullmatch(value)):
        return "allow", ""
    if lower == "reject":
        return "deny", _stripped(rest)
    if lower in ("defer", "defer_if_permit", "defer_if_reject"):
        return "defer", _stripped(rest)
    if match := _CODE.fullmatch(value):
        return ("deny" if match[1] == "5" else "defer"), match[2].strip()
    return "", ""


def _stripped(text: str) -> str:
    """The text of a reply without its enhanced status code."""
    return re.sub(r"^\s*[45]\.\d{1,3}\.\d{1,3}\s*", "", text).strip()


def _rules(
    site: Site, subject: str, entry: Entry, action: str, text: str, *, refuses: bool, has_networks: bool
) -> Iterator[str]:
    where = f"{entry.origin}: {entry.key}"
    word = (entry.value.split() or [""])[0]
    if not action:
        if word.upper() == "DUNNO" and not refuses:
            return  # an exception to nothing
        reason = f"{word} is none of allow, deny and defer"
        if word.upper() == "DUNNO":
            reason = "DUNNO spares it from the rules around it, and an allow would spare it from other filters, too"
        site.draft.leave("missing", where, reason, "A filter of your own can do it")
        return
    if subject == "client" and entry.key.lower() == "unknown":
        text = "stands for clients without a confirmed name, which no rule is about"
        site.draft.leave("missing", where, text, "See no_name and unconfirmed of the filter fcrdns")
        return
    goes_below = "smtpd_access_maps" in site.parameters.words("parent_domain_matches_subdomains")
    patterns = list(_patterns(subject, entry.key.lower(), goes_below=goes_below, has_networks=has_networks))
    patterns += [(one, extended(pattern, site)) for one, pattern in patterns if extended(pattern, site)]
    for key, pattern in patterns:
        rule = f"{action} {key} {pattern}" + (f" {text}" if text and action != "allow" else "")
        rule = rule.replace("#", "")
        try:
            RuleTable([parse_rule(rule, "rule", 0)])
        except ValueError as error:
            site.draft.leave("missing", where, str(error))
        else:
            yield rule
    if not patterns:
        site.draft.leave(
            "missing", where, "is no key that a rule can have", "A rule is about whole addresses or domains"
        )


def extended(pattern: str, site: Site) -> str:
    """The same address with any extension, which Postfix looks up without it; "" where there is no such pattern."""
    local_part, at, domain = pattern.rpartition("@")
    delimiter = next((one for one in site.parameters.get("recipient_delimiter") if one in DELIMITERS), "")
    if not (at and local_part and delimiter) or delimiter in local_part or local_part.startswith('"'):
        return ""
    return f"{local_part}{delimiter}*@{domain}"


def _patterns(subject: str, key: str, *, goes_below: bool, has_networks: bool) -> Iterator[tuple[str, str]]:
    """The subjects and patterns of our rules for a key of theirs; `goes_below`: whether a domain stands for what is
    below it as well (parent_domain_matches_subdomains), `has_networks`: whether a key may be a network."""
    if subject == "client":
        if "/" in key and not has_networks:
            return
        if "/" in key or ":" in key or re.fullmatch(r"\d+(\.\d+){3}", key):
            yield "client", key
        elif _PARTIAL.fullmatch(key):
            parts = key.rstrip(".").split(".")
            yield "client", f"{'.'.join([*parts, *['0'] * (4 - len(parts))])}/{8 * len(parts)}"
        elif key.startswith("."):
            yield "name", key
        else:
            yield "name", key
            if goes_below:
                yield "name", f".{key}"
    elif key == "<>":
        if subject == "sender":
            yield subject, key
    elif "@" in key:
        if not key.endswith("@"):  # user@: in every domain
            yield subject, key
    elif key.startswith("."):
        yield subject, f"*{key}" if subject != "helo" else key
    else:
        yield subject, key
        if goes_below:
            yield subject, f"*.{key}"
