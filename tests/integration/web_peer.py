"""A web server of a test's own, in a thread."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

__all__ = ["QuietHandler", "WebPeer"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


class QuietHandler(BaseHTTPRequestHandler):
    """Hears and answers, and prints nothing. What is not overridden is not known."""

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post()

    def get(self) -> None:
        """Answer a GET."""
        self.say(501)

    def post(self) -> None:
        """Answer a POST."""
        self.say(501)

    def heard(self) -> bytes:
        """The content of the request."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def say(self, status: int, body: bytes = b"", fields: Mapping[str, str] = _NOTHING) -> None:
        """The whole answer."""
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
        """Quietly."""


class WebPeer:
    """Answers as `handler` does, at `port`, some free one if that is 0; with an identity over TLS, and then with
    `clients` only to those who show a certificate of these authorities."""

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        identity: Path | None,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        clients: Path | None = None,
    ) -> None:
        self._server = ThreadingHTTPServer((address, port), handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes that fail are meant to
        self.port = self._server.server_address[1]
        if identity is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(identity)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
