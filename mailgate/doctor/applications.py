"""Routes with transport http: whether each application can be reached, on the terms of its route, and answers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout

from mailgate.awaiting import as_deferred
from mailgate.config.hosts import parse_host
from mailgate.config.routes import HttpRoute
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.hops import judge_together
from mailgate.doctor.site import Site
from mailgate.relay.attempt import ConnectFailedError, Target
from mailgate.relay.client.terms import TermsError
from mailgate.relay.locate import Hosts, NoHosts
from mailgate.relay.probing import source_of
from mailgate.relay.web_post.answers import Answer
from mailgate.relay.web_post.connector import WebConnector
from mailgate.relay.web_post.session import WebSession

__all__ = ["application_checks"]

#: Addresses of a route that are looked at, seconds for one, and for all.
_MOST_TARGETS, _PATIENCE, _DEADLINE = 10, 25.0, 60.0
#: What is asked: it brings nothing, and changes nothing (RFC 9110 section 9.3.7).
_METHOD = "OPTIONS"

_LOGIN_FIX = "see token_file, username and certificate of the route, and whether both sides have the same secret_file"
_ROUTE_FIX = "see the route's url, the firewall between, and whether the program runs"
_FIXES = {
    "connect": _ROUTE_FIX,
    "tls": "see ca of the route, or mend the certificate: its name must be the one in url",
    "answer": "see its log: something else answers there, or it refuses the certificate that we show, or do not",
}


def application_checks(site: Site) -> Iterator[Check]:
    """One for each route to an application."""
    for name, route in site.config.routes.items():
        if isinstance(route, HttpRoute):
            yield Check("hops", f"routes.{name}", partial(_route, site, name, route), _DEADLINE)


async def _route(site: Site, name: str, route: HttpRoute, notes: Notes) -> None:
    # The URL has one host, an inner list of which is none.
    host = parse_host(str(route.hosts[0]), route.port)
    hosts = Hosts(name, ((host,),), is_fixed=True, is_signed=True)
    targets = await site.locator.targets(hosts, lmtp=False, ipv6=route.ipv6)
    if isinstance(targets, NoHosts):
        notes.fail(f"{host}: cannot be found: {targets.reason}", "see the route's url, and [dns]")
        return
    looks = [Deferred.fromCoroutine(_look(site, name, route, one)) for one in targets[:_MOST_TARGETS]]
    judge_together(notes, await gatherResults(looks))


async def _look(site: Site, name: str, route: HttpRoute, target: Target) -> tuple[bool, Notes]:
    """Whether the application can be posted to there, and what is to be said of it."""
    notes = Notes("hops", f"routes.{name}: {target}")
    try:
        asking = Deferred.fromCoroutine(_ask(site, name, route, target))
        answer, way = await asking.addTimeout(_PATIENCE, site.reactor)
    except DeferredTimeout:
        notes.fail(f"does not answer within {_PATIENCE:g} s: mail waits", _ROUTE_FIX)
    except ConnectFailedError as error:
        notes.fail(f"{error.reason}: mail waits", _FIXES.get(error.stage, "see its log"))
    except TermsError as error:
        notes.fail(f"its files cannot be used: {error}", "see the route")
    else:
        _judge(answer, way, notes)
    return all(one.severity != "fail" for one in notes.found), notes


async def _ask(site: Site, name: str, route: HttpRoute, target: Target) -> tuple[Answer, str]:
    """The answer, and the way that it has come."""
    # The connector of such a route opens no other sessions.
    connector = cast(WebConnector, site.transports.connector(name, route))
    opening = connector.connect(target, source=source_of(site.config, route))
    session = cast(WebSession, await as_deferred(opening))
    try:
        answer = await session.ask(_METHOD, connector.question())
    finally:
        session.close()
    return answer, session.security or "HTTP within this machine"


def _judge(answer: Answer, way: str, notes: Notes) -> None:
    """What an answer to a question lets expect of those to mail."""
    status = answer.status
    told = f"is reached by {way}, and answers {status} to {_METHOD}"
    if status in (401, 403, 407):
        notes.fail(f"{told}: it does not know us, or may not serve us; mail waits", _LOGIN_FIX)
    elif status in (404, 410):
        notes.fail(f"{told}: there is nothing at this path, and mail waits", "see the path of url")
    elif status == 501:  # whoever knows nothing but POST
        notes.ok(told)
    elif status >= 500:
        notes.fail(f"{told}: it, or what stands behind it, does not work; mail waits", "see its log")
    elif 300 <= status < 400:
        text = f"{told}: redirects are not followed, and mail waits if POST has such an answer"
        notes.warn(text, f"url: the address where it is now{_place(answer.location)}")
    else:
        notes.ok(told)


def _place(location: str) -> str:
    """Where a redirect leads, without its path, which may hold a secret; "" where that cannot be said."""
    try:
        parts = urlsplit(location)
        host = parts.hostname
    except ValueError:
        return ""
    return f" (at {parts.scheme}://{host})" if host and parts.scheme in ("http", "https") else ""
