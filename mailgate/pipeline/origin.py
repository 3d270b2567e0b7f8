"""Behind a mail server of ours: filters judge the client that came there, and not the mail server."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from ipaddress import ip_address
from typing import Any, cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.awaiting import as_deferred, run
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Evidence, Identity, Origin, Recipient, Session, Transaction
from mailgate.interfaces import IPipeline
from mailgate.message import Message
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict

__all__ = ["OriginPipeline"]

_log = Logger()

_CONTINUE = Continue()

_FORGOTTEN = "XFORWARD was offered and not used (in Postfix: -o smtp_send_xforward_command=yes in master.cf)"
_NOT_OFFERED = "XFORWARD was not offered, as that address is not in xforward_from"


@implementer(IPipeline)
class OriginPipeline:
    """The pipelines of a listener with `judge_origin`.

    Nobody is asked before MAIL, as nobody knows the client: then the stages of a session come first, about a session
    that stands for the client which XFORWARD has named, and after them those of the transaction. Where nothing was
    named, the client is who is connected; where all that was said is that there was one, it is nobody we know.
    Of mail of its own a mail server says that it is (`SOURCE=LOCAL`): where nothing at all was said the log tells so,
    once, as somebody may have forgotten a setting.
    """

    def __init__(self, section: ListenerSection, pipeline: IPipeline, trusted_pipeline: IPipeline) -> None:
        self._section = section
        self._has_told = False
        self._pipeline = pipeline
        self._trusted_pipeline = trusted_pipeline
        self.stages = frozenset({*pipeline.stages, *trusted_pipeline.stages, "mail"} - {"connect", "helo", "auth"})

    def connect(self, session: Session) -> Verdict:
        return _CONTINUE

    def helo(self, session: Session) -> Verdict:
        return _CONTINUE

    def auth(self, session: Session, identity: Identity) -> Verdict:
        return _CONTINUE

    def mail(self, session: Session, transaction: Transaction) -> Verdict | Deferred[Verdict]:
        return run(self._judge_client(session, transaction))

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict | Awaitable[Verdict]:
        client, pipeline = self._judged(session, transaction)
        return _staying(pipeline.rcpt(client, transaction, recipient))

    def data(self, session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        client, pipeline = self._judged(session, transaction)
        return _staying(pipeline.data(client, transaction))

    def message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Verdict] | Awaitable[Sequence[Verdict]]:
        client, pipeline = self._judged(session, transaction)
        verdicts = pipeline.message(client, transaction, message)
        return as_deferred(verdicts).addCallback(_all) if isinstance(verdicts, Awaitable) else _all(verdicts)

    def _judge_client(self, session: Session, transaction: Transaction) -> Generator[Awaitable[Any], Any, Verdict]:
        client, pipeline = self._judged(session, transaction)
        verdict: Verdict = yield from _awaited(pipeline.connect(client))
        if type(verdict) is Continue and client.helo:
            verdict = yield from _awaited(pipeline.helo(client))
        # The history is told of the transaction's steps.
        transaction.trace += client.trace
        if type(verdict) is Continue:
            verdict = yield from _awaited(pipeline.mail(client, transaction))
        return _of_message(verdict)

    def _judged(self, session: Session, transaction: Transaction) -> tuple[Session, IPipeline]:
        """The session that stands for the client of a transaction, and the filters that it gets."""
        client = transaction.judged_as
        if client is None:
            client = transaction.judged_as = self._session_of(transaction.origin, session)
        return client, self._pipeline if client.identity is None else self._trusted_pipeline

    def _session_of(self, origin: Origin | None, session: Session) -> Session:
        if origin is None:
            self._tell(session.proxy or session.client)
        if origin is None or not _is_of_client(origin):
            return replace(session, trace=[], evidence=Evidence())
        address = ip_address(origin.address) if origin.address else None
        is_trusted = address is not None and any(address in network for network in self._section.trusted_networks)
        return replace(
            session,
            client=Client(address, origin.port, origin.name) if address else Client(None),
            helo=origin.helo,
            protocol=origin.protocol if origin.protocol in ("SMTP", "ESMTP") else "ESMTP",
            identity=Identity(origin.address, "network") if is_trusted else None,
            tls=None,
            proxy=session.client,
            carrier=session,
            trace=[],
            evidence=Evidence(),
        )

    def _tell(self, peer: Client) -> None:
        if self._has_told:
            return
        self._has_told = True
        is_offered = peer.address is not None and any(peer.address in one for one in self._section.xforward_from)
        _log.warn(
            "listener {listener}: {peer} has brought mail and not said whose it is, so filters take it for mail of its "
            "own: {why}",
            listener=self._section.name,
            peer=str(peer),
            why=_FORGOTTEN if is_offered else _NOT_OFFERED,
        )


def _is_of_client(origin: Origin) -> bool:
    """Whether somebody has come to the mail server with this; its own mail has neither address nor greeting."""
    if origin.address or origin.source:
        return bool(origin.address) or origin.source == "REMOTE"
    return bool(origin.name or origin.helo or origin.protocol)


def _awaited(verdict: Verdict | Awaitable[Verdict]) -> Generator[Awaitable[Any], Any, Verdict]:
    if isinstance(verdict, Awaitable):
        return cast(Verdict, (yield as_deferred(verdict)))
    return verdict


def _staying(answer: Verdict | Awaitable[Verdict]) -> Verdict | Awaitable[Verdict]:
    return as_deferred(answer).addCallback(_of_message) if isinstance(answer, Awaitable) else _of_message(answer)


def _all(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    return [_of_message(one) for one in verdicts]


def _of_message(verdict: Verdict) -> Verdict:
    """The verdict as one about a message: the connection is that of our own mail server, and stays."""
    if not isinstance(verdict, Disconnect):
        return verdict
    refusal = Reject if verdict.reply.code >= 500 else Defer
    return refusal(verdict.reply, verdict.reason, evidence=verdict.evidence)
