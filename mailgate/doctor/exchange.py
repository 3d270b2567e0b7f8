"""Whether an Exchange server, or Exchange Online, and this gateway fit together: what each needs of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from twisted.internet.defer import DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout

from mailgate.config.recipients import CalloutRecipients, LdapRecipients
from mailgate.config.routes import SmtpRoute
from mailgate.config.schema import ListenerSection
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.directories import recipient_checks
from mailgate.doctor.exchange_shell import hosts_of, is_online
from mailgate.doctor.hops import Door, doors_of, hop_checks, many, opened
from mailgate.doctor.open_relay import Entrance, entrances, knock, stranger_to
from mailgate.doctor.site import Site, UsedFilter
from mailgate.filters.edit_headers import Options as EditOptions
from mailgate.filters.header_firewall import Options as FirewallOptions
from mailgate.filters.header_firewall import removed_by
from mailgate.relay.attempt import ConnectFailedError
from mailgate.wire.extensions import Extensions

__all__ = ["exchange_checks", "judge_offer", "unguarded"]

#: What Exchange makes use of; without CHUNKING Exchange Online refuses to send some mail at all.
_WANTED = ("PIPELINING", "SIZE", "8BITMIME", "BINARYMIME", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "SMTPUTF8")
#: What Exchange servers say to one another, and would say to whoever offers it.
_THEIRS = ("X-ANONYMOUSTLS", "X-EXPS", "XRDST", "XOORG", "XEXCH50", "XSHADOW", "XSHADOWREQUEST", "XPROXY", "XPROXYFROM")
#: By which of them an Exchange server is known.
_MARKS = ("X-ANONYMOUSTLS", "X-EXPS", "XRDST")

#: Fields by which Exchange servers trust one another, and must not be brought by strangers.
_TRUSTED = (
    "X-MS-Exchange-Organization-*",
    "X-MS-Exchange-Forest-*",
    "X-MS-Exchange-CrossTenant-*",
    "X-MS-Exchange-CrossPremises-*",
    "X-MS-Exchange-SkipListedInternetSender",
    "X-MS-Exchange-ExternalOriginalInternetSender",
    "X-Forefront-Antispam-Report*",
    "X-Microsoft-Antispam*",
)
#: Those that tell strangers of what is inside.
_INSIDE = _TRUSTED[:2]

#: What an Exchange connector takes at one time by default, and what is tried at most; seconds until it has answered.
_BY_DEFAULT, _MOST, _PATIENCE = 20, 30, 600.0

_SHOW = "mailgate doctor exchange --print has the command"


def exchange_checks(site: Site, routes: Sequence[str]) -> Iterator[Check]:
    """For these routes, of transport smtp with hosts: what is checked of next hops and their recipients anyway, and
    what is about Exchange."""
    for one in entrances(site):
        yield Check("exchange", str(one), partial(_offer, site, one))
    for listener in site.config.listeners:
        yield Check("exchange", f"listeners.{listener.name}", partial(_firewall, site, listener))
    wanted = {f"routes.{name}" for name in routes}
    turns = {subject: DeferredLock() for subject in wanted}
    yield from (_in_turn(turns[one.subject], one) for one in hop_checks(site) if one.subject in wanted)
    sources = {
        f"recipients.{source}"
        for section in site.config.domains.values()
        if section.route in routes
        for source in section.recipients
    }
    yield from (one for one in recipient_checks(site) if one.subject in sources)
    for name in routes:
        route = site.config.routes[name]
        if isinstance(route, SmtpRoute):
            subject = f"routes.{name}"
            yield Check("exchange", subject, partial(_settings, site, name, route))
            yield Check("exchange", subject, partial(_recipients, site, name, route))
            yield _in_turn(turns[subject], Check("exchange", subject, partial(_live, site, name, route), 90.0))


def _in_turn(turn: DeferredLock, check: Check) -> Check:
    """One check of a host after another: it counts our connections."""

    async def find(notes: Notes) -> None:
        await turn.acquire()
        try:
            await check.find(notes)
        finally:
            turn.release()

    return replace(check, find=find, deadline=2 * check.deadline)


# -- What we offer


async def _offer(site: Site, entrance: Entrance, notes: Notes) -> None:
    can_tls = site.config.tls.certificate is not None and entrance.listener.tls != "off"
    try:
        connection = await knock(site, entrance, await stranger_to(site, entrance), secured=can_tls)
    except (ConnectFailedError, DeferredTimeout) as error:
        why = error.reason if isinstance(error, ConnectFailedError) else "no answer"
        notes.note(f"what it offers could not be seen: {why}", "start the gateway, and ask again")
        return
    try:
        judge_offer(connection.extensions, notes, is_secured=connection.tls is not None)
    finally:
        connection.close()


def judge_offer(extensions: Extensions, notes: Notes, *, is_secured: bool) -> None:
    """Say what Exchange makes of this offer of ours. `is_secured`: it was made under TLS."""
    wanted = [*_WANTED, "REQUIRETLS" if is_secured else "STARTTLS"]
    lacking = [one for one in wanted if one not in extensions]
    theirs = [one for one in _THEIRS if one in extensions]
    if theirs:
        notes.fail(f"offers {', '.join(theirs)}, which only Exchange may: something else answers there", "see the port")
    if lacking:
        text = f"does not offer {', '.join(lacking)}, which Exchange makes use of"
        bad = "CHUNKING" in lacking
        text += (
            ": Exchange Online then returns mail with a bare line feed (SMTPSEND.BareLinefeedsAreIllegal)"
            if bad
            else ""
        )
        notes.warn(text, "see hide and tls of the listener, and [tls]")
    if not (theirs or lacking):
        notes.ok("offers all that Exchange makes use of, and nothing that is between Exchange servers")


# -- Header fields


async def _firewall(site: Site, listener: ListenerSection, notes: Notes) -> None:
    pipelines = {listener.pipeline} if listener.role != "outbound" else set()
    inbound = unguarded(_of_pipelines(site, pipelines), _TRUSTED) if pipelines else []
    own = {listener.trusted_pipeline or listener.pipeline} if listener.role != "inbound" else set()
    outbound = unguarded(_of_pipelines(site, own), _INSIDE) if own else []
    if inbound:
        text = f"lets strangers bring {', '.join(inbound)}: an Exchange server may trust what they say"
        notes.warn(text, f'"header-firewall" among the filters of {_named(pipelines)}, and enforced for all mail there')
    if outbound:
        text = f"lets {', '.join(outbound)} of your own Exchange out to the Internet"
        fix = 'a filter of kind = "header-firewall" with direction = "outbound" among those of'
        notes.note(text, f"{fix} {_named(own)}, for mail that goes to the Internet")
    if not (inbound or outbound):
        notes.ok("keeps out, and in, the fields by which Exchange servers trust one another")


def _named(pipelines: Iterable[str]) -> str:
    return ", ".join(f"pipelines.{name}" for name in pipelines)


def _of_pipelines(site: Site, names: Iterable[str]) -> list[UsedFilter]:
    wanted = set()
    for name in names:
        for entry in site.config.pipelines[name].filters:
            wanted |= {entry} if isinstance(entry, str) else set(entry)
    return [one for one in site.filters if one.name in wanted]


def unguarded(filters: Iterable[UsedFilter], fields: Sequence[str]) -> list[str]:
    """Those of these names, or beginnings with a *, that none of the filters removes from every message."""
    removed: list[str] = []
    for one in filters:
        if one.section.mode == "shadow" or one.section.only_for or one.section.except_for:
            continue
        for key in ("strip", "remove"):
            found = getattr(one.options, key, None)
            removed += [str(name).lower() for name in found] if isinstance(found, list) else []
        if isinstance(one.options, FirewallOptions):
            removed += [name.lower() for name in removed_by(one.options)]
        if isinstance(one.options, EditOptions):
            for rule in one.options.rules:
                has_no_condition = rule.external in (None, True) and not (
                    rule.facts or rule.without_facts or rule.senders or rule.recipients or rule.fields
                )
                removed += [name.lower() for name in rule.remove] if has_no_condition else []
    return [field for field in fields if not any(_covers(one, field.lower()) for one in removed)]


def _covers(pattern: str, field: str) -> bool:
    return field == pattern or (pattern.endswith("*") and field.rstrip("*").startswith(pattern[:-1]))


# -- The route


async def _settings(site: Site, name: str, route: SmtpRoute, notes: Notes) -> None:
    hosts = hosts_of(route)
    if route.preset is None:
        preset = "exchange-online" if is_online(route) else "exchange"
        text = (
            "has no preset: refusals of our connector (5.7.64) return mail, and a host that is short keeps it waiting"
        )
        notes.warn(text, f'preset = "{preset}"')
    if route.tls == "off":
        notes.warn('tls = "off": mail goes there in clear text', 'tls = "required", or "verified" with tls_ca')
    if is_online(route) and route.tls not in ("verified", "implicit"):
        notes.warn(
            "Exchange Online has certificates of a public authority, and nobody insists on them", 'tls = "verified"'
        )
    if is_online(route) and route.certificate is None:
        text = "shows no certificate: the connector there can only know us by our addresses"
        notes.note(text, "certificate: one with our name (see --print), for clients if the other side is strict")
    if len(hosts) < 2 and not is_online(route):
        text = f"{hosts[0]} is the only host: while it is in maintenance (4.3.2), mail waits"
        notes.note(text, 'hosts = [["ex1", "ex2"]]: both share the load')
    if route.data_timeout < _PATIENCE:
        text = "data_timeout is below 10 minutes: Exchange takes up to a minute for its 250, longer under load; what"
        notes.warn(f"{text} is given up too early arrives twice", 'data_timeout = "10m"')
    if route.connections > _BY_DEFAULT and not is_online(route):
        text = f"opens {route.connections} connections, of which a connector that was not changed takes {_BY_DEFAULT}"
        notes.note(text, f"raise MaxInboundConnectionPerSource ({_SHOW}), or connections = {_BY_DEFAULT}")


async def _recipients(site: Site, name: str, route: SmtpRoute, notes: Notes) -> None:
    """Exchange 2013 and later refuses unknown recipients after the content at port 25, or accepts and returns."""
    for domain, section in site.config.domains.items():
        if section.route != name:
            continue
        if section.recipients == ["any"]:
            text = f"{domain} takes any recipient, and Exchange refuses those that do not exist only after the content"
            fix = "[recipients.NAME] of kind ldap with the directory, or of kind list (--print has the command)"
            notes.say("note" if is_online(route) else "warn", text, fix)
            continue
        for source in section.recipients:
            known = site.config.recipients.get(source)
            if isinstance(known, CalloutRecipients):
                _about_callout(site, source, known, notes)
            elif isinstance(known, LdapRecipients):
                has_snapshot = (
                    "a snapshot of the directory" if known.snapshot else "the directory, asked for each address"
                )
                notes.ok(f"{domain}: recipients are known by {has_snapshot}")
            else:
                notes.ok(f"{domain}: recipients are known by recipients.{source}")


def _about_callout(site: Site, source: str, known: CalloutRecipients, notes: Notes) -> None:
    asked = site.config.routes.get(known.route)
    if not isinstance(asked, SmtpRoute) or is_online(asked):
        return  # it answers at RCPT where its domain is Authoritative, which the hop's own check shows
    ports = {one.port for one in hosts_of(asked)}
    if 25 in ports and known.stage == "rcpt":
        text = f"recipients.{source} asks at port 25 after RCPT, where Exchange says yes to everything"
        notes.warn(text, "ask the Hub at port 2525, with its recipient filter on; best, kind ldap")


async def _live(site: Site, name: str, route: SmtpRoute, notes: Notes) -> None:
    for door in await doors_of(site, name, route, Notes("hops", notes.subject)):
        called = f"routes.{name}: {door.target}"
        try:
            connection = await opened(site, door)
        except ConnectFailedError:
            continue  # told with the next hops
        try:
            _who(connection.extensions, called, notes, online=is_online(route))
        finally:
            connection.close()
        await _limit(site, door, called, notes)


def _who(extensions: Extensions, called: str, notes: Notes, *, online: bool) -> None:
    if "XOORG" in extensions:
        text = "offers XOORG: it takes us for another Exchange of the organization. On a hybrid link, between your own "
        text += "Exchange and Exchange Online, no other server may stand"
        notes.warn(text, "give the gateway a connector of its own, without ExchangeServers", subject=called)
    elif online or any(one in extensions for one in _MARKS):
        most = extensions.max_size
        notes.ok(f"is an Exchange server; it takes messages of {most / 1024**2:.0f} MiB", subject=called)
    else:
        notes.note("does not look like an Exchange server: none of its own extensions is offered", subject=called)


async def _limit(site: Site, door: Door, called: str, notes: Notes) -> None:
    wanted = min(door.route.connections, _MOST)
    taken, why = await many(site, door, wanted)
    if taken < wanted:
        text = f"took {taken} of {wanted} connections at one time ({why}), and the route opens {door.route.connections}"
        notes.warn(text, f"connections = {max(taken, 1)}, or raise its limit: {_SHOW}", subject=called)
    else:
        notes.ok(f"takes {taken} connections at one time", subject=called)
