"""The filters that stand for what a Postfix checks: restrictions, postscreen, milters, expressions in headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailgate.filters.access_rules import RuleTable, parse_rule
from mailgate.filters.who import AddressPatterns, IdentityTable
from mailgate.moving.draft import Section, Value
from mailgate.moving.postfix.access import access_rules, action_of, extended
from mailgate.moving.postfix.reading import Parameters
from mailgate.moving.postfix.restrictions import LISTS, REFUSALS, Step, steps
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Entry, Table

__all__ = ["Pipeline", "Trusted", "restricted"]

_ZONE = re.compile(r"([^=*\s]+)(?:=([^*\s]+))?(?:\*(-?\d+))?")
#: Restrictions that need nothing: what else says so, or that it is always so.
_COVERED = {
    "reject_unauth_destination": "[domains] says whose mail is taken",
    "defer_unauth_destination": "[domains] says whose mail is taken",
    "reject_unlisted_recipient": "the filter recipients asks who exists",
    "reject_unauth_pipelining": "the session itself refuses it",
    "permit_mynetworks": "trusted_networks of the listener",
    "permit_sasl_authenticated": "auth of the listener",
    "permit_auth_destination": "[domains] says whose mail is taken",
    "reject": "the role of the listener",
    "reject_plaintext_session": "tls of the listener",
    "permit_tls_all_clientcerts": "see tls.client_ca",
}
#: Options of a filter for a restriction, with the parameter that has the code, where that may be 450.
_OPTIONS: dict[str, tuple[str, dict[str, str], str]] = {
    "reject_invalid_helo_hostname": ("helo", {"invalid": "reject"}, ""),
    "reject_invalid_hostname": ("helo", {"invalid": "reject"}, ""),
    "reject_non_fqdn_helo_hostname": ("helo", {"single_label": "reject", "bare_ip": "reject"}, ""),
    "reject_non_fqdn_hostname": ("helo", {"single_label": "reject", "bare_ip": "reject"}, ""),
    "reject_unknown_helo_hostname": ("helo", {"unresolvable": "reject"}, "unknown_hostname_reject_code"),
    "reject_unknown_hostname": ("helo", {"unresolvable": "reject"}, "unknown_hostname_reject_code"),
    "reject_unknown_client_hostname": (
        "fcrdns", {"no_name": "reject", "unconfirmed": "reject"}, "unknown_client_reject_code"
    ),
    "reject_unknown_client": ("fcrdns", {"no_name": "reject", "unconfirmed": "reject"}, "unknown_client_reject_code"),
    "reject_unknown_reverse_client_hostname": ("fcrdns", {"no_name": "reject"}, "unknown_client_reject_code"),
    "reject_unknown_sender_domain": (
        "resolvable", {"unknown": "reject", "no_host": "reject"}, "unknown_address_reject_code"
    ),
}  # fmt: skip
#: What our filters would do by themselves and Postfix does not, turned off so that nothing else is refused than before.
_QUIET: dict[str, dict[str, Value]] = {
    "helo": {"own_name": "continue", "own_address": "continue", "exempt": []},
    "fcrdns": {"exempt": []},
    "resolvable": {"dead_mx": "continue", "bogus_mx": "continue", "unknown": "continue", "no_host": "continue",
                   "exempt": []},
}  # fmt: skip
_MISSING = {
    "reject_non_fqdn_sender": ("a sender's domain without a dot", "resolvable refuses what does not exist"),
    "reject_non_fqdn_recipient": ("a recipient's domain without a dot", "none of [domains] is one"),
    "reject_unknown_recipient_domain": ("recipients whose domain is not in DNS", "it is found out at the delivery"),
    "reject_unverified_sender": ("asking the sender's own server", "see the filters spf, dmarc and resolvable"),
    "reject_unlisted_sender": ("senders of ours that do not exist", "see strangers of the filter sender-login"),
    "reject_multi_recipient_bounce": ("reports with several recipients", "see the filter null-sender"),
    "sleep": ("waiting", "see the filters early-talker and tarpit"),
}


@dataclass(frozen=True, slots=True)
class Trusted:
    """Who may relay at a listener: networks, and those who log in."""

    networks: bool
    logins: bool


@dataclass
class Pipeline:
    """What strangers are asked, and what those who may relay are; the names in their order."""

    strangers: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    probes: bool = False
    allows_recipients: bool = False

    def add(self, name: str, *, strangers: bool = True, trusted: bool = False) -> None:
        """Put a filter at the end, once."""
        for wanted, names in ((strangers, self.strangers), (trusted, self.trusted)):
            if wanted and name not in names:
                names.append(name)


def restricted(site: Site, parameters: Parameters, prefix: str, who: Trusted) -> Pipeline:
    """The filters of a service's restrictions; `prefix` makes the names of those that other services do not share."""
    return _Made(site, parameters, prefix, who).pipeline()


class _Made:
    def __init__(self, site: Site, parameters: Parameters, prefix: str, who: Trusted) -> None:
        self._site = site
        self._parameters = parameters
        self._prefix = prefix
        self._who = who
        self._pipeline = Pipeline()
        self._number = 0
        self._last = ("", False, "")
        self._lets: dict[str, list[str]] = {}  # by list, the filters by which a table lets in; "" where none can
        self._at_once = not parameters.is_yes("smtpd_delay_reject")

    def pipeline(self) -> Pipeline:
        """Go through all lists."""
        self._site.use(self._parameters, *(f"smtpd_{stage}_restrictions" for stage in LISTS))
        for step in steps(self._site, self._parameters):
            self._step(step)
        return self._pipeline

    def _step(self, step: Step) -> None:
        word, where = step.word, f"{step.word} in {step.origin}"
        leave = self._site.draft.leave
        if word.startswith("check_") and word.endswith("_access"):
            self._access(step, word.removeprefix("check_").removesuffix("_access"))
        elif word in _OPTIONS:
            self._option(step)
        elif word in ("reject_rbl_client", "permit_dnswl_client") or word.startswith("reject_rhsbl_"):
            self._list(step)
        elif word == "check_policy_service":
            self._policy(step)
        elif word == "reject_unverified_recipient":
            self._pipeline.probes = True
        elif word.endswith("sender_login_mismatch"):
            self._sender_login(step)
        elif word in REFUSALS and not step.only_warns and step.stage in self._lets:
            self._refuse_others(step)
        elif word in _COVERED:
            if word not in ("permit_mynetworks", "permit_sasl_authenticated"):
                leave("covered", where, _COVERED[word])
        elif word in _MISSING:
            what, advice = _MISSING[word]
            leave("missing", where, f"{what}: no filter does that", advice[0].upper() + advice[1:])
        else:
            leave("missing", where, "no filter does that", "A filter of your own can")

    def _filter(self, kind: str, step: Step) -> Section:
        """The one filter of this kind."""
        return self._named(kind, self._name(kind, step), step)

    def _name(self, kind: str, step: Step) -> str:
        return f"{self._prefix}{kind}" + ("-shadow" if step.only_warns else "")

    def _section(self, kind: str, name: str, step: Step) -> Section:
        section = self._site.draft.section("filters", name)
        if name != kind:
            section.set("kind", kind)
        if step.only_warns:
            section.set("mode", "shadow", "warn_if_reject")
        return section

    def _named(self, kind: str, name: str, step: Step) -> Section:
        section = self._section(kind, name, step)
        if self._at_once and kind in ("access", "helo", "fcrdns", "dnsbl"):
            section.set("when", "at-once", self._parameters.origin("smtpd_delay_reject"))
        elif kind in ("access", "helo", "fcrdns", "dnsbl"):
            section.set("reachable", [], "Postfix refuses mail to the postmaster as well")
        asked = [step.for_networks] * self._who.networks + [step.for_logins] * self._who.logins
        trusted = bool(asked) and all(asked)
        if any(asked) and not trusted:
            text = "one of mynetworks and logins was asked, and the other not: now neither is"
            self._site.draft.leave("differs", f"{step.word} in {step.origin}", text)
        self._pipeline.add(name, trusted=trusted)
        return section

    def _access(self, step: Step, subject: str) -> None:
        """A table as a filter, or two; what is in one list goes into one filter as long as that means the same."""
        table = self._site.tables.read(step.argument)
        ruled = access_rules(self._site, subject, table, step.origin)
        lets = self._lets.setdefault(step.stage, []) if _lets_in(table) else []
        for rules in ruled.before:
            self._file(step, subject, rules, self._numbered(step))
        if any(rule.startswith("allow recipient") for rules in (*ruled.before, ruled.rules) for rule in rules):
            self._pipeline.allows_recipients = True
        if not ruled.allows or step.only_warns:
            lets.append("")
        if not ruled.rules:
            return
        stage, refuses, name = self._last
        if not name or stage != step.stage or (refuses and ruled.allows) or name.endswith("-shadow") != step.only_warns:
            name, refuses = self._numbered(step), False
        self._file(step, subject, ruled.rules, name)
        if ruled.allows and not step.only_warns:
            lets.append(name)
        self._last = (step.stage, refuses or ruled.refuses, name)
        if ruled.allows and step.stage in ("recipient", "relay"):
            text = "OK lets through here what the filters behind access would refuse, and lets nobody relay"
            self._site.draft.leave("differs", f"{step.origin}: {step.argument}", text, "Who may: trusted_networks")

    def _refuse_others(self, step: Step) -> None:
        """A `reject` or `defer` behind tables: it is for all but those whom one of them lets in."""
        lets = self._lets[step.stage]
        names = [one for one in dict.fromkeys(lets) if one]
        name = names[0] if names else ""
        if len(names) != 1 or name in self._pipeline.trusted:
            # What one filter allows another one may refuse: a last one with the rules of all.
            name = self._numbered(step)
            section = self._named("access", name, step)
            for one in names:
                files = self._site.draft.section("filters", one).values["files"]
                section.extend("files", files if isinstance(files, list) else [], step.origin)
        self._file(step, "recipient", [f"{REFUSALS[step.word]} recipient *"], name)
        if "" in lets:
            text = "some of those whom a table before it lets in have no rule, and are refused with all others"
            self._site.draft.leave("decide", f"{step.word} in {step.origin}", text, "Write rules that allow them")

    def _numbered(self, step: Step) -> str:
        self._number += 1
        number = f"-{self._number}" if self._number > 1 else ""
        return f"{self._prefix}access{number}" + ("-shadow" if step.only_warns else "")

    def _file(self, step: Step, subject: str, rules: Sequence[str], name: str) -> None:
        section = self._named("access", name, step)
        stem = re.sub(r"[^\w.-]", "-", step.argument.rpartition("/")[2].rpartition(":")[2]) or subject
        file = self._site.draft.file(f"access-{subject}-{stem}"[:80], rules)
        section.extend("files", [file], step.origin)

    def _option(self, step: Step) -> None:
        kind, values, code = _OPTIONS[step.word]
        section = self._filter(kind, step)
        for key, value in _QUIET[kind].items():
            if key not in section.values:
                section.set(key, value, "so that nothing else is refused than before")
        for key, word in values.items():
            is_temporary = code and self._parameters.get(code).startswith("4")
            section.set(key, "defer" if is_temporary else word, step.word)

    def _list(self, step: Step) -> None:
        match = _ZONE.fullmatch(step.argument)
        if not match:
            self._site.draft.leave("missing", f"{step.word} {step.argument}", "is no list in DNS")
            return
        kind, what = "address", step.word.removeprefix("reject_rhsbl_")
        section = self._filter("dnsbl", step)
        zone: dict[str, Value] = {"zone": match[1]}
        if step.word.startswith("reject_rhsbl_"):
            kind = "domain"
            subject = {"helo": "helo", "client": "client", "sender": "sender"}.get(what)
            if subject is None:
                text = f"names of {what} are not looked up"
                self._site.draft.leave("missing", f"{step.word} {step.argument}", text)
                return
            section.extend("domains", [subject], step.word)
            zone["kind"] = kind
        if match[2]:
            zone["replies"] = [match[2]]
        if step.word.startswith("permit_"):
            zone["allow"] = True
        section.extend("zones", [zone], f"{step.word} in {step.origin}")

    def _policy(self, step: Step) -> None:
        asked, where = step.argument.lower(), f"check_policy_service {step.argument}"
        leave = self._site.draft.leave
        if "postgrey" in asked or asked.endswith(":10023"):
            self._filter("greylist", step)
            leave("differs", where, "Postgrey is replaced by the filter greylist, which begins to learn anew")
        elif "spf" in asked:
            section = self._filter("spf", step)
            section.set("fail", "reject", where)
            leave("differs", where, "is replaced by the filter spf, which refuses what fails", "See its options")
        else:
            text = "services of the policy protocol are not asked"
            leave(
                "missing", where, text, "Rates: rate-limit or quota; greylisting: greylist; else a filter of your own"
            )

    def _narrower(self, entries: Mapping[str, Entry]) -> set[tuple[str, str]]:
        """Wide patterns, each with a login of theirs that a narrower key leaves out: Postfix goes by the narrowest."""
        found: set[tuple[str, str]] = set()
        delimiter = self._parameters.get("recipient_delimiter")
        for key, entry in entries.items():
            local_part, _, domain = key.rpartition("@")
            if not local_part:
                continue
            end = next((at for at, one in enumerate(local_part) if at and one in delimiter), 0)
            wider = {f"@{domain}": domain}
            if end:
                base = f"{local_part[:end]}@{domain}"
                wider[base] = extended(base, self._site)
            for one, pattern in wider.items():
                if one in entries:
                    found |= {(pattern, login) for login in _logins(entries[one]) if login not in _logins(entry)}
        return found

    def _sender_login(self, step: Step) -> None:
        origin = self._parameters.origin("smtpd_sender_login_maps")
        by_login: dict[str, list[str]] = {}
        owned: list[str] = []
        entries: dict[str, Entry] = {}
        for table in self._site.listed("smtpd_sender_login_maps", self._parameters):
            if not table.entries:
                self._site.draft.leave("decide", f"{origin}: {table.name}", "only lists can be taken over")
            for entry in table.entries:
                entries.setdefault(entry.key.lower(), entry)  # the first one counts
        narrower = self._narrower(entries)
        for entry in entries.values():
            owned += _owned(self._site, entry.key)
            pattern = entry.key.removeprefix("@")
            for login in _logins(entry):
                if not _may_be_granted(login, pattern):
                    text = f"{login} and this key are no name and address that can stand in our list"
                    self._site.draft.leave("missing", f"{entry.origin}: {entry.key}", text)
                    continue
                for one in filter(None, (pattern, extended(pattern, self._site))):
                    if (one.lower(), login) not in narrower:
                        by_login.setdefault(login, []).append(one)
                        continue
                    text = f"some of {one} belong to others alone, and {login} is given none of these"
                    self._site.draft.leave("decide", f"{entry.origin}: {entry.key}", text, "List what it may use")
        if owned and step.word != "reject_authenticated_sender_login_mismatch":
            # What belongs to a login is nothing for those who have none.
            name = self._name("access-owned", step)
            others = self._section("access", name, step)
            others.set("reachable", [], "Postfix refuses mail to the postmaster as well")
            others.set("files", [self._site.draft.file("access-owned", dict.fromkeys(owned))], step.word)
            self._pipeline.add(name)
        if step.word == "reject_unauthenticated_sender_login_mismatch":
            return
        name = self._name("sender-login", step)
        section = self._section("sender-login", name, step)
        if not step.for_networks or step.word == "reject_authenticated_sender_login_mismatch":
            section.set("trusted", "any", "permit_mynetworks comes before, or it is about logins alone")
        if step.word == "reject_known_sender_login_mismatch":
            text = "whoever has logged in may not use a sender that no list has, either"
            self._site.draft.leave("differs", f"{step.word} in {step.origin}", text, "See allow of sender-login")
        section.set("header", "off", "Postfix looks at the envelope alone")
        section.set("own", False, "smtpd_sender_login_maps says all")
        lines = [f"{login} {', '.join(dict.fromkeys(keys))}" for login, keys in by_login.items()]
        section.set("files", [self._site.draft.file("sender-login", lines)], f"{step.word}, {origin}")
        self._pipeline.add(name, strangers=False, trusted=True)


def _lets_in(table: Table) -> bool:
    return any(action_of(entry.value)[0] == "allow" for entry in table.entries)


def _logins(entry: Entry) -> list[str]:
    return [one for one in re.split(r"[,\s]+", entry.value.strip()) if one]


def _owned(site: Site, key: str) -> list[str]:
    """A rule against strangers with a sender that belongs to somebody; none where the key is no address or domain."""
    pattern = key.lower().removeprefix("@")
    patterns = filter(None, (pattern, extended(pattern, site)))
    rules = [f"deny sender {one} Log in to send as this address" for one in patterns]
    try:
        RuleTable(parse_rule(rule, "rule", 0) for rule in rules)
    except ValueError:
        return []
    return rules if "@" in key and "#" not in pattern else []


def _may_be_granted(login: str, pattern: str) -> bool:
    """Whether a line of our list can hold them, and means no more than they do: there * stands for anything."""
    if not login or "*" in login + pattern or "#" in login + pattern or "," in login + pattern:
        return False
    try:
        IdentityTable[AddressPatterns]().add(login, AddressPatterns([pattern]))
    except ValueError:
        return False
    return "." in pattern
