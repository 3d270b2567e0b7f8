"""What mail of our own users and devices lacks, and what it should not tell others (RFC 6409 section 8)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import formatdate, parsedate_to_datetime
from typing import Literal

from pydantic import Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.values import Flag, Hostname
from mailgate.envelope import Identity, Session, Transaction
from mailgate.filters.authors import AmbiguousFieldError, addresses_in
from mailgate.filters.headers import FieldPattern
from mailgate.filters.who import IdentitySet, address_of
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.message import AddHeader, Edit, HeaderField, Message, RemoveHeader

__all__ = ["Options", "Submission", "build"]

#: RFC 5322 section 3.6.4, with a local part as programs write it.
_MESSAGE_ID = re.compile(r"<[!-;=?-~]+@[!-;=?-~]+>")
_LONGEST_ID = 900
#: What a date is written with (RFC 5322 section 3.3), in any length that a line has room for.
_PLAIN = re.compile(r"[\t -~]{1,200}")
#: Characters of a value that a pattern looks at.
_MOST_VALUE = 2000
#: What tells of the client and its program.
_OF_CLIENT = (
    *("x-originating-ip", "x-originating-email", "x-source-ip", "x-client-ip", "x-forwarded-for", "x-mailer"),
    *("user-agent", "x-php-originating-script", "x-php-script", "x-source", "x-source-args", "x-source-dir"),
)


class Options(Section):
    """`[filters.submission]`: for listeners of role outbound or hybrid.

    It touches mail of clients only that have proved who they are (AUTH, a certificate, trusted_networks): mail that
    comes from outside stays as it is. In the pipeline it stands before the filters that sign, and before headers.
    """

    date: Flag = True
    """whether a message without a Date that can be read gets one, with the time at which it came"""
    message_id: Flag = True
    """whether a message without a Message-ID that is well-formed gets one"""
    message_id_domain: Hostname | None = None
    """what stands behind the @ of it; our hostname, if not given"""
    bcc: Flag = True
    """whether Bcc and Resent-Bcc are removed: nobody learns who else had a copy"""
    sender: Literal["off", "add", "replace"] = "off"
    """whether Sender names who has logged in, where From is not that address alone: off; add, where there is no Sender;
    replace, whatever stands there. Nothing is done for identities that have no address"""
    domain: Hostname | None = None
    """for `sender`, where identities that are no addresses have theirs: with "example.org", "ann" is
    ann@example.org"""
    hide_received: Flag = False
    """whether Received fields are removed that others have made: the names and addresses of hosts and clients inside.
    Those of this gateway stay, so that a loop is found. Our own field is of the filter headers: see its `hide_users`"""
    hide_client: Flag = False
    """whether fields are removed that tell of the client and its program: X-Originating-IP, User-Agent, X-Mailer and
    the like"""
    remove: list[FieldPattern] = Field(default=["Return-Path"])
    """further fields that are removed, by name, or by the beginning of the name: "X-MS-Exchange-Organization-*" """
    remove_if: dict[FieldPattern, str] = Field(default={})
    """fields that are removed where their value is as the pattern says, in which * is any text and ? any character,
    whatever its case: { "X-*" = "*.corp.example.org*" }"""
    exempt: list[str] = Field(default=[])
    """identities that relay mail of others, which stays as it is: networks of inner mail servers ("192.0.2.0/24"),
    names, or patterns of names with *"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return Submission(options, services)


@implementer(IMessageModifier)
class Submission:
    """Edits the header only, and only what it has to."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._clock = services.clock
        self._id_domain = options.message_id_domain or services.hostname
        self._exempt = IdentitySet(options.exempt)
        removed = [*options.remove, *(_OF_CLIENT if options.hide_client else ())]
        removed += ["Bcc", "Resent-Bcc"] if options.bcc else []
        self._names = {name.lower() for name in removed if not name.endswith("*")}
        self._prefixes = tuple(name[:-1].lower() for name in removed if name.endswith("*"))
        self._if = [(name.lower(), _glob(value)) for name, value in options.remove_if.items()]
        # The clause of RFC 5321 section 4.4, as the filter headers writes it.
        self._ours = re.compile(rf"\bby\s+{re.escape(services.hostname)}(?:\s|;|$)", re.IGNORECASE)

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """The edits that the message needs."""
        identity = session.identity
        if identity is None or self._exempt.has(identity):
            return []
        own = {edit.name.lower() for edit in transaction.edits if isinstance(edit, AddHeader)}
        edits = list(self._removals(message.fields, own))
        if self._options.date and "date" not in own:
            edits += _one("Date", message.values("Date"), _is_date, self._now)
        if self._options.message_id and "message-id" not in own:
            new = f"<{transaction.id}@{self._id_domain}>"
            edits += _one("Message-ID", message.values("Message-ID"), _is_message_id, lambda: new)
        return [*edits, *self._sender(identity, message)]

    def _removals(self, fields: Iterable[HeaderField], own: set[str]) -> Iterator[Edit]:
        """Removals by name, or by value where fields of that name stay: others', or those of filters before."""
        going: dict[str, dict[str, None]] = {}
        staying = set(own)
        for field in fields:
            name = field.name.lower()
            if name and self._goes(name, field):
                going.setdefault(name, {})[field.value] = None
            else:
                staying.add(name)
        for name, values in going.items():
            if name in staying:
                yield from (RemoveHeader(name, value) for value in values)
            else:
                yield RemoveHeader(name)

    def _goes(self, name: str, field: HeaderField) -> bool:
        if name in self._names or name.startswith(self._prefixes):
            return True
        if name == "received" and self._options.hide_received:
            return not self._ours.search(field.value)
        return any(
            (name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted)
            and glob.match(field.value[:_MOST_VALUE].casefold())
            for wanted, glob in self._if
        )

    def _sender(self, identity: Identity, message: Message) -> Iterator[Edit]:
        present = message.values("Sender")
        if self._options.sender == "off" or (present and self._options.sender == "add"):
            return
        address = address_of(identity, self._options.domain or "")
        if address is None:
            return
        if present:
            yield RemoveHeader("Sender")
        if not _is_author(address, message):
            yield AddHeader("Sender", f"<{address}>")

    def _now(self) -> str:
        return formatdate(self._clock.seconds(), localtime=True)


def _one(name: str, values: Sequence[str], is_sound: Callable[[str], bool], make: Callable[[], str]) -> Iterator[Edit]:
    """Edits after which there is one field of this name, and a sound one: the first that is, or a new one."""
    if len(values) == 1 and is_sound(values[0]):
        return
    if values:
        yield RemoveHeader(name)
    sound = next((value for value in values if is_sound(value)), None)
    yield AddHeader(name, make() if sound is None else sound)


def _is_date(value: str) -> bool:
    if not _PLAIN.fullmatch(value):
        return False
    try:
        parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return False
    return True


def _is_message_id(value: str) -> bool:
    return len(value) <= _LONGEST_ID and _MESSAGE_ID.fullmatch(value) is not None


def _is_author(address: Address, message: Message) -> bool:
    try:
        return [str(one).lower() for one in addresses_in(message.values("From"))] == [str(address).lower()]
    except AmbiguousFieldError:
        return False


def _glob(text: str) -> re.Pattern[str]:
    # A bracket stands for itself.
    return re.compile(fnmatch.translate(text.casefold().replace("[", "[[]")))
