"""A session as a mail server tells it, step by step, and what is answered to each; no transport.

client - greeting - (sender - recipient... - data - header... - body... - end)...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from msgspec.structs import replace
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from mailgate.address import Address, AddressError
from mailgate.envelope import Identity, Session, Target, Transaction, new_id, origin_of
from mailgate.interfaces import IPipeline
from mailgate.mta.milter.answering import STAGES, Answering, is_objection
from mailgate.mta.milter.ending import Ending
from mailgate.mta.milter.gathering import TOO_LARGE, Gathering
from mailgate.mta.milter.named import Named, put_off, put_off_reply
from mailgate.mta.milter.services import LOCAL_ERROR, MilterServices, judged
from mailgate.mta.milter.told import (
    client_of,
    destination_of,
    id_of,
    identity_of,
    known_of,
    mail_of,
    path_of,
    recipient_of,
    tls_of,
)
from mailgate.reply import Reply
from mailgate.smtp.host import session_closed
from mailgate.smtp.peer import is_in
from mailgate.verdict import Defer, Reject, Verdict
from mailgate.wire.milter.codec import Answer, PacketError
from mailgate.wire.milter.commands import (
    BodyTold,
    ClientTold,
    Command,
    GreetingTold,
    HeaderTold,
    MacrosTold,
    RecipientTold,
    SenderTold,
    code_of,
)
from mailgate.wire.milter.negotiation import Agreement
from mailgate.wire.milter.words import Code, Plain

__all__ = ["MilterSession"]

T = TypeVar("T")

_log = Logger()

_BAD_SENDER = Reply.of(553, "5.1.7", "The sender's address cannot be read")
_BAD_RECIPIENT = Reply.of(553, "5.1.3", "The recipient's address cannot be read")
_ONE_BAD_RECIPIENT = Reply.of(553, "5.1.3", "One of the recipients' addresses cannot be read: nobody has got it")
_TOO_MANY = Reply.of(452, "4.5.3", "Too many recipients")

_MAX_HELO = 255


class MilterSession:
    """One client of a mail server, and then the next. `say` sends an answer, and comes back when there is room for
    another one.

    `take` raises PacketError for what the protocol does not allow there, and CancelledError where it is given up.
    """

    def __init__(
        self, services: MilterServices, agreement: Agreement, say: Callable[[Answer], Awaitable[None]]
    ) -> None:
        self._services = services
        self._agreement = agreement
        self._answers = Answering(services, agreement, say)
        self._macros: dict[str, str] = {}  # what is known
        self._told: dict[str, str] = {}  # of that, what belongs to the step that comes next
        self._session: Session | None = None
        self._started = self._until = 0.0  # when the session began, and until when the mail server waits
        self._pipeline: IPipeline = services.pipeline
        self._transaction: Transaction | None = None
        self._named = Named()
        self._gathering: Gathering | None = None

    @property
    def is_in_message(self) -> bool:
        """Whether a message has begun, and its end has not been answered."""
        return self._transaction is not None

    async def take(self, command: Command) -> None:
        """One step, and its answer."""
        self._answers.is_answered = False
        code, transaction = code_of(command), self._transaction
        try:
            await self._step(command)
        except (PacketError, CancelledError):
            raise
        except Exception:
            # Whoever cuts the connection leaves it to the mail server what becomes of the message; a second answer
            # would be taken for that to the next step.
            if self._answers.is_answered or code not in STAGES or self._answers.is_quiet(code):
                raise
            _log.failure("a step of a session failed")
            await self._refuse(code, LOCAL_ERROR, "a fault of ours: the log tells more", transaction)

    async def _step(self, command: Command) -> None:
        if not isinstance(command, MacrosTold | ClientTold):
            self._told = {}
        self._until = self._services.clock.seconds() + self._services.section.command_timeout
        match command:
            case MacrosTold(values):
                self._remember(values)
            case ClientTold():
                await self._connect(command)
            case Code.ABORT:
                self._forget()
            case Code.UNKNOWN:
                await self._answers.go_on(Code.UNKNOWN)
            case RecipientTold() if put_off_reply(self._answers.over, self._require_session().client):
                await self._answers.say(Plain.CONTINUE)
            case _ if self._answers.over is not None:
                await self._answers.go_on(code_of(command))
            case GreetingTold(name):
                await self._helo(name)
            case SenderTold():
                await self._mail(command)
            case RecipientTold():
                await self._rcpt(command)
            case Code.DATA:
                await self._data()
            case HeaderTold(name, value):
                self._receive().field(name, value)
                await self._answers.go_on(Code.HEADER)
            case Code.END_OF_HEADER:
                self._receive()
                await self._answers.go_on(Code.END_OF_HEADER)
            case BodyTold(data, is_last):
                self._receive().body(data)
                await (self._end() if is_last else self._answers.go_on(Code.BODY))
            case _:
                raise PacketError(f"{type(command).__name__} within a session")

    def end(self, cause: str) -> None:
        """The client is gone; `cause` as in SessionClosed."""
        self._forget()
        session, self._session = self._session, None
        self._macros.clear()
        if session is not None:
            now = self._services.clock.seconds()
            self._services.events.publish(session_closed(session, now=now, started=self._started, cause=cause))

    # -- steps

    async def _connect(self, told: ClientTold) -> None:
        services, section = self._services, self._services.section
        macros = self._told  # and nothing that was told of the client before
        self.end("quit")
        self._macros, self._told = dict(macros), {}
        self._answers.over = None
        self._started = services.clock.seconds()
        self._session = session = Session(
            id=new_id(),
            client=client_of(told, macros),
            listener=services.name,
            role=section.role,
            hostname=services.hostname,
            destination=destination_of(macros),
        )
        self._pipeline = services.pipeline
        if section.role != "inbound" and (told.is_local or is_in(session.client, section.trusted_networks)):
            session.identity = Identity(str(session.client.address or "local"), "network")
            self._pipeline = services.trusted_pipeline
        await self._answer(Code.CONNECT, "connect", await self._judged(self._pipeline.connect(session)))

    async def _helo(self, name: str) -> None:
        session = self._require_session()
        session.helo = name[:_MAX_HELO] if name.isprintable() else "invalid"
        self._look_at_macros(session)
        await self._answer(Code.HELO, "helo", await self._judged(self._pipeline.helo(session)))

    async def _mail(self, told: SenderTold) -> None:
        session, services = self._require_session(), self._services
        self._forget(keeps_id=True)
        identity = identity_of(self._macros) if session.role != "inbound" else None
        if identity is not None and identity != session.identity:
            verdict = await self._judged(self._pipeline.auth(session, identity))
            if is_objection(verdict):
                await self._answer(Code.MAIL, "auth", verdict, user=identity.name)
                return
            session.identity = identity
            self._pipeline = services.trusted_pipeline
        self._look_at_macros(session)
        try:
            understood = self._macros.pop("mail_addr", "")
            sender = path_of(told.path, services.hostname, allow_null=True, understood=understood)
        except AddressError as error:
            await self._refuse(Code.MAIL, _BAD_SENDER, f"MAIL FROM:{told.path[:300]}: {error}")
            return
        size, parameters = mail_of(told.parameters, services.clock.seconds())
        transaction = Transaction(id=new_id(), sender=sender, declared_size=size, parameters=parameters)
        self._name(session, transaction)
        limit = services.section.max_message_size
        if size is not None and size > limit:
            await self._refuse(Code.MAIL, TOO_LARGE, f"SIZE={size} is over {limit}", transaction)
            return
        no_room = services.intake.refuse_before_data(size)
        if no_room is not None:
            await self._refuse(Code.MAIL, no_room, "there is no room for its content", transaction)
            return
        verdict = await self._judged(self._pipeline.mail(session, transaction))
        if not is_objection(verdict):
            self._transaction = transaction
        await self._answer(Code.MAIL, "mail", verdict, transaction)

    async def _rcpt(self, told: RecipientTold) -> None:
        session, transaction = self._require_session(), self._require_transaction()
        self._name(session, transaction)
        try:
            address = path_of(told.path, self._services.hostname, understood=self._macros.pop("rcpt_addr", ""))
        except AddressError as error:
            text = f"RCPT TO:{told.path[:300]}: {error}"
            if put_off_reply(_BAD_RECIPIENT, session.client):
                self._named.unreadable = self._named.unreadable or text
                await self._answers.go_on(Code.RCPT)
            else:
                await self._refuse(Code.RCPT, _BAD_RECIPIENT, text, transaction)
            return
        named = self._named
        if named.is_full:
            await self._refuse(Code.RCPT, _TOO_MANY, "more recipients than any message has", transaction)
            return
        if address in named.written:
            named.add(address, told.written)
            await self._answers.go_on(Code.RCPT)
            return
        recipient = recipient_of(address, told.parameters)
        expanded = await self._within_time(self._services.expand(address))
        if isinstance(expanded, Reject | Defer):
            verdict: Verdict = expanded
        else:
            recipient.targets = tuple(Target(one, "") for one in expanded or ())
            verdict = await self._judged(self._pipeline.rcpt(session, transaction, recipient))
        refusal = put_off(verdict, session.client)
        if refusal is not None:
            named.add(address, told.written)
            named.refused.append((recipient, refusal))
            await self._answers.go_on(Code.RCPT)
            return
        if not is_objection(verdict):
            named.add(address, told.written)
            transaction.recipients.append(recipient)
        await self._answer(Code.RCPT, "rcpt", verdict, transaction, address)

    async def _data(self) -> None:
        session, transaction = self._require_session(), self._require_transaction()
        self._name(session, transaction)
        verdict = await self._judged(self._pipeline.data(session, transaction))
        await self._answer(Code.DATA, "data", verdict, transaction)

    async def _end(self) -> None:
        session, transaction, gathering = self._require_session(), self._require_transaction(), self._receive()
        self._name(session, transaction)
        self._gathering = None
        session.messages += 1
        content = gathering.finish()
        try:
            if content is None:
                reply = gathering.refusal or LOCAL_ERROR
                await self._refuse(Code.END_OF_BODY, reply, gathering.reason, transaction)
                return
            if self._named.unreadable:
                content.discard()
                content.give_back()
                await self._refuse(Code.END_OF_BODY, _ONE_BAD_RECIPIENT, self._named.unreadable, transaction)
                return
            ending = Ending(
                self._services, self._agreement, session, transaction, content, self._named, self._answers.say
            )
            self._answers.over = await ending.conclude(self._pipeline)
        finally:
            self._forget()

    # -- what they share

    async def _judged(self, verdict: Verdict | Awaitable[Verdict]) -> Verdict:
        return await self._within_time(verdict)

    async def _within_time(self, answer: T | Awaitable[T]) -> T | Defer:
        clock = self._services.clock
        return await judged(answer, clock, max(self._until - clock.seconds(), 0.0))

    async def _answer(
        self,
        code: Code,
        stage: str,
        verdict: Verdict,
        transaction: Transaction | None = None,
        recipient: Address | None = None,
        user: str = "",
    ) -> None:
        await self._answers.answer(self._require_session(), code, stage, verdict, transaction, recipient, user)

    async def _refuse(self, code: Code, reply: Reply, reason: str, transaction: Transaction | None = None) -> None:
        await self._answers.refuse(self._require_session(), code, reply, reason, transaction)

    def _receive(self) -> Gathering:
        self._require_transaction()
        if self._gathering is None:
            services = self._services
            self._gathering = Gathering(
                services.incoming,
                services.memory_limit,
                services.section.max_message_size,
                services.budget,
                keeps_space=self._agreement.keeps_space,
            )
        return self._gathering

    def _forget(self, *, keeps_id: bool = False) -> None:
        """The message is over, or will never be complete. Its id may have been told before MAIL."""
        if self._gathering is not None:
            self._gathering.abandon()
        self._gathering = self._transaction = None
        self._named = Named()
        if not keeps_id:
            self._macros.pop("i", None)

    def _remember(self, values: Mapping[str, str]) -> None:
        known = known_of(values)
        self._macros |= known
        self._told |= known

    def _look_at_macros(self, session: Session) -> None:
        session.tls = tls_of(self._macros)
        has_login = session.identity is not None and session.identity.mechanism != "network"
        session.protocol = f"ESMTP{'S' if session.tls is not None else ''}{'A' if has_login else ''}"

    def _name(self, session: Session, transaction: Transaction) -> None:
        """Take down what the mail server calls the message, which it may know from its first recipient on only."""
        ident = id_of(self._macros)
        if transaction.origin is None or transaction.origin.ident != ident:
            transaction.origin = replace(origin_of(session), ident=ident)

    def _require_session(self) -> Session:
        if self._session is None:
            raise PacketError("a step before the client was told")
        return self._session

    def _require_transaction(self) -> Transaction:
        if self._transaction is None:
            raise PacketError("a step outside a message")
        return self._transaction
