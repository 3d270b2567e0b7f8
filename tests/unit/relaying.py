"""A next hop, a transport and leases made of plain values, for tests of the relay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Config, DiscardRoute, LmtpRoute, MaildirRoute, SmtpRoute
from mailgate.envelope import Envelope, EnvelopeRecipient, Origin, Tls
from mailgate.interfaces import IEvents, ISpool, Lease, OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import ConnectFailedError, IConnection, IConnector, ITransport, Result, Target
from mailgate.relay.client.terms import Terms
from mailgate.relay.outcomes import OutcomeWriter
from mailgate.relay.replies.classify import Bounces
from mailgate.relay.routing import Routing
from mailgate.relay.service import Relay
from mailgate.relay.sources import SYSTEM, Source
from mailgate.relay.warm_up import WarmUp
from mailgate.reply import Reply
from mailgate.stores.slots import LocalSlots
from mailgate.tls.failures import TlsFailure

__all__ = [
    "DELIVERED",
    "LATER",
    "NO",
    "OK",
    "Connection",
    "FakeTransports",
    "LocalHop",
    "NextHop",
    "by_domain",
    "configuration",
    "envelope",
    "failures_logged",
    "lease",
    "make_relay",
    "make_writer",
    "refuse",
    "results",
]

OK = Reply.of(250, "2.0.0", "taken")
LATER = Reply.of(451, "4.3.0", "later")
NO = Reply.of(550, "5.1.1", "no such user")
DELIVERED = OutcomeKind.DELIVERED

Recipients = Sequence[EnvelopeRecipient]


def configuration(**sections: Any) -> Config:
    """A configuration with one listener and an empty pipeline; `sections` are those of the file."""
    values: dict[str, Any] = {
        "gateway": {"hostname": "gw.example.org", "state_dir": "state"},
        "listeners": [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "in"}],
        "pipelines": {"in": {"filters": []}},
    }
    return Config.model_validate(values | sections)


def envelope(*recipients: str | EnvelopeRecipient, sender: str = "ann@client.test", **more: Any) -> Envelope:
    """A message of Ann's; a recipient given as text goes by the route `out`."""
    found = tuple(
        EnvelopeRecipient(number, Address.parse(one), "out") if isinstance(one, str) else one
        for number, one in enumerate(recipients)
    )
    values: dict[str, Any] = {"queue_id": "0Q", "received": 0.0, "size": 5, "client": "client.test[192.0.2.9]", **more}
    return Envelope(sender=Address.parse(sender) if sender else Address("", ""), recipients=found, **values)


def lease(*recipients: str | EnvelopeRecipient, until: float = 7200.0, **more: Any) -> Lease:
    """A lease of all recipients of `envelope`."""
    one = envelope(*recipients, **more)
    return Lease(one, one.recipients, Content(b"hello"), until, {})


def results(recipients: Recipients, reply: Reply = OK, **more: Any) -> list[Result]:
    """The same result for each."""
    kind = (
        OutcomeKind.DELIVERED
        if reply.is_positive
        else OutcomeKind.FAILED
        if reply.is_permanent
        else OutcomeKind.DEFERRED
    )
    return [Result(one, kind, reply, "mx", **more) for one in recipients]


def make_relay(spool: ISpool, config: Config, *, clock: IReactorTime, **more: Any) -> Relay:
    """A relay of one process; `more` are its other arguments."""
    parts: dict[str, Any] = {"slots": LocalSlots(clock), "warm_up": WarmUp(spool, clock), "bounces": Bounces()}
    return Relay(spool, config, Routing(config), clock=clock, **(parts | more))


def make_writer(spool: ISpool, events: IEvents, clock: IReactorTime, **more: Any) -> OutcomeWriter:
    """A writer of outcomes that tells nobody; `more` are its other arguments."""
    parts: dict[str, Any] = {
        "hostname": "gate.test",
        "route_of": lambda envelope: "reports",
        "written": lambda job, due: None,
        "stuck": lambda: None,
        "unstuck": lambda: None,
    }
    return OutcomeWriter(spool, events, clock, Random(1), **(parts | more))


def refuse(
    target: Target, reply: Reply = LATER, reason: str = "refused", *, stage: str = "connect"
) -> ConnectFailedError:
    """A connection that cannot be had."""
    return ConnectFailedError(target, reply, reason, stage=stage)


@implementer(IConnection)
class Connection:
    """A session that answers as its next hop says."""

    def __init__(self, hop: NextHop, target: Target) -> None:
        self.hop = hop
        self.target = target
        self.is_usable = True
        self.messages = 0
        self.max_size = 0
        self.is_closed = False
        self.tls: Tls | None = None
        self.is_authenticated = False
        self.is_fallback = False
        self.is_for_domain = False
        self.tls_failure: TlsFailure = ""
        self.security = hop.security

    def deliver(self, envelope: Envelope, recipients: Recipients, content: Content) -> Awaitable[Sequence[Result]]:
        self.messages += 1
        self.hop.asked.append((self, tuple(recipients)))
        answer = self.hop.answer(self, recipients)
        if isinstance(answer, Deferred):
            self.is_usable = False
            return answer.addBoth(self._rest)
        return succeed(answer)

    def close(self) -> None:
        self.is_closed = True
        self.is_usable = False

    def _rest(self, result: Any) -> Any:
        self.is_usable = not self.is_closed
        return result


@implementer(IConnector)
class NextHop:
    """Every host there is. `answer` says what becomes of recipients, now or later; `connecting` whether a target can be
    connected to: None, an error, or a Deferred of either.
    """

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.security = ""
        self.targets: list[str] = []
        self.origins: list[Origin | None] = []
        self.sources: list[Source] = []
        self.tls_tried: list[bool] = []
        self.asked: list[tuple[Connection, tuple[EnvelopeRecipient, ...]]] = []
        self.answer: Callable[[Connection, Recipients], list[Result] | Deferred[list[Result]]] = (
            lambda connection, recipients: results(recipients)
        )
        self.connecting: Callable[[Target], ConnectFailedError | Deferred[None] | None] = lambda target: None

    def connect(
        self, target: Target, origin: Origin | None = None, *, try_tls: bool = False, source: Source = SYSTEM
    ) -> Deferred[IConnection]:
        self.targets.append(target.address)
        self.sources.append(source)
        self.origins.append(origin)
        self.tls_tried.append(try_tls)
        how = self.connecting(target)
        if isinstance(how, ConnectFailedError):
            return fail(how)
        if isinstance(how, Deferred):
            return how.addCallback(lambda _: self._connected(target))
        return succeed(self._connected(target))

    def _connected(self, target: Target) -> Connection:
        connection = Connection(self, target)
        self.connections.append(connection)
        return connection

    @property
    def open(self) -> list[Connection]:
        """Connections that nobody has closed."""
        return [one for one in self.connections if not one.is_closed]

    @property
    def taken(self) -> list[str]:
        """Whom it was asked for, in order."""
        return [str(one.address) for _, recipients in self.asked for one in recipients]


@implementer(ITransport)
class LocalHop:
    """A transport without connections that answers as its next hop says."""

    def __init__(self, hop: NextHop) -> None:
        self.connection = Connection(hop, Target("local", "local", 0))

    def deliver(self, envelope: Envelope, recipients: Recipients, content: Content) -> Awaitable[Sequence[Result]]:
        return self.connection.deliver(envelope, recipients, content)


class FakeTransports:
    """Everything goes to one NextHop."""

    def __init__(self) -> None:
        self.hop = NextHop()

    def connector(self, name: str, route: SmtpRoute | LmtpRoute) -> IConnector:
        return self.hop

    def local(self, route: MaildirRoute | DiscardRoute) -> ITransport:
        return LocalHop(self.hop)

    def use(self, terms: Mapping[str, Terms]) -> None:
        """It has terms of its own."""


def by_domain(answers: Mapping[str, Reply]) -> Callable[[Connection, Recipients], list[Result]]:
    """An `answer` that depends on the recipient's domain; 250 for those that it does not name."""
    return lambda _, recipients: [
        result for one in recipients for result in results([one], answers.get(one.address.domain, OK))
    ]


@implementer(ILogObserver)
class _Failures:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.messages.append(event["log_failure"].getErrorMessage())


@contextmanager
def failures_logged() -> Iterator[list[str]]:
    """The messages of the failures that are logged meanwhile."""
    observer = _Failures()
    globalLogPublisher.addObserver(observer)
    try:
        yield observer.messages
    finally:
        globalLogPublisher.removeObserver(observer)
