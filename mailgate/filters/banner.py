"""A text in the mail itself: the disclaimer below what leaves, the warning above what comes from outside."""

from __future__ import annotations

import html
import mmap
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Literal

from pydantic import Field
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Network, Section
from mailgate.config.units import ConfigPath, Size
from mailgate.config.values import Domain, Flag, Pattern
from mailgate.envelope import Session, Transaction
from mailgate.filters.networks import NetworkSet
from mailgate.filters.sealing import Sealer, SealOptions
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.message import (
    Content,
    Edit,
    For,
    Message,
    ReplaceBody,
    Splice,
    apply_edits,
    body_at,
    body_edits,
    edited_body,
)
from mailgate.mime.insert import Inserted, Insertion, NotInsertedError, insert
from mailgate.stores.domains import DomainTable

__all__ = ["Banner", "Options", "Texts", "build"]

_NAMES = ("sender", "sender_domain", "recipient_domain", "hostname")
_NOTE = "banner"
#: Octets up to which content in memory is read at once.
_AT_ONCE = 16 * 1024
#: Characters of the line that tells that the text is there already.
_MARKER = 20
#: Texts that are put into one message.
_MOST_TEXTS = 50


class Texts(Section):
    """What is put into a message: one of text and text_file, or of html and html_file, or one of each."""

    text: str = ""
    """the text for text/plain parts, of one line or more. $sender, $sender_domain, $recipient_domain and $hostname
    stand for what they say, $$ for a dollar. Without any, plain text stays as it is. With $recipient_domain,
    recipients in different domains have different texts"""
    text_file: ConfigPath | None = None
    """a file with that text, in UTF-8, in its place; it is read when the gateway starts or reloads"""
    html: str = ""
    """the fragment for text/html parts, such as "<p>...</p>"; the text, if not given. The same names stand for the
    same, escaped"""
    html_file: ConfigPath | None = None
    """a file with that fragment"""


class Options(Texts):
    """`[filters.banner]`: a text above or below what the sender wrote, in plain text and in HTML.

    Charset and encoding of each part stay as they are wherever they can hold the text. What is signed or encrypted
    (S/MIME, OpenPGP), reports, attachments and messages in a message are left alone. A DKIM signature of the sender
    over the body does not survive; see `seal`.
    """

    position: Literal["top", "bottom"] = "bottom"
    """where it goes: above what the sender wrote, or below"""
    domains: dict[Domain, Texts] = Field(default={})
    """other texts by domain, or "*.domain": { "example.org" = { text = "Example Ltd, ..." } }. A section without any
    text: nothing is put in for that domain"""
    domains_of: Literal["sender", "recipients"] = "sender"
    """whose domain that is. Recipients with different texts get messages of their own, each with its text; where there
    would be more than 50 of them, all get the default text"""
    only_domains: Flag = False
    """put in a text only for domains in `domains`"""
    external_only: Flag = False
    """only for mail from outside: from a client that has not logged in and is not in trusted_networks, and is not
    `exempt`. For the banner that tells users so"""
    once: Flag = True
    """a message that has the text already, as in an answer that quotes it, is left as it is. The longest line of the
    text without names is what is looked for"""
    skip_if_present: str = ""
    """what is looked for in place of that line"""
    exempt: list[Network] = Field(default=[])
    """clients whose mail is left as it is"""
    exempt_senders: list[Pattern] = Field(default=[])
    """senders, by address or domain, whose mail is left as it is"""
    max_size: Size = 25 * 1024 * 1024
    """larger messages are left as they are"""
    seal: SealOptions | None = None
    """where a signature of DKIM, or an ARC chain, has passed before the change: the key with which the message is
    sealed as changed (RFC 8617), so that the next host may believe our results. Filters that change what DKIM covers
    (From, Subject, the body) come before this one, `dkim` and `arc` too"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where there is nothing to put in, or a text or key cannot be read."""
    return Banner(options, services)


@implementer(IMessageModifier)
class Banner:
    """Reads content that lies in a file, or is large, in a thread."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._is_top = options.position == "top"
        self._once = options.once
        self._marker = options.skip_if_present
        self._default = None if options.only_domains else _templates(options)
        self._by_domain = DomainTable({name: _templates(texts) for name, texts in options.domains.items()})
        if self._default is None and not any(_templates(texts) for texts in options.domains.values()):
            raise ValueError("no text: give text, html, or a file with one, or [domains] with them")
        self._of_sender = options.domains_of == "sender"
        self._external_only = options.external_only
        self._exempt = NetworkSet(options.exempt)
        self._exempt_addresses = frozenset(one.lower() for one in options.exempt_senders if "@" in one)
        self._exempt_domains = DomainTable({one: True for one in options.exempt_senders if "@" not in one})
        self._max_size = options.max_size
        self._hostname = services.hostname
        self._sealer = None if options.seal is None else Sealer(options.seal, services)
        self._threads = IReactorThreads(services.clock, None)
        self._reactor = IReactorFromThreads(services.clock, None)

    def modify(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Edit | For] | Awaitable[Sequence[Edit | For]]:
        """The edits, for each text those that put it in; none where this message gets no text."""
        content = message.content
        if content.size > self._max_size or self._is_exempt(session, transaction):
            return []
        texts = self._texts_for(transaction)
        if not texts:
            return []
        sources = [content, *(edit.content for edit in transaction.edits if isinstance(edit, ReplaceBody))]
        is_quick = all(one.in_memory and one.size * len(texts) <= _AT_ONCE for one in sources)
        before = tuple(transaction.edits)
        if is_quick or self._threads is None or self._reactor is None:
            return self._edits(session, transaction, content, before, texts)
        pool = self._threads.getThreadPool()
        return deferToThreadPool(self._reactor, pool, self._edits, session, transaction, content, before, texts)

    def _is_exempt(self, session: Session, transaction: Transaction) -> bool:
        if self._external_only and session.identity is not None:
            return True
        sender = transaction.sender
        return (
            session.client.address in self._exempt
            or str(sender).lower() in self._exempt_addresses
            or (bool(sender) and self._exempt_domains.has(sender.domain))
        )

    def _texts_for(self, transaction: Transaction) -> Mapping[Insertion, Sequence[Address]]:
        """What is put in for which recipients; for nobody by name where it is the same for all."""
        addresses = [one.address for one in transaction.recipients]
        found: dict[tuple[_Templates | None, str], list[Address]] = {}
        for address in addresses:
            templates = self._of_domain(transaction.sender if self._of_sender else address)
            domain = address.domain if templates is not None and templates.is_by_recipient else ""
            found.setdefault((templates, domain), []).append(address)
        if len(found) > _MOST_TEXTS:
            found = {(self._default, ""): addresses}
        texts: dict[Insertion, list[Address]] = {}
        for (templates, domain), members in found.items():
            if templates is not None:
                insertion = self._insertion(templates, transaction.sender, domain)
                texts.setdefault(insertion, []).extend([] if len(found) == 1 else members)
        return texts

    def _of_domain(self, address: Address) -> _Templates | None:
        if address and self._by_domain.has(address.domain):
            return self._by_domain.match(address.domain)
        return self._default

    def _insertion(self, templates: _Templates, sender: Address, recipient_domain: str) -> Insertion:
        names = {
            "sender": str(sender),
            "sender_domain": sender.domain,
            "recipient_domain": recipient_domain,
            "hostname": self._hostname,
        }
        return templates.insertion(names, self._is_top, self._once, self._marker)

    def _edits(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        before: Sequence[Edit],
        texts: Mapping[Insertion, Sequence[Address]],
    ) -> list[Edit | For]:
        edits: list[Edit | For] = []
        for insertion, recipients in texts.items():
            try:
                own = _put_in(content, before, insertion)
            except (NotInsertedError, ValueError):  # the latter: nobody knows where the body begins
                continue
            if self._sealer is not None:
                own += self._sealer.fields(session, transaction, content, (*before, *own))
            edits += [For(tuple(recipients), tuple(own))] if recipients else own
        return edits


class _Templates:
    def __init__(self, text: str, fragment: str) -> None:
        self._text = _template(text)
        self._html = _template(fragment or _as_html(text))
        self.is_by_recipient = "recipient_domain" in {*self._text.get_identifiers(), *self._html.get_identifiers()}
        lines = [line.strip() for line in text.splitlines() if "$" not in line]
        self._marker = max(lines, key=len, default="")

    def insertion(self, names: dict[str, str], is_top: bool, once: bool, marker: str) -> Insertion:
        escaped = {name: html.escape(value) for name, value in names.items()}
        if once and not marker and len(self._marker) >= _MARKER:
            marker = self._marker
        return Insertion(self._text.substitute(names), self._html.substitute(escaped), is_top, marker)


def _put_in(content: Content, before: Sequence[Edit], insertion: Insertion) -> list[Edit]:
    """The edits of the body, and those of the header that go with them."""
    changes = body_edits(before)
    if changes and not isinstance(changes[-1], Splice):
        # The body that came is no more: this goes into the one that has taken its place.
        header = apply_edits(content.header, before)
        body = b"".join(edited_body(content, before))
        octets = b"\r\n" + body
        inserted = insert(octets, header, 2, insertion, _NOTE)
        return [*inserted.header, ReplaceBody(_spliced(octets, inserted), len(changes), _NOTE)]
    inserted = insert(_octets(content), content.header, body_at(content), insertion, _NOTE)
    taken = [change for change in changes if isinstance(change, Splice)]
    for splice in inserted.splices:
        if any(splice.start < one.end and one.start < splice.end for one in taken):
            raise NotInsertedError("the part has been changed by a filter before")
    return [*inserted.header, *inserted.splices]


def _octets(content: Content) -> bytes | mmap.mmap:
    if content.path is None:
        return content.read()
    # Not to be closed: matches in the frames of an exception look into it still. It ends with the last of them.
    with content.path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _spliced(octets: bytes, inserted: Inserted) -> Content:
    """The body alone, where `octets` are an empty line and the body."""
    return Content(b"".join(edited_body(Content(octets), inserted.splices)))


def _templates(texts: Texts) -> _Templates | None:
    text = _read("text", texts.text, texts.text_file)
    fragment = _read("html", texts.html, texts.html_file)
    return _Templates(text, fragment) if text or fragment else None


def _read(name: str, text: str, path: Path | None) -> str:
    if path is None:
        return text.strip("\r\n")
    if text:
        raise ValueError(f"{name} and {name}_file: give one of them")
    try:
        return path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}_file: {error}") from None


def _template(text: str) -> Template:
    template = Template(text)
    wrong = [name for name in template.get_identifiers() if name not in _NAMES]
    if wrong or not template.is_valid():
        known = ", ".join(f"${name}" for name in _NAMES)
        what = f"${wrong[0]}" if wrong else "a dollar without a name behind it"
        raise ValueError(f"{what} stands for nothing (valid are: {known}, and $$ for a dollar)")
    return template


def _as_html(text: str) -> str:
    lines = "<br>\n".join(html.escape(line) for line in text.splitlines())
    return f"<div>{lines}</div>" if lines else ""
