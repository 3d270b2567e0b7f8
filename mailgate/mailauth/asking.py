"""Libraries that ask DNS while they work, without blocking and without threads.

Such a library is given answers from what is known. What is not known ends its work at that place; it is asked for, and
the work is begun anew with one answer more, until it comes to its end. The work is plain synchronous code without
lasting effects, so two pieces of it never meet, however many sessions wait for answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

from mailgate.awaiting import as_deferred
from mailgate.interfaces import Answer, IResolver

__all__ = ["Known", "NotKnownYet", "TooManyQuestionsError", "work_with_answers"]

T = TypeVar("T")

_Question = tuple[str, str]


class NotKnownYet(BaseException):
    """Ends the work at a question whose answer is not there. No Exception, so that libraries let it through."""


class TooManyQuestionsError(Exception):
    """The work asks for more than it may."""


class Known:
    """What DNS has said so far to one piece of work."""

    def __init__(self) -> None:
        self.answers: dict[_Question, Answer] = {}
        self._missing: dict[_Question, None] = {}
        self._expected: dict[_Question, None] = {}

    def __call__(self, name: str, rdtype: str) -> Answer:
        """The answer; raises NotKnownYet where it is not there yet. Case and a final dot do not tell names apart."""
        question = _question(name, rdtype)
        answer = self.answers.get(question)
        if answer is None:
            self._missing[question] = None
            raise NotKnownYet(f"{rdtype} of {name}")
        return answer

    def expect(self, name: str, rdtype: str) -> None:
        """Say that this will be asked for as well: it is then asked together with what is asked next."""
        question = _question(name, rdtype)
        if question not in self.answers:
            self._expected[question] = None

    @property
    def lacks_an_answer(self) -> bool:
        """Whether the work has asked for something that is not known, even if something in it has swallowed that."""
        return bool(self._missing)

    def due(self) -> list[_Question]:
        """What has to be asked now; begins a new list."""
        due = list(self._missing | self._expected)
        self._missing, self._expected = {}, {}
        return due


async def work_with_answers(
    resolver: IResolver, work: Callable[[Known], T], *, most_questions: int = 200, most_rounds: int = 100
) -> T:
    """What `work` comes to with all the answers that it asks for; questions of one round are put at the same time.

    `work` is called up to `most_rounds` times, with the same object. Whatever it returns or raises while an answer is
    missing does not count. Raises TooManyQuestionsError beyond the bounds, and what `work` raises by itself. Where the
    resolver answers at once nothing is waited for; cancelling cancels every question.
    """
    known = Known()
    for _ in range(most_rounds):
        try:
            result = work(known)
        except NotKnownYet:
            pass
        except Exception:
            if not known.lacks_an_answer:
                raise
        else:
            if not known.lacks_an_answer:
                return result
        due = known.due()
        if len(known.answers) + len(due) > most_questions:
            raise TooManyQuestionsError(f"more than {most_questions} questions")
        await _ask(resolver, due, known.answers)
    raise TooManyQuestionsError(f"questions in more than {most_rounds} rounds")


async def _ask(resolver: IResolver, due: list[_Question], answers: dict[_Question, Answer]) -> None:
    waiting: dict[_Question, Deferred[Answer]] = {}
    try:
        for question in due:
            answer = resolver.resolve(*question)
            if isinstance(answer, Answer):
                answers[question] = answer
            else:
                waiting[question] = as_deferred(answer)
        for question, pending in waiting.items():
            answers[question] = await pending
    finally:
        # Where one has failed or was cancelled, nobody waits for the others any more.
        for pending in waiting.values():
            pending.addErrback(lambda _: None)
            pending.cancel()


def _question(name: str, rdtype: str) -> _Question:
    return name.lower().removesuffix("."), rdtype
