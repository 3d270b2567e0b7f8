"""The next hops that the configuration names: whether each can be reached, on the terms of its route, and what it
takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater

from mailgate.awaiting import as_deferred
from mailgate.config.hosts import parse_host
from mailgate.config.routes import LmtpRoute, SmtpRoute
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.recipients_there import about_recipients
from mailgate.doctor.site import Site
from mailgate.relay.attempt import ConnectFailedError, Target
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.terms import TermsError
from mailgate.relay.locate import Hosts, NoHosts
from mailgate.relay.probing import source_of
from mailgate.wire.extensions import Extensions

__all__ = ["Door", "doors_of", "hop_checks", "judge_together", "many", "opened"]

#: Addresses of a route that are looked at, and seconds for an answer; for those up to the end of a message, which
#: Exchange may take a minute for. Seconds for a whole route.
_MOST_TARGETS, _PATIENCE, _ACKNOWLEDGED, _DEADLINE = 10, 25.0, 150.0, 240.0
#: Connections that are opened at one time to see how many are taken.
_MOST_CONNECTIONS = 30
#: Seconds after which a host has seen that a session is over.
_SETTLED = 1.0

#: What becomes of mail where a next hop does not offer an extension.
_LACKS = {
    "8BITMIME": "content beyond US-ASCII is converted, which breaks signatures of others",
    "SMTPUTF8": "mail to or from addresses in UTF-8 is returned",
    "DSN": "senders that want to hear of a delivery hear that it was handed on",
    "PIPELINING": "each command waits for its answer",
}

_ROUTE_FIX = "see the route's hosts, the firewall between, and whether the server runs"
_FIXES = {
    "connect": _ROUTE_FIX,
    "greeting": "see its log: it refuses our address, or takes no more connections",
    "hello": "see its log: it refuses the name that we give in EHLO (gateway.hostname, or the source's)",
    "tls": "see tls, tls_name, tls_ca and tls_fingerprints of the route, or mend its certificate",
    "auth": "see auth of the route",
    "xclient": "allow us XCLIENT there (in Postfix: smtpd_authorized_xclient_hosts)",
}


@dataclass(frozen=True, slots=True)
class Door:
    """One address of a route."""

    name: str
    route: SmtpRoute | LmtpRoute
    target: Target


def hop_checks(site: Site) -> Iterator[Check]:
    """One for each route to named hosts; a word about those that go by MX."""
    for name, route in site.config.routes.items():
        if isinstance(route, SmtpRoute | LmtpRoute):
            if route.hosts:
                yield Check("hops", f"routes.{name}", partial(_route, site, name, route), _DEADLINE)
            else:
                yield Check("hops", f"routes.{name}", _by_mx)


async def _by_mx(notes: Notes) -> None:
    notes.note(
        "goes by MX: whether port 25 of others can be reached from here shows with the first mail (mailgate why)"
    )


async def doors_of(site: Site, name: str, route: SmtpRoute | LmtpRoute, notes: Notes) -> list[Door]:
    """The addresses of a route's hosts; a host without one is told."""
    doors: list[Door] = []
    for group in route.hosts:
        for text in group if isinstance(group, list) else [group]:
            host = parse_host(text, route.port)
            hosts = Hosts(name, ((host,),), is_fixed=True, is_signed=True)
            found = await site.locator.targets(hosts, lmtp=isinstance(route, LmtpRoute), ipv6=route.ipv6)
            if isinstance(found, NoHosts):
                notes.fail(
                    f"cannot be found: {found.reason}", "see the route's hosts, and [dns]", subject=_called(name, host)
                )
            else:
                doors += [Door(name, route, one) for one in found]
    return doors[:_MOST_TARGETS]


async def opened(site: Site, door: Door) -> SmtpConnection:
    """A session there, on the terms of the route; ConnectFailedError, or TermsError where its files do not serve."""
    connector = site.transports.connector(door.name, door.route)
    connection = await as_deferred(connector.connect(door.target, source=source_of(site.config, door.route)))
    return cast(SmtpConnection, connection)  # a connector of a route opens no others


async def many(site: Site, door: Door, wanted: int) -> tuple[int, str]:
    """How many of so many connections are taken at one time, and why no more."""
    await deferLater(site.reactor, _SETTLED, lambda: None)

    async def one() -> SmtpConnection | str:
        try:
            return await opened(site, door)
        except ConnectFailedError as error:
            return error.reason

    opening = [Deferred.fromCoroutine(one()) for _ in range(wanted)]
    for each in opening:
        each.addTimeout(_PATIENCE, site.reactor, onTimeoutCancel=lambda _outcome, _seconds: "no answer")
    found = await gatherResults(opening)
    connections = [each for each in found if isinstance(each, SmtpConnection)]
    for connection in connections:
        connection.close()
    return len(connections), next((each for each in found if isinstance(each, str)), "")


async def _route(site: Site, name: str, route: SmtpRoute | LmtpRoute, notes: Notes) -> None:
    doors = await doors_of(site, name, route, notes)
    judge_together(notes, await gatherResults([Deferred.fromCoroutine(_look(site, door)) for door in doors]))


def judge_together(notes: Notes, looks: Sequence[tuple[bool, Notes]]) -> None:
    """Put what was found about each host of one route, and whether it can be used, behind what there is: where one can
    be, the others are not worth a failure."""
    is_reached = any(reached for reached, _ in looks)
    found = notes.found
    if is_reached:  # the others stand in for those that cannot be found
        found = [replace(one, severity="warn") for one in found]
    for reached, told in looks:
        if not reached and is_reached:
            found += [
                replace(one, severity="warn", says=f"{one.says} (others of the route work)") for one in told.found
            ]
        else:
            found += told.found
    notes.found[:] = found


async def _look(site: Site, door: Door) -> tuple[bool, Notes]:
    """Whether the host can be used, and what is to be said of it."""
    notes = Notes("hops", f"routes.{door.name}: {door.target}")
    try:
        opening = Deferred.fromCoroutine(opened(site, door))
        connection = await opening.addTimeout(_PATIENCE, site.reactor)
    except DeferredTimeout:
        notes.fail(f"does not answer within {_PATIENCE:g} s: mail waits", _ROUTE_FIX)
        return False, notes
    except ConnectFailedError as error:
        notes.fail(f"{error.reason}: mail waits", _fix_of(error))
        return False, notes
    except TermsError as error:
        notes.fail(f"its files cannot be used: {error}", "see the route")
        return False, notes
    try:
        _about_tls(door, connection, notes)
        _about_offer(site, door, connection.extensions, notes)
        another = partial(opened, site, door)
        asking = about_recipients(site, door.name, door.target, connection, another, notes)
        patience = _ACKNOWLEDGED if site.is_deep else _PATIENCE
        await Deferred.fromCoroutine(asking).addTimeout(patience, site.reactor)
    except DeferredTimeout:
        notes.warn("not checked to the end: it does not say in time whether it knows recipients", "see its log")
    except ConnectFailedError as error:
        notes.warn(f"not checked to the end: {error.reason}", _fix_of(error))
    finally:
        connection.close()
    if site.is_deep:
        await _limit(site, door, notes)
    return True, notes


async def _limit(site: Site, door: Door, notes: Notes) -> None:
    wanted = min(door.route.connections, _MOST_CONNECTIONS)
    taken, why = await many(site, door, wanted)
    if taken < wanted:
        text = f"takes {taken} connections at one time, and the route opens {door.route.connections}: {why}"
        notes.warn(text, f"routes.{door.name}: connections = {max(taken, 1)}, or raise its limit")
    else:
        notes.ok(f"takes {taken} connections at one time")


def _about_tls(door: Door, connection: SmtpConnection, notes: Notes) -> None:
    route = door.route
    login = ", and the login works" if connection.is_authenticated else ""
    if connection.tls is None and connection.is_fallback:
        text = f"TLS fails there, and mail goes in clear text{login}"
        notes.warn(text, f'mend TLS of {door.target.host}, then say tls = "required" or "verified"')
    elif connection.tls is None:
        text = f"is reached in clear text{login}"
        is_near = not door.target.port or door.target.address in ("127.0.0.1", "::1") or route.tls == "off"
        if is_near:
            notes.ok(text)
        else:
            notes.warn(text, f"have {door.target.host} offer STARTTLS: what goes there can be read on the way")
    elif connection.tls.is_verified:
        notes.ok(f"is reached by {connection.security}{login}")
    else:
        text = f"is reached by {connection.security}{login}; nobody has proved that it is {door.target.host}"
        told = f" ({connection.tls_failure})" if connection.tls_failure else ""
        notes.note(f"{text}{told}", 'tls = "verified", with tls_ca or tls_fingerprints, insists on that')


def _about_offer(site: Site, door: Door, extensions: Extensions, notes: Notes) -> None:
    route = door.route
    if route.xclient and "XCLIENT" not in extensions:
        text = "does not offer us XCLIENT, which the route asks for: mail waits"
        notes.fail(text, "allow it there (in Postfix: smtpd_authorized_xclient_hosts), or turn it off")
    if route.xforward and "XFORWARD" not in extensions:
        text = "does not offer us XFORWARD: its log does not show where mail came from"
        notes.warn(text, "allow it there (in Postfix: smtpd_authorized_xforward_hosts), or turn it off")
    most = extensions.max_size
    over = [
        one for one in site.config.listeners if most and one.max_message_size > most and door.name not in one.size_of
    ]
    if over:
        names = ", ".join(one.name for one in over)
        text = f"takes messages of {most} octets at most, the listeners {names} more: what is larger is returned"
        fix = f'size_of = ["{door.name}"], or max_message_size = "{most // 1024}KiB", for these listeners'
        notes.fail(text, f"{fix}, or raise its limit")
    lacking = [keyword for keyword in _LACKS if keyword not in extensions.offered]
    if door.target.lmtp:
        lacking = [one for one in lacking if one != "DSN"]
    if lacking:
        told = "; ".join(f"{one}: {_LACKS[one]}" for one in lacking)
        notes.note(f"does not offer {told}")


def _fix_of(error: ConnectFailedError) -> str:
    if error.stage == "greeting" and (error.reply.code == 421 or error.reply.status == "4.3.2"):
        return "it takes no more connections, or is in maintenance: see its limits, and `connections` of the route"
    return _FIXES.get(error.stage, "see its log")


def _called(name: str, host: object) -> str:
    return f"routes.{name}: {host}"
