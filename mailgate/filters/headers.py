"""Header fields: our Received field (RFC 5321 section 4.4), what is added or taken away, and loops."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from ipaddress import IPv6Address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.config.units import Form
from mailgate.config.values import Flag
from mailgate.envelope import Client, Session, Transaction
from mailgate.interfaces import FilterServices, IMessageFilter, IMessageModifier
from mailgate.message import AddHeader, Edit, HeaderEdit, HeaderField, Message, RemoveHeader, RenameHeader, is_of_header
from mailgate.reply import Reply
from mailgate.verdict import Reject, Verdict

__all__ = ["FieldName", "FieldPattern", "Headers", "Options", "build", "made_again"]

_RECEIVED = re.compile(rb"^received[ \t]*:", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_FIELD_NAME = re.compile(r"[!-9;-~]+")


def _name(text: str) -> str:
    if not _FIELD_NAME.fullmatch(text) or "*" in text:
        raise ValueError(f"{text!r} is no name of a header field")
    return text


def _pattern(text: str) -> str:
    if not _FIELD_NAME.fullmatch(text.removesuffix("*")) or "*" in text[:-1]:
        raise ValueError(f"{text!r} is no name of a header field, nor the beginning of names with a * behind it")
    return text


FieldName = Annotated[str, AfterValidator(_name), Form("field name")]
"""The name of a header field, without a *."""
FieldPattern = Annotated[str, AfterValidator(_pattern), Form("field name")]
"""The name of a header field, or the beginning of names with a * behind it."""


class Options(Section):
    """`[filters.headers]`: edits in this order: strip, rename, add, add_missing, and then Received on top of all.

    strip and rename are about the message as it came: a field that a filter before this one has added stays.
    """

    max_received: Annotated[int, Field(strict=True, ge=10)] = 100
    """a message that has passed more hosts than this is in a loop and refused (RFC 5321 section 6.3: at least 100)"""
    strip: list[FieldPattern] = Field(default=[])
    """fields that are removed, by name, or by the beginning of the name: "X-MS-Exchange-Organization-*". Without
    its Received fields a message shows neither its way nor a loop"""
    rename: dict[FieldName, FieldName] = Field(default={})
    """fields that get another name and keep their value: { X-Spam-Flag = "X-Foreign-Spam-Flag" }"""
    add: dict[FieldName, str] = Field(default={})
    """fields that are put below our Received field, in this order: { X-Gateway = "mx1" }. One that the message has
    already stays beside it, unless it is in `strip`"""
    add_missing: list[Literal["Date", "Message-ID"]] = Field(default=[])
    """fields that a message without them gets (RFC 6409 section 8; for mail of your own, not for what comes in)"""
    hide_users: Flag = False
    """whether our Received field leaves out the name and address of clients that have logged in, shown a certificate,
    or are in trusted_networks: where your users are is nobody's business. The history has it all the same"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where a value of `add` is not one field's."""
    return Headers(options, services)


@implementer(IMessageFilter, IMessageModifier)
class Headers:
    """Looks at as little as its options ask for: by itself it counts Received fields and adds one."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        for name, value in options.add.items():
            HeaderField.of(name, value)
        self._max_received = options.max_received
        self._strip_names = {name.lower() for name in options.strip if not name.endswith("*")}
        self._strip_prefixes = tuple(name[:-1].lower() for name in options.strip if name.endswith("*"))
        self._rename = {name.lower(): RenameHeader(name, to) for name, to in options.rename.items()}
        # Each field goes on top of the one before it.
        self._add = [AddHeader(name, value) for name, value in reversed(options.add.items())]
        self._add_missing = options.add_missing
        self._hide_users = options.hide_users
        self._looks_at_fields = bool(options.strip or options.rename or options.add_missing)
        self._loop = Reply.of(554, "5.4.6", "Too many hops: this message is in a loop")
        self._clock = services.clock
        self._second = -1
        self._date = ""

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Verdict | None:
        """Reject a message that has been handed on too often."""
        header = message.content.header.lower()
        # The plain count is never too low, and nearly always enough.
        if header.count(b"received") <= self._max_received:
            return None
        count = len(_RECEIVED.findall(header))
        if count <= self._max_received:
            return None
        return Reject(self._loop, f"{count} Received fields, more than {self._max_received}")

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """The edits that the options ask for, and the Received field."""
        edits: list[Edit] = []
        missing: list[Edit] = []
        if self._looks_at_fields:
            names = {field.name.lower() for field in message.fields if field.name}
            stripped = {name for name in names if self._is_stripped(name)}
            renamed = (names & self._rename.keys()) - stripped
            edits += [RemoveHeader(name) for name in sorted(stripped)]
            edits += [self._rename[name] for name in sorted(renamed)]
            edits += made_again(transaction.edits, stripped | renamed)
            missing = self._missing(session, transaction, names - stripped - renamed)
        edits += self._add
        edits += missing
        edits.append(AddHeader("Received", self._received(session, transaction)))
        return edits

    def _is_stripped(self, name: str) -> bool:
        return name in self._strip_names or name.startswith(self._strip_prefixes)

    def _missing(self, session: Session, transaction: Transaction, names: set[str]) -> list[Edit]:
        values = {"Date": self._now(), "Message-ID": f"<{transaction.id}@{session.hostname}>"}
        return [AddHeader(name, values[name]) for name in self._add_missing if name.lower() not in names]

    def _received(self, session: Session, transaction: Transaction) -> str:
        hop = session.carrier or session
        helo = hop.helo if _WORD.fullmatch(hop.helo) else "invalid"
        only = ""
        if len(transaction.recipients) == 1:
            # Of several recipients none is told about the others (RFC 5321 section 7.2).
            address = str(transaction.recipients[0].address)
            only = f"\r\n\tfor <{address}>" if address.isascii() and address.isprintable() else ""
        secured = ""
        if hop.tls is not None:
            secured = f"\r\n\t(using {hop.tls.version} with cipher {hop.tls.cipher})"
        protocol = hop.protocol
        if transaction.parameters.smtputf8:
            protocol = f"UTF8{protocol.removeprefix('E')}"  # RFC 6531 section 4.3
        who = f"{helo} ({_peer(hop.client)})"
        if self._hide_users and session.identity is not None:
            who = "submission"
        return (
            f"from {who}{secured}\r\n\tby {session.hostname} (mailgate) with {protocol}"
            f" id {transaction.id}{only};\r\n\t{self._now()}"
        )

    def _now(self) -> str:
        """The date and time of this second (RFC 5322 section 3.3), in local time."""
        second = int(self._clock.seconds())
        if second != self._second:
            self._second = second
            self._date = formatdate(second, localtime=True)
        return self._date


def _peer(client: Client) -> str:
    """The client as TCP-info (RFC 5321 section 4.4), an address as in section 4.1.3."""
    if client.address is None:
        return "local"
    literal = str(client.address).partition("%")[0]
    if isinstance(client.address, IPv6Address):
        literal = f"IPv6:{literal}"
    return f"{client.name if _WORD.fullmatch(client.name) else 'unknown'} [{literal}]"


def made_again(before: Iterable[Edit], names: set[str]) -> list[HeaderEdit]:
    """Those of the edits before that added a field of these names (in lower case), to be made again.

    An edit by name also meets what our own filters have added: without this, a sender would be rid of a verdict
    of ours by sending a field of its name.
    """
    own: list[HeaderEdit] = []
    for edit in (edit for edit in before if is_of_header(edit)):
        name = edit.name.lower()
        if isinstance(edit, AddHeader):
            own += [edit] if name in names else []
        else:
            own = [one for one in own if one.name.lower() != name]
    return own
