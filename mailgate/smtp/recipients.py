"""The recipients of a transaction: RCPT, and what each was told (RFC 5321 section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from mailgate.address import Address
from mailgate.envelope import Recipient, Transaction
from mailgate.interfaces import Asked, IInline, Placed
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.conversation import NO_VERDICT, Conversation
from mailgate.smtp.copies import as_said
from mailgate.verdict import Defer, Reject, Verdict
from mailgate.wire.commands import RcptCommand, parse_rcpt
from mailgate.wire.fault import CommandError
from mailgate.wire.parameters import merge_notify

__all__ = ["Recipients"]


class Recipients:
    """Adds recipients to a transaction. `answers` holds, for each RCPT that got 250, its place among the recipients;
    `inline` is the route whose next hop is asked about them, "" where they are for the spool."""

    __slots__ = ("_addresses", "_places", "_queued", "_surplus", "_talk", "answers", "inline")

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._places: dict[Address, int] = {}
        self._addresses = 0  # with those that recipients stand for
        self._surplus = 0  # RCPTs that were too many
        self.answers: list[int] = []
        self.inline = ""
        self._queued = ""  # the route whose mail is queued, as its next hop cannot be asked

    def forget(self) -> None:
        """The transaction is over."""
        self._places.clear()
        self.answers = []
        self._addresses = 0
        self._surplus = 0
        self.inline = self._queued = ""

    def rcpt(self, transaction: Transaction, argument: str, fault: Reply | None = None) -> None:
        """Add a recipient that routing and the pipeline allow. The same one again is no second recipient. `fault` is
        what is wrong with the line, where that is not to be said (a copy)."""
        talk = self._talk
        try:
            if fault is not None:
                raise CommandError(fault)
            asked = parse_rcpt(
                argument,
                talk.services.postmaster_domain or talk.services.hostname,
                talk.offer.keywords,
                is_utf8=transaction.parameters.smtputf8,
            )
        except CommandError as error:
            if not talk.settings.rehearse:
                self._tell(transaction, error.reply, f"RCPT {argument[:300]}", recipients=())
                raise
            asked = RcptCommand(as_said(argument, error.reply))
        address = asked.recipient
        if max(len(self.answers), self._addresses) >= talk.settings.max_recipients:
            self._too_many(transaction, address)
            return
        known = self._places.get(address)
        if known is not None:
            self.answers.append(known)
            again = transaction.recipients[known]
            again.notify, again.orcpt = merge_notify(again.notify, asked.notify), again.orcpt or asked.orcpt
            talk.say(replies.RECIPIENT_OK)
            return
        placed = talk.services.routing.route(talk.session, transaction, address)
        if isinstance(placed, str):  # most are
            self._add(transaction, Recipient(address=address, route=placed, notify=asked.notify, orcpt=asked.orcpt))
            return

        def add(placed: Placed) -> None:
            if isinstance(placed, Reject | Defer):
                self._tell(transaction, placed.reply, placed.reason, recipients=[address])
                (talk.mistake if isinstance(placed, Reject) else talk.reply)(placed.reply)
                return
            recipient = Recipient(address=address, notify=asked.notify, orcpt=asked.orcpt)
            if isinstance(placed, str):
                recipient.route = placed
            elif self._addresses and self._addresses + len(placed) > talk.settings.max_recipients:
                # one that stands for more than there may be gets a transaction of its own
                self._too_many(transaction, address)
                return
            else:
                recipient.targets = placed
            self._add(transaction, recipient)

        talk.gate.when(placed, cast("Callable[[object], None]", add), lambda: add(NO_VERDICT))

    def _add(self, transaction: Transaction, recipient: Recipient) -> None:
        """Add a recipient, where the pipeline lets it."""
        talk, address = self._talk, recipient.address

        def answer(verdict: Verdict) -> None:
            if talk.objects("rcpt", verdict, transaction.trace, transaction, address):
                return
            inline = talk.services.inline
            if inline is None:
                self._accept(transaction, recipient, replies.RECIPIENT_OK)
            else:
                self._add_in_place(inline, transaction, recipient)

        talk.ask(talk.pipeline.rcpt(talk.session, transaction, recipient), answer)

    def _accept(self, transaction: Transaction, recipient: Recipient, answer: bytes) -> None:
        self._places[recipient.address] = len(transaction.recipients)
        self.answers.append(len(transaction.recipients))
        transaction.recipients.append(recipient)
        self._addresses += len(recipient.targets) or 1
        self._talk.say(answer)

    # -- next hops that are asked

    def _add_in_place(self, inline: IInline, transaction: Transaction, recipient: Recipient) -> None:
        """Add a recipient of the same place as the others, where its next hop lets it."""
        talk, place = self._talk, inline.place(recipient)
        if place == self._queued:
            place = ""
        if transaction.recipients and place != self.inline:
            there = f"route {self.inline}, whose next hop is asked" if self.inline else "the queue"
            reason = f"the recipients so far go by {there}, and this one does not"
            self._surplus_of(transaction, recipient.address, replies.ELSEWHERE, reason)
        elif not place:
            self._accept(transaction, recipient, replies.RECIPIENT_OK)
        else:

            def asked(answer: Asked) -> None:
                self._asked(transaction, recipient, place, answer)

            answer = inline.rcpt(talk.session, transaction, recipient)
            talk.gate.when(answer, cast("Callable[[object], None]", asked), lambda: asked(NO_VERDICT))

    def _asked(self, transaction: Transaction, recipient: Recipient, place: str, answer: Asked) -> None:
        talk = self._talk
        if isinstance(answer, Reject | Defer):
            self._tell(transaction, answer.reply, answer.reason, recipients=[recipient.address])
            (talk.mistake if isinstance(answer, Reject) else talk.reply)(answer.reply)
        elif answer is None:
            if not transaction.recipients:
                self._queued = place
            self._accept(transaction, recipient, replies.RECIPIENT_OK)
        else:
            self.inline = place
            self._accept(transaction, recipient, answer.to_bytes())

    # -- bounds

    def _too_many(self, transaction: Transaction, address: Address) -> None:
        # No mistake of the peer: it sends the others in a transaction of their own (RFC 5321 section 4.5.3.1.10), and
        # the first event tells of them all. As many again are no list any more.
        so_far = f"; {self._addresses} so far, aliases resolved" if self._addresses > len(self.answers) else ""
        reason = f"max_recipients of the listener is {self._talk.settings.max_recipients}{so_far}"
        self._surplus_of(transaction, address, replies.TOO_MANY_RECIPIENTS, reason)

    def _surplus_of(self, transaction: Transaction, address: Address, reply: Reply, reason: str) -> None:
        talk = self._talk
        self._surplus += 1
        if self._surplus == 1:
            self._tell(transaction, reply, reason, recipients=[address])
        (talk.reply if self._surplus <= talk.settings.max_recipients else talk.mistake)(reply)

    def _tell(self, transaction: Transaction, reply: Reply, reason: str, *, recipients: Sequence[Address]) -> None:
        """Tell of a refusal of our own."""
        self._talk.teller.tell("rcpt", reply, reason, transaction=transaction, recipients=recipients)
