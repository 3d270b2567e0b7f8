"""A session as a milter hears of it: whatever stage comes next, the milter is told first what it has not heard yet."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool

from mailgate.address import Address
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.spam_fields import whole_lines
from mailgate.message import (
    BodyEdit,
    Content,
    ContentWriter,
    Edit,
    HeaderField,
    Message,
    ReplaceBody,
    apply_edits,
    behind_header,
    body_edits,
    edited_body,
    release,
    split_header,
)
from mailgate.scanners.milter.changes import envelope_edits, header_edits
from mailgate.scanners.milter.client import MilterClient
from mailgate.scanners.milter.conversation import GO_ON, Conversation, Outcome
from mailgate.scanners.milter.error import MilterError
from mailgate.scanners.milter.macros import message_macros, recipient_macros, session_macros
from mailgate.wire.milter.words import Plain

__all__ = ["Talk"]

#: Octets of a new body that are kept in memory; more lie in a file.
_IN_MEMORY = 256 * 1024
#: How much larger than the old body a new one may be.
_MORE = 16 * 1024 * 1024


class Talk:
    """What a milter has been told of a session, and what it said.

    Its conversation begins when it is first needed. Where it ends before the session does, nothing more is asked in the
    transaction that it ended in: that fails with MilterError to its end. The next one begins a new conversation.
    """

    def __init__(
        self, client: MilterClient, hostname: str, macros: Mapping[str, str], directory: Path, reactor: IReactorTime
    ) -> None:
        self._client = client
        self._reactor = reactor
        self._hostname = hostname
        self._macros = macros
        self._directory = directory
        self._conversation: Conversation | None = None
        self._is_reused = False
        self._is_connected = False  # CONNECT has been said
        self._helo: str | None = None
        self._session_outcome = GO_ON
        self._message = _Heard("")
        self._lost_in: tuple[str, str] = ("", "")  # the transaction, and why

    @property
    def server(self) -> str:
        """Which milter it is, for people."""
        return self._conversation.server if self._conversation is not None else ""

    async def session(self, session: Session, stage: Literal["connect", "helo"]) -> Outcome:
        """Tell of the client, and of its greeting."""
        try:
            return await self._session(session, stage == "helo", again=stage == "helo")
        except BaseException:
            self._drop()
            raise

    async def envelope(
        self,
        session: Session,
        transaction: Transaction,
        stage: Literal["mail", "rcpt", "data"],
        recipient: Recipient | None = None,
    ) -> Outcome:
        """Tell of a message, a recipient, or that the content comes."""
        try:
            return await self._envelope(session, transaction, stage, recipient)
        except BaseException as error:
            self._lose(transaction, error)
            raise

    async def content(
        self, session: Session, transaction: Transaction, message: Message, edits: Sequence[Edit] = ()
    ) -> Outcome:
        """Show the content, as `edits` have left it. What the milter changes is kept for `take_edits`."""
        try:
            if self._message.transaction == transaction.id and self._message.is_shown:
                # It goes on as several messages, of which this is another one.
                await self._begin_message(transaction)
            outcome = await self._envelope(session, transaction, "data", None)
            if not outcome.is_final and not self._message.is_shown:
                outcome = await self._content(session, transaction, message, edits)
        except BaseException as error:
            self._lose(transaction, error)
            raise
        self._message.is_shown = True
        self._message.outcome = outcome
        return outcome

    def skip(self, transaction: Transaction) -> None:
        """The content of this message is not shown."""
        if self._message.transaction != transaction.id:
            self._forget(transaction.id)
        self._message.is_shown = True

    def take_edits(self, transaction: Transaction) -> Sequence[Edit]:
        """What is changed about this message: nothing where its content has not been shown, as another filter has
        accepted it before. MilterError where the milter was lost in it."""
        if self._lost_in[0] == transaction.id:
            raise MilterError(f"lost in this transaction: {self._lost_in[1]}")
        if self._message.transaction != transaction.id:
            return ()
        self._message.is_taken = True
        return self._message.edits

    def late_refusals(self, transaction: Transaction) -> Mapping[Address, Outcome]:
        """Recipients that were refused when it was too late to say so."""
        return self._message.refused if self._message.transaction == transaction.id else {}

    async def end(self) -> None:
        """The session is over."""
        self._message.let_go()
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            await self._client.end(conversation)

    async def _session(self, session: Session, greeted: bool, *, again: bool = False) -> Outcome:
        """`greeted`: with the greeting, once more if `again`."""
        if self._conversation is None or not self._conversation.is_open:
            await self._begin()
        while True:
            conversation = self._require()
            try:
                return await self._introduce(conversation, session, greeted, again)
            except MilterError:
                # One that was kept may have been closed meanwhile; the milter has heard nothing of this session then.
                if not self._is_reused or self._is_connected:
                    raise
            self._reset()
            self._conversation, self._is_reused = await self._client.begin(), False

    async def _begin(self) -> None:
        self._drop()
        kept = self._client.take()
        self._is_reused = kept is not None
        self._conversation = kept or await self._client.begin()

    async def _introduce(self, conversation: Conversation, session: Session, greeted: bool, again: bool) -> Outcome:
        macros = {**session_macros(session, self._hostname), **self._macros}
        if not self._is_connected:
            client = session.client
            outcome = await conversation.connect(client.name or "unknown", client.address, client.port, macros)
            self._is_connected = True
            self._session_outcome = outcome
        if self._session_outcome.is_final:
            return self._session_outcome
        if not greeted or not session.helo or (session.helo == self._helo and not again):
            return GO_ON
        await conversation.abort()  # a greeting ends what transaction there was
        self._helo = session.helo
        outcome = await conversation.helo(session.helo, macros)
        if outcome.word is Plain.ACCEPT:
            self._session_outcome = outcome
        elif outcome.is_final:
            self._helo = None  # one that goes on all the same hears it again
        return outcome

    async def _envelope(
        self, session: Session, transaction: Transaction, stage: str, recipient: Recipient | None
    ) -> Outcome:
        lost_in, why = self._lost_in
        if lost_in == transaction.id:
            raise MilterError(f"lost in this transaction: {why}")
        if self._message.transaction != transaction.id:
            await self._begin_message(transaction)
        elif self._conversation is not None and not self._conversation.is_open:
            raise MilterError(self._conversation.fault)
        heard = self._message
        if heard.outcome.is_final:
            return heard.outcome
        outcome = await self._session(session, greeted=True)
        if outcome.is_final:
            return outcome
        conversation = self._require()
        macros = self._all_macros(session, transaction)
        if not heard.is_begun:
            heard.is_begun = True
            parameters = _mail_parameters(transaction)
            heard.outcome = await conversation.mail(str(transaction.sender), parameters, macros)
            if heard.outcome.is_final or stage == "mail":
                return heard.outcome
        for one in transaction.recipients:
            if one.address in heard.refused:
                continue
            # Those who were accepted while the milter was not asked.
            outcome = await self._recipient(conversation, one, macros)
            if outcome.is_refusal:
                heard.refused[one.address] = outcome
            elif outcome.is_final:
                return outcome
        if recipient is not None:
            return await self._recipient(conversation, recipient, macros)
        if stage == "data" and not heard.has_data:
            heard.has_data = True
            heard.outcome = await conversation.data(macros)
        return heard.outcome

    async def _recipient(self, conversation: Conversation, recipient: Recipient, macros: Mapping[str, str]) -> Outcome:
        heard = self._message
        if recipient.address in heard.recipients:
            return GO_ON
        own = {**macros, **recipient_macros(recipient), **self._macros}
        outcome = await conversation.rcpt(str(recipient.address), _rcpt_parameters(recipient), own)
        if not outcome.is_refusal:
            heard.recipients.add(recipient.address)
            heard.refused.pop(recipient.address, None)
        if outcome.is_final and not outcome.is_refusal:  # accepted, or discarded: that is about the message
            heard.outcome = outcome
        return outcome

    async def _content(
        self, session: Session, transaction: Transaction, message: Message, edits: Sequence[Edit]
    ) -> Outcome:
        conversation = self._require()
        content = message.content
        fields = [one for one in split_header(apply_edits(content.header, edits)) if one.name]
        before = body_edits(edits)
        body = _body_of(content, before)
        sink = _NewBody(self._directory, content.size + _MORE, self._reactor)
        try:
            outcome = await conversation.content(
                map(_name_and_value, fields), body, self._all_macros(session, transaction), sink
            )
            if not outcome.is_refusal and outcome.word is not Plain.DISCARD:
                found = header_edits(fields, outcome.changes, conversation.agreement.keeps_space) + envelope_edits(
                    outcome.changes
                )
                self._message.edits = [*found, *await sink.edits(outcome.has_body, len(before))]
        finally:
            sink.close()
            body.close()
        return outcome

    async def _begin_message(self, transaction: Transaction) -> None:
        self._forget(transaction.id)
        if self._conversation is not None and self._conversation.is_open:
            await self._conversation.abort()

    def _forget(self, transaction: str) -> None:
        """Another message: what was to be changed about the one before is not done any more."""
        self._message.let_go()
        self._message = _Heard(transaction)
        self._lost_in = ("", "")

    def _all_macros(self, session: Session, transaction: Transaction) -> dict[str, str]:
        return {**session_macros(session, self._hostname), **message_macros(transaction), **self._macros}

    def _require(self) -> Conversation:
        if self._conversation is None:
            raise MilterError("there is no conversation")
        return self._conversation

    def _lose(self, transaction: Transaction, error: BaseException) -> None:
        if self._lost_in[0] != transaction.id:
            self._lost_in = (transaction.id, str(error) or type(error).__name__)
        self._message.let_go()
        self._drop()

    def _drop(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
        self._conversation = None
        self._reset()

    def _reset(self) -> None:
        self._is_connected = False
        self._helo = None
        self._session_outcome = GO_ON


class _Heard:
    """What a milter has heard of a message. `outcome` is final where it wants to hear no more."""

    def __init__(self, transaction: str) -> None:
        self.transaction = transaction
        self.is_begun = self.has_data = self.is_shown = self.is_taken = False
        self.recipients: set[Address] = set()
        self.refused: dict[Address, Outcome] = {}
        self.outcome = GO_ON
        self.edits: list[Edit] = []

    def let_go(self) -> None:
        """What it changes is not done any more, unless somebody has taken it over."""
        if not self.is_taken:
            release(self.edits)
        self.edits = []


class _NewBody:
    """A body that a milter sends in the place of another; MilterError where it has more than `most` octets.

    Single CRs and LFs are made line ends, as a milter may write either.
    """

    def __init__(self, directory: Path, most: int, reactor: IReactorTime) -> None:
        self._writer = ContentWriter(directory, _IN_MEMORY)
        self._threads = IReactorThreads(reactor, None)
        self._reactor = IReactorFromThreads(reactor, None)
        self._most = most
        self._ends_in_cr = False
        self._is_done = False

    def write(self, data: bytes, /) -> None:
        """A piece of it."""
        if self._ends_in_cr:
            data = b"\r" + data
        self._ends_in_cr = data.endswith(b"\r")
        data = data.removesuffix(b"\r")
        self._writer.write(whole_lines(data))
        if self._writer.size > self._most:
            raise MilterError(f"sends a body of more than {self._most} octets")

    async def edits(self, is_new: bool, follows: int) -> list[Edit]:
        """The edit, if there is a new body; a file is read in a thread. OSError; MilterError where it is no text."""
        if not is_new:
            return []
        if self._ends_in_cr:
            self._writer.write(b"\r\n")
        content = self._writer.finish()
        self._is_done = True
        try:
            if content.in_memory or self._threads is None or self._reactor is None:
                return [ReplaceBody(content, follows, "milter")]
            pool = self._threads.getThreadPool()
            return [await deferToThreadPool(self._reactor, pool, ReplaceBody, content, follows, "milter")]
        except BaseException as error:
            content.discard()
            content.give_back()
            if isinstance(error, ValueError):
                raise MilterError(f"sends a body that has {error}") from None
            raise

    def close(self) -> None:
        """Nothing more comes."""
        if not self._is_done:
            self._writer.abandon()


def _name_and_value(field: HeaderField) -> tuple[bytes, bytes]:
    return field.name.encode(), field.raw.partition(b":")[2].removesuffix(b"\r\n")


def _body_of(content: Content, edits: Sequence[BodyEdit]) -> Generator[bytes, None, None]:
    """The body as these edits have left it, without the empty line above it; in a file, it is closed with this."""
    if edits:
        yield from edited_body(content, edits)
        return
    pieces = behind_header(content)
    yield next(pieces, b"").removeprefix(b"\r\n")
    yield from pieces


def _mail_parameters(transaction: Transaction) -> Iterable[str]:
    parameters = transaction.parameters
    if transaction.declared_size is not None:
        yield f"SIZE={transaction.declared_size}"
    if parameters.body != "7BIT":
        yield f"BODY={parameters.body}"
    if parameters.smtputf8:
        yield "SMTPUTF8"
    if parameters.ret:
        yield f"RET={parameters.ret}"
    if parameters.envid:
        yield f"ENVID={parameters.envid}"


def _rcpt_parameters(recipient: Recipient) -> Iterable[str]:
    if recipient.notify:
        yield f"NOTIFY={','.join(recipient.notify)}"
    if recipient.orcpt:
        yield f"ORCPT={recipient.orcpt}"
