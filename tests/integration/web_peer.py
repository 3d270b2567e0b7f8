"""A web server of a test's own, in a thread."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WebPeer:
    """Answers as `handler` does, at `port`, some free one if that is 0; with an identity over TLS."""

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        identity: Path | None,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._server = ThreadingHTTPServer((address, port), handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes that fail are meant to
        self.port = self._server.server_address[1]
        if identity is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(identity)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
