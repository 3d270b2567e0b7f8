"""Checks SPF and prints what came of it: `spf_ask.py '{"servers": [...], "timeout": 5, "checks": [{"ip": ...}]}'`.

A check holds the arguments of `check_spf`; those that are not given have a value here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from random import SystemRandom

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorUDP
from twisted.internet.task import react

from mailgate.config.hosts import parse_server
from mailgate.dns.resolver import Resolver
from mailgate.mailauth.spf import check_spf

_USUAL = {"ip": "192.0.2.1", "helo": "mx.example.net", "receiver": "mx.example.com"}


async def result_of(resolver: Resolver, arguments: Mapping[str, str]) -> object:
    """Result, mechanism, explanation and reason."""
    found = await check_spf(resolver, **{**_USUAL, **arguments})  # type: ignore[arg-type]  # all are text
    return [found.result, found.mechanism, found.explanation, found.reason]


async def main(reactor: IReactorUDP, text: str) -> None:
    """Check all at once."""
    task = json.loads(text)
    servers = [parse_server(server) for server in task["servers"]]
    resolver = Resolver(reactor, servers, task["timeout"], 1000, SystemRandom())
    checks = [Deferred.fromCoroutine(result_of(resolver, arguments)) for arguments in task["checks"]]
    print(json.dumps(await gatherResults(checks)))
    resolver.close()


if __name__ == "__main__":
    react(main, sys.argv[1:])
