"""One mail transaction after another: MAIL, RCPT, DATA, the content, and the answer to it (RFC 5321 section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from mailgate.address import Address
from mailgate.envelope import Recipient, Transaction, new_id
from mailgate.message import Content, Message
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import Conversation
from mailgate.smtp.receiving import ContentReceiver
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from mailgate.wire.commands import CommandError, parse_mail, parse_rcpt

__all__ = ["MailTransaction"]

Refusal = Reject | Defer | Disconnect

_WITH_THE_OTHERS = "deferred because another recipient is: SMTP has one answer for all"


class MailTransaction:
    """The session's transaction, if one is under way. Each command raises CommandError for the peer's mistakes."""

    __slots__ = ("_answers", "_content", "_places", "_receiver", "_surplus", "_talk", "_transaction")

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._transaction: Transaction | None = None
        self._receiver: ContentReceiver | None = None
        self._content: Content | None = None  # from its end until the intake has it
        self._places: dict[Address, int] = {}
        self._answers: list[int] = []  # for each RCPT that got 250, its place among the recipients
        self._surplus = 0  # RCPTs that were too many

    @property
    def is_under_way(self) -> bool:
        """Whether MAIL has been said, and the answer to the content has not."""
        return self._transaction is not None

    def mail(self, argument: str) -> None:
        """MAIL: begin a transaction, where the size, the spool and the pipeline let it."""
        talk = self._talk
        if not talk.session.helo:
            raise CommandError(replies.NO_GREETING)
        if self._transaction is not None:
            raise CommandError(replies.NESTED_MAIL)
        if talk.session.messages >= talk.settings.max_messages:
            talk.end(replies.TOO_MANY_MESSAGES, "limits")
            return
        try:
            mail = parse_mail(argument)
            if talk.session.protocol == "SMTP" and (mail.size is not None or mail.body != "7BIT"):
                raise CommandError(replies.NEEDS_EHLO)
        except CommandError as error:
            self._tell("mail", error.reply, f"MAIL {argument[:300]}")
            raise
        transaction = Transaction(id=new_id(), sender=mail.sender, declared_size=mail.size, body=mail.body)
        limit = talk.settings.max_message_size
        if mail.size is not None and mail.size > limit:
            self._tell("mail", replies.TOO_LARGE, f"SIZE={mail.size} is over {limit}", transaction=transaction)
            raise CommandError(replies.TOO_LARGE)
        no_room = talk.services.intake.refuse_before_data(mail.size)
        if no_room is not None:
            self._tell("mail", no_room, "the spool cannot take it", transaction=transaction)
            raise CommandError(no_room)

        def answer(verdict: Verdict) -> None:
            if not talk.objects("mail", verdict, transaction.trace, transaction):
                self._transaction = transaction
                talk.say(replies.SENDER_OK)

        talk.ask(talk.pipeline.mail(talk.session, transaction), answer)

    def rcpt(self, argument: str) -> None:
        """RCPT: add a recipient that routing and the pipeline allow. The same one again is no second recipient."""
        talk = self._talk
        transaction = self._transaction
        if transaction is None:
            raise CommandError(replies.NO_MAIL)
        try:
            address = parse_rcpt(argument, talk.services.postmaster_domain or talk.services.hostname)
        except CommandError as error:
            self._tell("rcpt", error.reply, f"RCPT {argument[:300]}", recipients=())
            raise
        if len(self._answers) >= talk.settings.max_recipients:
            self._too_many(address)
            return
        known = self._places.get(address)
        if known is not None:
            self._answers.append(known)
            talk.say(replies.RECIPIENT_OK)
            return
        route = talk.services.routing.route(talk.session, transaction, address)
        if isinstance(route, Reject):
            self._tell("rcpt", route.reply, route.reason, recipients=[address])
            raise CommandError(route.reply)
        recipient = Recipient(address=address, route=route)

        def answer(verdict: Verdict) -> None:
            if not talk.objects("rcpt", verdict, transaction.trace, transaction, address):
                self._places[address] = len(transaction.recipients)
                self._answers.append(len(transaction.recipients))
                transaction.recipients.append(recipient)
                talk.say(replies.RECIPIENT_OK)

        talk.ask(talk.pipeline.rcpt(talk.session, transaction, recipient), answer)

    def _too_many(self, address: Address) -> None:
        # No mistake of the peer: it sends the others in a transaction of their own (RFC 5321 section 4.5.3.1.10), and
        # the first event tells of them all. As many again are no list any more.
        talk = self._talk
        self._surplus += 1
        if self._surplus == 1:
            reason = f"max_recipients of the listener is {talk.settings.max_recipients}"
            self._tell("rcpt", replies.TOO_MANY_RECIPIENTS, reason, recipients=[address])
        if self._surplus <= talk.settings.max_recipients:
            talk.reply(replies.TOO_MANY_RECIPIENTS)
        else:
            talk.mistake(replies.TOO_MANY_RECIPIENTS)

    def data(self, argument: str) -> None:
        """DATA: ask for the content."""
        talk = self._talk
        transaction = self._transaction
        if argument or transaction is None or not transaction.recipients:
            talk.mistake(
                replies.NO_ARGUMENT if argument else replies.NO_MAIL if transaction is None else replies.NO_RECIPIENT
            )
            self._distrust()
            return

        def answer(verdict: Verdict) -> None:
            if talk.objects("data", verdict, transaction.trace, transaction):
                self.forget()
                self._distrust()
                return
            talk.takes_content = True
            self._receiver = ContentReceiver(
                talk.services.incoming, talk.services.memory_limit, talk.settings.max_message_size
            )
            talk.say(replies.GO_AHEAD)

        talk.ask(talk.pipeline.data(talk.session, transaction), answer)

    def _distrust(self) -> None:
        # DATA ends a pipelined group (RFC 2920 section 3.1): what stands behind a DATA that was refused is content
        # of a client that did not wait, and must not be taken for commands.
        if self._talk.has_more():
            self._talk.end(replies.CONTENT_TOO_EARLY, "errors")

    def content(self, data: bytes) -> bytes:
        """Content in any pieces; what is behind its end."""
        receiver = self._receiver
        if receiver is None:
            raise AssertionError("no content was asked for")
        rest = receiver.feed(data)
        if rest is None:
            return b""
        self._receiver = None
        self._talk.takes_content = False
        if receiver.is_endless:
            self._tell("content", replies.ENDLESS, "the client went on far past the limit")
            self._talk.end(replies.ENDLESS, "errors")
        elif receiver.refusal is not None:
            self._tell("content", receiver.refusal, receiver.reason)
            self._conclude([receiver.refusal] * len(self._current.recipients))
        elif receiver.content is not None:
            self._content = receiver.content
            self._judge(Message(receiver.content))
        return rest

    def break_off(self, reply: Reply | None, reason: str) -> None:
        """The session ends in the middle of it; `reply` is what the peer is told, if anything."""
        if self._transaction is not None:
            self._tell("session" if self._receiver is None else "content", reply, reason)
        self.abandon()

    def abandon(self) -> None:
        """Throw away content that the intake does not have."""
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = None
            self._talk.takes_content = False
        if self._content is not None:
            self._content.discard()
            self._content = None

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
        refusals = [verdict if isinstance(verdict, Refusal) else None for verdict in verdicts]
        if any(refusals):
            if self._talk.is_lmtp:
                told = [None if one is None else one.reply for one in refusals]
            else:
                told = [_one_reply(refusals)] * len(refusals)
            self._tell_refusals(transaction, message, refusals, told)
            if None not in told:
                self.abandon()
                leave = any(isinstance(verdict, Disconnect) for verdict in verdicts)
                self._conclude([reply for reply in told if reply is not None], leave=leave)
                return
        self._content = None
        self._talk.gate.when(
            self._talk.services.intake.take(self._talk.session, transaction, message.content, verdicts),
            self._conclude,
            lambda: self._conclude([replies.LOCAL_ERROR] * len(verdicts)),
            shielded=True,
        )

    def _tell_refusals(
        self,
        transaction: Transaction,
        message: Message,
        refusals: Sequence[Refusal | None],
        told: Sequence[Reply | None],
    ) -> None:
        """One event for each reason, about all whom it concerns."""
        message_id = next(iter(message.values("Message-ID")), "")
        concerned: dict[tuple[Reply, str], list[Address]] = {}
        for recipient, refusal, reply in zip(transaction.recipients, refusals, told, strict=True):
            if refusal is not None:
                concerned.setdefault((reply or refusal.reply, refusal.reason), []).append(recipient.address)
            elif reply is not None:
                concerned.setdefault((reply, _WITH_THE_OTHERS), []).append(recipient.address)
        for (reply, reason), recipients in concerned.items():
            self._talk.teller.tell(
                "message",
                reply,
                reason,
                trace=transaction.trace,
                transaction=transaction,
                recipients=recipients,
                message_id=message_id,
            )

    def _conclude(self, answers: Sequence[Reply], *, leave: bool = False) -> None:
        """End the transaction with one reply, or for LMTP with one for each RCPT that was accepted."""
        places = self._answers if self._talk.is_lmtp else [0]
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
        """End the transaction, if there is one (RSET, a greeting, the end of data)."""
        self._transaction = None
        self._places.clear()
        self._answers = []
        self._surplus = 0

    @property
    def _current(self) -> Transaction:
        if self._transaction is None:
            raise AssertionError("no transaction is under way")
        return self._transaction


def _one_reply(refusals: Sequence[Refusal | None]) -> Reply | None:
    """What SMTP, with its one reply, says; None where the intake may take the message.

    One that is deferred defers all. One that is refused while another is taken is left to the intake, which owes the
    sender a report.
    """
    told = [one.reply for one in refusals if one is not None]
    deferred = next((reply for reply in told if reply.is_transient), None)
    if deferred is not None or len(told) < len(refusals):
        return deferred
    return told[0]
