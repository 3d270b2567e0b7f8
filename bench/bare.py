"""A server that does nothing but TLS and SMTP's replies: what the client and the machine could do at most.

Run as a script with a port, a PEM file and a number of processes, each of which serves one connection at a time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import socket
import ssl
import sys

_REPLIES = {b"EHLO": b"250-bare\r\n250 STARTTLS\r\n", b"STAR": b"220 go on\r\n", b"DATA": b"354 go on\r\n"}


def _talk(connection: socket.socket, context: ssl.SSLContext) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"220 bare\r\n")
    while line := connection.recv(4096):
        verb = line[:4]
        if verb == b"QUIT":
            connection.sendall(b"221 bye\r\n")
            if isinstance(connection, ssl.SSLSocket):
                connection = connection.unwrap()
            break
        connection.sendall(_REPLIES.get(verb, b"250 ok\r\n"))
        if verb == b"STAR":
            connection = context.wrap_socket(connection, server_side=True)
        elif verb == b"DATA":
            content = b""
            while not content.endswith(b"\r\n.\r\n"):
                content += connection.recv(1 << 16)
            connection.sendall(b"250 ok\r\n")
    connection.close()


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError):
            _talk(connection, context)


def main(port: int, certificate: str, processes: int) -> None:
    """Serve until SIGTERM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", port), backlog=processes)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_serve, args=(listener, context), daemon=True) for _ in range(processes)]
    with contextlib.suppress(KeyboardInterrupt):
        for worker in workers:
            worker.start()
        signal.pause()
    for worker in workers:
        worker.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
