"""Which addresses whoever has logged in may use as its sender: in MAIL FROM, and in the header."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.awaiting import run
from mailgate.config.schema import Section
from mailgate.config.units import ConfigPath
from mailgate.config.values import Flag, Hostname, Name
from mailgate.envelope import Identity, Session, Transaction
from mailgate.filters.authors import AmbiguousFieldError, addresses_in
from mailgate.filters.forged_names import addresses_shown, display_name
from mailgate.filters.steps import Steps, ready
from mailgate.filters.who import NETWORK, AddressPattern, AddressPatterns, IdentitySet, IdentityTable, address_of
from mailgate.findings import Finding
from mailgate.interfaces import Answered, FilterServices, IMailFilter, IMessageFilter
from mailgate.message import Message, body_at
from mailgate.reply import Reply
from mailgate.rewriting.tables import base_of, key_of, split_targets
from mailgate.stores.lists import LineError, WatchedFile
from mailgate.verdict import Continue, Quarantine, Reject, Verdict

__all__ = ["Options", "SenderLogin", "SenderLoginResult", "build"]


#: Addresses in one name that a source is asked about.
_MOST_SHOWN = 8


class Options(Section):
    """`[filters.sender-login]`: which addresses an identity may use; for listeners of role outbound or hybrid.

    An identity is who logged in (AUTH), whom a client certificate names, or, of clients in trusted_networks, an
    address. What it may use is all of these together:

    - its own address, where its name is one (`own`, `domain`)
    - what `allow` and `files` give it. Patterns of addresses are "info@example.org", "bounce-*@example.org",
      "example.org" for the whole domain, "*.example.org" for all domains below it, and "*" for any
    - addresses of which a `[senders.NAME]` in `senders` says that they are its own

    Whoever has proved nothing is not judged, unless `strangers` says so.
    """

    own: Flag = True
    """whether an identity that is an address may use it"""
    domain: Hostname | None = None
    """where identities that are no addresses have theirs: with "example.org", "ann" may use ann@example.org"""
    delimiter: str = Field(default="+", max_length=1)
    """ann@example.org may use ann+lists@example.org, too; "" for none"""
    allow: dict[str, list[AddressPattern]] = Field(default={})
    """what else identities may use: { "ann@example.org" = ["info@example.org"], "app-*" = ["example.org"],
    "192.0.2.0/24" = ["scanner@example.org"] }. An identity is a name, a pattern of names with *, a network of clients
    that are known by their address, or "*" for everybody who has an identity"""
    files: list[ConfigPath] = Field(default=[])
    """files of the same, a line each, "IDENTITY PATTERN, PATTERN", and # for comments; read again when they change"""
    senders: list[Name] = Field(default=[])
    """the [senders.NAME] that are asked about senders of those who have logged in, or shown a certificate: about the
    address, the address without its extension, and its domain"""
    trusted: Literal["local", "any", "listed"] = "local"
    """what clients of trusted_networks may use that have not logged in and that `allow` and `files` do not name: local
    (addresses in [domains]), any, or listed (nothing)"""
    null_sender: list[str] = Field(default=["*"])
    """who may send with the null sender, as receipts and automatic replies are to be sent (RFC 3834, RFC 8098), by
    identities as in `allow`; see the filter null-sender for rules about such mail"""
    header: Literal["off", "from", "sender"] = "from"
    """what is looked at in the header. from: every address in From must be the identity's, and in Sender too; sender:
    where there is a Sender that is, From may be anyone's whom the message is sent for; off: nothing"""
    names: Flag = True
    """whether addresses in [domains] that From shows as a name must be the identity's as well, where `header` looks at
    From: "boss@example.org" <ann@example.org> is boss to many a reader"""
    strangers: Literal["continue", "reject"] = "continue"
    """what becomes of mail with a sender in [domains] from clients that have proved nothing: continue (SPF and DMARC
    judge it), or reject"""
    verdict: Literal["reject", "quarantine"] = "reject"
    """what is done: reject (553 5.7.1 at MAIL, 550 5.7.1 after the content), or quarantine"""
    text: str = Field(default="You may not send as this address", min_length=1)
    """what the client is told"""


@dataclass(frozen=True, slots=True)
class SenderLoginResult(Finding):
    """`refused` is the address that `identity` may not use, and `where` it stands; "" where all are its own."""

    identity: str
    refused: str = ""
    where: str = ""

    def summary(self) -> str:
        if not self.refused:
            return f"sender-login=ok identity={self.identity}"
        return f"sender-login=refused identity={self.identity or 'none'} {self.where}={self.refused}"

    def facts(self) -> Sequence[str]:
        return ("sender-login.refused",) if self.refused else ("sender-login.ok",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where a file cannot be used, or `senders` names a section that is not there."""
    return SenderLogin(options, services)


class _Grants:
    """What identities may use, by one list."""

    def __init__(self) -> None:
        self._table: IdentityTable[AddressPatterns] = IdentityTable()

    def add(self, identity: str, patterns: Sequence[str]) -> None:
        self._table.add(identity, AddressPatterns(patterns))

    def names(self, identity: Identity) -> bool:
        return bool(self._table.all(identity))

    def allow(self, identity: Identity, address: Address) -> bool:
        return any(patterns.has(address) for patterns in self._table.all(identity))


@implementer(IMailFilter, IMessageFilter)
class SenderLogin:
    """Asks the sources in their order, those in memory first, until one says yes."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        missing = [name for name in options.senders if name not in services.owners]
        if missing:
            raise ValueError(f"senders: there is no [senders.{missing[0]}]")
        self._options = options
        self._is_local = services.local_domains
        self._owners = [services.owners[name] for name in options.senders]
        self._null = IdentitySet(options.null_sender)
        self._fixed = _Grants()
        for identity, patterns in options.allow.items():
            self._fixed.add(identity, patterns)
        self._files = [_watched(path, services.clock) for path in options.files]
        self._domain = options.domain or ""

    def on_mail(self, session: Session, transaction: Transaction) -> Answered:
        """Reject a sender that is not the identity's."""
        identity, sender = session.identity, transaction.sender
        if identity is None:
            is_ours = self._options.strangers == "reject" and bool(sender) and self._is_local(sender.domain)
            return self._refuse("", sender, "MAIL FROM", False) if is_ours else None
        if not sender:
            return None if self._null.has(identity) else self._refuse(identity.name, sender, "MAIL FROM", False)
        return run(self._judge_sender(identity, sender))

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Judge the header, and keep back what was refused at MAIL where that is the verdict."""
        before = transaction.evidence.get(SenderLoginResult)
        if before is not None and before.refused:
            return Quarantine(_reason(before))
        identity = session.identity
        if identity is None or self._options.header == "off":
            return None
        try:
            body_at(message.content)
        except ValueError as error:  # there may be another From in what we do not see
            return self._unclear(identity, "From", str(error))
        return run(self._judge_header(identity, message))

    def _judge_sender(self, identity: Identity, sender: Address) -> Steps[Verdict | None]:
        if (yield from self._may_use(identity, sender)):
            return Continue((SenderLoginResult(identity.name),))
        return self._refuse(identity.name, sender, "MAIL FROM", False)

    def _judge_header(self, identity: Identity, message: Message) -> Steps[Verdict | None]:
        fields: list[tuple[str, Address]] = []
        is_behalf = False
        for name in ("Sender", "From"):
            values = message.values(name)
            if name == "Sender" and not values:
                continue
            try:
                addresses = addresses_in(values)
            except AmbiguousFieldError as error:
                return self._unclear(identity, name, str(error))
            if name == "Sender":
                is_behalf = self._options.header == "sender"
            elif is_behalf:
                continue
            fields += [(name, address) for address in addresses]
            if name == "From" and self._options.names:
                shown = self._shown(values)
                if len(shown) > _MOST_SHOWN:
                    return self._unclear(identity, name, "the name in it holds many addresses")
                fields += [("From-name", address) for address in shown if address not in addresses]
        for name, address in fields:
            if not (yield from self._may_use(identity, address)):
                return self._refuse(identity.name, address, name, True)
        return None

    def _shown(self, values: Sequence[str]) -> list[Address]:
        """Addresses of ours in what From shows as a name."""
        found: dict[Address, None] = {}
        for text in addresses_shown(display_name(" ".join(values))):
            with contextlib.suppress(AddressError):
                address = Address.parse(text)
                if self._is_local(address.domain):
                    found[address] = None
        return list(found)

    def _may_use(self, identity: Identity, address: Address) -> Steps[bool]:
        lists = [self._fixed, *(file.value for file in self._files)]
        if self._is_own(identity, address) or any(one.allow(identity, address) for one in lists):
            return True
        if identity.mechanism == NETWORK and not any(one.names(identity) for one in lists):
            trusted = self._options.trusted
            if trusted == "any" or (trusted == "local" and self._is_local(address.domain)):
                return True
        if not self._owners or identity.mechanism == NETWORK:
            return False
        name = identity.name.lower()
        base, extension = base_of(address.local_part, self._options.delimiter)
        keys = [key_of(address.local_part, address.domain), f"@{address.domain}"]
        if extension:
            keys.insert(1, key_of(base, address.domain))
        for find in self._owners:
            for key in keys:
                owners = yield from ready(find(key))
                if owners is not None and any(owner.lower() == name for owner in owners):
                    return True
        return False

    def _is_own(self, identity: Identity, address: Address) -> bool:
        own = address_of(identity, self._domain) if self._options.own else None
        if own is None or own.domain != address.domain:
            return False
        base, _ = base_of(address.local_part, self._options.delimiter)
        return own.local_part.lower() in (address.local_part.lower(), base.lower())

    def _refuse(self, name: str, address: Address, where: str, is_header: bool) -> Verdict:
        result = SenderLoginResult(name, str(address) or "<>", where)
        reply = Reply.of(550 if is_header else 553, "5.7.1", self._options.text)
        return self._verdict(reply, _reason(result), result, is_header=is_header)

    def _unclear(self, identity: Identity, name: str, why: str) -> Verdict:
        result = SenderLoginResult(identity.name, "?", name)
        reply = Reply.of(550, "5.7.1", f"The field {name} of this message does not tell who sends it")
        reason = f"{identity.name} sends a field {name} that does not tell its addresses: {why}"
        return self._verdict(reply, reason, result, is_header=True)

    def _verdict(self, reply: Reply, reason: str, result: SenderLoginResult, *, is_header: bool) -> Verdict:
        if self._options.verdict == "reject":
            return Reject(reply, reason, evidence=(result,))
        return Quarantine(reason, evidence=(result,)) if is_header else Continue((result,))


def _reason(result: SenderLoginResult) -> str:
    return f"{result.identity or 'nobody known'} may not use {result.refused} in {result.where}"


def _watched(path: Path, clock: IReactorTime) -> WatchedFile[_Grants]:
    def parse(lines: Iterable[tuple[int, str]]) -> _Grants:
        grants = _Grants()
        for number, line in lines:
            identity, _, rest = line.replace("\t", " ").partition(" ")
            try:
                patterns = split_targets(rest)
                if not patterns:
                    raise ValueError("an identity and what it may use: one pattern or more behind a space")
                grants.add(identity, patterns)
            except ValueError as error:
                raise LineError(number, str(error)) from error
        return grants

    return WatchedFile(path, parse, clock)
