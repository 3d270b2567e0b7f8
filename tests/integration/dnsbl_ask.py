"""Asks the filter dnsbl about clients: `dnsbl_ask.py '{"servers": [], "timeout": 5, "options": {}, "clients": []}'`.

Prints for each, one after another: what is said at RCPT ("" for nothing; "failed: WHY" where the filter failed), the
lists with a hit and their texts, and why the others could not tell.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable
from ipaddress import ip_address
from random import SystemRandom
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

from mailgate.config.hosts import parse_server
from mailgate.dns.resolver import Resolver
from mailgate.envelope import Client
from mailgate.filters.dnsbl import Dnsbl, ListedResult, ListsSilentError, Options, SilentResult
from mailgate.testing import recipient, services, session, transaction
from mailgate.verdict import Defer, Reject


async def opinion_of(built: Dnsbl, client: str) -> object:
    """What the filter says of one client, in what JSON can say."""
    known = session(Client(ip_address(client), 4711))
    answer = built.on_connect(known)
    try:
        verdict = await answer if isinstance(answer, Awaitable) else answer
    except ListsSilentError as error:
        return [f"failed: {error}", [], []]
    for one in getattr(verdict, "evidence", ()):
        known.evidence.add(one)
    refusal = built.on_rcpt(known, transaction(), recipient())
    said = str(refusal.reply) if isinstance(refusal, Reject | Defer) else ""
    hits = [[one.zone, one.text] for one in known.evidence.all(ListedResult)]
    silent = [[one.zone, one.reason] for one in known.evidence.all(SilentResult)]
    return [said, hits, silent]


async def main(reactor: Any, text: str) -> None:
    """Ask about all of them."""
    task = json.loads(text)
    servers = [parse_server(server) for server in task["servers"]]
    resolver = Resolver(reactor, servers, task["timeout"], 100, SystemRandom())
    given = services(clock=IReactorTime(reactor), resolver=resolver)
    built = Dnsbl(Options.model_validate(task["options"]), given)
    print(json.dumps([await opinion_of(built, client) for client in task["clients"]]))
    resolver.close()


if __name__ == "__main__":
    react(main, sys.argv[1:])
