"""Sends one message to each of some domains by MX, as the relay does, and prints what came of TLS on the way.

`tls_ask.py '{"servers": [...], "dnssec": true, "ca": PATH, "sts_port": 443, "state": PATH, "security": "auto",
"policies": {}, "domains": [[domain, port]]}'`: for each domain, and each host that was asked, [level, failure, "sent",
security], or [level, failure, reason, ""] where there was no session. With "published" nothing is sent, and the
policies are told: [mode, failure, reason, ""].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import SystemRandom
from typing import Any

from twisted.internet.task import react

from mailgate.address import Address
from mailgate.awaiting import answered
from mailgate.config.hosts import parse_server
from mailgate.config.schema import Config
from mailgate.dns.resolver import Resolver
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError
from mailgate.relay.client.connector import SmtpConnector
from mailgate.relay.client.terms import terms_of
from mailgate.relay.locate import Hosts, Locator, NoHosts
from mailgate.relay.security.office import SecurityOffice
from mailgate.tls.client import ClientContexts

MESSAGE = b"From: ann@client.test\r\nSubject: one\r\n\r\nbody\r\n"


def configured(task: dict[str, Any], port: int) -> Config:
    """A gateway with one route, by MX, to hosts at this port."""
    route = {"transport": "smtp", "port": port, "security": task["security"], "tls_ca": task["ca"], "ipv6": False}
    listener = {"name": "in", "endpoints": ["tcp:25"], "role": "inbound", "pipeline": "p"}
    return Config.model_validate(
        {
            "gateway": {"hostname": "gw.client.test", "state_dir": task["state"]},
            "listeners": [listener],
            "pipelines": {"p": {"filters": []}},
            "routes": {"mx": route},
            "dns": {"dnssec": task["dnssec"]},
            "tls_policies": task["policies"],
            "mta_sts": {"ca": task["ca"], "timeout": "3s"},
        }
    )


async def send(reactor: Any, locator: Locator, config: Config, domain: str) -> list[list[str]]:
    """Ask one host after another until one takes it."""
    route: Any = config.routes["mx"]
    found: Hosts | NoHosts = await answered(locator.hosts("mx", route, domain))
    if isinstance(found, NoHosts):
        return [["", "", found.reason, ""]]
    targets = await locator.targets(found, lmtp=False, ipv6=False, domain=domain)
    if isinstance(targets, NoHosts):
        return [["", "", targets.reason, ""]]
    terms = terms_of(route, ClientContexts(reactor))
    connector = SmtpConnector(reactor, "gw.client.test", 10.0, 10.0, 10.0, terms=terms)
    recipient = EnvelopeRecipient(0, Address("user", domain), "mx")
    envelope = Envelope(
        queue_id="0Q", recipients=(recipient,), received=0.0, size=len(MESSAGE), sender=Address("ann", "client.test")
    )
    told: list[list[str]] = []
    for target in targets:
        level = target.demand.level if target.demand is not None else ""
        try:
            session = await connector.connect(target)
        except ConnectFailedError as error:
            told.append([level, error.tls_failure, error.reason, ""])
            continue
        (result,) = await session.deliver(envelope, [recipient], Content(MESSAGE))
        session.close()
        sent = "sent" if result.kind is OutcomeKind.DELIVERED else str(result.reply)
        told.append([level, session.tls_failure, sent, session.security])
        break
    return told


async def main(reactor: Any, text: str) -> None:
    """One domain after another."""
    task = json.loads(text)
    resolver = Resolver(reactor, [parse_server(one) for one in task["servers"]], 5.0, 0, SystemRandom())
    locator = Locator(resolver, "gw.client.test", SystemRandom(), lambda address: False)
    path = Path(task["state"]) / "mta-sts.db"
    office = SecurityOffice(path, locator, reactor=reactor, resolver=resolver, port=task["sts_port"])
    answers = []
    for domain, port in task["domains"]:
        config = configured(task, port)
        office.use(config)
        if task["published"] and office.security is not None:
            policy = await office.security.published(domain)
            answers.append([[policy.policy.mode if policy.policy else "", policy.failure, policy.reason, ""]])
        else:
            answers.append(await send(reactor, locator, config, domain))
    print(json.dumps(answers))
    await office.close()
    resolver.close()


if __name__ == "__main__":
    react(main, sys.argv[1:])
