"""Two accounts of one mail beside each other: for whom they differ, and by whose word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from mailgate.rehearsal.play import RecipientFate, Rehearsal

__all__ = [
    "KINDS",
    "OURSELVES",
    "Account",
    "Comparison",
    "Difference",
    "Kind",
    "Pair",
    "Reason",
    "Side",
    "failed_in",
    "kind_of",
    "sides_of",
    "sides_then",
]

OURSELVES = "mailgate"
"""Who decided, where no filter did: routing, or the session itself."""

_LET_IN = ("taken", "open")
#: Of what cannot be judged so much is named.
_LEFT_OUT = 100
#: Reasons that are counted by themselves, and characters of one.
_REASONS, _TEXT = 500, 120
_OTHER_REASONS = "other reasons"

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one policy makes of a mail for a recipient.

    `outcome` is taken, refused, deferred, quarantined or discarded, or open where the content decides, which is not
    known. `after` is what becomes of it when it is brought again, where it is deferred first ("" otherwise, and where
    it stays so). `by` is the filter that decided, "" where nobody objected; `route` where it goes.
    """

    outcome: str
    after: str = ""
    by: str = ""
    reason: str = ""
    reply: str = ""
    route: str = ""

    @property
    def words(self) -> str:
        """The outcome, in words that can be counted."""
        return f"{self.outcome}, then {self.after}" if self.after else self.outcome

    @property
    def end(self) -> str:
        """What becomes of it in the end."""
        return self.after or self.outcome

    def differs(self, other: Side) -> bool:
        """Whether something else becomes of the mail in the end: that it comes later is no difference, nor that the
        content decides, where that may come to the same."""
        if "open" in (self.end, other.end):
            return bool({self.end, other.end} & {"refused", "deferred"})
        if self.end != other.end:
            return True
        return bool(self.route and other.route) and self.route != other.route


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What was made of a mail for a recipient, and what is made of it now."""

    recipient: str
    was: Side
    now: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One mail: `name` says where it lies, or its id at the other gateway. `failed` names the filters that could not
    answer, and `assumed` says what its record does not tell. `received` is in seconds since the epoch. `cut` is how
    many recipients more it had, of which no account is kept."""

    name: str
    received: float
    client: str
    helo: str
    sender: str
    subject: str
    message_id: str
    pairs: tuple[Pair, ...]
    failed: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """A recipient for whom two accounts of a mail differ."""

    account: Account
    pair: Pair


Kind = Literal["not taken any more", "taken now", "otherwise"]
"""What a difference is: mail that was taken and is not, which somebody will miss; mail that is taken and was not; and
all else, as another route."""

KINDS: tuple[Kind, ...] = ("not taken any more", "taken now", "otherwise")


def kind_of(was: str, now: str) -> Kind:
    """The kind of a difference, by what becomes of the mail in the end; what is open has been refused by nobody."""
    was_let_in, is_let_in = was in _LET_IN, now in _LET_IN
    if was_let_in == is_let_in:
        return "otherwise"
    return "taken now" if is_let_in else "not taken any more"


class Reason(NamedTuple):
    """Why recipients differ: by whose word (OURSELVES where no filter objects), and what that says, "" where nobody
    says anything."""

    kind: Kind
    by: str
    text: str


@dataclass(slots=True)
class Comparison:
    """What came of all mails. `table` counts recipients by what was and what is now; `filters` counts those that differ
    by whoever decides now, or did where nobody objects any more, `kinds` by the kind, and `reasons` by both and what is
    said; `failures` counts mails for which a filter could not answer, by its name; `assumed` counts mails by what their
    records do not tell; `lost` counts those of which there is no account any more, by the reason, and `cut` recipients.
    With `only`, what differs in another way is no difference.
    """

    most: int
    only: Kind | None = None
    mails: int = 0
    recipients: int = 0
    differing: int = 0
    cut: int = 0
    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    filters: Counter[str] = field(default_factory=Counter)
    kinds: Counter[Kind] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    assumed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    left_out_count: int = 0
    left_out_reasons: Counter[str] = field(default_factory=Counter)
    _differences: dict[Kind, list[Difference]] = field(default_factory=dict)

    @property
    def differences(self) -> list[Difference]:
        """The first `most` of them, those that somebody will miss before all others."""
        return [one for kind in KINDS for one in self._differences.get(kind, ())][: self.most]

    def leave_out(self, name: str, reason: str) -> None:
        """A mail, or more, that could not be judged."""
        self.left_out_count += 1
        _count(self.left_out_reasons, reason, _OTHER_REASONS)
        if len(self.left_out) < _LEFT_OUT:
            self.left_out.append((name, reason))

    def add(self, account: Account) -> None:
        """One more mail."""
        self.mails += 1
        self.recipients += len(account.pairs)
        self.cut += account.cut
        self.failures.update(account.failed)
        self.assumed.update(account.assumed)
        for pair in account.pairs:
            self.table[pair.was.words, pair.now.words] += 1
            if not pair.was.differs(pair.now):
                continue
            kind = kind_of(pair.was.end, pair.now.end)
            self.kinds[kind] += 1
            if self.only is not None and kind != self.only:
                continue
            self.differing += 1
            said = pair.now if pair.now.by else pair.was
            by = said.by or OURSELVES
            self.filters[by] += 1
            _count(
                self.reasons, Reason(kind, by, (said.reply or said.reason)[:_TEXT]), Reason(kind, by, _OTHER_REASONS)
            )
            found = self._differences.setdefault(kind, [])
            if len(found) < self.most:
                found.append(Difference(account, pair))


def _count(counter: Counter[K], key: K, others: K) -> None:
    """Count it by itself, as long as there are not too many."""
    counter[key if key in counter or len(counter) < _REASONS else others] += 1


def failed_in(*rehearsals: Rehearsal) -> Sequence[str]:
    """The filters that could not answer about a mail."""
    return sorted({step.filter for one in rehearsals for step in one.steps if step.verdict == "failure"})


def sides_of(rehearsal: Rehearsal) -> Sequence[Side]:
    """The account of a policy, for each recipient."""
    return [_side(fate, rehearsal) for fate in rehearsal.recipients]


def sides_then(then: Sequence[str]) -> Sequence[Side]:
    """What is known to have become of a mail."""
    return [Side(outcome=one) for one in then]


def _side(fate: RecipientFate, rehearsal: Rehearsal) -> Side:
    last = fate
    while last.outcome == "deferred" and last.then is not None:
        last = last.then
    decided = fate if last.outcome in ("taken", "open") else last
    return Side(
        outcome=fate.outcome,
        after=last.outcome if last is not fate and last.outcome != "deferred" else "",
        by=_decider(decided, rehearsal),
        reason=decided.reason,
        reply=decided.reply,
        route=", ".join(last.targets) or last.route,
    )


def _decider(fate: RecipientFate, rehearsal: Rehearsal) -> str:
    if fate.outcome in ("taken", "open"):
        return ""
    said: Mapping[str, str] = {
        step.reason: step.filter
        for step in reversed(rehearsal.steps)
        if step.enforced and step.verdict != "continue" and step.recipient in ("", fate.address)
    }
    return said.get(fate.reason, OURSELVES)
