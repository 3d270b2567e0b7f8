"""A milter in memory, and the network to it: what it says is a script, and each octet goes through the real client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from twisted.internet.error import ConnectError, ConnectionDone, UserError
from twisted.internet.interfaces import IConnector, IDelayedCall, IProtocol, IPushProducer, ITransport
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mailgate.wire.milter.codec import Answer, Options, PacketReader, encode_answer
from mailgate.wire.milter.words import Actions, Code, Plain, Steps

__all__ = ["EVERYTHING", "MilterPeer", "Network", "Said"]

EVERYTHING = int(Actions(0x1FF))

Said = Sequence[Answer | bytes]
Script = Mapping[Code, "Said | Callable[[bytes], Said]"]

_QUIET = {
    Code.CONNECT: Steps.QUIET_CONNECT,
    Code.HELO: Steps.QUIET_HELO,
    Code.MAIL: Steps.QUIET_MAIL,
    Code.RCPT: Steps.QUIET_RCPT,
    Code.DATA: Steps.QUIET_DATA,
    Code.HEADER: Steps.QUIET_HEADERS,
    Code.END_OF_HEADER: Steps.QUIET_END_OF_HEADER,
    Code.BODY: Steps.QUIET_BODY,
}
_SILENT = (Code.MACROS, Code.ABORT, Code.QUIT, Code.QUIT_NEW)


class MilterPeer:
    """Goes on with everything, but for what the script says: answers, or octets as they are; none hang.

    `heard` are the codes and the data of what came, of all connections.
    """

    def __init__(
        self,
        script: Script | None = None,
        options: Options | None = None,
        *,
        hangs: bool = False,
        refuses: bool = False,
    ) -> None:
        self.script: Script = script or {}
        self.options = options or Options(6, EVERYTHING, 0)
        self.hangs = hangs
        self.refuses = refuses
        self.heard: list[tuple[Code, bytes]] = []
        self.connections: list[Wire] = []

    def words(self) -> str:
        """The codes of what was heard, in one text, without macros."""
        return "".join(code.value.decode() for code, _ in self.heard if code is not Code.MACROS)

    def data(self, wanted: Code) -> list[bytes]:
        """What was said with this code."""
        return [data for code, data in self.heard if code is wanted]

    def answers(self, code: Code, data: bytes) -> Said:
        """What it says to a packet."""
        if code in self.script:
            said = self.script[code]
            return said(data) if callable(said) else said
        if code is Code.OPTIONS:
            return [self.options]
        if self.hangs or code in _SILENT or (code in _QUIET and self.options.steps & _QUIET[code]):
            return []
        return [Plain.CONTINUE]


class Wire:
    """A connection to a milter: the client's transport."""

    def __init__(self, network: Network, peer: MilterPeer, factory: ClientFactory) -> None:
        self.producer: IPushProducer | None = None
        self.is_open = False
        self._network = network
        self._peer = peer
        self._factory = factory
        self._reader = PacketReader(2**20)
        self._protocol: IProtocol
        self._calls: list[IDelayedCall] = []
        self.disconnecting = False
        factory.doStart()
        factory.startedConnecting(cast(IConnector, self))
        self._later(self._connect)

    # -- a connector

    def stopConnecting(self) -> None:  # noqa: N802 (Twisted's)
        self._cancel()
        self._factory.clientConnectionFailed(cast(IConnector, self), Failure(UserError()))

    disconnect = stopConnecting

    def connect(self) -> None:
        pass

    def getDestination(self) -> None:  # noqa: N802 (Twisted's)
        return None

    # -- a transport

    def write(self, octets: bytes) -> None:
        if self.is_open:
            self._later(self._arrive, octets)

    def writeSequence(self, octets: Sequence[bytes]) -> None:  # noqa: N802 (Twisted's)
        self.write(b"".join(octets))

    def loseConnection(self) -> None:  # noqa: N802 (Twisted's)
        self.disconnecting = True
        self._later(self.end)

    def abortConnection(self) -> None:  # noqa: N802 (Twisted's)
        self.end()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:  # noqa: N802 (Twisted's)
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802 (Twisted's)
        self.producer = None

    def getPeer(self) -> None:  # noqa: N802 (Twisted's)
        return None

    getHost = getPeer  # noqa: N815 (Twisted's)

    # -- what tests do

    def say(self, octets: bytes) -> None:
        """The milter says something, asked or not."""
        if self.is_open:
            self._protocol.dataReceived(octets)

    def end(self) -> None:
        """The connection is gone."""
        if self.is_open:
            self.is_open = False
            self._cancel()
            self._protocol.connectionLost(Failure(ConnectionDone()))

    def _connect(self) -> None:
        if self._peer.refuses:
            self._factory.clientConnectionFailed(cast(IConnector, self), Failure(ConnectError()))
            return
        self.is_open = True
        self._peer.connections.append(self)
        protocol = self._factory.buildProtocol(None)
        assert protocol is not None
        self._protocol = protocol
        protocol.makeConnection(cast(ITransport, self))

    def _arrive(self, octets: bytes) -> None:
        self._reader.feed(octets)
        while (found := self._reader.take()) is not None:
            code, data = Code(found[0]), found[1]
            self._peer.heard.append((code, data))
            for said in self._peer.answers(code, data):
                if said == b"":
                    self.end()
                else:
                    is_plain = not isinstance(said, Plain) and isinstance(said, bytes)
                    self._later(self.say, said if is_plain else encode_answer(cast(Answer, said)))

    def _later(self, call: Callable[..., object], *values: object) -> None:
        self._calls = [one for one in self._calls if one.active()]
        self._calls.append(self._network.callLater(0, call, *values))

    def _cancel(self) -> None:
        for one in self._calls:
            if one.active():
                one.cancel()
        self._calls = []


class Network:
    """A clock with milters at addresses: "127.0.0.1:8891" or "unix:/run/milter". Elsewhere, nobody listens."""

    def __init__(self, peers: Mapping[str, MilterPeer], clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.peers = peers
        self.tried: list[str] = []

    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *values: object) -> IDelayedCall:  # noqa: A002
        return self.clock.callLater(delay, callable, *values)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:  # noqa: N802 (Twisted's)
        return list(self.clock.getDelayedCalls())

    def connectTCP(  # noqa: N802 (Twisted's)
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float = 30,
        bindAddress: object = None,  # noqa: N803
    ) -> Wire:
        return self._connect(f"{host}:{port}", factory)

    def connectUNIX(  # noqa: N802 (Twisted's)
        self,
        address: str,
        factory: ClientFactory,
        timeout: float = 30,
        checkPID: bool = False,  # noqa: N803
    ) -> Wire:
        return self._connect(f"unix:{address}", factory)

    def _connect(self, where: str, factory: ClientFactory) -> Wire:
        self.tried.append(where)
        return Wire(self, self.peers.get(where) or MilterPeer(refuses=True), factory)
