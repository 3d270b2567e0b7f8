"""How much an identity may send in a period: messages, recipients, octets; with a notice before it is used up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field
from zope.interface import directlyProvides
from zope.interface.interface import InterfaceClass

from mailgate.awaiting import run
from mailgate.config.schema import Section
from mailgate.config.values import Hostname
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import LimitNear
from mailgate.filters.quota_rules import Quota, QuotaRule
from mailgate.filters.rate_limit_rules import shortened
from mailgate.filters.steps import Steps, ready
from mailgate.filters.who import told
from mailgate.findings import Finding
from mailgate.interfaces import Answered, FilterServices, IMailFilter, IMessageFilter, IRecipientFilter
from mailgate.message import Message
from mailgate.reply import Reply
from mailgate.verdict import Continue, Defer, Quarantine, Reject, Verdict

__all__ = ["Options", "QuotaFilter", "QuotaResult", "build"]

_DEFAULT_RULES = tuple(
    QuotaRule.model_validate({"count": count, "limit": limit, "window": window})
    for count, limit, window in (("messages", 500, "1h"), ("recipients", 2000, "1d"))
)


class Options(Section):
    """`[filters.quota]`: for listeners of role outbound or hybrid. All workers share the counts, and with
    [counters] url = "sqlite:" a restart forgets none.

    What a later filter refuses has been counted. A message that is larger than a quota of bytes passes where it is the
    first of its period.
    """

    rules: list[QuotaRule] = Field(default=list(_DEFAULT_RULES))
    """the quotas; all that apply must have room. Rules of your own take the place of the default ones: 500 messages in
    1h, and 2000 recipients in 1d, for each identity. Give applications rules of their own, and `exempt` them here"""
    domain: Hostname | None = None
    """where identities that are no addresses have theirs, for `notify`: with "example.org", "ann" is told at
    ann@example.org"""


@dataclass(frozen=True, slots=True)
class QuotaResult(Finding):
    """A limit that this message is over, and is kept back for; `reason` says which."""

    reason: str

    def summary(self) -> str:
        return f"quota=over {self.reason}"

    def facts(self) -> Sequence[str]:
        return ("quota.over",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; it provides only the stages at which its rules count. ValueError where there are none."""
    return QuotaFilter(options, services)


class QuotaFilter:
    """Counts first and compares then: of those who ask at the same time nobody is let through too many."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        if not options.rules:
            raise ValueError("no rules: there is nothing to do")
        self._counters = services.counters
        self._events = services.events
        self._clock = services.clock
        self._domain = options.domain or ""
        quotas = [Quota(rule) for rule in options.rules]
        self._messages = [one for one in quotas if one.rule.count == "messages"]
        self._recipients = [one for one in quotas if one.rule.count in ("recipients", "distinct-recipients")]
        self._octets = [one for one in quotas if one.rule.count == "bytes"]
        stages: list[InterfaceClass] = [
            stage
            for stage, found in (
                (IMailFilter, self._messages or self._octets),
                (IRecipientFilter, self._recipients),
                (IMessageFilter, self._octets or any(one.rule.over == "quarantine" for one in quotas)),
            )
            if found
        ]
        directlyProvides(self, *stages)

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Count a message; refuse it where it is one too many, or where no octet has room."""
        return run(self._at_mail(session, transaction))

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Count a recipient."""
        return run(self._count(self._recipients, session, transaction, 1, recipient))

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Count octets, and keep back what is over a limit whose messages are taken."""
        return run(self._at_end(session, transaction, message))

    def _at_mail(self, session: Session, transaction: Transaction) -> Steps[Verdict | None]:
        for quota, subject in _due(self._octets, session, transaction):
            start = yield from ready(self._counters.get(quota.key(subject)))
            if start is None or quota.rule.over == "quarantine":
                continue
            count = yield from ready(self._counters.peek(_place(quota, subject, start), 2 * quota.rule.window))
            if count >= quota.rule.limit:
                return self._refuse(quota, subject, count, self._until(quota, start))
        return (yield from self._count(self._messages, session, transaction, 1))

    def _at_end(self, session: Session, transaction: Transaction, message: Message) -> Steps[Verdict | None]:
        size = max(message.content.size, 1)
        verdict = yield from self._count(self._octets, session, transaction, size)
        over = transaction.evidence.get(QuotaResult)
        if isinstance(verdict, Continue):
            over = next((one for one in verdict.evidence if isinstance(one, QuotaResult)), over)
        elif verdict is not None:
            return verdict
        return Quarantine(over.reason, evidence=verdict.evidence if verdict else ()) if over is not None else None

    def _count(
        self,
        quotas: Iterable[Quota],
        session: Session,
        transaction: Transaction,
        amount: int,
        recipient: Recipient | None = None,
    ) -> Steps[Verdict | None]:
        """Add `amount` everywhere where this counts. A refusal; evidence where it is over and will be kept back."""
        over: list[object] = []
        counted: dict[str, tuple[int, float]] = {}  # rules that share their counts count once
        due = _due(quotas, session, transaction)
        for quota, subject in due:
            key = quota.key(subject)
            if key not in counted:
                least = min(one.rule.limit for one, whose in due if one.key(whose) == key)
                counted[key] = yield from self._hit(quota, subject, amount, recipient, least)
            count, until = counted[key]
            limit = quota.rule.limit
            if not count:
                continue
            if count - amount <= limit < count:
                self._tell(quota, subject, count, until, session, transaction, is_reached=True)
            elif count - amount < quota.notice <= count:
                self._tell(quota, subject, count, until, session, transaction, is_reached=False)
            if count <= limit or count == amount:
                continue
            if quota.rule.over != "quarantine":
                return self._refuse(quota, subject, count - amount, until)
            over.append(QuotaResult(quota.reason(subject, count - amount)))
        return Continue(tuple(over)) if over else None

    def _hit(
        self, quota: Quota, subject: str, amount: int, recipient: Recipient | None, least: int
    ) -> Steps[tuple[int, float]]:
        """The count of this period with this, and when the period ends; 0 for what does not count.

        `least` is the lowest limit that goes by this count.
        """
        now = self._clock.seconds()
        window = quota.rule.window
        begins = f"{now:.3f}".encode()
        start = (yield from ready(self._counters.add(quota.key(subject), begins, window))) or begins
        until = self._until(quota, start)
        place = _place(quota, subject, start)
        known = ""
        if quota.rule.count == "distinct-recipients" and recipient is not None:
            known = f"{place} {shortened(str(recipient.address).lower())}"
            if (yield from ready(self._counters.get(known))) is not None:
                return 0, until
        # Longer than the period: nothing of it slides out of the window.
        count = yield from ready(self._counters.hit(place, 2 * window, amount))
        if known and count <= least:  # who is refused now is no old acquaintance next time
            yield from ready(self._counters.put(known, b"", max(until - now, 1.0)))
        return count, until

    def _until(self, quota: Quota, start: bytes) -> float:
        try:
            return float(start) + quota.rule.window
        except ValueError:
            return self._clock.seconds() + quota.rule.window

    def _refuse(self, quota: Quota, subject: str, count: int, until: float) -> Verdict:
        text, reason = quota.text(until - self._clock.seconds()), quota.reason(subject, count)
        if quota.rule.over == "reject":
            return Reject(Reply.of(550, "5.7.1", text), reason)
        return Defer(Reply.of(450, "4.7.1", text), reason)

    def _tell(
        self,
        quota: Quota,
        subject: str,
        count: int,
        until: float,
        session: Session,
        transaction: Transaction,
        *,
        is_reached: bool,
    ) -> None:
        self._events.publish(
            LimitNear(
                at=self._clock.seconds(),
                filter="quota",
                rule=quota.title,
                subject=subject,
                count=count,
                limit=quota.rule.limit,
                window=quota.rule.window,
                until=until,
                is_reached=is_reached,
                session=session.id,
                queue_id=transaction.id,
                notify=told(quota.rule.notify, session, self._domain),
            )
        )


def _due(quotas: Iterable[Quota], session: Session, transaction: Transaction) -> list[tuple[Quota, str]]:
    """The quotas that are about this, each with whose count it is."""
    return [(one, subject) for one in quotas if (subject := one.subject(session, transaction))]


def _place(quota: Quota, subject: str, start: bytes) -> str:
    """Where the count of the period that began then is kept."""
    return f"{quota.key(subject)} {start.decode('latin-1')}"
