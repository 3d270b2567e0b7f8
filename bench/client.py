"""Our own client, for what smtp-source does not do: TLS, a steady rate, and a look at the clock for each message.

There is a process for each processor, each with its share of the connections. Like smtp-source it waits for every
reply before it goes on, with whichever connection can. Certificates are not verified, which mail between strangers does
not do either, and sessions are never resumed.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import multiprocessing
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

__all__ = ["Load", "Run", "run"]

#: Seconds that a run may take.
_LIMIT = 300.0

#: A connection's work: it yields what it waits for, as epoll calls it.
_Steps = Generator[int, None, None]


@dataclass(frozen=True)
class Load:
    """`count` messages of `size` octets, or sessions without any where `size` is 0; with `reuse`, a connection serves
    until there is nothing left to send. With a `rate`, so many begin each second, whatever became of those before, as
    long as connections are free; otherwise each as soon as it can. `content` is the message, in whole lines, in place
    of one that is made up; where `number` stands in it, each message has one of its own, of the same length.
    """

    port: int
    count: int
    size: int
    connections: int
    reuse: bool = False
    tls: bool = True
    rate: float = 0.0
    content: bytes = b""
    number: bytes = b""


@dataclass(frozen=True)
class Run:
    """When it began, by the monotonic clock, and the seconds from each end of data to its reply."""

    began: float
    delays: Sequence[float]


def run(load: Load) -> Run:
    """Do it all. RuntimeError where one session did not end as it should."""
    # What is to be done lies in a pipe, an octet for each: whoever is free takes the next one.
    taken, given = os.pipe()
    os.set_blocking(taken, False)
    processes = min(load.connections, len(os.sched_getaffinity(0)))
    fork = multiprocessing.get_context("fork")
    workers, results = [], []
    for number in range(processes):
        result, told = fork.Pipe(duplex=False)
        share = len(range(load.connections)[number::processes])
        worker = fork.Process(target=_work, args=(load, share, taken, given, told))
        worker.start()
        told.close()
        workers.append(worker)
        results.append(result)
    os.close(taken)
    began = time.monotonic()
    with contextlib.suppress(BrokenPipeError):  # then all have failed
        for number in range(load.count):
            if load.rate:
                time.sleep(max(0.0, began + number / load.rate - time.monotonic()))
            os.write(given, b".")
    os.close(given)
    delays = array.array("d")
    for result in results:
        with contextlib.suppress(EOFError):  # it has failed
            if result.poll(max(0.0, began + _LIMIT - time.monotonic())):
                delays.frombytes(result.recv_bytes())
    for worker in workers:
        worker.join(max(0.0, began + _LIMIT - time.monotonic()))
        if worker.exitcode is None:
            worker.kill()
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"the client of port {load.port} failed")
    return Run(began, delays)


def _work(load: Load, free: int, taken: int, given: int, told: Connection) -> None:
    os.close(given)
    delays = array.array("d")
    context = _context() if load.tls else None
    contents = _contents(load) if load.size else None
    poll = select.epoll()
    running: dict[int, tuple[_Steps, int]] = {}
    is_over = is_waiting = False

    def is_more() -> bool | None:
        try:
            return os.read(taken, 1) != b""
        except BlockingIOError:
            return None

    while True:
        while free and not is_over:
            more = is_more()
            if more is None:
                break
            is_over = not more
            if more:
                free -= 1
                plain = socket.create_connection(("127.0.0.1", load.port))
                talk = _Talk(plain, delays)
                running[plain.fileno()] = (talk.all(context, contents, is_more if load.reuse else None), select.EPOLLIN)
                poll.register(plain, select.EPOLLIN)
        if is_over and not running:
            break
        if is_waiting != bool(free and not is_over):
            is_waiting = not is_waiting
            if is_waiting:
                poll.register(taken, select.EPOLLIN)
            else:
                poll.unregister(taken)
        for number, _ in poll.poll():
            if number not in running:
                continue  # more to do
            steps, mask = running[number]
            wanted = next(steps, None)
            if wanted is None:
                del running[number]
                free += 1
            elif wanted != mask:
                poll.modify(number, wanted)
                running[number] = steps, wanted
    told.send_bytes(delays.tobytes())


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _contents(load: Load) -> Iterator[bytes]:
    content = load.content + b".\r\n" if load.content else _content(load.size)
    for number in itertools.count():
        if load.number:
            own = b"%d-%d" % (os.getpid(), number)
            yield content.replace(load.number, own.zfill(len(load.number)))
        else:
            yield content


def _content(size: int) -> bytes:
    head = b"From: <from@client.test>\r\nTo: <to@bench.test>\r\nSubject: bench\r\nMessage-ID: <b@client.test>\r\n\r\n"
    line = b"X" * 78 + b"\r\n"
    return head + line * max(1, (size - len(head)) // len(line)) + b".\r\n"


class _Talk:
    """One connection, which adds to `delays`. RuntimeError where a reply is not the one that is expected."""

    def __init__(self, plain: socket.socket, delays: array.array[float]) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setblocking(False)
        self._socket = plain
        self._delays = delays

    def all(
        self,
        context: ssl.SSLContext | None,
        contents: Iterator[bytes] | None,
        is_more: Callable[[], bool | None] | None,
    ) -> _Steps:
        """From the banner to the end; the next of `contents` as it goes over the wire, None for no message, again while
        `is_more`. Without a `context`, in clear text."""
        yield from self._expect(b"220")
        yield from self._say(b"EHLO client.test\r\n", b"250")
        if context is not None:
            yield from self._say(b"STARTTLS\r\n", b"220")
            secure = context.wrap_socket(self._socket, do_handshake_on_connect=False)
            self._socket = secure
            yield from _done(secure.do_handshake)
            yield from self._say(b"EHLO client.test\r\n", b"250")
        while contents is not None:
            yield from self._say(b"MAIL FROM:<from@client.test>\r\n", b"250")
            yield from self._say(b"RCPT TO:<to@bench.test>\r\n", b"250")
            yield from self._say(b"DATA\r\n", b"354")
            yield from self._send(next(contents))
            sent = time.monotonic()
            yield from self._expect(b"250")
            self._delays.append(time.monotonic() - sent)
            if is_more is None or not is_more():
                break
        yield from self._say(b"QUIT\r\n", b"221")
        if isinstance(self._socket, ssl.SSLSocket):
            yield from _done(self._socket.unwrap)  # both sides say that TLS ends here
        self._socket.close()

    def _say(self, octets: bytes, code: bytes) -> _Steps:
        yield from self._send(octets)
        yield from self._expect(code)

    def _send(self, octets: bytes) -> _Steps:
        while octets:
            try:
                octets = octets[self._socket.send(octets) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield select.EPOLLOUT

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
