"""Whether a Twisted endpoint string can be listened on, found out without a reactor."""

from __future__ import annotations

import re
from typing import NamedTuple

from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.protocol import Factory

from mailgate.config.hosts import check_socket_path

__all__ = ["Listening", "check_endpoint", "listening", "socket_path", "with_backlog"]

_FORMS = "valid values are: tcp:25, tcp:25:interface=127.0.0.1, tcp6:25, unix:/run/socket, systemd:domain=INET:index=0"
_WRAPPED = re.compile(r"(?:haproxy|ssl|tls):.*", re.DOTALL)


class Listening(NamedTuple):
    """A TCP socket: `interface` is an address, "" for all of IPv4, "::" for all of IPv6 and IPv4."""

    interface: str
    port: int


class _Recorder:
    """In the reactor's place: takes down what an endpoint would listen on, and listens on nothing."""

    def __init__(self) -> None:
        self.interface, self.port = "", 0
        self.path = "/"

    def listenTCP(self, port: int, factory: Factory, backlog: int, interface: str) -> None:  # noqa: N802 (Twisted's)
        self.interface, self.port = interface, port

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
    if _WRAPPED.fullmatch(text):
        raise ValueError(
            f'"{text}": TLS and the PROXY header are options of the listener: see tls and proxy_protocol_from'
        )
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
    check_socket_path(recorder.path)
    return text


def listening(text: str) -> Listening | None:
    """Where an endpoint that `check_endpoint` accepts listens for TCP; None where it does not, or nobody can tell."""
    if text.startswith("systemd:"):
        return None
    recorder = _Recorder()
    endpoint = serverFromString(recorder, text)
    if not isinstance(endpoint, TCP4ServerEndpoint | TCP6ServerEndpoint):
        return None
    endpoint.listen(Factory())  # type: ignore[no-untyped-call]  # Twisted has no types here
    return Listening(recorder.interface, recorder.port)


def socket_path(text: str) -> str | None:
    """The path of the unix socket of an endpoint that `check_endpoint` accepts; None where it has none."""
    if not text.startswith("unix:"):
        return None
    recorder = _Recorder()
    serverFromString(recorder, text).listen(Factory())
    return recorder.path


def _hint(text: str, error: Exception) -> str:
    if isinstance(error, OSError) or str(error).startswith("Unknown endpoint type"):
        return f": {error}"
    if "::" in text:
        return ": in an IPv6 address each colon is written \\\\:"
    return ""


def with_backlog(text: str, backlog: int) -> str:
    """The endpoint with room for so many connections that wait, if it does not say itself for how many."""
    return f"{text}:backlog={backlog}" if text.startswith("tcp") and "backlog=" not in text else text
