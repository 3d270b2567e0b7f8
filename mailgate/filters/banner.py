"""A text in the mail itself: the disclaimer below what leaves, the warning above what comes from outside."""

from __future__ import annotations

import html
import mmap
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
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


class Texts(Section):
    """What is put into a message: one of text and text_file, or of html and html_file, or one of each."""

    text: str = ""
    """the text for text/plain parts, of one line or more. $sender, $sender_domain, $recipient_domain and $hostname
    stand for what they say, $$ for a dollar. Without any, plain text stays as it is"""
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
    """whose domain that is. A message to recipients with different texts is one message: it gets the default text"""
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
    ) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
        """The edits, or none where this message gets no text."""
        content = message.content
        if content.size > self._max_size or self._is_exempt(session, transaction):
            return []
        templates = self._templates_for(transaction)
        if templates is None:
            return []
        insertion = templates.insertion(self._named(transaction), self._is_top, self._once, self._marker)
        sources = [content, *(edit.content for edit in transaction.edits if isinstance(edit, ReplaceBody))]
        is_quick = all(one.in_memory and one.size <= _AT_ONCE for one in sources)
        before = tuple(transaction.edits)
        if is_quick or self._threads is None or self._reactor is None:
            return self._edits(session, transaction, content, before, insertion)
        pool = self._threads.getThreadPool()
        return deferToThreadPool(self._reactor, pool, self._edits, session, transaction, content, before, insertion)

    def _is_exempt(self, session: Session, transaction: Transaction) -> bool:
        if self._external_only and session.identity is not None:
            return True
        sender = transaction.sender
        return (
            session.client.address in self._exempt
            or str(sender).lower() in self._exempt_addresses
            or (bool(sender) and self._exempt_domains.has(sender.domain))
        )

    def _templates_for(self, transaction: Transaction) -> _Templates | None:
        if self._of_sender:
            return self._of_domain(transaction.sender)
        found = [self._of_domain(one.address) for one in transaction.recipients]
        return found[0] if found and all(one is found[0] for one in found) else self._default

    def _of_domain(self, address: Address) -> _Templates | None:
        if address and self._by_domain.has(address.domain):
            return self._by_domain.match(address.domain)
        return self._default

    def _named(self, transaction: Transaction) -> dict[str, str]:
        domains = {one.address.domain for one in transaction.recipients}
        return {
            "sender": str(transaction.sender),
            "sender_domain": transaction.sender.domain,
            "recipient_domain": domains.pop() if len(domains) == 1 else "",
            "hostname": self._hostname,
        }

    def _edits(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        before: Sequence[Edit],
        insertion: Insertion,
    ) -> list[Edit]:
        try:
            edits = _put_in(content, before, insertion)
        except (NotInsertedError, ValueError):  # the latter: nobody knows where the body begins
            return []
        if self._sealer is not None:
            edits += self._sealer.fields(session, transaction, content, (*before, *edits))
        return edits


class _Templates:
    def __init__(self, text: str, fragment: str) -> None:
        self._text = _template(text)
        self._html = _template(fragment or _as_html(text))
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
    with _octets(content) as octets_:
        inserted = insert(octets_, content.header, body_at(content), insertion, _NOTE)
    taken = [change for change in changes if isinstance(change, Splice)]
    for splice in inserted.splices:
        if any(splice.start < one.end and one.start < splice.end for one in taken):
            raise NotInsertedError("the part has been changed by a filter before")
    return [*inserted.header, *inserted.splices]


@contextmanager
def _octets(content: Content) -> Iterator[bytes | mmap.mmap]:
    if content.path is None:
        yield content.read()
        return
    with content.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        yield octets


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
