"""The field Authentication-Results (RFC 8601): ours from the evidence, and nobody else's in our name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field
from zope.interface import implementer

from mailgate.config.schema import Section
from mailgate.config.units import Form
from mailgate.config.values import Flag
from mailgate.envelope import Session, Transaction
from mailgate.filters.fcrdns import IprevResult
from mailgate.interfaces import FilterServices, IMarkingModifier
from mailgate.mailauth.authentication_results import AuthenticationResults, MethodResult, is_by
from mailgate.mailauth.results import ArcResult, DkimResult, DmarcResult, SpfResult
from mailgate.message import AddHeader, Edit, Message, RemoveHeader

__all__ = ["FIELD", "AuthenticationResultsFilter", "Options", "build", "results_of"]

FIELD = "Authentication-Results"

#: Signatures that are told of. More than that no honest message has.
_MAX_SIGNATURES = 20
#: Incoming fields of different values that are read to see whose they are, and characters of them all. No honest
#: message has more; of one that does, all are removed.
_MAX_READ, _MAX_CHARACTERS = 1000, 32 * 1024
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")

#: How one may have an identity without AUTH.
_NO_AUTH = ("network", "certificate")

_Properties = tuple[tuple[str, str, str], ...]


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a host or domain (letters beyond ASCII are written as A-labels)")
    return text.lower()


_Id = Annotated[str, AfterValidator(_id), Form("host or domain")]


class Options(Section):
    """`[filters.authentication-results]`: what was found out about a message, told to whoever reads it next (RFC 8601).

    Whoever sends us a message can write such a field, too: in our name nobody else may, so those are removed.
    """

    authserv_id: _Id | None = None
    """the name in which we write, and in which nobody else may: the gateway's hostname, if not given. Several gateways
    of one organization may share a name, such as its domain"""
    also_remove: list[_Id] = Field(default=[])
    """further names in which nobody may write what comes in: those of your other gateways and mailbox servers, unless
    they hand mail on to this one and are to be believed"""
    remove_all: Flag = False
    """remove the fields of other hosts, too. Nobody should believe them anyway, but they help in finding out what
    happened to a message; a DKIM signature that covers one (few do) no longer holds"""
    add: Flag = True
    """add our own field; without it, fields are only removed"""
    tell_identity: Flag = False
    """tell who logged in (smtp.auth), to everybody who reads the message"""


def build(options: Options, services: FilterServices) -> object:
    """The filter."""
    return AuthenticationResultsFilter(options, services.hostname)


@implementer(IMarkingModifier)
class AuthenticationResultsFilter:
    """Takes away what pretends to be ours, and puts our own field on top."""

    def __init__(self, options: Options, hostname: str) -> None:
        self._id = options.authserv_id or hostname.lower().removesuffix(".")
        self._ids = frozenset((self._id, *options.also_remove))
        self._remove_all = options.remove_all
        self._add = options.add
        self._tell_identity = options.tell_identity

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """Removals, each by the field's value so that what our own filters have added stays, and our field."""
        edits = [*self.forged(message)]
        if self._add:
            results = results_of(session, transaction, tell_identity=self._tell_identity)
            edits.append(AddHeader(FIELD, AuthenticationResults(self._id, results).text(len(FIELD) + 2)))
        return edits

    def forged(self, message: Message) -> Sequence[Edit]:
        """Fields in our name."""
        values = list(dict.fromkeys(message.values(FIELD)))
        removes_all = self._remove_all or len(values) > _MAX_READ or sum(map(len, values)) > _MAX_CHARACTERS
        return [RemoveHeader(FIELD, value) for value in values if removes_all or is_by(value, self._ids)]


def results_of(session: Session, transaction: Transaction, *, tell_identity: bool = False) -> tuple[MethodResult, ...]:
    """What the evidence comes to. Letters beyond ASCII stay where the message asks for SMTPUTF8."""
    is_utf8 = transaction.parameters.smtputf8
    found = (
        *_auth(session, tell_identity),
        *_iprev(session),
        *_spf(session, transaction),
        *_dkim(transaction),
        *_dmarc(transaction),
        *_arc(session, transaction),
    )
    return tuple(found) if is_utf8 else tuple(map(_in_ascii, found))


def _auth(session: Session, tell_identity: bool) -> Iterator[MethodResult]:
    if session.identity is not None and session.identity.mechanism not in _NO_AUTH:
        properties = (("smtp", "auth", session.identity.name),) if tell_identity else ()
        yield MethodResult("auth", "pass", properties=properties)


def _iprev(session: Session) -> Iterator[MethodResult]:
    found = session.evidence.get(IprevResult)
    if found is not None:
        yield MethodResult(
            "iprev", found.result, properties=_given(("policy", "iprev", found.address or _address(session)))
        )


def _spf(session: Session, transaction: Transaction) -> Iterator[MethodResult]:
    greeting = session.evidence.get(SpfResult)
    sender = transaction.evidence.get(SpfResult)
    # By identity: where the sender is null, both are about the greeting.
    for found in {one.identity: one for one in (greeting, sender) if one is not None}.values():
        yield MethodResult("spf", found.result, found.reason, _given(("smtp", found.identity, found.domain)))


def _dkim(transaction: Transaction) -> Iterator[MethodResult]:
    for number, found in enumerate(transaction.evidence.all(DkimResult)):
        if number == _MAX_SIGNATURES:
            return
        yield MethodResult(
            "dkim",
            found.result,
            found.reason,
            _given(
                ("header", "d", found.domain),
                ("header", "i", found.identity),
                ("header", "s", found.selector),
                ("header", "a", found.algorithm),
                ("header", "b", found.signature),
            ),
        )


def _dmarc(transaction: Transaction) -> Iterator[MethodResult]:
    found = transaction.evidence.get(DmarcResult)
    if found is not None:
        policy = found.policy if found.record is not None else ""
        properties = _given(("policy", "dmarc", policy), ("header", "from", found.domain))
        yield MethodResult("dmarc", found.result, found.reason, properties)


def _arc(session: Session, transaction: Transaction) -> Iterator[MethodResult]:
    found = transaction.evidence.get(ArcResult)
    if found is not None:
        oldest = str(found.oldest_pass) if found.result == "pass" else ""
        properties = _given(("smtp", "remote-ip", _address(session)), ("header", "oldest-pass", oldest))
        yield MethodResult("arc", found.result, found.reason, properties)


def _given(*properties: tuple[str, str, str]) -> _Properties:
    return tuple(one for one in properties if one[2])


def _address(session: Session) -> str:
    address = session.client.address
    return str(address).partition("%")[0] if address is not None else ""


def _in_ascii(found: MethodResult) -> MethodResult:
    """The same in a header section that is ASCII (RFC 5322); a "?" for what is not."""
    if found.reason.isascii() and all(value.isascii() for _, _, value in found.properties):
        return found
    properties = tuple((ptype, name, _question(value)) for ptype, name, value in found.properties)
    return MethodResult(found.method, found.result, _question(found.reason), properties, found.version)


def _question(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
