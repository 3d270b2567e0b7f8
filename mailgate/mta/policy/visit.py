"""A client of Postfix, as its requests tell of it: connected, greeted, logged in."""

from __future__ import annotations

from mailgate.address import Address
from mailgate.awaiting import answered
from mailgate.envelope import Identity, Session, Transaction, new_id
from mailgate.interfaces import IPipeline
from mailgate.mta.policy.deciding import refusal
from mailgate.mta.policy.services import PolicyServices
from mailgate.mta.policy.told import Told
from mailgate.observe.refusal import RefusalTeller
from mailgate.reply import Reply
from mailgate.smtp.peer import is_in
from mailgate.verdict import Defer, Disconnect, Reject, Verdict

__all__ = ["Visit"]

#: Greetings of one session that are judged: each leaves its trace.
_MOST_GREETINGS = 100
_TOO_MANY = Disconnect(Reply.of(421, "4.7.0", "Too many greetings"), "has greeted again and again")


class Visit:
    """One session of a client. Each of its steps is judged once, whatever number of requests tell of it."""

    def __init__(self, services: PolicyServices, told: Told) -> None:
        section, client = services.section, told.client
        self.services = services
        self.session = Session(
            id=new_id(),
            client=client,
            listener=services.name,
            role=section.role,
            hostname=services.hostname,
            destination=told.destination,
        )
        self.pipeline: IPipeline = services.pipeline
        if section.role != "inbound" and is_in(client, section.trusted_networks):
            self.session.identity = Identity(str(client.address), "network")
            self.pipeline = services.trusted_pipeline
        self._is_met = False
        self._gone = ""  # the action for whatever comes next
        self._greetings = 0
        self._greeting: tuple[str, str] = ("", "")  # the one that was judged, and the action about it
        self._login: tuple[Identity | None, str] = (self.session.identity, "")
        self._logged_in: Identity | None = None  # by a password, which is done once in a session

    def is_of(self, told: Told) -> bool:
        """Whether a request is about the same session, by what it is known by from its first to its last. Another may
        come from the same port later, by which nobody inherits a login, nor TLS."""
        client, login, tls = self.session.client, self._logged_in, self.session.tls
        is_same_client = (client.address, client.port) == (told.client.address, told.client.port)
        return is_same_client and login in (None, told.identity) and tls in (None, told.tls)

    async def meet(self, told: Told) -> str:
        """Judge what is told of the client, so far as it is new: the action where it is refused, else ""."""
        session = self.session
        verdict: Verdict
        if not self._is_met:
            verdict = await answered(self.pipeline.connect(session))
            self._is_met = True
            self._gone = self.tell("connect", verdict)
        if self._gone:
            return self._gone
        session.tls, session.protocol = told.tls, told.protocol
        if told.helo and told.helo != self._greeting[0]:
            session.helo = told.helo
            self._greetings += 1
            is_enough = self._greetings > _MOST_GREETINGS
            verdict = _TOO_MANY if is_enough else await answered(self.pipeline.helo(session))
            self._greeting = (told.helo, self.tell("helo", verdict))
        if self._greeting[1]:
            return self._greeting[1]
        is_known = told.identity is not None and session.role != "inbound"
        if told.identity is not None and is_known and told.identity != self._login[0]:
            verdict = await answered(self.pipeline.auth(session, told.identity))
            self._login = (told.identity, self.tell("auth", verdict, user=told.identity.name))
            self._logged_in = told.identity
            if not self._login[1]:
                session.identity = told.identity
                self.pipeline = self.services.trusted_pipeline
        return self._login[1]

    def tell(
        self,
        stage: str,
        verdict: Verdict,
        transaction: Transaction | None = None,
        recipient: Address | None = None,
        user: str = "",
    ) -> str:
        """The action where the verdict refuses, which is made known; else ""."""
        if not isinstance(verdict, Reject | Defer | Disconnect):
            return ""
        session, services = self.session, self.services
        action = refusal(verdict)
        RefusalTeller(session, services.events, services.clock).tell(
            stage,
            verdict.reply,
            verdict.reason,
            trace=session.trace if transaction is None else transaction.trace,
            transaction=transaction,
            recipients=None if recipient is None else [recipient],
            user=user,
        )
        if isinstance(verdict, Disconnect):
            self._gone = action
        return action
