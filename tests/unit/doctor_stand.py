"""A site made of plain values, for tests of the doctor, and hosts in memory that answer by a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from mailgate.awaiting import at_once
from mailgate.config.schema import Config, FilterSection
from mailgate.doctor.diagnosis import Check, Diagnosis, run_checks
from mailgate.doctor.site import Site, UsedFilter
from mailgate.outside import IGatewayReactor
from mailgate.pipeline.registry import Registry
from mailgate.relay.client.terms import read_terms
from mailgate.relay.locate import Locator
from mailgate.relay.security.sts_fetch import StsFetchError
from mailgate.relay.security.sts_policy import StsPolicy
from mailgate.relay.transports import RouteTransports
from mailgate.testing import MemoryResolver
from mailgate.testing.zone import Zone
from mailgate.tls.client import ClientContexts

__all__ = ["NOW", "Host", "Network", "found", "make_site", "said", "used"]

#: When all tests take place: within the dates of certificates that tests make.
NOW = 0.0

ZONE: Mapping[str, Any] = {
    "example.org": {"MX": [[10, "gw.example.org"]], "TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "gw.example.org": {"A": ["192.0.2.1"], "TXT": ["v=spf1 a -all"]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["gw.example.org"]},
    "_dmarc.example.org": {"TXT": ["v=DMARC1; p=reject; rua=mailto:dmarc@example.org"]},
    "_smtp._tls.example.org": {"TXT": ["v=TLSRPTv1; rua=mailto:tls@example.org"]},
    "_mta-sts.example.org": {"TXT": ["v=STSv1; id=1;"]},
}


def used(name: str, registry: Registry | None = None, base: Path = Path(), **own: Any) -> UsedFilter:
    """A filter that a pipeline names; `own` are the keys of its section."""
    section = FilterSection.model_validate(own, context={"base": base})
    kind = section.kind or name
    options = (registry or Registry()).find(kind).options
    made = options.model_validate(section.own, context={"base": base})  # type: ignore[attr-defined]  # all are Sections
    return UsedFilter(name, kind, section, made)


def make_site(
    folder: Path,
    zone: Zone | None = None,
    *,
    filters: Sequence[UsedFilter] = (),
    policy: StsPolicy | str = "nobody answers",
    secure: bool = False,
    reactor: MemoryReactorClock | None = None,
    now: float | None = None,
    more: Mapping[str, Any] | None = None,
    file: Mapping[str, Any] | None = None,
    **sections: Any,
) -> Site:
    """A gateway for example.org whose mail goes to the Internet as well; `zone` is put over what DNS has of it, and
    `sections`, and `file`, over those of its file; `more` are fields of Site. A `policy` that is a text says why there
    is none."""
    values: dict[str, Any] = {
        "gateway": {"hostname": "gw.example.org", "state_dir": "state"},
        "listeners": [
            {"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in"},
            {"name": "out", "role": "outbound", "endpoints": ["tcp:587"], "pipeline": "in", "tls": "off",
             "trusted_networks": ["127.0.0.1", "10.0.0.0/8"]},
        ],
        "domains": {"example.org": {"route": "inside", "recipients": "people"}},
        "recipients": {"people": {"kind": "list", "addresses": ["ann@example.org"]}},
        "routes": {
            "inside": {"transport": "smtp", "hosts": ["10.0.0.5"], "tls": "off"},
            "internet": {"transport": "smtp"},
        },
        "routing": {"default": "internet"},
        "pipelines": {"in": {"filters": [one.name for one in filters]}},
    }  # fmt: skip
    config = Config.model_validate(values | sections | dict(file or {}), context={"base": folder})
    clock = reactor or MemoryReactorClock()
    if now is not None:
        clock.advance(now)
    resolver = MemoryResolver(ZONE, secure=secure)
    resolver.update(zone or {})
    typed = cast(IGatewayReactor, clock)
    transports = RouteTransports(typed, lambda: cast(ThreadPool, None), config.gateway.hostname)
    transports.use(read_terms(config.routes, ClientContexts(typed)))

    async def fetch(domain: str) -> StsPolicy:
        if isinstance(policy, str):
            raise StsFetchError(policy)
        return policy

    fields: dict[str, Any] = {
        "path": folder / "mailgate.toml",
        "config": config,
        "filters": filters,
        "reactor": typed,
        "resolver": resolver,
        "locator": Locator(resolver, config.gateway.hostname, Random(1)),
        "transports": transports,
        "chance": Random(1),
        "in_thread": at_once,
        "fetch_policy": fetch,
    }
    return Site(**(fields | dict(more or {})))


def found(site: Site, checks: Iterable[Check], network: Network | None = None) -> list[Diagnosis]:
    """What the checks find, with these hosts to talk to."""
    clock = cast(MemoryReactorClock, site.reactor)
    ends: list[Any] = []
    Deferred.fromCoroutine(run_checks(checks, site.reactor)).addBoth(ends.append)
    while not ends:
        if network is None or not network.serve(clock):
            clock.advance(1.0)
            assert clock.seconds() < 1e6, "the checks do not end"
    if isinstance(ends[0], Failure):
        ends[0].raiseException()
    told: list[Diagnosis] = ends[0]
    return told


def said(diagnoses: Iterable[Diagnosis], words: str) -> list[str]:
    """The severities of those that say these words."""
    return [one.severity for one in diagnoses if words in one.says]


class Host:
    """One host: `script` has its replies by command word, one after another; the last is given again and again, and ""
    is none."""

    OFFER = "250-host\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE 100000000"

    def __init__(self, banner: str = "220 hello", most: int = 100, **script: str | Sequence[str]) -> None:
        plain = {"EHLO": self.OFFER, "LHLO": self.OFFER, "DATA": "354 go on", "QUIT": "221 bye", "RCPT": "550 5.1.1 no"}
        self.script = {word: [replies] if isinstance(replies, str) else list(replies) for word, replies in
                       (plain | script).items()}  # fmt: skip
        self.banner = banner
        self.most = most
        self.commands: list[str] = []
        self.contents: list[bytes] = []
        self.sessions: list[_Talk] = []

    def answer(self, word: str) -> bytes:
        replies = self.script.get(word, ["250 ok"])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        return reply.encode() + b"\r\n" if reply else b""


class _Talk:
    """One session."""

    def __init__(self, host: Host, factory: Any) -> None:
        self.host = host
        self.transport = StringTransport()
        self.is_content = False
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        open_now = sum(not one.transport.disconnecting for one in host.sessions)
        host.sessions.append(self)
        banner = host.banner if open_now < host.most else "421 4.3.2 too many connections"
        if banner:
            self.protocol.dataReceived(banner.encode() + b"\r\n")

    def go_on(self) -> bool:
        data = self.transport.value()
        if not data or self.transport.disconnecting:
            return False
        self.transport.clear()
        if self.is_content:
            self.host.contents.append(data)
            if data.endswith(b"\r\n.\r\n"):
                self.is_content = False
                self._say(self.host.answer("END"))
            return True
        replies = b""
        for line in data.decode().split("\r\n")[:-1]:
            self.host.commands.append(line)
            reply = self.host.answer(line[:4].upper())
            self.is_content = line == "DATA" and reply.startswith(b"354")
            replies += reply
        self._say(replies)
        return True

    def _say(self, octets: bytes) -> None:
        if octets:
            self.protocol.dataReceived(octets)


class Network:
    """Hosts by address and port, or by the path of their socket; who is not there refuses connections. `raw` answer the
    first octets that they get with others."""

    def __init__(
        self,
        hosts: Mapping[tuple[str, int] | str, Host] | None = None,
        raw: Mapping[tuple[str, int], Callable[[bytes], bytes]] | None = None,
    ) -> None:
        self.hosts = hosts or {}
        self.raw = raw or {}
        self.talks: list[_Talk] = []
        self.connected: list[tuple[str, int, Any]] = []
        self._raw: list[tuple[Any, StringTransport, Callable[[bytes], bytes]]] = []

    def serve(self, reactor: MemoryReactorClock) -> bool:
        """Answer what there is; whether there was anything."""
        is_busy = False
        while reactor.tcpClients:
            is_busy = True
            address, port, factory, _timeout, ours = reactor.tcpClients.pop(0)
            self.connected.append((address, port, ours))
            if (address, port) in self.raw:
                transport = StringTransport()
                protocol: Any = factory.buildProtocol(None)
                protocol.makeConnection(transport)
                self._raw.append((protocol, transport, self.raw[address, port]))
            else:
                self._meet((address, port), factory)
        while reactor.unixClients:
            is_busy = True
            path, factory = reactor.unixClients.pop(0)[:2]
            self._meet(path, factory)
        for talk in self.talks:
            is_busy = talk.go_on() or is_busy
        for protocol, transport, answer in self._raw[:]:
            self._raw.remove((protocol, transport, answer))
            is_busy = True
            reply = answer(transport.value())
            if reply:
                protocol.dataReceived(reply)
        return is_busy

    def _meet(self, where: tuple[str, int] | str, factory: Any) -> None:
        host = self.hosts.get(where)
        if host is None:
            factory.clientConnectionFailed(None, Failure(Refused()))
        else:
            self.talks.append(_Talk(host, factory))
