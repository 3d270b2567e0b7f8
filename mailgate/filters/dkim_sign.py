"""DKIM signatures on mail that is ours (RFC 6376 section 5), of RSA and Ed25519 keys together (RFC 8463)."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.address import Address
from mailgate.config.schema import Section
from mailgate.config.units import Duration, Form, at_least, format_duration
from mailgate.config.values import Domain, Flag, Hostname
from mailgate.envelope import Session, Transaction
from mailgate.filters.seven_bit import seven_bit
from mailgate.filters.signing import Threads, UnsignableError, added, body_digest, fields_as_sent, forwards
from mailgate.filters.signing_keys import DomainKeys, DomainOptions, KeyOptions, KeyRing
from mailgate.filters.who import IdentitySet, address_of
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.mailauth.dkim.canonical import Canon
from mailgate.mailauth.dkim.sign import FIELD_NAME, OVERSIGNED, SIGNED, body_form, sign_header
from mailgate.mailauth.dkim.signature import HeaderFields, is_within
from mailgate.mailauth.dmarc.author import Authors, author_domains
from mailgate.mailauth.results import DmarcResult
from mailgate.message import Content, Edit, Message, release
from mailgate.mime.recode import RecodeError, recode
from mailgate.reply import Reply
from mailgate.verdict import PermanentFailure, TemporaryFailure

__all__ = ["DkimSign", "Options", "SigningServices", "build"]

Action = Literal["continue", "defer", "reject"]

#: Fields that hosts on the way add, change or take away (RFC 6376 section 5.4.1), and such as sign for themselves.
_NEVER = frozenset({"received", "return-path", "bcc", "resent-bcc", "delivered-to", "dkim-signature"})
_NEVER_BEGIN = ("arc-", "authentication-results")
#: Labels of a domain above the author's that is looked for.
_MOST_LABELS = 7
#: Of fields of one name no more are signed, from the last one up.
_MOST_OF_A_NAME = 20

#: Octets, and lines that may begin a part, of a mail of our own that is converted: this is the reactor's thread, and it
#: may return what a stranger has written.
_OWN_OCTETS, _OWN_PARTS = 64 * 1024, 100

_MALFORMED = "This message does not say whose it is as it must, or cannot be signed as it is"
_NOT_SIGNED = "Mail from this domain is not sent through here"


def _field(text: str) -> str:
    if not FIELD_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a header field")
    if text.lower() in _NEVER or text.lower().startswith(_NEVER_BEGIN):
        raise ValueError(f"{text} is not signed: other hosts change it, and the signature would fail")
    return text


_Field = Annotated[str, AfterValidator(_field), Form("field name")]


class Options(Section):
    """`[filters.dkim-sign]`: mail of our users is signed in the name of the domain in its From field.

    Mail of clients that have logged in or are trusted is signed, and no other (but see `forwarded`): what comes from
    outside with one of our domains in From must not leave with our signature.

    The domain is the first that has keys: the author's own, one above it, `default_domain`. It signs the message as
    the filters before this one have made it. So whatever changes the body, or a field that is signed, stands before it
    in the pipeline, and `headers` too, where it adds what is missing; `mailgate check` says where this is not so. A
    filter or a host behind it that changes them breaks the signature.

    A key that cannot be had is this filter's failure: with `on_failure = "defer"`, the default, the client keeps its
    message until there is one. Nothing that should be signed goes out without.
    """

    domains: dict[Domain, DomainOptions] = Field(default={})
    """whose mail is signed, by domain, or "*.domain" for those below it, each in its own name. Where the path of a key
    below "*." has {domain} in it, those domains sign whose files are there. A domain that does not sign for itself is
    signed for by the next above that does"""
    keys: list[KeyOptions] = Field(default=[])
    """keys of the domains that `domains` does not name: a domain signs where its files are there. The path has {domain}
    in it. A domain whose mail must not leave without a signature, should a file be missing, belongs into `domains`"""
    default_domain: Hostname | None = None
    """the domain, one of `domains`, that signs what no other does; DMARC does not count such a signature"""
    no_key: Action = "continue"
    """what is done with mail of ours that no domain signs for, or that has nobody's address in From: continue (it goes
    without), defer or reject"""
    unsignable: Action = "reject"
    """what is done with mail of ours that cannot be signed, as no two readers see the same in it: without From, with
    several, or with one that is malformed or endless; with a bare CR or LF"""
    forwarded: Flag = False
    """sign also, in the name of `default_domain`, what comes from outside and aliases send on to other domains. Not
    mail with From of that domain, or one above or below it, that DMARC has not passed"""
    canonicalization: Literal["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"] = (
        "relaxed/relaxed"
    )
    """how much white space may change on the way: relaxed, in fields and body, is what mail survives"""
    oversign: list[_Field] = Field(default=[*OVERSIGNED])
    """fields that are signed once more than there are, so that nobody can add another one that readers would show"""
    headers: list[_Field] = Field(default=[*SIGNED])
    """further fields that are signed where they are"""
    identity: Literal["off", "sender", "login"] = "off"
    """what the signature says of the user (i=): nothing, the envelope's sender, or the name of the login, if it is an
    address below the domain that signs"""
    convert: Flag = True
    """whether content beyond US-ASCII, and binary content, is made US-ASCII before it is signed (quoted-printable,
    base64), as the next host that does not offer 8BITMIME or BINARYMIME would have to do that later, which breaks the
    signature (RFC 6376 section 5.3). What has a signature already stays as it is, be it of DKIM, S/MIME or PGP"""
    expire_after: Annotated[Duration, at_least(3600, format_duration)] | None = None
    """how long the signature is good (x=). It must outlast the time that mail may wait in queues, here and elsewhere;
    for ever, if not given"""


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where there is nothing to sign with, or a key cannot be read."""
    return DkimSign(options, services)


class SigningServices(Protocol):
    """What of FilterServices is needed here: whoever signs mail of our own has no more, it may be."""

    @property
    def clock(self) -> IReactorTime: ...
    @property
    def hostname(self) -> str: ...
    @property
    def local_domains(self) -> Callable[[str], bool]: ...
    @property
    def incoming(self) -> Path: ...


@implementer(IMessageModifier)
class DkimSign:
    """Reads content that lies in a file, or is large, and keys that have changed, in a thread."""

    def __init__(self, options: Options, services: SigningServices) -> None:
        if not options.domains and not options.keys:
            raise ValueError("there is nothing to sign with: give domains, or keys")
        if not any(name.lower() == "from" for name in (*options.oversign, *options.headers)):
            raise ValueError("From must be signed: put it into oversign (RFC 6376 section 5.4)")
        self._ring = KeyRing(options.domains, options.keys, services.clock)
        self._may = {name: IdentitySet(section.identities) for name, section in options.domains.items()}
        if options.forwarded and options.default_domain is None:
            raise ValueError("forwarded needs a default_domain to sign in its name")
        if options.default_domain is not None and options.default_domain not in options.domains:
            raise ValueError(f"default_domain: {options.default_domain} is none of domains")
        self._options = options
        self._clock = services.clock
        self._is_local = services.local_domains
        self._canon: Canon = body_form(options.canonicalization)
        self._oversigned = [(name, name.lower().encode()) for name in options.oversign]
        taken = {name.lower() for name in options.oversign}
        self._signed = [(name, name.lower().encode()) for name in options.headers if name.lower() not in taken]
        self._expire_after = None if options.expire_after is None else round(options.expire_after)
        self._incoming = services.incoming
        self._threads = Threads(services.clock)

    def modify(
        self, session: Session, transaction: Transaction, message: Message
    ) -> Sequence[Edit] | Awaitable[Sequence[Edit]]:
        """A field for each key, or none for mail that is not ours.

        PermanentFailure and TemporaryFailure as the options say; NoKeyError and OSError are failures.
        """
        is_ours = session.identity is not None
        if not is_ours and not (self._options.forwarded and forwards(transaction, self._is_local)):
            return []
        content, edits = message.content, tuple(transaction.edits)
        try:
            header = fields_as_sent(content, edits)
            authors = _authors(header)
            if is_ours:
                wanted = [self._of_author(session, domain) for domain in authors.domains]
            elif self._is_forged(authors, transaction):
                return []
            else:
                wanted = []
        except UnsignableError as error:
            return self._unsignable(error, is_ours=is_ours)
        default = self._default(session, is_ours=is_ours)
        everything = [one for group in (*wanted, default) for one in group]
        work = partial(self._sign, session, transaction, content, edits, header, wanted, default)
        return self._threads.call(
            work,
            content,
            edits,
            at_once=not any(one.is_stale() for one in everything),
            converts=transaction.parameters.body if self._options.convert else None,
        )

    def has_keys_for(self, domain: str) -> bool:
        """Whether a domain signs for itself, or one above it does, or that which does for all."""
        return _first(self._all_of(domain)) is not None

    def signed(self, octets: bytes) -> bytes:
        """A mail of the gateway's own with its signatures on top; as it is where it has one, or nobody signs for it.

        NoKeyError and OSError; UnsignableError for what is no mail.
        """
        content = Content(octets)
        header = fields_as_sent(content, ())
        domains = _authors(header).domains
        if header.named(b"dkim-signature"):
            return octets
        if self._options.convert and not octets.isascii() and _is_simple(octets):
            with contextlib.suppress(RecodeError):
                octets = b"".join(recode(content, "7BIT"))
                content = Content(octets)
                header = fields_as_sent(content, ())
        chosen = dict.fromkeys(keys for one in domains if (keys := _first(self._all_of(one))) is not None)
        return b"".join(reversed(self._fields(content, (), header, chosen, lambda _: ""))) + octets

    def _all_of(self, domain: str) -> list[DomainKeys]:
        names = [*_and_above(domain), *filter(None, [self._options.default_domain])]
        return [keys for name in names if (keys := self._ring.find(name)) is not None]

    def _of_author(self, session: Session, domain: str) -> list[DomainKeys]:
        """The keys that may sign for an author's domain, its own first."""
        return [keys for name in _and_above(domain) if (keys := self._find(session, name)) is not None]

    def _default(self, session: Session, *, is_ours: bool) -> list[DomainKeys]:
        name = self._options.default_domain
        if name is None:
            return []
        found = self._find(session, name) if is_ours else self._ring.find(name)
        return [] if found is None else [found]

    def _find(self, session: Session, domain: str) -> DomainKeys | None:
        keys = self._ring.find(domain)
        if keys is None:
            return None
        may = self._may.get(keys.entry)
        return None if may and not may.has(session.identity) else keys

    def _is_forged(self, authors: Authors, transaction: Transaction) -> bool:
        """Whether mail from outside claims to be of the domain that would sign it, and nobody knows that it is."""
        found = transaction.evidence.get(DmarcResult)
        if found is not None and found.result == "pass":
            return False
        ours = self._options.default_domain or ""
        return any(is_within(one, ours) or is_within(ours, one) for one in authors.domains)

    def _sign(
        self,
        session: Session,
        transaction: Transaction,
        content: Content,
        edits: Sequence[Edit],
        header: HeaderFields,
        wanted: Sequence[Sequence[DomainKeys]],
        default: Sequence[DomainKeys],
    ) -> Sequence[Edit]:
        chosen = dict.fromkeys(keys for group in wanted if (keys := _first(group)) is not None)
        if not chosen and (keys := _first(default)) is not None:
            chosen[keys] = None
        if not chosen:
            return self._without_key(header, is_ours=session.identity is not None)
        converted: Sequence[Edit] = []
        fields: Sequence[bytes] = []
        try:
            if self._options.convert:
                converted = seven_bit(transaction.parameters.body, content, edits, header, self._incoming)
            if converted:
                edits = (*edits, *converted)
                header = fields_as_sent(content, edits)
            fields = self._fields(
                content, edits, header, chosen, lambda domain: self._identity(session, transaction, domain)
            )
        except UnsignableError as error:
            return self._unsignable(error, is_ours=session.identity is not None)
        finally:
            if not fields:
                release(converted)
        return [*converted, *map(added, fields)]

    def _fields(
        self,
        content: Content,
        edits: Sequence[Edit],
        header: HeaderFields,
        chosen: Collection[DomainKeys],
        identity: Callable[[str], str],
    ) -> list[bytes]:
        """A field for each key; each goes on top of the one before it. `identity` gives i= for a domain."""
        now = self._clock.seconds()
        signers = [signer for keys in reversed([*chosen]) for signer in keys.signers(now)]
        digest = body_digest(content, edits, self._canon)
        names = [*self._names(header)]
        return [
            sign_header(
                header,
                digest,
                signer.key,
                domain=signer.domain,
                selector=signer.selector,
                identity=identity(signer.domain),
                headers=names,
                canonicalization=self._options.canonicalization,
                expire_after=self._expire_after,
                now=now,
            )
            for signer in signers
        ]

    def _names(self, header: HeaderFields) -> Iterator[str]:
        """h=: each name as often as it is to be covered."""
        for name, lower in self._oversigned:
            yield from [name] * (min(len(header.named(lower)), _MOST_OF_A_NAME) + 1)
        for name, lower in self._signed:
            yield from [name] * min(len(header.named(lower)), _MOST_OF_A_NAME)

    def _identity(self, session: Session, transaction: Transaction, domain: str) -> str:
        user: Address | None = None
        if self._options.identity == "sender":
            user = transaction.sender
        elif self._options.identity == "login" and session.identity is not None:
            user = address_of(session.identity)
        return str(user) if user and is_within(user.domain, domain) else ""

    def _without_key(self, header: HeaderFields, *, is_ours: bool) -> Sequence[Edit]:
        if is_ours:
            domains = ", ".join(_authors(header).domains) or "nobody's domain"
            _act(self._options.no_key, f"there is no key for {domains}", "7.1", _NOT_SIGNED)
        return []

    def _unsignable(self, error: UnsignableError, *, is_ours: bool) -> Sequence[Edit]:
        if is_ours:
            _act(self._options.unsignable, f"cannot be signed: {error}", "6.0", _MALFORMED)
        return []


def _is_simple(octets: bytes) -> bool:
    return len(octets) <= _OWN_OCTETS and octets.count(b"\n--") <= _OWN_PARTS


def _act(action: Action, reason: str, detail: str, text: str) -> None:
    if action == "reject":
        raise PermanentFailure(reason, Reply.of(550, f"5.{detail}", text))
    if action == "defer":
        raise TemporaryFailure(reason, Reply.of(451, f"4.{detail}", text))


def _authors(header: HeaderFields) -> Authors:
    """UnsignableError where From does not name its authors beyond doubt; a group without anybody in it does."""
    values = [octets.partition(b":")[2].decode("utf-8", "replace") for _, octets in header.named(b"from")]
    authors = author_domains(values)
    if authors.problem and not (authors.is_nobody and values):
        raise UnsignableError(authors.problem)
    return authors


def _and_above(domain: str) -> Iterator[str]:
    yield domain
    labels = domain.split(".")
    for at in range(max(1, len(labels) - _MOST_LABELS), len(labels)):
        yield ".".join(labels[at:])


def _first(group: Sequence[DomainKeys]) -> DomainKeys | None:
    """The first that signs, its files read."""
    for keys in group:
        keys.refresh()
        if keys.signs:
            return keys
    return None
