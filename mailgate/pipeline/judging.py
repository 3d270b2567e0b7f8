"""The message stage: the votes of the filters, then the edits of the modifiers, for each recipient its own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, overload

from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.envelope import Session, Transaction
from mailgate.message import Edit, For, Message
from mailgate.pipeline.ask import Asker, Scene, join
from mailgate.pipeline.branches import (
    Branch,
    branched,
    check_edits,
    edits_for,
    is_for_all,
    joined,
    let_go_of_others,
)
from mailgate.pipeline.looks import Looks, scene_of
from mailgate.pipeline.marks import instead
from mailgate.pipeline.member import Asked, Edits, R
from mailgate.pipeline.votes import CONTINUE, Ballot, Several, Votes, each, for_some, strongest, whom_of
from mailgate.verdict import Accept, Verdict

__all__ = ["MessageStage", "awaited"]

_Groups = Sequence[Sequence[Asked[R]]]
_Answers = list[Ballot | Deferred[Ballot]]


class MessageStage:
    """The filters in `groups`, those of one at the same time, and the `modifiers`, one after another."""

    def __init__(self, asker: Asker, groups: _Groups[Ballot], modifiers: Sequence[Asked[Edits | Verdict]]) -> None:
        self._asker = asker
        self._groups = groups
        self._modifiers = modifiers
        self._is_for_all = all(asked.member.scope is None for group in groups for asked in group)

    def judge(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Generator[Deferred[Any], Any, Sequence[Verdict]]:
        """A verdict for each recipient; the edits are put into the transaction."""
        votes = Votes(transaction.recipients)
        votes.add_pending(session, transaction)
        scene, values = scene_of(session, transaction), (session, transaction, message)
        if self._is_for_all:
            yield from self._vote(scene, values, votes)
        else:
            yield from self._vote_for_some(Looks(session, transaction, message), transaction, votes)
        branches: list[Branch] | None = None  # None while all recipients have the same edits
        for asked in self._modifiers:
            if not votes.somebody_gets_it:
                break
            scope = asked.member.scope
            if branches is None and (scope is None or is_for_all(scope, transaction)):
                scene.check_edits = partial(check_edits, message.content, transaction.recipients, transaction.edits, 1)
                answer = self._asker.ask(asked, scene, values)
                edits = (yield answer) if isinstance(answer, Deferred) else answer
                if not isinstance(edits, tuple):
                    votes.add(edits)
                    edits = instead(asked, scene, message)
                if edits:
                    branches = branched(transaction, edits)
            else:
                branches = branches or [Branch(list(transaction.recipients), [])]
                branches = yield from self._modify(asked, session, transaction, message, branches, votes)
                branches = joined(transaction, branches)
        return votes.verdicts

    def _vote(self, scene: Scene, values: tuple[object, ...], votes: Votes) -> Generator[Deferred[Any], Any, None]:
        """Every filter is for all recipients."""
        for group in self._groups:
            answers: _Answers = [self._asker.ask(asked, scene, values) for asked in group]
            if len(answers) == 1 and answers[0] is CONTINUE:
                continue
            ballots = yield from awaited(answers)
            verdicts = each(ballots)
            heaviest = verdicts[strongest(verdicts)]
            if heaviest is CONTINUE:
                continue
            if isinstance(heaviest, Accept):
                return
            for verdict in verdicts:
                votes.add(verdict)
            if votes.all_refused:
                return

    def _vote_for_some(
        self, looks: Looks, transaction: Transaction, votes: Votes
    ) -> Generator[Deferred[Any], Any, None]:
        """Accept skips the rest of the stage for those recipients that its filter is for."""
        accepted: set[Address] = set()
        for group in self._groups:
            found = [(asked, looks.of(asked, accepted)) for asked in group]
            asking = [
                (asked, look)
                for asked, look in found
                if look is not None and not (look.among is not None and votes.is_refused(look.among))
            ]
            answers: _Answers = [self._asker.ask(asked, look.scene, look.values) for asked, look in asking]
            ballots = yield from awaited(answers)
            about = [
                (ballot if look.among is None or isinstance(ballot, Several) else for_some(ballot), look.among)
                for ballot, (_, look) in zip(ballots, asking, strict=True)
            ]
            for ballot, among in about:
                votes.add(ballot, among)
            if any(isinstance(ballot, Accept) for ballot, _ in about):
                said = [(verdict, whom_of(verdict, among)) for ballot, among in about for verdict in each((ballot,))]
                for one in transaction.recipients:
                    verdicts = [verdict for verdict, whom in said if whom is None or one.address in whom]
                    if verdicts and isinstance(verdicts[strongest(verdicts)], Accept):
                        accepted.add(one.address)
            if votes.all_refused or len(accepted) == len(transaction.recipients):
                return

    def _modify(
        self,
        asked: Asked[Edits | Verdict],
        session: Session,
        transaction: Transaction,
        message: Message,
        branches: Sequence[Branch],
        votes: Votes,
    ) -> Generator[Deferred[Any], Any, list[Branch]]:
        """Ask for each branch that the filter is for, in whole or in part."""
        done: list[Branch] = []
        answers: list[Edit | For] = []
        looks = Looks(session, transaction, message)
        for place, branch in enumerate(branches):
            scope = asked.member.scope
            meant = [one for one in branch.recipients if scope is None or scope.is_for(one.address)]
            if not meant or not votes.may_be_kept_for({one.address for one in meant}):
                done.append(branch)
                continue
            before = [*transaction.edits, *branch.edits]
            look = looks.at(asked, meant, before)
            others = len(done) + len(branches) - place - 1 + (len(meant) < len(branch.recipients))
            look.scene.check_edits = partial(check_edits, message.content, meant, before, 1 + others)
            answer = self._asker.ask(asked, look.scene, look.values)
            if isinstance(answer, Deferred):
                # What has been answered so far belongs to the transaction, whoever gives up on the rest.
                transaction.edits_for = edits_for([*done, *branches[place:]])
                edits = yield answer
            else:
                edits = answer
            if not isinstance(edits, tuple):
                votes.add(edits, look.among)
                edits = instead(asked, look.scene, message)
            answers += edits
            done += branch.after(edits, meant)
        transaction.edits_for = edits_for(done)
        let_go_of_others(answers, done)
        return done


@overload
def awaited(answers: Sequence[Verdict | Deferred[Verdict]]) -> Generator[Deferred[Any], Any, Sequence[Verdict]]: ...


@overload
def awaited(answers: Sequence[Ballot | Deferred[Ballot]]) -> Generator[Deferred[Any], Any, Sequence[Ballot]]: ...


def awaited(answers: Sequence[R | Deferred[R]]) -> Generator[Deferred[Any], Any, Sequence[R]]:
    """What the filters of a group answer, once all have."""
    if len(answers) == 1:
        (only,) = answers
        return [(yield only) if isinstance(only, Deferred) else only]
    if any(isinstance(answer, Deferred) for answer in answers):
        results: list[R] = yield Deferred.fromCoroutine(join(answers))
        return results
    return answers  # type: ignore[return-value]  # none of them is a Deferred
