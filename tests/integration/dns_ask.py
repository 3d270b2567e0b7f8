"""Asks a resolver and prints the answers: `dns_ask.py '{"servers": [...], "timeout": 5, "questions": [[name, type]]}'`.

The name of a PTR question is the address; type "NAME" asks for the confirmed name of an address.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable
from ipaddress import ip_address
from random import SystemRandom

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorUDP
from twisted.internet.task import react

from mailgate.config.hosts import parse_server
from mailgate.dns.client_name import confirmed_name
from mailgate.dns.resolver import Resolver
from mailgate.interfaces import Answer


async def answer_to(resolver: Resolver, name: str, rdtype: str) -> object:
    """Status, records, ttl and whether it is secure, in what JSON can say."""
    if rdtype == "NAME":
        confirmed = confirmed_name(resolver, ip_address(name))
        return ["found", [confirmed if isinstance(confirmed, str) else await confirmed], 0.0, False]
    asked: Answer | Awaitable[Answer]
    asked = resolver.reverse(ip_address(name)) if rdtype == "PTR" else resolver.resolve(name, rdtype)
    answer = asked if isinstance(asked, Answer) else await asked
    return [answer.status.value, list(answer.records), answer.ttl, answer.secure]


async def main(reactor: IReactorUDP, text: str) -> None:
    """Ask all at once."""
    task = json.loads(text)
    servers = [parse_server(server) for server in task["servers"]]
    resolver = Resolver(reactor, servers, task["timeout"], 100, SystemRandom())
    asked = [Deferred.fromCoroutine(answer_to(resolver, *question)) for question in task["questions"]]
    answers = await gatherResults(asked)
    print(json.dumps(answers, default=lambda one: one.decode() if isinstance(one, bytes) else str(one)))
    resolver.close()


if __name__ == "__main__":
    react(main, sys.argv[1:])
