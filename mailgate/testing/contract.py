"""What every filter must keep to, as tests that a filter's own tests inherit."""

from __future__ import annotations

import copy
import gc
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import Invalid, implementer
from zope.interface.verify import verifyObject

from mailgate.envelope import Envelope, EnvelopeRecipient, Identity, Recipient, Session, Transaction
from mailgate.interfaces import AttemptContext, FilterServices, IEventObserver, IFilterFactory
from mailgate.message import Message
from mailgate.pipeline.member import QUESTIONS, Question
from mailgate.testing.answers import as_deferred, wait_for
from mailgate.testing.builders import message, recipient, services, session, transaction
from mailgate.testing.fakes import Silent
from mailgate.verdict import Defer, Disconnect, PermanentFailure, Reject, TemporaryFailure

__all__ = ["FilterContract", "Occasion"]


@dataclass(slots=True, kw_only=True)
class Occasion:
    """One mail as it comes, whole: every stage that the filter provides is asked about it."""

    session: Session = field(default_factory=session)
    identity: Identity = field(default_factory=lambda: Identity("ann", "PLAIN"))
    transaction: Transaction = field(default_factory=transaction)
    recipient: Recipient = field(default_factory=recipient)
    message: Message = field(default_factory=message)

    def values(self, question: Question[Any]) -> tuple[object, ...]:
        """The arguments of a stage's method."""
        match question.stage:
            case "connect" | "helo":
                return (self.session,)
            case "auth":
                return self.session, self.identity
            case "mail" | "data":
                return self.session, self.transaction
            case "rcpt" | "route":
                return self.session, self.transaction, self.recipient
            case "attempt":
                return (self._attempt(),)
            case _:
                return self.session, self.transaction, self.message

    def _attempt(self) -> AttemptContext:
        recipients = tuple(
            EnvelopeRecipient(number, one.address, one.route) for number, one in enumerate(self.transaction.recipients)
        )
        envelope = Envelope(
            queue_id=self.transaction.id,
            sender=self.transaction.sender,
            recipients=recipients,
            received=0.0,
            size=self.message.content.size,
            client=str(self.session.client),
        )
        return AttemptContext(envelope, recipients, recipients[0].route if recipients else "", 1)


class FilterContract:
    """A mixin for a test case (unittest, trial's SynchronousTestCase, or a plain pytest class).

    Give `factory`, and what the filter needs to be built and to have something to say:

        class GreetingContractTests(FilterContract, SynchronousTestCase):
            factory = greeting
            settings = {"refuse": ["friend"]}

            def occasions(self):
                return [Occasion(), Occasion(session=session(helo="friend"))]

    It proves that the filter is built from its options and provides its stages as the interfaces say; that every
    answer is one that the pipeline understands and comes within the deadline; that giving up on an answer leaves
    nothing behind; that nothing is changed but evidence; that reasons stay private; and that the same question
    has the same answer.
    """

    factory: IFilterFactory
    settings: Mapping[str, object] = {}
    """The filter's section, as it would stand in the file."""
    deadline: float = 10.0
    """Within how many seconds every answer must come."""
    varies: str = ""
    """Why the same question may have another answer the second time ("it counts"); "" where it may not."""

    # -- hooks

    def occasions(self) -> Iterable[Occasion]:
        """The mails that the filter is asked about: new objects at each call, but always the same values."""
        return [Occasion()]

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        """What the filter is given. `silent` replaces resolver, counters and directory where the test says so."""
        return services(clock=clock, **silent)

    def make_filter(self, services: FilterServices) -> object:
        """The filter, built as the gateway would build it."""
        return self.factory.build(self.factory.options(**self.settings), services)

    # -- the contract

    def test_it_is_built_from_its_options(self) -> None:
        """The factory is complete, and the filter provides at least one stage, as its interface says."""
        _verify(IFilterFactory, self.factory)
        built = self.make_filter(self.make_services(Clock()))
        provided = [question.interface for question in _questions_to(built)]
        if IEventObserver.providedBy(built):
            provided.append(IEventObserver)
        if not provided:
            raise AssertionError(f"{built!r} provides no stage interface")
        for interface in provided:
            _verify(interface, built)

    def test_it_refuses_unknown_options(self) -> None:
        """A key that the options do not know is an error, so that a mistyped one is found."""
        try:
            self.factory.options(**{**self.settings, "no_filter_has_this_option": 1})
        except ValueError:
            return
        raise AssertionError("an unknown option is taken")

    def test_its_answers_come_in_time_and_are_understood(self) -> None:
        """Every answer is of the right kind, and there within the deadline."""
        for occasion in self.occasions():
            clock = Clock()
            built = self.make_filter(self.make_services(clock))
            for question in _questions_to(built):
                question.read(_answer(built, question, occasion, clock, self.deadline))

    def test_it_can_be_given_up_on(self) -> None:
        """While nothing outside answers, cancelling an answer ends it, with no timer and no error left behind."""
        for occasion in self.occasions():
            clock, silent = Clock(), Silent()
            given = self.make_services(clock, resolver=silent, counters=silent, directory=silent)
            built = self.make_filter(given)
            for question in _questions_to(built):
                before = len(clock.getDelayedCalls())
                with _no_errors(question):
                    _give_up(built, question, occasion)
                if len(clock.getDelayedCalls()) > before:
                    raise AssertionError(f"{question.method}: cancelling its answer leaves a timer behind")

    def test_it_changes_nothing(self) -> None:
        """Session, transaction, recipient and message are as they were, evidence aside."""
        for occasion in self.occasions():
            clock = Clock()
            built = self.make_filter(self.make_services(clock))
            for question in _questions_to(built):
                before = _snapshot(occasion)
                _answer(built, question, occasion, clock, self.deadline)
                after = _snapshot(occasion)
                changed = [key for key, value in before.items() if after[key] != value]
                if changed:
                    raise AssertionError(f"{question.method} changes {', '.join(changed)}")

    def test_its_reasons_stay_private(self) -> None:
        """No reply to the peer contains the private reason."""
        for occasion in self.occasions():
            clock = Clock()
            built = self.make_filter(self.make_services(clock))
            for question in _questions_to(built):
                answer = _answer(built, question, occasion, clock, self.deadline)
                for one in answer if isinstance(answer, list | tuple) else (answer,):
                    if isinstance(one, Reject | Defer | Disconnect) and one.reason in one.reply.text:
                        raise AssertionError(f"{question.method}: the reply shows the reason {one.reason!r}")

    def test_the_same_question_has_the_same_answer(self) -> None:
        """Asked again about an equal mail at the same moment, it says the same; see `varies`."""
        if self.varies:
            return
        clock = Clock()
        built = self.make_filter(self.make_services(clock))
        for first, second in zip(self.occasions(), self.occasions(), strict=True):
            for question in _questions_to(built):
                answers = [_answer(built, question, one, clock, self.deadline) for one in (first, second)]
                if answers[0] != answers[1]:
                    raise AssertionError(f"{question.method} answers {answers[0]!r}, then {answers[1]!r}")


def _questions_to(built: object) -> list[Question[Any]]:
    return [question for question in QUESTIONS if question.interface.providedBy(built)]


def _verify(interface: Any, provider: object) -> None:
    try:
        verifyObject(interface, provider)
    except Invalid as error:
        raise AssertionError(str(error)) from error


def _answer(built: object, question: Question[Any], occasion: Occasion, clock: Clock, deadline: float) -> object:
    """The answer as a value; the exceptions that may cross a stage as the verdicts that they stand for."""
    try:
        return wait_for(getattr(built, question.method)(*occasion.values(question)), clock, deadline)
    except TemporaryFailure as failure:
        return Defer(failure.reply, str(failure))
    except PermanentFailure as failure:
        return Reject(failure.reply, str(failure))


def _give_up(built: object, question: Question[Any], occasion: Occasion) -> None:
    try:
        answer = getattr(built, question.method)(*occasion.values(question))
    except (TemporaryFailure, PermanentFailure):
        return
    if not isinstance(answer, Awaitable):
        return
    results: list[object] = []
    deferred = as_deferred(answer)
    deferred.addBoth(results.append)
    deferred.cancel()
    if not results:
        raise AssertionError(f"{question.method} goes on although its answer was cancelled")


@contextmanager
def _no_errors(question: Question[Any]) -> Iterator[None]:
    """AssertionError where an error is logged meanwhile, such as that of a Deferred which nobody handles."""
    watch = _ErrorWatch()
    globalLogPublisher.addObserver(watch)
    try:
        yield
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(watch)
    if watch.errors:
        raise AssertionError(f"{question.method}: cancelling its answer leaves errors: {'; '.join(watch.errors)}")


@implementer(ILogObserver)
class _ErrorWatch:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.errors.append(event["log_failure"].getErrorMessage())


def _snapshot(occasion: Occasion) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in (
        ("session", occasion.session),
        ("transaction", occasion.transaction),
        ("recipient", occasion.recipient),
    ):
        for field_name in value.__struct_fields__:
            if field_name != "evidence":
                found[f"{name}.{field_name}"] = copy.deepcopy(getattr(value, field_name))
    found["message"] = (occasion.message.content.read(), list(occasion.message.fields))
    return found
