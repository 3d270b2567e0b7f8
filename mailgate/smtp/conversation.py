"""What all parts of a session share: saying, refusing, asking the pipeline, hanging up."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import cast

from twisted.internet.interfaces import IReactorTime

from mailgate.address import Address
from mailgate.config.schema import ListenerSection
from mailgate.envelope import Client, Identity, Session, TraceStep, Transaction, new_id
from mailgate.interfaces import IEvents, IIntake, IPipeline, IRouting
from mailgate.reply import Reply
from mailgate.smtp import replies
from mailgate.smtp.refusal import RefusalTeller
from mailgate.smtp.waiting import Gate
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict

__all__ = ["Conversation", "SessionServices"]

#: Stands in for a verdict that the pipeline failed to give.
_NO_VERDICT = Defer(replies.LOCAL_ERROR, "the pipeline failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionServices:
    """What the sessions of one listener share. `trusted_pipeline` judges clients of its trusted networks.

    `client_name` finds the confirmed name of a client's address, "" for none. `incoming` is where content goes
    that passes `memory_limit` octets. `postmaster_domain` is where a `<postmaster>` without a domain lives (RFC 5321
    section 4.5.1); `hostname` if not given.
    """

    hostname: str
    clock: IReactorTime
    events: IEvents
    routing: IRouting
    intake: IIntake
    pipeline: IPipeline
    trusted_pipeline: IPipeline
    client_name: Callable[[IPv4Address | IPv6Address], str | Awaitable[str]]
    incoming: Path
    memory_limit: int
    postmaster_domain: str = ""


class Conversation:
    """One session with its peer. `say` gets each reply's octets; `hang_up` closes the connection after them and is told
    why in one word; `resume` is called when an answer that was awaited has been given, and the next line may come;
    `has_more` tells whether octets behind the line that was given last are here already.
    """

    __slots__ = (
        "_errors",
        "_hang_up",
        "commands",
        "gate",
        "has_more",
        "is_lmtp",
        "is_over",
        "pipeline",
        "say",
        "services",
        "session",
        "settings",
        "takes_content",
        "teller",
    )

    def __init__(
        self,
        client: Client,
        settings: ListenerSection,
        services: SessionServices,
        *,
        say: Callable[[bytes], None],
        hang_up: Callable[[str], None],
        resume: Callable[[], None],
        has_more: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.services = services
        self.say = say
        self._hang_up = hang_up
        self.has_more = has_more
        self.gate = Gate(resume, self.crash)
        self._errors = 0
        self.commands = 0  # since the last message
        self.is_over = False
        self.takes_content = False  # what comes next is content
        self.is_lmtp = settings.protocol == "lmtp"
        self.session = Session(
            id=new_id(),
            client=client,
            listener=settings.name,
            role=settings.role,
            hostname=services.hostname,
            protocol="LMTP" if self.is_lmtp else "SMTP",
        )
        self.teller = RefusalTeller(self.session, services.events, services.clock)
        self.pipeline = services.pipeline
        # A unix socket's permissions have said who may come.
        address = client.address
        if settings.role != "inbound" and (
            address is None or any(address in network for network in settings.trusted_networks)
        ):
            self.session.identity = Identity(str(address or "local"), "network")
            self.pipeline = services.trusted_pipeline

    def reply(self, reply: Reply) -> None:
        """Say a reply."""
        self.say(_octets(reply))

    def mistake(self, reply: Reply) -> None:
        """Refuse what the peer said, as one of the errors that a session may make."""
        self.reply(reply)
        self.count_error()

    def count_error(self) -> None:
        """One more error; the session ends with the last that it may make."""
        self._errors += 1
        if self._errors >= self.settings.max_errors:
            self.end(replies.TOO_MANY_ERRORS, "errors")

    def may_command(self) -> bool:
        """Count a command; whether it is not one too many since the last message. Otherwise the session ends."""
        self.commands += 1
        if self.commands > self.settings.max_commands:
            self.end(replies.TOO_MANY_COMMANDS, "errors")
        return not self.is_over

    def end(self, reply: Reply | None, cause: str) -> None:
        """Say a last reply and hang up."""
        if not self.is_over:
            self.is_over = True
            if reply is not None:
                self.reply(reply)
            self._hang_up(cause)

    def crash(self) -> None:
        """A bug of ours has struck: the peer may try again later."""
        self.end(replies.CRASHED, "crash")

    def ask(self, verdict: Verdict | Awaitable[Verdict], then: Callable[[Verdict], None]) -> None:
        """Go on with the pipeline's verdict, now or when it is there; with a Defer where the pipeline fails."""
        if type(verdict) is Continue:
            then(verdict)
        else:
            self.gate.when(verdict, cast("Callable[[object], None]", then), lambda: then(_NO_VERDICT))

    def objects(
        self,
        stage: str,
        verdict: Verdict,
        trace: Sequence[TraceStep],
        transaction: Transaction | None = None,
        recipient: Address | None = None,
    ) -> bool:
        """Whether the verdict says no; the peer has then been told."""
        if not isinstance(verdict, Reject | Defer | Disconnect):
            return False
        about = None if recipient is None else [recipient]
        self.teller.tell(stage, verdict.reply, verdict.reason, trace=trace, transaction=transaction, recipients=about)
        if isinstance(verdict, Disconnect):
            self.end(verdict.reply, "refused")
        else:
            self.mistake(verdict.reply)
        return True


@functools.lru_cache(maxsize=256)
def _octets(reply: Reply) -> bytes:
    # Most replies are one of a few.
    return reply.to_bytes()
