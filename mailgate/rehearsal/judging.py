"""Mail as somebody sends it to a listener, judged by its pipelines; nothing is taken."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from mailgate.address import Address
from mailgate.awaiting import answered
from mailgate.config.schema import ListenerSection
from mailgate.envelope import PLAIN_MAIL, Client, Identity, MailParameters, Session, Transaction, new_id
from mailgate.interfaces import IEventObserver, IPipeline, IRouting
from mailgate.message import Content, MemoryBudget
from mailgate.observe.hub import EventHub
from mailgate.rehearsal.play import GoOn, RecipientFate, Rehearsal, rehearse
from mailgate.smtp.answers import may_report
from mailgate.smtp.host import session_closed
from mailgate.smtp.receiving import ContentReceiver
from mailgate.smtp.replies import ENDLESS, TOO_LARGE
from mailgate.verdict import Disconnect, Reject
from mailgate.wire.commands import parse_greeting
from mailgate.wire.fault import CommandError

__all__ = ["Judge", "Sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A mail as somebody sends it to a listener. `address` is None where it comes by a unix socket, `name` where DNS is
    to be asked for it; `identity` is who the client has proved to be, "" for nobody. Where the `content` is not known
    (None) nobody is asked about it.
    """

    listener: ListenerSection
    address: IPv4Address | IPv6Address | None
    name: str | None
    helo: str
    sender: Address
    recipients: tuple[Address, ...]
    identity: str
    content: Content | None
    parameters: MailParameters = PLAIN_MAIL


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Asks the `pipelines`, by their names, and where mail would go. `client_name` finds the confirmed name of a
    client's address, "" for none. The `observers` among the filters are told when a session is over, as those that
    hold something for it wait for that; they hear of nothing else."""

    hostname: str
    pipelines: Mapping[str, IPipeline]
    routing: IRouting
    client_name: Callable[[IPv4Address | IPv6Address], str | Awaitable[str]]
    observers: Sequence[IEventObserver] = ()

    async def judge(
        self, mail: Sent, go_on: GoOn = "never", *, was_received: bool = False
    ) -> tuple[Session, Rehearsal]:
        """What would become of a mail, and the session that it would come by. `was_received`: a session of ours has
        taken its content, which is not looked through once more."""
        listener = mail.listener
        session = Session(
            id=new_id(),
            client=Client(mail.address, name=await self._name(mail)),
            listener=listener.name,
            role=listener.role,
            hostname=self.hostname,
            protocol="LMTP" if listener.protocol == "lmtp" else "ESMTP",
            identity=_identity(mail),
        )
        pipeline = listener.pipeline
        if session.identity is not None and listener.trusted_pipeline:
            pipeline = listener.trusted_pipeline
        most = listener.max_message_size
        content = mail.content
        if mail.helo and (fault := _fault_of_greeting(mail.helo)):
            return session, _refused(mail, fault, f"the greeting {mail.helo[:100]}")
        if content is not None and content.size > most:
            return session, _refused(mail, str(TOO_LARGE), f"max_message_size of the listener is {most}")
        transaction = Transaction(
            id=new_id(),
            sender=mail.sender,
            declared_size=None if content is None else content.size,
            parameters=mail.parameters,
        )
        try:
            rehearsal = await rehearse(
                self.pipelines[pipeline],
                self.routing,
                session,
                transaction,
                mail.helo,
                mail.recipients,
                content,
                None if was_received or content is None else _fault(content, most),
                go_on,
                may_report=may_report(listener, session),
            )
        finally:
            EventHub(self.observers).publish(session_closed(session, now=0.0, started=0.0, cause="quit"))
        return session, rehearsal

    async def _name(self, mail: Sent) -> str:
        if mail.name is not None:
            return mail.name
        if mail.address is None or mail.address.is_loopback or not mail.listener.resolve_clients:
            return ""
        return await answered(self.client_name(mail.address))


def _refused(mail: Sent, reply: str, reason: str) -> Rehearsal:
    """What the session itself refuses, before any filter is asked."""
    return Rehearsal(
        recipients=[RecipientFate(str(one), "refused", reply=reply, reason=reason) for one in mail.recipients]
    )


def _fault_of_greeting(helo: str) -> str:
    """What a session says to a greeting that it refuses, so that no MAIL can follow; "" where it takes it."""
    try:
        parse_greeting(helo)
    except CommandError as error:
        return str(error.reply)
    return ""


def _fault(content: Content, most: int) -> Reject | Disconnect | None:
    """How a session refuses the content, if it does."""
    # It lies in memory already: no file is made.
    receiver = ContentReceiver(Path(), sys.maxsize, most, MemoryBudget(sys.maxsize))
    tail = b"\r\n"
    for chunk in content.chunks():
        # Nothing can be wrong with a dot, and without one there is nothing to stuff.
        receiver.feed(chunk.replace(b".", b"-"))
        if receiver.is_endless:
            return Disconnect(ENDLESS, "the content went on far past a fault")
        tail = (tail + chunk)[-2:]
    receiver.feed(b".\r\n" if tail == b"\r\n" else b"\r\n.\r\n")
    return Reject(receiver.refusal, receiver.reason) if receiver.refusal else None


def _identity(mail: Sent) -> Identity | None:
    if mail.identity:
        return Identity(mail.identity, "PLAIN")
    listener = mail.listener
    if listener.role == "inbound":
        return None
    if mail.address is None:
        return Identity("local", "network")
    trusted = any(mail.address in network for network in listener.trusted_networks)
    return Identity(str(mail.address), "network") if trusted else None
