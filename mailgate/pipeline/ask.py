"""Puts one question to one filter: its answer, its failure, its deadline, and what of that is recorded.

Whatever a filter does, there is a result to act on. An answer that is at hand costs no Deferred.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgate.address import Address
from mailgate.awaiting import as_deferred
from mailgate.envelope import Evidence, TraceStep
from mailgate.events import BreakerChanged, FilterFailed
from mailgate.findings import Finding
from mailgate.interfaces import IEvents
from mailgate.message import Edit, For, release
from mailgate.pipeline.breaker import Admission
from mailgate.pipeline.member import Asked, Member, R, named, stand_in
from mailgate.pipeline.votes import CONTINUE, Several
from mailgate.verdict import Defer, PermanentFailure, Reject, TemporaryFailure

__all__ = ["MAX_STEPS", "Asker", "Scene", "join"]

T = TypeVar("T")

_log = Logger()

_ORDINARY = Admission.ORDINARY  # an enum's attribute is no plain one

#: Steps of a trace from which on a "continue" at a recipient is no longer noted. A session whose trace is this
#: long has greeted us far more often than mail needs.
MAX_STEPS = 500
_MAX_ERROR = 500
_MAX_VERDICTS = 20
_MAX_FOUND = 10


_Told = tuple[str, str, tuple[object, ...], str, str]
"""A verdict as it is recorded: its word, its reason, its evidence, whom it names, and the evidence in words."""


class Scene(Struct):
    """What a question is about: where its trace and its evidence go, and the names for an event about it.

    `recipient` names whom it is about, where that is not all. `check_edits` raises where the edits that a filter
    answers do not fit the message. `is_for` tells which recipients the filter is for, where it is not for all.
    """

    trace: list[TraceStep]
    evidence: Evidence
    session: str = ""
    queue_id: str = ""
    recipient: str = ""
    check_edits: Callable[[Sequence[Edit | For]], None] | None = None
    is_for: Callable[[Address], bool] | None = None


class Asker:
    """Asks. Results are verdicts, or what the question's `read` makes of an answer: edits, a route's name."""

    def __init__(self, clock: IReactorTime, events: IEvents) -> None:
        self.clock = clock
        self._events = events

    def ask(self, asked: Asked[R], scene: Scene, values: tuple[object, ...]) -> R | Deferred[R]:
        """The result, or a Deferred of it, which fails with CancelledError only, when it is cancelled."""
        clock, member = self.clock, asked.member
        started = clock.seconds()
        breaker = member.breaker
        admission = _ORDINARY
        if not breaker.is_calm:
            admission = breaker.admit(started)
            if admission is Admission.REFUSED:
                return self._replace(asked, scene, 0.0, "not asked, it failed again and again")
        try:
            answer = asked.call(*values)
        except Exception:
            return self.failed(asked, scene, started, admission, Failure())
        question = asked.question
        if answer is None and question.neutral is CONTINUE and breaker.is_calm:  # most answers: nothing to understand
            trace = scene.trace
            if question.once or len(trace) < MAX_STEPS:
                seconds = clock.seconds() - started
                trace.append(
                    TraceStep(question.stage, member.name, "continue", "", seconds, asked.enforced, scene.recipient)
                )
            return question.neutral
        if answer is not None and isinstance(answer, Awaitable):
            return _Waiting(self, asked, scene, started, admission, as_deferred(answer)).outcome
        return self.answered(asked, scene, started, admission, answer)

    def answered(self, asked: Asked[R], scene: Scene, started: float, admission: Admission, answer: object) -> R:
        """Understand, record and return an answer."""
        try:
            word, reason, result = asked.question.read(answer)
            if result is asked.question.neutral or type(result) is tuple:  # edits
                told: list[_Told] = [(word, reason, (), "", "")]
            elif isinstance(result, Several):
                told = _several(result)
            else:
                told = [(word, reason, *_details(result))]
            if type(result) is tuple and scene.check_edits is not None:
                scene.check_edits(cast("Sequence[Edit | For]", result))
        except Exception as error:  # an answer may be anything, and looking at it may do anything
            _let_go(answer)
            return self._failed(asked, scene, started, admission, f"{type(error).__name__}: {error}")
        member = asked.member
        if _comes_after_failure(asked, scene):
            now = self.clock.seconds()
            member.breaker.abandoned(admission)
        else:
            now = self._worked(member)
        for word, reason, evidence, about, found in told:
            for value in evidence:
                if scene.is_for is None:
                    scene.evidence.add(value)
                else:
                    scene.evidence.add_for(value, scene.is_for)
            if asked.question.once or word != "continue" or len(scene.trace) < MAX_STEPS:
                recipient = about if scene.is_for is not None and about else scene.recipient or about
                scene.trace.append(
                    TraceStep(
                        asked.question.stage, member.name, word, reason, now - started, asked.enforced, recipient, found
                    )
                )
        if asked.enforced:
            return result
        _let_go(answer)
        return asked.question.neutral

    def failed(self, asked: Asked[R], scene: Scene, started: float, admission: Admission, failure: Failure) -> R:
        """An exception: an answer where it is one of the two that may cross a stage, else a failure."""
        error = failure.value
        if isinstance(error, TemporaryFailure):
            return self._verdict(asked, scene, started, Defer(error.reply, str(error)))
        if isinstance(error, PermanentFailure):
            return self._verdict(asked, scene, started, Reject(error.reply, str(error)))
        _log.failure(
            "the filter {filter} failed at {stage}",
            failure=failure,
            filter=asked.member.name,
            stage=asked.question.stage,
        )
        return self._failed(asked, scene, started, admission, _text(failure))

    def late(self, asked: Asked[R], scene: Scene, started: float, admission: Admission) -> R:
        """No answer within the deadline."""
        return self._failed(asked, scene, started, admission, f"no answer within {asked.member.deadline:g} s")

    def abandoned(self, asked: Asked[Any], scene: Scene, started: float, admission: Admission) -> None:
        """Nobody waits for the answer any more."""
        asked.member.breaker.abandoned(admission)
        self._note(asked, scene, self.clock.seconds() - started, "abandoned", "")

    def _worked(self, member: Member) -> float:
        """Note that the filter answered; the time."""
        now = self.clock.seconds()
        if member.breaker.succeeded():
            self._events.publish(BreakerChanged(at=now, filter=member.name, is_open=False))
        return now

    def _verdict(self, asked: Asked[R], scene: Scene, started: float, verdict: Defer | Reject) -> R:
        now = self._worked(asked.member)
        self._note(asked, scene, now - started, type(verdict).__name__.lower(), verdict.reason)
        return cast(R, verdict) if asked.enforced else asked.question.neutral

    def _failed(self, asked: Asked[R], scene: Scene, started: float, admission: Admission, error: str) -> R:
        now = self.clock.seconds()
        error = error[:_MAX_ERROR]
        self._events.publish(
            FilterFailed(
                at=now,
                filter=asked.member.name,
                stage=asked.question.stage,
                error=error,
                on_failure=_action(asked),
                session=scene.session,
                queue_id=scene.queue_id,
            )
        )
        if asked.member.breaker.failed(now, admission):
            self._events.publish(BreakerChanged(at=now, filter=asked.member.name, is_open=True))
        return self._replace(asked, scene, now - started, error)

    def _replace(self, asked: Asked[R], scene: Scene, seconds: float, error: str) -> R:
        action = _action(asked)
        self._note(asked, scene, seconds, "failure", f"{error} (on_failure: {action})")
        return stand_in(action, asked.question, f"{asked.member.name}: {error}")

    def _note(self, asked: Asked[Any], scene: Scene, seconds: float, word: str, reason: str) -> None:
        scene.trace.append(
            TraceStep(asked.question.stage, asked.member.name, word, reason, seconds, asked.enforced, scene.recipient)
        )


class _Waiting(Generic[R]):
    """A filter that answers later: until its answer, its deadline, or until the caller gives up.

    The caller's Deferred is not the filter's: a filter that swallows its cancellation cannot make it late.
    """

    __slots__ = ("_about", "_answer", "_asker", "_deadline", "_over", "outcome")

    def __init__(
        self,
        asker: Asker,
        asked: Asked[R],
        scene: Scene,
        started: float,
        admission: Admission,
        answer: Deferred[object],
    ) -> None:
        self._asker = asker
        self._about = (asked, scene, started, admission)
        self._answer = answer
        self._deadline: IDelayedCall | None = None
        self._over = False
        #: The result where it is there already, else the Deferred of it.
        self.outcome: R | Deferred[R]
        answer.addCallbacks(self._answered, self._failed)
        if not self._over:
            self.outcome = Deferred(self._abandon)
            self._deadline = asker.clock.callLater(asked.member.deadline, self._expire)

    def _answered(self, answer: object) -> None:
        if self._over:
            _let_go(answer)
        else:
            self._end(self._asker.answered(*self._about, answer))

    def _failed(self, failure: Failure) -> None:
        if not self._over:
            self._end(self._asker.failed(*self._about, failure))

    def _end(self, result: R) -> None:
        self._over = True
        if self._deadline is None or not isinstance(self.outcome, Deferred):
            self.outcome = result
            return
        if self._deadline.active():
            self._deadline.cancel()
        self.outcome.callback(result)

    def _expire(self) -> None:
        self._end(self._asker.late(*self._about))
        self._cancel_filter()

    def _abandon(self, _: Deferred[R]) -> None:
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._asker.abandoned(*self._about)
        self._cancel_filter()

    def _cancel_filter(self) -> None:
        try:
            self._answer.cancel()
        except Exception:
            _log.failure("the filter {filter} failed when it was cancelled", filter=self._about[0].member.name)


async def join(answers: Sequence[T | Deferred[T]]) -> list[T]:
    """The results of questions that were asked together, once all are there; cancelled together, too."""
    try:
        return [await answer if isinstance(answer, Deferred) else answer for answer in answers]
    except CancelledError:
        for answer in answers:
            if isinstance(answer, Deferred):
                answer.addErrback(lambda _: None)
                answer.cancel()
        raise


def _comes_after_failure(asked: Asked[Any], scene: Scene) -> bool:
    """Whether these are the edits of a filter that has failed at this very message: they say nothing about what it
    asks. Counted as a success, the breaker of a scanner that is out of order would never open."""
    member = asked.member
    if asked.question.stage != "modify" or member.breaker.is_calm:
        return False
    return any(step.verdict == "failure" and step.filter == member.name for step in scene.trace)


def _let_go(answer: object) -> None:
    """Nothing will be done with this answer: what edits in it hold is free again."""
    if isinstance(answer, list | tuple):
        release(answer)


def _action(asked: Asked[Any]) -> str:
    return asked.member.on_failure if asked.enforced else "continue"


def _text(failure: Failure) -> str:
    name = failure.type.__name__ if failure.type is not None else "Exception"
    return f"{name}: {failure.getErrorMessage()}"


def _details(result: object) -> tuple[tuple[object, ...], str, str]:
    """The evidence that comes with a result; the recipients that it names, and the evidence in words, for the trace."""
    evidence = tuple(getattr(result, "evidence", ()))
    told = [text for one in evidence[:_MAX_FOUND] if isinstance(one, Finding) and (text := one.summary())]
    if len(evidence) > _MAX_FOUND:
        told.append(f"{len(evidence) - _MAX_FOUND} more")
    found = "; ".join(told)[:_MAX_ERROR]
    return evidence, named(getattr(result, "recipients", ())), found


def _several(ballot: Several) -> list[_Told]:
    """Each verdict on its own, the evidence of what the trace no longer names too."""
    told: list[_Told] = [
        (type(one).__name__.lower(), getattr(one, "reason", ""), *_details(one)) for one in ballot.verdicts
    ]
    if len(told) > _MAX_VERDICTS:
        rest = told[_MAX_VERDICTS:]
        told[_MAX_VERDICTS:] = [("several", f"{len(rest)} more", tuple(one for _ in rest for one in _[2]), "", "")]
    return told
