"""Whether a Twisted endpoint string can be listened on, found out without a reactor."""

from __future__ import annotations

from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.protocol import Factory

__all__ = ["check_endpoint"]

_FORMS = "valid values are: tcp:25, tcp:25:interface=127.0.0.1, tcp6:25, unix:/run/socket, systemd:domain=INET:index=0"


class _Recorder:
    """In the reactor's place: takes down what an endpoint would listen on, and listens on nothing."""

    def __init__(self) -> None:
        self.port = 0
        self.path = "/"

    def listenTCP(self, port: int, factory: Factory, backlog: int, interface: str) -> None:  # noqa: N802 (Twisted's)
        self.port = port

    def listenUNIX(  # noqa: N802 (Twisted's)
        self,
        address: str,
        factory: Factory,
        backlog: int,
        mode: int,
        wantPID: bool,  # noqa: N803 (Twisted's)
    ) -> None:
        self.path = address


def check_endpoint(text: str) -> str:
    """`text` itself; ValueError, fit for an administrator, where no endpoint can be made of it."""
    if text.startswith("systemd:"):
        return text  # refers to sockets that only the daemon is handed
    recorder = _Recorder()
    try:
        endpoint = serverFromString(recorder, text)
    except Exception as error:  # parsers are plugins, and raise as they like
        raise ValueError(f'"{text}" is no endpoint{_hint(text, error)} ({_FORMS})') from None
    if isinstance(endpoint, TCP4ServerEndpoint | TCP6ServerEndpoint | UNIXServerEndpoint):
        endpoint.listen(Factory())  # type: ignore[no-untyped-call]  # Twisted has no types here
    if not 0 <= recorder.port <= 65535:
        raise ValueError(f'"{text}": a port is at most 65535')
    if not recorder.path.startswith("/"):
        raise ValueError(f'"{text}": a socket needs a full path: unix:/run/socket')
    return text


def _hint(text: str, error: Exception) -> str:
    if isinstance(error, OSError) or str(error).startswith("Unknown endpoint type"):
        return f": {error}"
    if "::" in text:
        return ": in an IPv6 address each colon is written \\\\:"
    return ""
