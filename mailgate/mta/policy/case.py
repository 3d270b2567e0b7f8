"""One message before its content: what was asked about it, and what was answered."""

from __future__ import annotations

from msgspec.structs import replace
from twisted.internet.defer import CancelledError

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import answered
from mailgate.envelope import Recipient, Target, Transaction, new_id, origin_of
from mailgate.events import Discarded, Judged
from mailgate.filters.authentication_results import FIELD, results_of
from mailgate.interfaces import Expanded
from mailgate.mailauth.authentication_results import AuthenticationResults
from mailgate.mailauth.authserv import FOLD
from mailgate.mta.policy.deciding import DUNNO, Decision, decide
from mailgate.mta.policy.told import Told
from mailgate.mta.policy.visit import Visit
from mailgate.reply import Reply
from mailgate.verdict import Defer, Reject, Verdict

__all__ = ["Case"]

_TOO_MANY = Defer(Reply.of(452, "4.5.3", "Too many recipients"), "more recipients than are remembered")
_LATE = Defer(
    Reply.of(450, "4.3.0", "Local error, try again later"),
    "the filters have not answered in time, or Postfix has not waited: see the timeout of the policy service",
)
_MOST_RECIPIENTS, _MAX_REASON = 10_000, 200


class Case:
    """Each step is judged once: whoever asks again, by another restriction or for another recipient, is told the
    same."""

    def __init__(self, visit: Visit, told: Told) -> None:
        self.visit = visit
        self.is_busy = False
        self.transaction = Transaction(id=new_id(), sender=told.sender or NULL_PATH, declared_size=told.size)
        self._mail: str | None = None  # what was said of the sender: the action that refuses it, or ""
        self._recipients: dict[Address, str] = {}
        self._data: str | None = None
        self._published: tuple[str, int] | None = None  # the word that was made known, and of how many recipients
        self._discarded = 0  # recipients of whom it was made known that they get nothing
        self._has_field = False

    @property
    def weight(self) -> int:
        """How much is remembered, in recipients."""
        return 10 + len(self._recipients)

    def is_of(self, told: Told) -> bool:
        """Whether a request is about this message."""
        return self.visit.is_of(told) and (told.sender is None or told.sender == self.transaction.sender)

    async def take(self, told: Told) -> str:
        """The action. CancelledError where nobody waits for it any more: it is made known as a refusal."""
        self.is_busy = True
        try:
            return await self._answer(told)
        except CancelledError:
            self.visit.tell(_stage_of(told), _LATE, self.transaction, told.recipient)
            raise
        finally:
            self.is_busy = False

    async def _answer(self, told: Told) -> str:
        if action := await self.visit.meet(told):
            return action
        if not told.is_in_message:
            return DUNNO
        self._note(told)
        if told.refusal is not None:
            kind = Reject if told.refusal.is_permanent else Defer
            return self.visit.tell(_stage_of(told), kind(told.refusal, told.reason), self.transaction)
        if self._mail is None:
            verdict: Verdict = await answered(self.visit.pipeline.mail(self.visit.session, self.transaction))
            self._mail = self.visit.tell("mail", verdict, self.transaction)
        action = self._mail or await self._about_recipient(told)
        if not action and told.is_whole:
            action = await self._about_all()
        return action or self._pending(told)

    async def _about_recipient(self, told: Told) -> str:
        address, transaction = told.recipient, self.transaction
        if address is None:
            return ""
        if (known := self._recipients.get(address)) is not None:
            return known
        if len(self._recipients) >= _MOST_RECIPIENTS:
            return self.visit.tell("rcpt", _TOO_MANY, transaction, address)
        recipient = Recipient(address=address)
        expanded: Expanded = await answered(self.visit.services.expand(address))
        if isinstance(expanded, Reject | Defer):
            verdict: Verdict = expanded
        else:
            recipient.targets = tuple(Target(one, "") for one in expanded or ())
            verdict = await answered(self.visit.pipeline.rcpt(self.visit.session, transaction, recipient))
        action = self.visit.tell("rcpt", verdict, transaction, address)
        self._recipients[address] = action
        if not action:
            transaction.recipients.append(recipient)
        return action

    async def _about_all(self) -> str:
        if self._data is None:
            verdict: Verdict = await answered(self.visit.pipeline.data(self.visit.session, self.transaction))
            self._data = self.visit.tell("data", verdict, self.transaction)
        return self._data

    def _pending(self, told: Told) -> str:
        """What filters have decided on for when the message is there, and what goes along with it."""
        transaction, people = self.transaction, self.transaction.recipients
        if told.recipient is not None and (not told.is_whole or told.recipient_count == 1):
            people = [one for one in people if one.address == told.recipient]
        is_whole = told.is_whole and (told.recipient_count or len(people)) == len(people)
        decision = decide(self.visit.session, transaction, people, is_whole=is_whole)
        if decision.verdict is not None:
            return self.visit.tell("data", decision.verdict, transaction)
        if told.is_whole or (decision.word != "continue" and people):
            self._publish(decision, told)
        match decision.word:
            case "discard":
                return f"DISCARD {_named(transaction, decision.reason)}"
            case "quarantine":
                return f"HOLD {_named(transaction, decision.reason)}"
        return self._field(told) or DUNNO

    def _field(self, told: Told) -> str:
        """The field on top of the message, once."""
        services, session = self.visit.services, self.visit.session
        if self._has_field or services.section.prepend == "nothing" or told.state == "END-OF-MESSAGE":
            return ""
        self._has_field = True
        results = results_of(session, self.transaction)
        value = FOLD.sub("", AuthenticationResults(services.hostname.lower(), results).text()).replace("\t", " ")
        return f"PREPEND {FIELD}: {value}"

    def _note(self, told: Told) -> None:
        """Take down what Postfix calls the message, and how large it is, which it knows later than its sender."""
        transaction = self.transaction
        if told.size is not None:
            transaction.declared_size = told.size
        if transaction.origin is None or transaction.origin.ident != told.ident:
            transaction.origin = replace(origin_of(self.visit.session), ident=told.ident)

    def _publish(self, decision: Decision, told: Told) -> None:
        known = (decision.word, len(self.transaction.recipients))
        if known == self._published or (self._published is not None and not told.is_whole):
            return
        is_again, self._published = self._published is not None, known
        services, session, transaction = self.visit.services, self.visit.session, self.transaction
        identity, tls = session.identity, session.tls
        now = services.clock.seconds()
        people = tuple(str(one.address) for one in transaction.recipients)
        services.events.publish(
            Judged(
                at=now,
                queue_id=transaction.id,
                ident=told.ident,
                session=session.id,
                client=str(session.client),
                listener=session.listener,
                helo=session.helo,
                sender=str(transaction.sender),
                recipients=people,
                size=transaction.declared_size or 0,
                answer=decision.word,
                reason=decision.reason,
                protocol=session.protocol,
                identity="" if identity is None else f"{identity.name} by {identity.mechanism}",
                tls="" if tls is None else f"{tls.version} {tls.cipher}",
                is_early=True,
                is_again=is_again,
                trace=(*session.trace, *transaction.trace),
            )
        )
        if decision.word == "discard":
            sender, told_of = str(transaction.sender), self._discarded
            self._discarded = len(people)
            people = people[told_of:]
            services.events.publish(
                Discarded(at=now, queue_id=transaction.id, sender=sender, recipients=people, reason=decision.reason)
            )


def _stage_of(told: Told) -> str:
    """Our word for what Postfix calls a state."""
    return {"EHLO": "helo", "END-OF-MESSAGE": "data"}.get(told.state, told.state.lower())


def _named(transaction: Transaction, reason: str) -> str:
    return f"mailgate {transaction.id}: {reason[:_MAX_REASON]}"
