"""A Postfix in memory that asks our policy service, and one that asks our tables."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock

from mailgate.config.mta import PolicySection, SocketmapSection
from mailgate.interfaces import Expand
from mailgate.mta.office import MtaOffice
from mailgate.mta.policy.services import PolicyServices
from mailgate.mta.socketmap.services import LookUp, SocketmapServices
from mailgate.stores.slots import LocalTally
from mailgate.testing import EventRecorder
from tests.unit.milter_stand import Judge, Transport

__all__ = ["LOCAL", "Asking", "Looking", "request"]

LOCAL = UNIXAddress(None)
_PEER = IPv4Address("TCP", "127.0.0.1", 4711)

_USUAL = {
    "request": "smtpd_access_policy",
    "protocol_state": "RCPT",
    "protocol_name": "ESMTP",
    "client_address": "192.0.2.1",
    "client_name": "client.example",
    "client_port": "40000",
    "reverse_client_name": "client.example",
    "server_address": "192.0.2.25",
    "server_port": "25",
    "helo_name": "client.example",
    "sender": "ann@client.example",
    "recipient": "bob@here.example",
    "recipient_count": "0",
    "queue_id": "",
    "instance": "1.2.3.0",
    "size": "0",
    "sasl_username": "",
    "encryption_protocol": "",
}


def request(state: str = "RCPT", **more: object) -> bytes:
    """One request as Postfix writes it; None leaves an attribute out."""
    is_whole = state in ("DATA", "END-OF-MESSAGE")
    known = {"recipient_count": "1", "queue_id": "4XyZ"} if is_whole else {}
    told = _USUAL | {"protocol_state": state} | known | more
    lines = [f"{name}={value}\n" for name, value in told.items() if value is not None]
    return "".join([*lines, "\n"]).encode()


class _Caller:
    """One connection to a door of ours."""

    def __init__(self, office: MtaOffice, peer: IAddress | None) -> None:
        self.office = office
        self.peer = peer or _PEER
        self.connect()

    def connect(self) -> None:
        """Another connection."""
        self.transport = Transport(self.peer)
        self.server: Any = self.office.doors["front"].buildProtocol(None)
        self.server.makeConnection(self.transport)

    def say(self, octets: bytes) -> bytes:
        """What is answered to these by now."""
        self.server.dataReceived(octets)
        return self.said()

    def said(self) -> bytes:
        """What has come since."""
        found: bytes = self.transport.value()  # type: ignore[no-untyped-call]  # Twisted's
        self.transport.clear()  # type: ignore[no-untyped-call]  # Twisted's
        return found


class Asking(_Caller):
    """A policy service of ours, and one connection to it."""

    def __init__(
        self,
        judge: Judge | None = None,
        *,
        trusted: Judge | None = None,
        peer: IAddress | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.events = EventRecorder()
        self.tally = LocalTally()
        self.judge = judge or Judge()
        self.expand: Expand = lambda address: None
        self.trusted = trusted or self.judge
        section = self.section(**settings)
        config: Any = type("Configured", (), {"milters": {}, "policy_services": {"front": section}, "socketmaps": {}})
        office = MtaOffice(config, self.tally)
        self.office = office
        self.serve(section)
        super().__init__(office, peer)

    @staticmethod
    def section(**settings: Any) -> PolicySection:
        """A section, as the file would have it."""
        return PolicySection.model_validate({"endpoints": ["tcp:10040"], "pipeline": "in", **settings})

    def serve(self, section: PolicySection) -> None:
        """Go by this from now on, as after a reload."""
        services = PolicyServices(
            name="front",
            section=section,
            hostname="mx.test",
            clock=self.clock,
            events=self.events,
            pipeline=self.judge,
            trusted_pipeline=self.trusted,
            expand=lambda address: self.expand(address),
        )
        self.office.use({}, {"front": services})

    def ask(self, state: str = "RCPT", **more: object) -> str:
        """The action; "" where there is no answer yet."""
        return self.action(self.say(request(state, **more)))

    def action(self, octets: bytes) -> str:
        """The one action in what was said."""
        if not octets:
            return ""
        assert octets.startswith(b"action=")
        assert octets.endswith(b"\n\n")
        assert octets.count(b"\n") == 2
        return octets[7:-2].decode("ascii")


class Looking(_Caller):
    """Tables of ours, and one connection to them."""

    def __init__(self, maps: dict[str, LookUp], *, peer: IAddress | None = None, **settings: Any) -> None:
        self.clock = Clock()
        self.tally = LocalTally()
        section = SocketmapSection.model_validate({"endpoints": ["tcp:10041"], **settings})
        config: Any = type("Configured", (), {"milters": {}, "policy_services": {}, "socketmaps": {"front": section}})
        office = MtaOffice(config, self.tally)
        services = SocketmapServices(name="front", section=section, clock=self.clock, maps=maps)
        office.use({}, {}, {"front": services})
        super().__init__(office, peer)

    def ask(self, name: str, key: str) -> bytes:
        """The answer about a key; b"" where there is none yet."""
        asked = f"{name} {key}".encode()
        return self.say(b"%d:%s," % (len(asked), asked))
