"""The domains that a Postfix takes mail for, who exists there, and which addresses stand for others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mailgate.address import Address, AddressError
from mailgate.moving.draft import Section, Value
from mailgate.moving.files import ReadingError, slug
from mailgate.moving.postfix.databases import ask_aliases, ask_recipients
from mailgate.moving.postfix.site import Member, Site
from mailgate.moving.postfix.tables import Entry, Question, Rule, Table, Unreadable
from mailgate.rewriting.source import MAX_TARGETS
from mailgate.rewriting.tables import PatternRules, split_targets

__all__ = ["read_aliases", "read_domains"]

#: Addresses that a table of local parts may make.
_MOST = 500_000
_DELIMITERS = "+=_#/~.-"
#: What a domain of each class is known by, and the tables of its recipients.
_CLASSES = (
    ("local", "mydestination", "local_recipient_maps"),
    ("virtual", "virtual_mailbox_domains", "virtual_mailbox_maps"),
    ("relay", "relay_domains", "relay_recipient_maps"),
)

#: The list of the domains of each class.
_SETTINGS = {"alias": "virtual_alias_domains", **{kind: setting for kind, setting, _ in _CLASSES}}


def read_domains(site: Site, *, probes: bool) -> None:
    """[domains] and [recipients]; `probes`: whether Postfix asks the server behind (reject_unverified_recipient)."""
    for kind, setting, maps in _CLASSES:
        domains = _domains(site, setting)
        if kind == "relay" and not site.parameters.is_set("relay_domains"):
            domains = [one for one in domains if one.text.lower() not in site.local]
        if not domains:
            continue
        names = [one.text.lower().removeprefix(".") for one in domains]
        sources = _recipients(site, kind, names, maps, probes=probes)
        for member in domains:
            _domain(site, kind, member, sources)
    for member in _alias_domains(site):
        _domain(site, "alias", member, ["no-mailboxes"])
    if "alias" in site.local.values():
        section = site.draft.section("recipients", "no-mailboxes")
        section.set("kind", "list")
        aliased = [name.removeprefix("*.") for name, kind in site.local.items() if kind == "alias"]
        known = [f"postmaster@{name}" for name in dict.fromkeys(aliased)]
        section.set("addresses", list(known), "virtual_alias_domains: all others are aliases")


def _domains(site: Site, setting: str) -> list[Member]:
    found = []
    origin = site.parameters.origin(setting)
    spared = site.spared.setdefault(setting, set())
    for member in site.members(setting):
        if "@" in member.text and member.origin != origin:
            continue  # a table that lists addresses as well
        name = member.text.lower().strip("[]") if member.text.startswith("[") else member.text.lower()
        if member.is_not and not site.is_domain(name.removeprefix(".")):
            site.unclear(member.origin, f"!{member.text}: is no domain")
            break
        if member.is_not:
            spared.add(name.removeprefix("."))
        elif name.removeprefix(".") in spared:
            continue
        elif member.text.startswith("["):
            site.draft.leave("differs", f"{member.origin}: {member.text}", "mail to an address literal is not taken")
        elif not site.is_domain(name.removeprefix(".")):
            site.draft.leave("decide", f"{member.origin}: {member.text}", "is no domain that can stand in our file")
        else:
            found.append(Member(name, member.origin))
    return found


def _alias_domains(site: Site) -> list[Member]:
    """Domains that are nothing but aliases: by themselves, or as keys of the aliases."""
    if site.parameters.is_set("virtual_alias_domains"):
        return [one for one in _domains(site, "virtual_alias_domains") if one.text not in site.local]
    entries = [entry for table in _tables(site, "virtual_alias_maps") for entry in table.entries]
    with_addresses = {entry.key.rpartition("@")[2].lower() for entry in entries if "@" in entry.key}
    wanted = with_addresses - set(site.local)
    return [
        Member(entry.key.lower(), entry.origin)
        for entry in entries
        if entry.key.lower() in wanted and site.is_domain(entry.key)
    ]


def _domain(site: Site, kind: str, member: Member, sources: Sequence[str]) -> None:
    name = member.text.lower()
    spared = site.spared.get(_SETTINGS[kind], set())
    if name.startswith(".") and any(f".{one}".endswith(name) for one in spared):
        text = "some of the domains below it are excepted, and an entry for all below it would be for them, too"
        site.draft.leave("decide", f"{member.origin}: {name}", text, "Name those that are meant in [domains]")
        return
    for one in [f"*{name}"] if name.startswith(".") else [name]:
        if one in site.local:
            continue
        site.local[one] = kind
        section = site.draft.section("domains", one)
        section.set("route", kind, member.origin)
        section.set("recipients", sources[0] if len(sources) == 1 else list(sources))
        delimiter = site.parameters.get("recipient_delimiter")
        good = [one for one in delimiter if one in _DELIMITERS]
        if delimiter and (len(delimiter) > 1 or not good):
            text = f'of "{delimiter}" only the first that can be one counts: a domain has one delimiter'
            site.draft.leave("differs", site.parameters.origin("recipient_delimiter"), text)
        site.use(site.parameters, "recipient_delimiter")  # as by default here
        if good[:1] != ["+"]:
            section.set("delimiter", "".join(good[:1]), site.parameters.origin("recipient_delimiter"))
    below = site.parameters.words("parent_domain_matches_subdomains")
    if kind == "relay" and "relay_domains" in below and not name.startswith("."):
        _domain(site, kind, Member(f".{name}", f"{member.origin}, parent_domain_matches_subdomains"), sources)


def _stem(table: Table) -> str:
    return table.name.rpartition(":")[2].rpartition("/")[2]


def _tables(site: Site, setting: str) -> list[Table]:
    return site.listed(setting)


def _recipients(site: Site, kind: str, domains: Sequence[str], maps: str, *, probes: bool) -> list[str]:
    """The names of the [recipients] of these domains, made from the tables of this setting."""
    lines: list[str] = []
    names: list[str] = []
    origin = site.parameters.origin(maps)
    tables = _tables(site, maps)
    for table in tables:
        if isinstance(table.content, Question):
            if name := ask_recipients(site, table, f"{kind}-{len(names) + 1}", origin):
                names.append(name)
        elif isinstance(table.content, Unreadable):
            text = "until then nobody is known by it, and mail to these recipients is refused"
            site.draft.leave("decide", f"{origin}: {table.name}", table.content.why, text)
        elif table.rules:
            text = "expressions are no list of who exists, and until then mail to these recipients is refused"
            advice = "List the addresses, or have the table itself read: a [recipients.NAME] of kind postfix"
            site.draft.leave("decide", f"{origin}: {table.name}", text, advice)
        else:
            _bound(table, domains)
            lines += _addresses(site, table.entries, domains)
    if not tables:
        return [_unlisted(site, kind, maps, origin, probes=probes)]
    if lines or not names:
        section = site.draft.section("recipients", kind)
        section.set("kind", "list")
        section.set("path", site.draft.file(f"recipients-{kind}", dict.fromkeys(lines)), origin)
        names.insert(0, kind)
        if kind == "local" and "unix:passwd.byname" in site.parameters.get(maps):
            section.comment("The users of this machine as they were at the import: a new one has to be added.")
            text = "accounts are not looked up: the list holds those of the import"
            site.draft.leave("differs", origin, text, "Add new ones to recipients-local, or name another source")
    return names


def _unlisted(site: Site, kind: str, maps: str, origin: str, *, probes: bool) -> str:
    """The source of domains whose recipients no table lists."""
    if not probes:
        text = "takes mail for any address, and what is refused later has to be returned"
        site.draft.leave("differs", f"{maps} (not set)", f"as in Postfix, {kind} {text}", "Name a [recipients.NAME]")
        return "any"
    section = site.draft.section("recipients", f"{kind}-asked")
    section.set("kind", "callout", "reject_unverified_recipient")
    section.set("route", kind)
    return f"{kind}-asked"


def _addresses(site: Site, entries: Iterable[Entry], domains: Sequence[str]) -> Iterable[str]:
    for entry in entries:
        candidates = [entry.key] if "@" in entry.key else [f"{entry.key}@{domain}" for domain in domains]
        if entry.key == "*":  # static:
            candidates = [f"@{domain}" for domain in domains]
        for one in candidates:
            if _is_mailbox(one):
                yield one
            else:
                site.draft.leave("missing", f"{entry.origin}: {entry.key}", "is no address that can exist here")


def _is_mailbox(text: str) -> bool:
    try:
        Address.parse(f"any{text}" if text.startswith("@") else text)
    except AddressError:
        return False
    return "#" not in text and " " not in text


def read_aliases(site: Site) -> None:
    """[aliases]: virtual_alias_maps for all domains, alias_maps for the local ones, and copies for recipients."""
    virtual = [name for table in _tables(site, "virtual_alias_maps") for name in _alias_table(site, table)]
    local = []
    if "local" in site.local.values():
        for table in _tables(site, "alias_maps"):
            local += _local_aliases(site, table)
    copies = _copies(site)
    for domain, kind in site.local.items():
        names = [*copies, *virtual, *(local if kind == "local" else [])]
        if names:
            section = site.draft.section("domains", domain)
            section.extend("aliases", names, "virtual_alias_maps" if virtual else "alias_maps")


def _alias_table(site: Site, table: Table) -> list[str]:
    origin = site.parameters.origin("virtual_alias_maps")
    name = slug(f"virtual-{_stem(table)}")
    if isinstance(table.content, Question):
        found = ask_aliases(site, table, name, origin)
        return [found] if found else []
    if isinstance(table.content, Unreadable):
        site.draft.leave("decide", f"{origin}: {table.name}", table.content.why, "Its aliases are not in the new file")
        return []
    if table.rules:
        return _alias_rules(site, table.rules, name, origin)
    _bound(table, [domain for domain, kind in site.local.items() if kind == "local"])
    lines = []
    for entry in table.entries:
        if site.local.get(entry.key.lower()) == "alias":
            continue  # it names a domain, and has no targets
        keys = [entry.key]
        if "@" not in entry.key:
            keys = [
                f"{entry.key}@{domain}" for domain, kind in site.local.items() if kind == "local" and "*" not in domain
            ]
        targets = [_complete(site, one) for one in split_targets(entry.value)]
        for key in keys:
            domain = key.rpartition("@")[2].lower()
            if domain not in site.local and f"*.{domain.partition('.')[2]}" not in site.local:
                text = f"{domain} is none of our domains, and aliases are for those only"
                site.draft.leave("missing", f"{entry.origin}: {entry.key}", text)
                continue
            lines += _alias_line(site, key, targets, entry)
    return [_map(site, name, lines, origin)] if lines else []


def _bound(table: Table, domains: Sequence[str]) -> None:
    """ReadingError where a table of local parts makes too much of many domains."""
    alone = sum(1 for entry in table.entries if "@" not in entry.key)
    if alone * len(domains) > _MOST:
        raise ReadingError(
            f"{table.name}: {alone} local parts in {len(domains)} domains are more than {_MOST} addresses"
        )


def _alias_line(site: Site, key: str, targets: Sequence[str], entry: Entry) -> list[str]:
    good = [one for one in targets if _is_mailbox(one)]
    for one in targets:
        if one not in good:
            text = f"the target {one} is no address: a program, a file or a list cannot get mail from here"
            advice = "Give it a mailbox, or let another server deliver it"
            site.draft.leave("missing", f"{entry.origin}: {entry.key}", text, advice)
    if not _is_mailbox(key) or not targets:
        site.draft.leave("missing", f"{entry.origin}: {entry.key}", "is no alias of one address for others")
    if not _is_mailbox(key) or not good:
        return []
    if len(good) > MAX_TARGETS:
        text = f"has {len(good)} targets, and {MAX_TARGETS} are the most: a mailing list program is meant"
        site.draft.leave("missing", f"{entry.origin}: {entry.key}", text)
        return []
    return [f"{key} {', '.join(good)}"]


def _map(site: Site, name: str, lines: Sequence[str], origin: str) -> str:
    section = site.draft.section("aliases", name)
    section.set("kind", "map", origin)
    # Of a key that stands there twice Postfix takes the first.
    first = {line.partition(" ")[0].lower(): line for line in reversed(lines)}
    section.set("path", site.draft.file(f"aliases-{name}", reversed(first.values())))
    return name


def _complete(site: Site, target: str) -> str:
    """A target as Postfix completes it: without a domain it is ours."""
    target = target.removeprefix("\\")
    return target if "@" in target or not target or target[0] in '|/:"' else f"{target}@{_origin(site)}"


def _origin(site: Site) -> str:
    origin = site.parameters.get("myorigin")
    site.use(site.parameters, "myorigin")
    if origin.startswith("/"):  # as Debian has it: the first line of a file
        members = list(site.members("myorigin"))
        origin = members[0].text if members else site.parameters.get("myhostname")
    return origin.lower()


def _local_aliases(site: Site, table: Table) -> list[str]:
    origin = site.parameters.origin("alias_maps")
    if isinstance(table.content, Question | Unreadable) or table.rules:
        why = table.content.why if isinstance(table.content, Unreadable) else "only files of aliases are taken over"
        site.draft.leave("decide", f"{origin}: {table.name}", why, "Its aliases are not in the new file")
        return []
    domains = [domain for domain, kind in site.local.items() if kind == "local" and "*" not in domain]
    _bound(table, domains)
    lines = []
    for entry in table.entries:
        targets = [_complete(site, one) for one in split_targets(entry.value)]
        for domain in domains:
            own = [one if one != f"{entry.key}@{_origin(site)}" else f"{entry.key}@{domain}" for one in targets]
            lines += _alias_line(site, f"{entry.key}@{domain}", own, entry)
    return [_map(site, slug(f"local-{_stem(table)}"), lines, origin)] if lines else []


def _alias_rules(site: Site, rules: Sequence[Rule], name: str, origin: str) -> list[str]:
    made: list[Value] = []
    for rule in rules:
        pattern = _whole(rule.pattern)
        targets = [re.sub(r"\$\{?(\d+)\}?", r"\\\1", _complete(site, one)) for one in split_targets(rule.value)]
        try:
            if rule.is_not or not targets:
                raise ValueError("a rule that is turned round, or without targets, cannot be taken over")
            PatternRules([(pattern, targets)])
        except ValueError as error:
            site.draft.leave("missing", rule.origin, str(error))
            continue
        made.append({"match": pattern, "to": targets if len(targets) > 1 else targets[0]})
    if not made:
        return []
    section: Section = site.draft.section("aliases", name)
    section.set("kind", "pattern", origin)
    section.set("rules", made)
    return [name]


def _whole(pattern: str) -> str:
    """An expression that is found anywhere, as early as can be, as one for all of an address."""
    if "|" in pattern:  # of which each part may have ends of its own
        return f".*?(?:{pattern}).*"
    pattern = pattern.removeprefix("^") if pattern.startswith("^") else f".*?{pattern}"
    return pattern.removesuffix("$") if pattern.endswith("$") and not pattern.endswith("\\$") else f"{pattern}.*"


def _copies(site: Site) -> list[str]:
    """recipient_bcc_maps as aliases: who gets a copy stands beside the recipient."""
    lines = []
    aliases: dict[str, Entry] = {}
    for table in _tables(site, "virtual_alias_maps"):
        for one in table.entries:
            aliases.setdefault(one.key.lower(), one)
    for table in _tables(site, "recipient_bcc_maps"):
        if not table.entries:
            why = "only lists can be taken over"
            site.draft.leave("missing", f"{site.parameters.origin('recipient_bcc_maps')}: {table.name}", why)
        for entry in table.entries:
            domain = entry.key.rpartition("@")[2].lower()
            if entry.key.startswith("@") or domain not in site.local:
                text = "a copy can be made for single addresses of our domains only"
                site.draft.leave("missing", f"{entry.origin}: {entry.key}", text)
            else:
                targets = [*_stands_for(site, entry.key.lower(), aliases), *split_targets(entry.value)]
                lines += _alias_line(site, entry.key, list(dict.fromkeys(targets)), entry)
    return [_map(site, "copies", lines, site.parameters.origin("recipient_bcc_maps"))] if lines else []


def _stands_for(site: Site, address: str, aliases: Mapping[str, Entry]) -> list[str]:
    """Who gets the mail beside the copy: an address that stands for itself in a list of ours is looked up in no other
    one."""
    local_part, _, domain = address.rpartition("@")
    found = aliases.get(address) or aliases.get(f"@{domain}")
    targets = [] if found is None else [_complete(site, one) for one in split_targets(found.value)]
    return [f"{local_part}{one}" if one.startswith("@") else one for one in targets] or [address]
