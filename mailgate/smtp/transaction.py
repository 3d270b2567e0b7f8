"""One mail transaction after another: MAIL, RCPT, DATA or BDAT, the content, and the answer to it (RFC 5321 section
3.3, RFC 3030)."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Sequence

from mailgate.address import Address
from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, Transaction, new_id
from mailgate.message import Content, Message, release
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.answers import answers_to, may_report, of_a_stranger, settled, tell_refusals
from mailgate.smtp.conversation import Conversation
from mailgate.smtp.copies import as_said
from mailgate.smtp.receiving import ContentReceiver, RefusedChunk
from mailgate.smtp.recipients import Recipients
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from mailgate.wire.commands import BdatCommand, MailCommand, parse_bdat, parse_mail
from mailgate.wire.content import SLACK
from mailgate.wire.fault import CommandError

__all__ = ["MailTransaction"]


class MailTransaction:
    """The session's transaction, if one is under way. Each command raises CommandError for the peer's mistakes."""

    __slots__ = (
        "_chunk",
        "_content",
        "_ended",
        "_receiver",
        "_recipients",
        "_refused",
        "_talk",
        "_transaction",
    )

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._transaction: Transaction | None = None
        self._receiver: ContentReceiver | None = None
        self._content: Content | None = None  # from its end until the intake has it
        self._ended = 0.0  # when the content was there, where a next hop is asked
        self._recipients = Recipients(talk)
        self._chunk: BdatCommand | None = None  # the one whose octets come now
        self._refused: RefusedChunk | None = None  # whose octets come now

    @property
    def is_under_way(self) -> bool:
        """Whether MAIL has been said, and the answer to the content has not."""
        return self._transaction is not None

    @property
    def is_receiving(self) -> bool:
        """Whether content has begun, and its end has not come."""
        return self._receiver is not None

    def mail(self, argument: str, fault: Reply | None = None) -> None:
        """MAIL: begin a transaction, where the size, the spool and the pipeline let it. `fault` is what is wrong with
        the line, where that is not to be said (a copy)."""
        talk = self._talk
        if not talk.session.helo:
            raise CommandError(replies.NO_GREETING)
        if self._transaction is not None:
            raise CommandError(replies.NESTED_MAIL)
        if talk.session.messages >= talk.settings.max_messages:
            talk.end(replies.TOO_MANY_MESSAGES, "limits")
            return
        lack = talk.lack()
        if lack is not None:
            talk.teller.tell("mail", *lack, mail=argument)
            raise CommandError(lack[0])
        now = talk.services.clock.seconds()
        is_copy = talk.settings.rehearse
        try:
            if fault is not None:
                raise CommandError(fault)
            mail = parse_mail(argument, talk.offer.keywords, now)
            if mail.parameters.release_at > now + talk.settings.max_hold:
                raise CommandError(replies.HOLD_TOO_LONG)
        except CommandError as error:
            if not is_copy:
                talk.teller.tell("mail", error.reply, f"MAIL {argument[:300]}", mail=argument)
                raise
            mail = MailCommand(as_said(argument, error.reply))
        parameters = mail.parameters
        answer_text = replies.SENDER_OK
        if parameters is not EIGHT_BIT_MAIL and parameters is not PLAIN_MAIL and not talk.may_relay:
            parameters, answer_text = of_a_stranger(parameters)
        transaction = Transaction(
            id=new_id(),
            sender=mail.sender,
            declared_size=mail.size,
            parameters=parameters,
            origin=talk.forwarded,
        )
        limit = talk.services.offers.max_size()
        if mail.size is not None and mail.size > limit and not is_copy:
            self._tell("mail", replies.TOO_LARGE, f"SIZE={mail.size} is over {limit}", transaction=transaction)
            raise CommandError(replies.TOO_LARGE)
        no_room = talk.services.intake.refuse_before_data(mail.size)
        if no_room is not None:
            self._tell("mail", no_room, "the spool cannot take it", transaction=transaction)
            raise CommandError(no_room)

        def answer(verdict: Verdict) -> None:
            if not talk.objects("mail", verdict, transaction.trace, transaction):
                self._transaction = transaction
                talk.say(answer_text)

        talk.ask(talk.pipeline.mail(talk.session, transaction), answer)

    def rcpt(self, argument: str, fault: Reply | None = None) -> None:
        """RCPT: add a recipient that routing and the pipeline allow. The same one again is no second recipient.
        `fault` as for MAIL."""
        if self._transaction is None:
            raise CommandError(replies.NO_MAIL)
        if self._receiver is not None:
            raise CommandError(replies.CHUNKS_BEGUN)
        self._recipients.rcpt(self._transaction, argument, fault)

    def data(self, argument: str) -> None:
        """DATA: ask for the content."""
        talk = self._talk
        transaction = self._transaction
        refusal = self._not_now(transaction)
        if argument:
            refusal = replies.NO_ARGUMENT
        elif refusal is None and self._receiver is not None:
            refusal = replies.CHUNKS_BEGUN
        elif refusal is None and transaction is not None and transaction.parameters.body == "BINARYMIME":
            refusal = replies.CHUNKS_ONLY
        if refusal is not None or transaction is None:
            talk.mistake(refusal or replies.NO_MAIL)
            self._distrust()
            return

        def answer(verdict: Verdict) -> None:
            if talk.objects("data", verdict, transaction.trace, transaction):
                self.forget()
                self._distrust()
                return
            self._receive(transaction, chunked=False)
            talk.takes_content = True
            talk.say(replies.GO_AHEAD)

        talk.ask(talk.pipeline.data(talk.session, transaction), answer)

    def _distrust(self) -> None:
        # DATA ends a pipelined group (RFC 2920 section 3.1): what stands behind a DATA that was refused is content
        # of a client that did not wait, and must not be taken for commands.
        if self._talk.has_more():
            self._talk.end(replies.CONTENT_TOO_EARLY, "errors")

    def bdat(self, argument: str) -> None:
        """BDAT: a chunk of content follows, whatever we say to it (RFC 3030 section 2)."""
        talk = self._talk
        try:
            chunk = parse_bdat(argument)
        except CommandError as error:
            # Where the next command begins is anyone's guess.
            talk.end(error.reply, "errors")
            return
        # Chunks are bounded by the size of messages, but for those that hold nothing.
        if not (chunk.size or chunk.is_last or talk.may_command()):
            return
        transaction = self._transaction
        receiver = self._receiver
        refusal = replies.NOT_IMPLEMENTED if "CHUNKING" not in talk.offer.keywords else self._not_now(transaction)
        if refusal is not None or transaction is None:
            self._refuse_chunk(chunk, refusal or replies.NO_MAIL)
        elif chunk.size > talk.services.offers.max_size():
            self._tell("content", replies.CHUNK_TOO_LARGE, f"a chunk of {chunk.size} octets")
            self._refuse_chunk(chunk, replies.CHUNK_TOO_LARGE)
        elif receiver is not None:
            self._take_chunk(receiver, chunk)
        else:

            def answer(verdict: Verdict) -> None:
                objection = talk.objection("data", verdict, transaction.trace, transaction)
                if isinstance(verdict, Disconnect):
                    talk.end(verdict.reply, "refused")
                elif objection is not None:
                    self._refuse_chunk(chunk, objection)
                else:
                    self._take_chunk(self._receive(transaction, chunked=True), chunk)

            talk.ask(talk.pipeline.data(talk.session, transaction), answer)

    def _not_now(self, transaction: Transaction | None) -> Reply | None:
        """Why no content may come, or None."""
        if transaction is None:
            return replies.NO_MAIL
        if not transaction.recipients:
            return replies.NO_RECIPIENT_LMTP if self._talk.is_lmtp else replies.NO_RECIPIENT  # RFC 2033 section 4.2
        return None

    def _receive(self, transaction: Transaction, *, chunked: bool) -> ContentReceiver:
        services, settings = self._talk.services, self._talk.settings
        self._receiver = receiver = ContentReceiver(
            services.incoming,
            services.memory_limit,
            services.offers.max_size(),
            services.budget,
            bare="allow" if transaction.parameters.body == "BINARYMIME" else settings.bare_newlines,
            chunked=chunked,
            slack=sys.maxsize if settings.rehearse else SLACK,  # whatever is said to a copy, it is not to come again
        )
        return receiver

    def _take_chunk(self, receiver: ContentReceiver, chunk: BdatCommand) -> None:
        receiver.expect(chunk.size, is_last=chunk.is_last)
        self._chunk = chunk
        self._talk.takes_content = True
        if not chunk.size:
            self.content(b"")

    def _refuse_chunk(self, chunk: BdatCommand, reply: Reply) -> None:
        """Read the chunk, then say no: it must not be taken for commands. LMTP's last chunk has an answer for each RCPT
        that was accepted (RFC 2033 section 4.3)."""
        count = len(self._recipients.answers) if self._talk.is_lmtp and chunk.is_last else 1
        self.forget()
        if chunk.size > RefusedChunk.MAX_SIZE:
            self._talk.end(reply, "errors")
            return
        self._refused = RefusedChunk(chunk.size, reply.to_bytes() * (count or 1))
        self._talk.takes_content = True
        if not chunk.size:
            self.content(b"")

    def content(self, data: bytes) -> bytes:
        """Content in any pieces; what is behind its end."""
        if self._refused is not None:
            return self._throw_away(self._refused, data)
        receiver = self._receiver
        if receiver is None:
            raise AssertionError("no content was asked for")
        rest = receiver.feed(data)
        if rest is None:
            return b""
        self._talk.takes_content = False
        chunk, self._chunk = self._chunk, None
        if chunk is not None and not chunk.is_last and receiver.refusal is None and not receiver.is_endless:
            self._talk.reply(Reply(250, "2.0.0", (f"{chunk.size} octets received",)))
            return rest
        self._receiver = None
        if receiver.is_endless:
            self._tell("content", replies.ENDLESS, "the client went on far past the limit")
            self._talk.end(replies.ENDLESS, "errors")
        elif receiver.refusal is not None:
            refusal = receiver.refusal
            if self._talk.settings.rehearse:
                self._take_refused(refusal, receiver.reason)
                return rest
            self._tell("content", refusal, receiver.reason)
            # A chunk has one reply, the last one as many as DATA (RFC 2033 section 4.3).
            is_single = chunk is not None and not chunk.is_last
            self._conclude([refusal] * len(self._current.recipients), is_single=is_single)
        elif receiver.content is not None:
            self._content = receiver.content
            if self._recipients.inline:
                self._ended = self._talk.services.clock.seconds()
            self._judge(Message(receiver.content))
        return rest

    def _throw_away(self, chunk: RefusedChunk, data: bytes) -> bytes:
        rest = chunk.feed(data)
        if rest is None:
            return b""
        self._refused = None
        self._talk.takes_content = False
        self._talk.say(chunk.answer)
        self._talk.count_error()
        return rest

    def break_off(self, reply: Reply | None, reason: str) -> None:
        """The session ends within it; `reply` is what the peer is told, if anything."""
        if self._transaction is not None:
            self._tell("session" if self._receiver is None else "content", reply, reason)
        self.abandon()

    def abandon(self) -> None:
        """Throw away content that the intake does not have; next hops that were asked hear no more of it."""
        self._let_go()
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = self._chunk = None
            self._talk.takes_content = False
        if self._content is not None:
            self._content.discard()
            self._content.give_back()
            self._content = None
            if self._transaction is not None:
                release([*self._transaction.edits, *self._transaction.edits_for])

    def _judge(self, message: Message) -> None:
        transaction = self._current

        def failed() -> None:
            self.abandon()
            self._conclude([replies.LOCAL_ERROR] * len(transaction.recipients))

        self._talk.gate.when(
            self._talk.pipeline.message(self._talk.session, transaction, message),
            lambda verdicts: self._take(transaction, message, verdicts),
            failed,
        )

    def _take(self, transaction: Transaction, message: Message, verdicts: Sequence[Verdict]) -> None:
        is_lmtp, settings = self._talk.is_lmtp, self._talk.settings
        if len(verdicts) > 1 and not is_lmtp:
            verdicts = settled(verdicts, may_report=may_report(settings, self._talk.session))
        told = answers_to(verdicts, is_lmtp=is_lmtp)
        if told is not None:
            tell_refusals(self._talk.teller, transaction, message, verdicts, told)
            if None not in told:
                self.abandon()
                leave = any(isinstance(verdict, Disconnect) for verdict in verdicts)
                self._conclude([reply for reply in told if reply is not None], leave=leave)
                return
        self._content = None
        self._talk.gate.when(
            self._taking(transaction, message.content, verdicts),
            self._conclude,
            lambda: self._conclude([replies.LOCAL_ERROR] * len(verdicts)),
            shielded=True,
        )

    def _take_refused(self, refusal: Reply, reason: str) -> None:
        """Have it taken down of a copy that its content is refused."""
        transaction = self._current
        verdict = Defer(refusal, reason) if refusal.is_transient else Reject(refusal, reason)
        verdicts = [verdict] * len(transaction.recipients)
        self._talk.gate.when(
            self._talk.services.intake.take(self._talk.session, transaction, Content(b""), verdicts),
            self._conclude,
            lambda: self._conclude([replies.LOCAL_ERROR] * len(verdicts)),
            shielded=True,
        )

    def _taking(
        self, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Awaitable[Sequence[Reply]]:
        services, session = self._talk.services, self._talk.session
        if services.inline is None or not self._recipients.inline:
            return services.intake.take(session, transaction, content, verdicts)
        reports = may_report(self._talk.settings, session)
        return services.inline.send(session, transaction, content, verdicts, may_report=reports, since=self._ended)

    def _conclude(self, answers: Sequence[Reply], *, leave: bool = False, is_single: bool = False) -> None:
        """End the transaction with one reply, or for LMTP with one for each RCPT that was accepted."""
        places = self._recipients.answers if self._talk.is_lmtp and not is_single else [0]
        self.forget()
        self._talk.session.messages += 1
        self._talk.commands = 0
        self._talk.say(b"".join([answers[place].to_bytes() for place in places]))
        if leave:
            self._talk.end(None, "refused")
        elif answers[0].is_permanent:
            self._talk.count_error()

    def _tell(
        self,
        stage: str,
        reply: Reply | None,
        reason: str,
        *,
        transaction: Transaction | None = None,
        recipients: Sequence[Address] | None = None,
    ) -> None:
        """Tell of a refusal of our own; it is about the transaction's recipients, if no others are given."""
        self._talk.teller.tell(
            stage, reply, reason, transaction=transaction or self._transaction, recipients=recipients
        )

    def forget(self) -> None:
        """End the transaction, if there is one (RSET, a greeting, the end of data), and what was told of it."""
        if self._receiver is not None:
            self.abandon()
        self._let_go()
        self._transaction = None
        self._talk.forwarded = None
        self._recipients.forget()

    def _let_go(self) -> None:
        inline = self._talk.services.inline
        if inline is not None and self._transaction is not None:
            inline.abandon(self._transaction)

    @property
    def _current(self) -> Transaction:
        if self._transaction is None:
            raise AssertionError("no transaction is under way")
        return self._transaction
