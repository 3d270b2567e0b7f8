"""A command of the site's own looks at messages: a process in any language, within limits of time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.config.units import Size, Timeout, at_least, format_size
from mailgate.config.values import Count, Flag
from mailgate.envelope import Session, Transaction
from mailgate.filters.scanning import Oversize, OwnResult, fact_word, own_result, said, too_large
from mailgate.findings import Finding, Points
from mailgate.interfaces import Answered, FilterServices, IContentFilter, IMessageModifier, MaybeVerdict
from mailgate.message import AddHeader, Edit, Message
from mailgate.scanners.command import CommandAnswer, CommandError, CommandRunner, CommandSettings, ICommandReactor
from mailgate.scanners.pool import ScannerError
from mailgate.verdict import Accept

__all__ = ["Command", "CommandResult", "Options", "build"]

#: Facts of other filters that a command is told, and words and header fields that it may give.
_MAX_FACTS, _MAX_WORDS = 500, 100
_MAX_REASON = 500
#: The word of a result that is none.
_FAILURE = "failure"


def _command(words: list[str]) -> list[str]:
    if not words[0].startswith("/"):
        raise ValueError(f'"{words[0]}" is no full path of a command')
    if any("\0" in word for word in words):
        raise ValueError("a word of a command has no zero octet")
    return words


class Options(Section):
    """`[filters.NAME]` with `kind = "command"`: what this command says of a message is done.

    The command reads a line of JSON (who sent what to whom, what other filters have found, the size of the content),
    then the content, and writes a line of JSON: {"verdict": "continue"}, or accept, reject, defer, quarantine, discard,
    with "reason" for the history and "text" for the sender, "points" and "facts" for scores, and "add_headers", pairs
    of name and value. It runs as the gateway's user, with an environment of its own. Whatever else it does (another
    answer, none in time, more memory than it may have) is its failure: it is ended, with all that it started, and
    `on_failure` decides.
    """

    command: Annotated[list[str], AfterValidator(_command)] = Field(min_length=1)
    """the command and its arguments, without a shell: ["/usr/local/bin/check-mail", "--strict"]"""
    kept: Flag = False
    """whether a process stays for the next message, which saves the time of its start. It must read all that it is
    sent, write one line for each message at once (unbuffered), and end when its input does"""
    content: Literal["stdin", "file"] = "stdin"
    """where it finds the content. stdin: behind the line, so many octets as "size" says; file: in the file that "file"
    names, which it only reads and which is gone after its answer"""
    timeout: Timeout = 8.0
    """how long an answer may take, the wait for a free process too; below `deadline`"""
    memory: Annotated[Size, at_least(16 * 1024 * 1024, format_size)] = 512 * 1024 * 1024
    """how much address space a process may have. What a language's runtime reserves counts: Go and Java need more"""
    max_output: Annotated[Size, at_least(256, format_size)] = 64 * 1024
    """how long an answer may be"""
    processes: Count = 4
    """how many processes run at one time; further messages wait"""
    uses: Count = 1000
    """how many messages a kept process looks at before another takes its place"""
    environment: dict[str, str] = Field(default={})
    """variables that it gets, beside PATH and LANG; nothing else of the gateway's own environment reaches it"""
    max_size: Annotated[Size, at_least(1024, format_size)] = 100 * 1024 * 1024
    """larger messages are not shown to it"""
    oversize: Oversize = "continue"
    """what to do with those: continue, defer, quarantine or reject (552)"""
    text: str = "Refused by policy"
    """what a sender is told where the command gives no text"""


@dataclass(frozen=True, slots=True)
class CommandResult(Finding, OwnResult):
    """What a command has said: its `verdict`, or "oversize", or "failure"."""

    verdict: str
    reason: str = ""
    words: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    by: object = field(default=None, repr=False, compare=False)

    def summary(self) -> str:
        return f"command={self.verdict}{f': {self.reason}' if self.reason else ''}"

    def facts(self) -> Sequence[str]:
        return (f"command.{self.verdict}", *(f"command.{fact_word(word)}" for word in self.words))


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where there is no such command."""
    return Command(options, services)


@implementer(IContentFilter, IMessageModifier)
class Command:
    """One question for each message."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        path = Path(options.command[0])
        if not path.is_file() or not os.access(path, os.X_OK):
            raise ValueError(f"{path} is no command that can be run")
        self._options = options
        self._by = object()
        self._runner = CommandRunner(
            CommandSettings(
                command=options.command,
                directory=services.incoming,
                is_kept=options.kept,
                by_file=options.content == "file",
                timeout=options.timeout,
                memory=options.memory,
                max_output=options.max_output,
                processes=options.processes,
                uses=options.uses,
                environment=options.environment,
            ),
            cast(ICommandReactor, services.clock),  # the reactor; nothing is started before there is mail
        )

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Do what the command says."""
        size, limit = message.content.size, self._options.max_size
        if size > limit:
            return too_large(self._options.oversize, size, limit, (CommandResult("oversize", by=self._by),))
        return self._ask(session, transaction, message)

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """Add the header fields that the command gave; what has failed at this message fails again."""
        found = own_result(transaction.evidence, CommandResult, self._by)
        if found is None:
            return []
        if found.verdict == _FAILURE:
            raise CommandError("it has failed at this message")
        return [AddHeader(name, value) for name, value in found.headers]

    async def _ask(self, session: Session, transaction: Transaction, message: Message) -> MaybeVerdict:
        try:
            answer = await self._runner.ask(_question(session, transaction), message.content)
            fields = _fields(answer)
        except (ScannerError, OSError):
            # Without a verdict that carries it; and no edits must pass for a success of what has failed.
            transaction.evidence.add(CommandResult(_FAILURE, by=self._by))
            raise
        reason = " ".join(answer.reason.split())[:_MAX_REASON]
        result = CommandResult(answer.verdict, reason, answer.facts[:_MAX_WORDS], fields, self._by)
        evidence: tuple[object, ...] = (result,)
        if answer.points:
            evidence += (Points(answer.points, reason or self._options.command[0]),)
        why = f"{self._options.command[0]} says {answer.verdict}{f': {reason}' if reason else ''}"
        if answer.verdict == "accept":
            return Accept(why, evidence)
        return said(answer.verdict, answer.text or self._options.text, why, evidence)


def _fields(answer: CommandAnswer) -> tuple[tuple[str, str], ...]:
    """The header fields of an answer; CommandError where one is none."""
    if len(answer.add_headers) > _MAX_WORDS:
        raise CommandError(f"it adds more than {_MAX_WORDS} header fields")
    try:
        return tuple([(edit.name, edit.value) for edit in (AddHeader(*one) for one in answer.add_headers)])
    except ValueError as error:
        raise CommandError(str(error)[:200]) from None


def _question(session: Session, transaction: Transaction) -> Mapping[str, object]:
    client, identity, tls = session.client, session.identity, session.tls
    return {
        "version": 1,
        "id": transaction.id,
        "session": session.id,
        "listener": session.listener,
        "role": session.role,
        "client": {
            "address": "" if client.address is None else str(client.address),
            "port": client.port,
            "name": client.name,
        },
        "helo": session.helo,
        "protocol": session.protocol,
        "login": "" if identity is None else identity.name,
        "tls": "" if tls is None else tls.version,
        "sender": str(transaction.sender),
        "recipients": [str(one.address) for one in transaction.recipients],
        "facts": list(islice(_facts(session, transaction), _MAX_FACTS)),
    }


def _facts(session: Session, transaction: Transaction) -> Iterator[str]:
    for one in (*session.evidence, *transaction.evidence):
        if isinstance(one, Finding):
            yield from one.facts()
