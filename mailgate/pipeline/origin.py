"""Behind a mail server of ours: filters judge the client that came there, and not the mail server."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgate.awaiting import as_deferred, run
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Evidence, Identity, Origin, Recipient, Session, Transaction
from mailgate.interfaces import IPipeline
from mailgate.message import Message
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict

__all__ = ["OriginPipeline"]

_CONTINUE = Continue()


@dataclass(frozen=True, slots=True)
class _Judged:
    """The session that stands for the client of a transaction, and the filters that it gets."""

    session: Session
    pipeline: IPipeline


@implementer(IPipeline)
class OriginPipeline:
    """The pipelines of a listener with `judge_origin`.

    Nobody is asked before MAIL, as nobody knows the client: then the stages of a session come first, about a session
    that stands for the client which XFORWARD has named, and after them those of the transaction. Where nothing was
    named, the client is who is connected; where all that was said is that it is a stranger, it is nobody we know.
    """

    def __init__(self, section: ListenerSection, pipeline: IPipeline, trusted_pipeline: IPipeline) -> None:
        self._networks = section.trusted_networks
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
        judged = self._judged(session, transaction)
        return judged.pipeline.rcpt(judged.session, transaction, recipient)

    def data(self, session: Session, transaction: Transaction) -> Verdict | Awaitable[Verdict]:
        judged = self._judged(session, transaction)
        return judged.pipeline.data(judged.session, transaction)

    def message(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Verdict] | Awaitable[Sequence[Verdict]]:
        judged = self._judged(session, transaction)
        return judged.pipeline.message(judged.session, transaction, message)

    def _judge_client(self, session: Session, transaction: Transaction) -> Generator[Awaitable[Any], Any, Verdict]:
        judged = self._judged(session, transaction)
        pipeline, client = judged.pipeline, judged.session
        verdict: Verdict = yield from _awaited(pipeline.connect(client))
        if type(verdict) is Continue and client.helo:
            verdict = yield from _awaited(pipeline.helo(client))
        # The history is told of the transaction's steps.
        transaction.trace += client.trace
        if type(verdict) is Continue:
            verdict = yield from _awaited(pipeline.mail(client, transaction))
        return _of_message(verdict)

    def _judged(self, session: Session, transaction: Transaction) -> _Judged:
        known = transaction.evidence.get(_Judged)
        if known is None:
            stands_for = self._session_of(transaction.origin, session)
            is_known = stands_for.identity is not None
            known = _Judged(stands_for, self._trusted_pipeline if is_known else self._pipeline)
            transaction.evidence.add(known)
        return known

    def _session_of(self, origin: Origin | None, session: Session) -> Session:
        if origin is None or not (origin.address or origin.source == "REMOTE"):
            return replace(session, trace=[], evidence=Evidence())
        address = ip_address(origin.address) if origin.address else None
        is_trusted = address is not None and any(address in network for network in self._networks)
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


def _awaited(verdict: Verdict | Awaitable[Verdict]) -> Generator[Awaitable[Any], Any, Verdict]:
    if isinstance(verdict, Awaitable):
        return cast(Verdict, (yield as_deferred(verdict)))
    return verdict


def _of_message(verdict: Verdict) -> Verdict:
    """The verdict as one about a message: the connection is that of our own mail server, and stays."""
    if not isinstance(verdict, Disconnect):
        return verdict
    refusal = Reject if verdict.reply.code >= 500 else Defer
    return refusal(verdict.reply, verdict.reason, evidence=verdict.evidence)
