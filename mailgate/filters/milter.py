"""Milters that a site already has: OpenDKIM, OpenDMARC, clamav-milter, rspamd's proxy, and its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.awaiting import as_deferred
from mailgate.config.hosts import parse_host
from mailgate.config.schema import Section
from mailgate.config.units import Duration, Size, Timeout, at_least, format_duration, format_size
from mailgate.config.values import Host
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.events import Event, SessionClosed
from mailgate.filters.milter_talk import Talk
from mailgate.filters.milter_verdicts import judged
from mailgate.filters.scanning import Oversize, too_large
from mailgate.interfaces import (
    Answered,
    FilterServices,
    IConnectFilter,
    IDataFilter,
    IEventObserver,
    IHeloFilter,
    IMailFilter,
    IMessageFilter,
    IMessageModifier,
    IRecipientFilter,
    MaybeVerdict,
)
from mailgate.message import Edit, Message
from mailgate.scanners.milter.client import MilterClient, Settings
from mailgate.scanners.milter.conversation import Patience
from mailgate.scanners.milter.error import MilterError
from mailgate.scanners.pool import IScannerReactor
from mailgate.verdict import Continue, Defer, Disconnect, PermanentFailure, Reject, TemporaryFailure
from mailgate.wire.milter.negotiation import NEWEST, OLDEST

__all__ = ["Milter", "Options", "build"]

_log = Logger()

_PORT = 8891
#: Sessions that are talked about at one time; more than a gateway has open.
_MOST = 20_000
_MACRO = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_PACKETS = {"64KiB": 65535, "256KiB": 256 * 1024 - 1, "1MiB": 1024 * 1024 - 1}


def _macro_names(values: dict[str, str]) -> dict[str, str]:
    """The macros by their names without braces."""
    found = {}
    for written, value in values.items():
        name = written[1:-1] if written.startswith("{") and written.endswith("}") else written
        if not _MACRO.fullmatch(name):
            raise ValueError(f'"{written}" is no name of a macro, like "{{daemon_name}}"')
        if not value.isprintable():
            raise ValueError(f"the value of {written} has characters that cannot be printed")
        found[name] = value
    return found


class Options(Section):
    """`[filters.NAME]` with `kind = "milter"`: one milter; several have a section each, with names of their own.

    The milter hears of a session from its beginning, in one conversation, and its answers become verdicts: with its own
    reply, where it gives one. What it changes becomes edits. One that cannot be reached, dies, hangs or does not follow
    the protocol has failed: `on_failure` decides, for all of the transaction that it was lost in.
    """

    servers: list[Host] = Field(min_length=1)
    """where it listens: "host:port" (the port is 8891 if not given) or "unix:/run/opendkim/opendkim.sock". The first
    that works is asked, from the beginning of a session to its end; one that has failed is asked last for 30s"""
    connect_timeout: Timeout = 2.0
    """how long connecting to one server, and agreeing with it about the protocol, may take"""
    command_timeout: Timeout = 8.0
    """how long an answer about the client, the greeting, the sender or a recipient may take; below `deadline`"""
    content_timeout: Timeout = 8.0
    """how long an answer to a header field or a piece of the body may take. `deadline` is for all of the content"""
    end_timeout: Timeout = 8.0
    """how long the answer at the end of the content may take, where most milters do their work. A milter that says that
    it makes progress has so long again, up to ten times, as far as `deadline` lets it: raise both for slow ones"""
    sees: Literal["received", "edited"] = "received"
    """which message it is shown. received: as it came, and it has a say in what becomes of it; edited: as the filters
    before this one have left it, after all votes, which is right for what signs (OpenDKIM, last of all). There it can
    still refuse or defer, not quarantine or discard"""
    macros: Annotated[dict[str, str], AfterValidator(_macro_names)] = Field(default={})
    """macros with constant values, in the place of ours or beside them: { "{daemon_name}" = "ORIGINATING" }"""
    protocol: int = Field(default=NEWEST, ge=OLDEST, le=NEWEST, strict=True)
    """the newest version of the protocol that it is offered; only an old milter that refuses 6 needs another one"""
    packets: Literal["64KiB", "256KiB", "1MiB"] = "64KiB"
    """how large pieces of the body may be that it is offered to be sent; few milters take more than the smallest"""
    keep: int = Field(default=0, ge=0, le=1000, strict=True)
    """connections that are kept for following sessions. Only for milters that are known to go on after SMFIC_QUIT_NC:
    those made with libmilter, OpenDKIM for one, mostly hang then. 0 makes a connection for each session, as Postfix
    does"""
    idle: Annotated[Duration, at_least(1.0, format_duration)] = 3600.0
    """a conversation in which nothing is said for so long is ended; longer than sessions last"""
    max_size: Annotated[Size, at_least(1024, format_size)] = 100 * 1024 * 1024
    """larger messages are not shown to it"""
    oversize: Oversize = "continue"
    """what to do with those: continue, defer, quarantine or reject (552)"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Milter(options, services)


@implementer(
    IConnectFilter,
    IHeloFilter,
    IMailFilter,
    IRecipientFilter,
    IDataFilter,
    IMessageFilter,
    IMessageModifier,
    IEventObserver,
)
class Milter:
    """A conversation for each session."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._services = services
        self._sees_edited = options.sees == "edited"
        # In the gateway the clock is the reactor, which nothing here asks before there is mail.
        self._client = MilterClient(
            Settings(
                servers=[parse_host(text, _PORT) for text in options.servers],
                connect_timeout=options.connect_timeout,
                patience=Patience(options.command_timeout, options.content_timeout, options.end_timeout),
                version=options.protocol,
                max_data=_PACKETS[options.packets],
                idle=options.idle,
                keep=options.keep,
                more_macros=tuple(options.macros),
            ),
            cast(IScannerReactor, services.clock),
        )
        self._talks: dict[str, Talk] = {}

    def on_connect(self, session: Session) -> Answered:
        """Tell who has connected."""
        self._end(session.id)
        return self._tell_session(session, "connect")

    def on_helo(self, session: Session) -> Answered:
        """Tell how the client greets."""
        return self._tell_session(session, "helo")

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Tell the sender."""
        return self._tell(session, transaction, "mail")

    def on_rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Answered:
        """Tell a recipient."""
        return self._tell(session, transaction, "rcpt", recipient)

    def on_data(self, session: Session, transaction: Transaction) -> Answered:
        """Tell that the content comes."""
        return self._tell(session, transaction, "data")

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Show the content, and do as the milter says."""
        if self._sees_edited:
            return None
        size, limit = message.content.size, self._options.max_size
        if size > limit:
            self._talk(session).skip(transaction)
            return too_large(self._options.oversize, size, limit, ())
        return self._show(session, transaction, message)

    async def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """What the milter changes."""
        talk = self._talk(session)
        if self._sees_edited:
            if message.content.size > self._options.max_size:
                _raise(too_large(self._options.oversize, message.content.size, self._options.max_size, ()))
                return ()
            outcome = await talk.content(session, transaction, message, transaction.edits)
            _raise(judged(outcome, "message", talk.server, talk.late_refusals(transaction)))
        return talk.take_edits(transaction)

    def observe(self, event: Event) -> None:
        """A session is over."""
        if isinstance(event, SessionClosed):
            self._end(event.session)

    async def _tell_session(self, session: Session, stage: Literal["connect", "helo"]) -> MaybeVerdict:
        talk = self._talk(session)
        outcome = await talk.session(session, stage)
        return judged(outcome, stage, talk.server)

    async def _tell(
        self,
        session: Session,
        transaction: Transaction,
        stage: Literal["mail", "rcpt", "data"],
        recipient: Recipient | None = None,
    ) -> MaybeVerdict:
        talk = self._talk(session)
        outcome = await talk.envelope(session, transaction, stage, recipient)
        return judged(outcome, stage, talk.server)

    async def _show(self, session: Session, transaction: Transaction, message: Message) -> MaybeVerdict:
        talk = self._talk(session)
        outcome = await talk.content(session, transaction, message)
        return judged(outcome, "message", talk.server, talk.late_refusals(transaction))

    def _talk(self, session: Session) -> Talk:
        talk = self._talks.get(session.id)
        if talk is None:
            if len(self._talks) >= _MOST:
                self._end(next(iter(self._talks)))
            services = self._services
            macros = self._options.macros
            talk = Talk(self._client, services.hostname, macros, services.incoming, services.clock)
            self._talks[session.id] = talk
        return talk

    def _end(self, session: str) -> None:
        talk = self._talks.pop(session, None)
        if talk is not None:
            as_deferred(talk.end()).addErrback(
                lambda failure: _log.failure("a conversation with a milter does not end as it should", failure=failure)
            )


def _raise(verdict: MaybeVerdict) -> None:
    """Say a verdict where only edits can be answered: as one of the two failures that cross a stage.

    MilterError where it cannot be said there.
    """
    match verdict:
        case Reject(recipients=()):
            raise PermanentFailure(verdict.reason, verdict.reply)
        case Defer(recipients=()) | Disconnect():
            raise TemporaryFailure(verdict.reason, verdict.reply)
        case Continue() | None:
            return
    raise MilterError(f"{verdict.reason}; the message has been edited, and that cannot be done any more")
