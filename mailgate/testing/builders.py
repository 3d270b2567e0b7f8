"""What filters are asked about, and what they are given: whole objects of which a test names only what matters.

Addresses may be written as text. The ids are always the same, so that two objects with the same arguments are equal.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Client, Recipient, Session, Transaction
from mailgate.interfaces import FilterServices
from mailgate.message import Content, Message
from mailgate.stores.counters import MemoryCounters
from mailgate.testing.fakes import EventRecorder, FakeDirectory
from mailgate.testing.zone import MemoryResolver

__all__ = ["message", "recipient", "services", "session", "transaction"]

_SESSION_ID = "01TESTSESSION000"
_QUEUE_ID = "01TESTMESSAGE000"
_MESSAGE = (
    b"From: Ann <ann@client.example>\r\n"
    b"To: Bob <bob@example.org>\r\n"
    b"Subject: Hello\r\n"
    b"Date: Thu, 01 Jan 2026 12:00:00 +0000\r\n"
    b"Message-ID: <1@client.example>\r\n"
    b"\r\n"
    b"Hello Bob.\r\n"
)


def session(client: Client | str = "192.0.2.1", **changes: Any) -> Session:
    """A session past EHLO, from client.example at 192.0.2.1; `changes` are fields of Session.

    A client given as text is an address, with the name client.example.
    """
    if isinstance(client, str):
        client = Client(ip_address(client), 40000, "client.example")
    fields: dict[str, Any] = {
        "id": _SESSION_ID,
        "listener": "mx",
        "role": "inbound",
        "hostname": "mx.example.org",
        "protocol": "ESMTP",
        "helo": "client.example",
    }
    return Session(client=client, **(fields | changes))


def transaction(
    sender: Address | str = "ann@client.example",
    recipients: Iterable[Recipient | Address | str] = ("bob@example.org",),
    **changes: Any,
) -> Transaction:
    """A transaction from ann@client.example to bob@example.org; the sender "" is the null path.

    `changes` are further fields of Transaction.
    """
    found = [one if isinstance(one, Recipient) else recipient(one) for one in recipients]
    return Transaction(sender=_address(sender), recipients=found, **({"id": _QUEUE_ID} | changes))


def recipient(address: Address | str = "bob@example.org", route: str = "inside") -> Recipient:
    """One recipient, with its route."""
    return Recipient(address=_address(address), route=route)


def message(data: bytes | str = _MESSAGE) -> Message:
    """A message in memory. Lines of text may end in a bare line feed; octets are taken as they are."""
    if isinstance(data, str):
        data = "\r\n".join(data.splitlines()).encode() + b"\r\n"
    return Message(Content(data))


def services(**overrides: Any) -> FilterServices:
    """What a filter is given: an empty resolver and directory, counters and events in memory, a Clock.

    The domain example.org is ours. `overrides` are fields of FilterServices; counters follow the clock that is
    given. The state directory does not exist: give a temporary one to a filter that writes.
    """
    clock = overrides.setdefault("clock", Clock())
    fields: dict[str, Any] = {
        "resolver": MemoryResolver(),
        "counters": MemoryCounters(clock, 10_000),
        "directory": FakeDirectory(),
        "local_domains": {"example.org"}.__contains__,
        "events": EventRecorder(),
        "random": random.Random(1),  # noqa: S311  tests want the same numbers each time
        "hostname": "mx.example.org",
        "state_dir": Path("no-state-directory"),
    }
    return FilterServices(**(fields | overrides))


def _address(address: Address | str) -> Address:
    if isinstance(address, Address):
        return address
    return Address.parse(address) if address else NULL_PATH
