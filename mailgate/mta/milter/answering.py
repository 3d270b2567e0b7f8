"""What a mail server is answered to the steps of a session, and what is made known of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mailgate.address import Address
from mailgate.envelope import Session, Transaction
from mailgate.mta.milter.ending import farewell
from mailgate.mta.milter.services import MilterServices
from mailgate.observe.refusal import RefusalTeller
from mailgate.reply import Reply
from mailgate.verdict import Defer, Disconnect, Reject, Verdict
from mailgate.wire.milter.codec import Answer, ReplyGiven
from mailgate.wire.milter.negotiation import Agreement
from mailgate.wire.milter.words import STEP_BITS, Code, Plain

__all__ = ["STAGES", "Answering", "is_objection"]

#: Where a refusal of ours belongs, at steps that are always answered, or may be.
STAGES = {
    Code.CONNECT: "connect",
    Code.HELO: "helo",
    Code.MAIL: "mail",
    Code.RCPT: "rcpt",
    Code.DATA: "data",
    Code.END_OF_BODY: "content",
}


class Answering:
    """Answers in one session. `send` comes back when there is room for another answer.

    `is_answered`: the step of now has its answer. `over`: the client is to go, and whatever comes next is answered with
    this.
    """

    def __init__(
        self, services: MilterServices, agreement: Agreement, send: Callable[[Answer], Awaitable[None]]
    ) -> None:
        self._services = services
        self._agreement = agreement
        self._send = send
        self.is_answered = False
        self.over: Reply | None = None

    async def answer(
        self,
        session: Session,
        code: Code,
        stage: str,
        verdict: Verdict,
        transaction: Transaction | None = None,
        recipient: Address | None = None,
        user: str = "",
    ) -> None:
        """What the filters say to a step."""
        if not isinstance(verdict, Reject | Defer | Disconnect):
            await self.go_on(code)
            return
        reply = farewell(verdict.reply) if isinstance(verdict, Disconnect) else verdict.reply
        self._teller(session).tell(
            stage,
            reply,
            verdict.reason,
            trace=session.trace if transaction is None else transaction.trace,
            transaction=transaction,
            recipients=None if recipient is None else [recipient],
            user=user,
        )
        if isinstance(verdict, Disconnect):
            self.over = reply
        if not self.is_quiet(code):
            await self.say(ReplyGiven(reply))

    async def refuse(
        self, session: Session, code: Code, reply: Reply, reason: str, transaction: Transaction | None = None
    ) -> None:
        """Say no by ourselves."""
        about: list[Address] | None = [] if code is Code.RCPT else None
        self._teller(session).tell(STAGES[code], reply, reason, transaction=transaction, recipients=about)
        await self.say(ReplyGiven(reply))

    async def go_on(self, code: Code) -> None:
        """Nothing is against the step; or nothing more is to come of the session."""
        if not self.is_quiet(code):
            await self.say(Plain.CONTINUE if self.over is None or code is Code.UNKNOWN else ReplyGiven(self.over))

    async def say(self, answer: Answer) -> None:
        """Send this."""
        if isinstance(answer, ReplyGiven | Plain) and answer is not Plain.PROGRESS:
            self.is_answered = True
        await self._send(answer)

    def is_quiet(self, code: Code) -> bool:
        """Whether the mail server waits for no answer to such a step."""
        return self._agreement.is_quiet(STEP_BITS[code][1])

    def _teller(self, session: Session) -> RefusalTeller:
        return RefusalTeller(session, self._services.events, self._services.clock)


def is_objection(verdict: Verdict) -> bool:
    """Whether the step does not stand."""
    return isinstance(verdict, Reject | Defer | Disconnect)
