"""Mail handed in by HTTP, beside the same by SMTP: one gateway, one pipeline, one sink, and clients that are alike.

The clients are threads of one process, as applications are; they cost more than those of the other loads, for both.
"""

from __future__ import annotations

import http.client
import json
import smtplib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from parts import Gateway, Sink, free_port, memory_of, wait_until

from bench.tables import as_text
from mailgate.web.tokens import hash_of

__all__ = ["measure", "measure_one_call"]

_SECRET = "mailgate_bench"  # noqa: S105  of this run
_TEXT = "0123456789abcdef" * 4 + "\n"
_CONFIGURATION = """\
[gateway]
hostname = "mailgate.bench.test"
state_dir = "state"

[[listeners]]
name = "submission"
role = "outbound"
endpoints = ["tcp:{smtp}:interface=127.0.0.1"]
trusted_networks = ["127.0.0.0/8"]
pipeline = "out"
max_connections_per_client = 1000
max_messages = 100000

[routing]
default = "sink"

[routes.sink]
transport = "smtp"
hosts = ["127.0.0.1:{sink}"]

[pipelines.out]
filters = ["sender-login", "submission", "headers"]

[filters.sender-login]
trusted = "any"
allow = {{ bench = ["*"] }}

[http]
endpoints = ["tcp:{http}:interface=127.0.0.1"]
max_connections_per_client = 500

[http.injection]
pipeline = "out"

[http.tokens.bench]
hash = "{hash}"
scopes = ["send"]
"""

_Work = Callable[[Iterator[int]], None]


def measure(base: Path, sink: Sink, *, messages: int, rounds: int, clients: int) -> str:
    """The figures: messages a second until the sink has them all, a median of the rounds; the first warms up."""
    smtp, port = free_port(), free_port()
    text = _CONFIGURATION.format(smtp=smtp, http=port, sink=sink.port, hash=hash_of(_SECRET))
    works: dict[str, tuple[_Work, int]] = {
        "SMTP": (lambda numbers: _by_smtp(smtp, numbers), clients),
        "HTTP": (lambda numbers: _by_http(port, numbers, key=""), clients),
        "HTTP, each with a key": (lambda numbers: _by_http(port, numbers, key=str(time.monotonic_ns())), clients),
        "HTTP, all in one call": (lambda numbers: _in_one(port, len(list(numbers)), template=False), 1),
        "HTTP, all in one call, a template": (lambda numbers: _in_one(port, len(list(numbers)), template=True), 1),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    with Gateway(base / "gateway", text, [smtp]):
        for number in range(rounds + 1):
            for name, (work, threads) in works.items():
                taken, delivered = _run(work, threads, messages, sink)
                if number:
                    found[name].append((messages / taken, messages / delivered))
    rows = [
        (name, *(f"{statistics.median(one[place] for one in measured):.0f}" for place in (0, 1)))
        for name, measured in found.items()
    ]
    head = f"{messages} messages of about 4 KiB, {clients} clients at one time, messages a second"
    return f"{head}\n{as_text((('', 'taken', 'delivered'), rows))}"


def measure_one_call(base: Path, sink: Sink, recipients: int) -> str:
    """One call for so many: how long it takes, what the gateway keeps meanwhile, and how long an urgent message takes
    that comes in the midst."""
    smtp, port = free_port(), free_port()
    text = _CONFIGURATION.format(smtp=smtp, http=port, sink=sink.port, hash=hash_of(_SECRET))
    with Gateway(base / "gateway", text, [smtp]) as gateway:
        _in_one(port, 1, template=True)
        wait_until(lambda: sink.messages >= 1, "the sink has the first", 60)
        before = most = memory_of(gateway.pid)
        began = time.monotonic()
        taken: list[float] = []

        def call() -> None:
            _in_one(port, recipients, template=True)
            taken.append(time.monotonic() - began)

        thread = threading.Thread(target=call)
        thread.start()
        waits: list[float] = []
        while thread.is_alive():
            most = max(most, memory_of(gateway.pid))
            waits.append(_urgent(port))
            thread.join(1)
        if not taken:
            raise RuntimeError("the call failed")
        wait_until(lambda: sink.messages >= recipients + len(waits) + 1, "the sink has all", 3600)
        delivered = time.monotonic() - began
    return (
        f"one call for {recipients} recipients: answered after {taken[0]:.1f} s, {recipients / taken[0]:.0f} a second; "
        f"all delivered after {delivered:.1f} s; memory +{(most - before) / 1024**2:.0f} MiB\n"
        f"{len(waits)} urgent messages meanwhile, until delivered: median {statistics.median(waits) * 1000:.0f} ms, "
        f"at most {max(waits) * 1000:.0f} ms"
    )


def _urgent(port: int) -> float:
    """Seconds until one message is delivered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.monotonic()
    order = {"from": "from@bench.test", "to": ["to@bench.test"], "subject": "urgent", "text": _TEXT}
    (queue_id,) = json.loads(_post(connection, json.dumps(order).encode(), ""))["ids"]
    state = ""
    while state != "delivered":
        connection.request("GET", f"/v1/messages/{queue_id}", headers={"Authorization": f"Bearer {_SECRET}"})
        recipients = json.loads(connection.getresponse().read())["recipients"]
        state = recipients[0]["state"] if recipients else ""
    connection.close()
    return time.monotonic() - began


def _run(work: _Work, count: int, messages: int, sink: Sink) -> tuple[float, float]:
    """Seconds until all were taken, and until the sink had them."""
    lock, numbers = threading.Lock(), iter(range(messages))
    problems: list[BaseException] = []

    def shared() -> Iterator[int]:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            yield number

    def guarded() -> None:
        try:
            work(shared())
        except BaseException as error:  # told below
            problems.append(error)

    before = sink.messages
    threads = [threading.Thread(target=guarded) for _ in range(count)]
    began = time.monotonic()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    taken = time.monotonic() - began
    if problems:
        raise problems[0]
    wait_until(lambda: sink.messages >= before + messages, "the sink has all", 300)
    return taken, time.monotonic() - began


def _by_smtp(port: int, numbers: Iterator[int]) -> None:
    content = f"From: from@bench.test\nTo: to@bench.test\nSubject: bench\n\n{_TEXT * 60}".replace("\n", "\r\n").encode()
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=60) as client:
        for _ in numbers:
            client.sendmail("from@bench.test", ["to@bench.test"], content)


def _by_http(port: int, numbers: Iterator[int], *, key: str) -> None:
    order = {"from": "from@bench.test", "to": ["to@bench.test"], "subject": "bench", "text": _TEXT * 60}
    content = json.dumps(order).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for number in numbers:
        _post(connection, content, f"{key}-{number}" if key else "")
    connection.close()


def _in_one(port: int, count: int, *, template: bool) -> None:
    order: dict[str, object] = {"from": "from@bench.test"}
    if template:
        order["template"] = {"subject": "For {{ name }}", "text": f"Dear {{{{ name }}}},\n{_TEXT * 60}"}
        people = [{"to": "to@bench.test", "substitutions": {"name": str(one)}} for one in range(count)]
        order["recipients"] = people
    else:
        order |= {"subject": "bench", "text": _TEXT * 60, "recipients": [{"to": "to@bench.test"}] * count}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    _post(connection, json.dumps(order).encode(), str(time.monotonic_ns()))
    connection.close()


def _post(connection: http.client.HTTPConnection, content: bytes, key: str) -> bytes:
    fields = {"Authorization": f"Bearer {_SECRET}", "Content-Type": "application/json"}
    if key:
        fields["Idempotency-Key"] = key
    connection.request("POST", "/v1/messages", content, fields)
    answer = connection.getresponse()
    told = answer.read()
    if answer.status != 202:
        raise RuntimeError(f"{answer.status} {told[:300]!r}")
    return told
