"""List-Unsubscribe (RFC 2369) and one-click unsubscription (RFC 8058) for mail of senders that ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Formatter
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath, Form
from mailgate.config.values import Count, OneMailbox
from mailgate.envelope import Session, Transaction
from mailgate.filters.returning import leaves
from mailgate.filters.who import AddressPatterns
from mailgate.findings import stream_of
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.message import AddHeader, Edit, For, Message, RemoveHeader, apply_edits, is_of_header, split_header
from mailgate.rewriting.unsubscribe import UnsubscribeTokens, Unsubscription
from mailgate.stores.secret_lines import SecretFile

__all__ = ["ListUnsubscribe", "Options", "build"]

_LINK, _ONE_CLICK = "List-Unsubscribe", "List-Unsubscribe-Post"
_POST = "List-Unsubscribe=One-Click"
#: Characters of a link: with two addresses of the longest in its token the line is still one that everybody reads.
_LONGEST = 200


def _link(text: str) -> str:
    wrong = 'a link looks like "https://mail.example.org/unsubscribe/{token}", with {token} once'
    try:
        fields = [field[1:] for field in Formatter().parse(text) if field[1] is not None]
        parts = urlsplit(text.replace("{token}", "token"))
    except ValueError:
        raise ValueError(wrong) from None
    if fields != [("token", "", None)] or parts.scheme != "https" or not parts.hostname:
        raise ValueError(wrong)
    if len(text) > _LONGEST:
        raise ValueError(f"a link has {_LONGEST} characters at most")
    if not text.isascii() or not text.isprintable() or any(one in text for one in ' <>"\\'):
        raise ValueError("a link has no spaces, quotes or brackets, nor letters beyond ASCII")
    return text


class Options(Section):
    """`[filters.list-unsubscribe]`: recipients of newsletters can leave with one click in their mail program.

    Large providers ask for it of whoever sends to many. Mail of clients that have logged in or are trusted, from a
    sender in `senders` to other domains than ours, gets a link with a signed token that names sender and recipient, and
    the field that says that a POST to it is enough. The fields must be signed: the filter stands before `dkim-sign`,
    and `mailgate check` says where it does not. Each recipient gets a message of its own, as each has its own link.
    """

    senders: list[str] = Field(min_length=1)
    """whose mail gets the fields: addresses, "news-*@example.org", domains, "*.domain" """
    link: Annotated[str, AfterValidator(_link), Form("link")]
    """where a recipient leaves: "https://mail.example.org/unsubscribe/{token}". It must take a POST of
    List-Unsubscribe=One-Click without asking anything, and change nothing at a GET, which scanners of links make"""
    secrets: ConfigPath
    """a file with a secret a line (16 octets at least), and # for comments: the first makes tokens, all are good. It is
    read again when it changes. Links live as long as their secret: keep an old one for months"""
    mailto: OneMailbox | None = None
    """an address that takes the wish by mail, too, with the token in the subject: one of `addresses` of the filter
    feedback, which reads it"""
    existing: Literal["keep", "replace"] = "keep"
    """what is done where a message has a List-Unsubscribe field: nothing, or it is replaced"""
    max_recipients: Annotated[Count, Field(le=90)] = 50
    """a message to more recipients gets one link for all, without a name in its token, at which a recipient must say
    who he is; so it is none for one click. Programs that send newsletters send each recipient a message"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where the secrets cannot be read, or a pattern is none."""
    return ListUnsubscribe(options, services)


@implementer(IMessageModifier)
class ListUnsubscribe:
    """Adds both fields, to each recipient's message its own."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._senders = AddressPatterns(options.senders)
        self._link = options.link
        self._mailto = options.mailto
        self._tokens = UnsubscribeTokens(SecretFile(options.secrets, services.clock))
        self._replaces = options.existing == "replace"
        self._most = options.max_recipients
        self._is_local = services.local_domains

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
        """The fields for those recipients who are elsewhere."""
        sender = transaction.sender
        if session.identity is None or not self._senders.has(sender):
            return []
        concerned = [one.address for one in transaction.recipients if leaves(one, self._is_local)]
        if not concerned:
            return []
        there = _names(message.content.header, transaction.edits)
        if _LINK.lower() in there and not self._replaces:
            return []
        stream = stream_of(transaction.evidence)
        removals: list[Edit] = [RemoveHeader(name) for name in (_LINK, _ONE_CLICK) if name.lower() in there]
        if len(concerned) > self._most:
            return self._for(transaction, concerned, [*removals, *self._fields(Unsubscription(sender, None, stream))])
        if len(transaction.recipients) == 1:
            return [*removals, *self._fields(Unsubscription(sender, concerned[0], stream))]
        return [
            For((address,), (*removals, *self._fields(Unsubscription(sender, address, stream))))
            for address in concerned
        ]

    @staticmethod
    def _for(transaction: Transaction, concerned: Sequence[Address], edits: Sequence[Edit]) -> Sequence[Edit | For]:
        return edits if len(concerned) == len(transaction.recipients) else [For(tuple(concerned), tuple(edits))]

    def _fields(self, about: Unsubscription) -> list[Edit]:
        """Each goes on top of the one before it."""
        token = self._tokens.make(about)
        links = [f"<{self._link.format(token=token)}>"]
        if self._mailto is not None:
            links.append(f"<mailto:{quote(self._mailto, safe='@+')}?subject={token}>")
        one_click: list[Edit] = [] if about.recipient is None else [AddHeader(_ONE_CLICK, _POST)]
        return [*one_click, AddHeader(_LINK, ",\r\n ".join(links))]


def _names(header: bytes, edits: Iterable[Edit]) -> set[str]:
    """The names of the fields after the edits, in lower case."""
    changed = [edit for edit in edits if is_of_header(edit)]
    return {field.name.lower() for field in split_header(apply_edits(header, changed))}
