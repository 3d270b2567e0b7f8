"""The client under TLS, which smtp-source is not: a process for each processor, each with its share of the connections.

Like smtp-source it waits for every reply before it goes on, with whichever connection can. Certificates are not
verified, which mail between strangers does not do either, and sessions are never resumed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

__all__ = ["Load", "run"]

#: Seconds that a run may take.
_LIMIT = 300.0

#: A connection's work: it yields what it waits for, as epoll calls it.
_Steps = Generator[int, None, None]


@dataclass(frozen=True)
class Load:
    """`count` messages of `size` octets, or sessions without any where `size` is 0; with `reuse`, a connection serves
    until there is nothing left to send."""

    port: int
    count: int
    size: int
    connections: int
    reuse: bool = False


def run(load: Load) -> float:
    """Do it all; when it began, by the monotonic clock. RuntimeError where one session did not end as it should."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # What is to be done lies in a pipe, an octet for each: whoever is free takes the next one.
    taken, given = os.pipe()
    processes = min(load.connections, len(os.sched_getaffinity(0)))
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=_work, args=(load, range(load.connections)[number::processes], context, taken, given))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    os.close(taken)
    start = time.monotonic()
    with contextlib.suppress(BrokenPipeError):  # then all have failed
        for _ in range(load.count):
            os.write(given, b".")
    os.close(given)
    for worker in workers:
        worker.join(max(0.0, start + _LIMIT - time.monotonic()))
        if worker.exitcode is None:
            worker.kill()
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"the client of port {load.port} failed")
    return start


def _work(load: Load, connections: range, context: ssl.SSLContext, taken: int, given: int) -> None:
    os.close(given)
    content = _content(load.size) if load.size else b""
    poll = select.epoll()
    running: dict[int, tuple[_Steps, int]] = {}

    def is_more() -> bool:
        return os.read(taken, 1) != b""

    def begin() -> None:
        if is_more():
            plain = socket.create_connection(("127.0.0.1", load.port))
            running[plain.fileno()] = (
                _Talk(plain).all(context, content, is_more if load.reuse else None),
                select.EPOLLIN,
            )
            poll.register(plain, select.EPOLLIN)

    for _ in connections:
        begin()
    while running:
        for number, _ in poll.poll():
            steps, mask = running[number]
            wanted = next(steps, None)
            if wanted is None:
                del running[number]
                begin()
            elif wanted != mask:
                poll.modify(number, wanted)
                running[number] = steps, wanted


def _content(size: int) -> bytes:
    head = b"From: <from@client.test>\r\nTo: <to@bench.test>\r\nSubject: bench\r\nMessage-ID: <b@client.test>\r\n\r\n"
    line = b"X" * 78 + b"\r\n"
    return head + line * max(1, (size - len(head)) // len(line)) + b".\r\n"


class _Talk:
    """One connection. RuntimeError where a reply is not the one that is expected."""

    def __init__(self, plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setblocking(False)
        self._socket = plain

    def all(self, context: ssl.SSLContext, content: bytes, is_more: Callable[[], bool] | None) -> _Steps:
        """From the banner to the end; `content` as it goes over the wire, "" for no message, again while `is_more`."""
        yield from self._expect(b"220")
        yield from self._say(b"EHLO client.test\r\n", b"250")
        yield from self._say(b"STARTTLS\r\n", b"220")
        self._socket = secure = context.wrap_socket(self._socket, do_handshake_on_connect=False)
        yield from _done(secure.do_handshake)
        yield from self._say(b"EHLO client.test\r\n", b"250")
        while content:
            yield from self._say(b"MAIL FROM:<from@client.test>\r\n", b"250")
            yield from self._say(b"RCPT TO:<to@bench.test>\r\n", b"250")
            yield from self._say(b"DATA\r\n", b"354")
            yield from self._say(content, b"250")
            if is_more is None or not is_more():
                break
        yield from self._say(b"QUIT\r\n", b"221")
        yield from _done(secure.unwrap)  # both sides say that TLS ends here
        secure.close()

    def _say(self, octets: bytes, code: bytes) -> _Steps:
        while octets:
            try:
                octets = octets[self._socket.send(octets) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield select.EPOLLOUT
        yield from self._expect(code)

    def _expect(self, code: bytes) -> _Steps:
        reply = b""
        while not (reply.endswith(b"\r\n") and reply[reply.rfind(b"\n", 0, -1) + 1 :][3:4] == b" "):
            yield select.EPOLLIN
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                more = self._socket.recv(4096)
                if not more:
                    raise RuntimeError(f"the server closed the connection behind {reply!r}")
                reply += more
        if not reply.startswith(code):
            raise RuntimeError(f"expected {code!r}, got {reply!r}")


def _done(step: Callable[[], object]) -> _Steps:
    while True:
        try:
            step()
        except ssl.SSLWantReadError:
            yield select.EPOLLIN
        else:
            return
