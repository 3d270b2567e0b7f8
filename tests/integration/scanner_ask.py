"""Asks a filter about messages, in a process that runs its reactor; see `ask` of scanner_parts."""

from __future__ import annotations

import json
import random
import sys
from base64 import b64decode
from collections.abc import Sequence
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver

from mailgate.address import Address
from mailgate.awaiting import answered
from mailgate.envelope import Client, Identity, Recipient, Session, Transaction
from mailgate.findings import Finding
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.message import Content, Edit, For, Message, body_edits, edited_body, rendered
from mailgate.pipeline.votes import strongest
from mailgate.stores.counters import MemoryCounters
from mailgate.testing import EventRecorder, FakeDirectory, MemoryResolver
from mailgate.verdict import Continue


async def judge(built: Any, task: dict[str, Any], number: int) -> dict[str, Any]:
    """What is said of one message."""
    session = Session(
        id=f"S{number}",
        client=Client(ip_address(task.get("client", "192.0.2.1")), 40000, "client.example"),
        listener="mx",
        role="inbound",
        hostname="mx.example.org",
        protocol="ESMTP",
        helo="client.example",
        identity=Identity(task["user"], "PLAIN") if "user" in task else None,
    )
    recipients = [Recipient(address=Address.parse(one)) for one in task.get("recipients", ["bob@example.org"])]
    transaction = Transaction(id=f"M{number}", sender=Address.parse("ann@client.example"), recipients=recipients)
    message = Message(Content(b64decode(task["content"])))
    try:
        answer = await answered(built.on_message(session, transaction, message)) or Continue()
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {error}"}
    verdicts = list(answer) if isinstance(answer, Sequence) else [answer]
    verdict = verdicts[strongest(verdicts)]
    evidence = [found for one in verdicts for found in one.evidence]
    for one in evidence:
        transaction.evidence.add(one)
    edits: list[Edit] = []
    for edit in await answered(built.modify(session, transaction, message)):
        # What is for some recipients only would be in messages of their own.
        edits += () if isinstance(edit, For) else (edit,)
    octets = b"".join(rendered(message.content, [edit for edit in edits if edit not in body_edits(edits)]))
    if body_edits(edits):
        octets = octets.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + b"".join(edited_body(message.content, edits))
    findings = [one for one in evidence if isinstance(one, Finding)]
    return {
        "verdict": type(verdict).__name__.lower(),
        "reply": str(getattr(verdict, "reply", "")),
        "reason": getattr(verdict, "reason", ""),
        "recipients": [str(one) for one in getattr(verdict, "recipients", ())],
        "found": [text for one in findings if (text := one.summary())],
        "facts": [fact for one in findings for fact in one.facts()],
        "message": octets.decode("latin-1"),
    }


async def main(reactor: IReactorTime) -> None:
    """Build the filter, ask about each message, print the answers."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    task = json.load(sys.stdin)
    module = import_module(f"mailgate.filters.{task['kind']}")
    services = FilterServices(
        clock=reactor,
        resolver=MemoryResolver(),
        counters=MemoryCounters(reactor, 1000),
        directory=FakeDirectory(),
        local_domains={"example.org"}.__contains__,
        events=EventRecorder(),
        random=random.Random(1),
        hostname="mx.example.org",
        state_dir=Path("no-state-directory"),
    )
    built = module.build(module.Options.model_validate(task["options"]), services)
    assert IMessageModifier.providedBy(built)
    print(json.dumps([await judge(built, one, number) for number, one in enumerate(task["mails"])]))


if __name__ == "__main__":
    react(main)
