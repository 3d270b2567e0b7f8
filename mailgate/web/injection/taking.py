"""One message that was handed in: judged at every stage as mail of a session is, and taken by the intake."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from pathlib import Path

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mailgate.address import Address
from mailgate.awaiting import answered
from mailgate.config.injection import InjectionSection
from mailgate.envelope import Client, Identity, Recipient, Session, Transaction, new_id
from mailgate.findings import Finding, Stream
from mailgate.interfaces import IEvents, IIntake, IPipeline, IRouting
from mailgate.message import ContentWriter, MemoryBudget, Message, release
from mailgate.observe.refusal import RefusalTeller
from mailgate.reply import Reply
from mailgate.smtp.answers import answers_to, tell_refusals
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from mailgate.web.injection.composing import Draft

__all__ = ["Caller", "Objection", "Tagged", "Taker"]

#: Octets that are written between two turns of others.
_AT_ONCE = 2 * 1024**2
_NO_ROOM = Reply.of(452, "4.3.1", "Insufficient system storage")


class Caller(Struct, frozen=True):
    """Who makes a call: the token's name, from where, and whether under TLS."""

    token: str
    client: Client
    is_tls: bool = False


class Objection(Struct, frozen=True):
    """Why a message is not taken; `path` is the field that the reply is about, "" for the message."""

    path: str
    reply: Reply


class Tagged(Finding):
    """The words by which a sender finds its mail again."""

    __slots__ = ("tags",)

    def __init__(self, tags: Sequence[str]) -> None:
        self.tags = tuple(tags)

    def summary(self) -> str:
        return f"tags {' '.join(self.tags)}"

    def facts(self) -> Sequence[str]:
        return [f"tag.{one.lower()}" for one in self.tags]


class Taker:
    """By one configuration. Content that passes `memory_limit` octets, or has no room in the `budget`, goes to
    `incoming`."""

    def __init__(
        self,
        section: InjectionSection,
        *,
        hostname: str,
        pipeline: IPipeline,
        routing: IRouting,
        intake: IIntake,
        events: IEvents,
        clock: IReactorTime,
        incoming: Path,
        memory_limit: int,
        budget: MemoryBudget,
    ) -> None:
        self.section = section
        self.hostname = hostname
        self._pipeline = pipeline
        self._routing = routing
        self._intake = intake
        self._events = events
        self._clock = clock
        self._incoming = incoming
        self._memory_limit = memory_limit
        self._budget = budget

    async def begin(self, caller: Caller) -> Session | Objection:
        """What stands for the session of a call, where the filters let this identity in."""
        identity = Identity(caller.token, "token")
        session = Session(
            id=new_id(),
            client=caller.client,
            listener=self.section.name,
            role="outbound",
            hostname=self.hostname,
            protocol="HTTPS" if caller.is_tls else "HTTP",
            helo=str(caller.client.address or ""),
            identity=identity,
        )
        verdict = await _judged(self._pipeline.auth(session, identity))
        reply = _refusal(verdict)
        if reply is None:
            return session
        self._teller(session).tell("auth", reply, _reason(verdict), trace=session.trace, user=caller.token)
        return Objection("", reply)

    async def take(
        self, session: Session, draft: Draft, *, stream: str, tags: Sequence[str], mark: str
    ) -> Sequence[Objection]:
        """Make it durable, with the mark, if any; or all objections. Nothing raises but OSError of the disk."""
        transaction = Transaction(
            id=draft.id,
            sender=draft.sender,
            declared_size=len(draft.content),
            parameters=draft.parameters,
            mark=mark,
        )
        if stream:
            transaction.evidence.add(Stream(stream))
        if tags:
            transaction.evidence.add(Tagged(tags))
        teller = self._teller(session)
        no_room = self._intake.refuse_before_data(len(draft.content))
        if no_room is not None:
            teller.tell("mail", no_room, "the spool cannot take it", transaction=transaction)
            return [Objection("", no_room)]
        verdict = await _judged(self._pipeline.mail(session, transaction))
        if (reply := _refusal(verdict)) is not None:
            teller.tell("mail", reply, _reason(verdict), trace=transaction.trace, transaction=transaction)
            return [Objection("from", reply)]
        objections = [
            objection
            for path, address in draft.recipients
            if (objection := await self._add(session, transaction, path, address, teller)) is not None
        ]
        if objections:
            return objections
        verdict = await _judged(self._pipeline.data(session, transaction))
        if (reply := _refusal(verdict)) is not None:
            teller.tell("data", reply, _reason(verdict), trace=transaction.trace, transaction=transaction)
            return [Objection("", reply)]
        return await self._take_content(session, transaction, draft, teller)

    async def _add(
        self, session: Session, transaction: Transaction, path: str, address: Address, teller: RefusalTeller
    ) -> Objection | None:
        """Add a recipient, or say why not."""
        placing = self._routing.route(session, transaction, address)
        placed = await placing if isinstance(placing, Awaitable) else placing
        if isinstance(placed, Reject | Defer):
            teller.tell("rcpt", placed.reply, placed.reason, transaction=transaction, recipients=[address])
            return Objection(path, placed.reply)
        recipient = Recipient(address=address)
        if isinstance(placed, str):
            recipient.route = placed
        else:
            recipient.targets = placed
        verdict = await _judged(self._pipeline.rcpt(session, transaction, recipient))
        reply = _refusal(verdict)
        if reply is None:
            transaction.recipients.append(recipient)
            return None
        reason = _reason(verdict)
        teller.tell("rcpt", reply, reason, trace=transaction.trace, transaction=transaction, recipients=[address])
        return Objection(path, reply)

    async def _take_content(
        self, session: Session, transaction: Transaction, draft: Draft, teller: RefusalTeller
    ) -> Sequence[Objection]:
        writer = ContentWriter(self._incoming, self._memory_limit, self._budget)
        try:
            for at in range(0, len(draft.content), _AT_ONCE):
                if at:
                    await deferLater(self._clock, 0)
                writer.write(draft.content[at : at + _AT_ONCE])
            content = writer.finish()
        except OSError as error:
            writer.abandon()
            teller.tell("content", _NO_ROOM, f"it cannot be written: {error}", transaction=transaction)
            return [Objection("", _NO_ROOM)]
        content.is_whole_lines = True
        message = Message(content)
        verdicts = await answered(self._pipeline.message(session, transaction, message))
        told = answers_to(verdicts, is_lmtp=False)
        if told is not None:
            tell_refusals(teller, transaction, message, verdicts, told)
            if None not in told:
                content.discard()
                content.give_back()
                release([*transaction.edits, *transaction.edits_for])
                return [Objection("", reply) for reply in dict.fromkeys(told) if reply is not None]
        session.messages += 1
        answers = await self._intake.take(session, transaction, content, verdicts)
        return [Objection("", one) for one in dict.fromkeys(answers) if not one.is_positive]

    def _teller(self, session: Session) -> RefusalTeller:
        return RefusalTeller(session, self._events, self._clock)


async def _judged(verdict: Verdict | Awaitable[Verdict]) -> Verdict:
    return await verdict if isinstance(verdict, Awaitable) else verdict


def _refusal(verdict: Verdict) -> Reply | None:
    return verdict.reply if isinstance(verdict, Reject | Defer | Disconnect) else None


def _reason(verdict: Verdict) -> str:
    return getattr(verdict, "reason", "")
