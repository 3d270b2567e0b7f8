"""A service of the site's own judges mail: it is asked over HTTP, and says what is to be done.

It is sent one JSON object by POST:

    {"version": 1, "gateway": "mx1.example.org",
     "session": {"id": "...", "listener": "mx", "role": "inbound", "protocol": "ESMTPS", "helo": "client.example",
                 "client": {"address": "192.0.2.1", "port": 40000, "name": "client.example"},
                 "user": null, "tls": {"version": "TLSv1.3", "cipher": "..."}},
     "envelope": {"id": "...", "sender": "ann@client.example", "recipients": ["bob@example.org"], "size": 1234},
     "headers": [["From", "Ann <ann@client.example>"], ...],
     "facts": ["spf.pass", ...],
     "content": null}

`user` and `tls` are null where there are none, `address` where the client came by a unix socket; `headers` are
unfolded, `facts` is what the filters before have found, and `content` the message in base64 where the section says so.
The answer is 200 with one JSON object, of which only `verdict` is needed:

    {"verdict": "continue", "reason": "", "text": "", "points": 0.0, "facts": [], "add_headers": [], "recipients": []}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast
from urllib.parse import urlsplit

from pydantic import Field
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.backends.questions import Creators, is_this_machine, read_secret, verifying
from mailgate.config.hosts import HostPort
from mailgate.config.units import ConfigPath, Size, at_least, format_size
from mailgate.config.values import HttpUrl
from mailgate.envelope import Recipient, Session, Transaction
from mailgate.filters.scanning import AskedSection, OwnResult, own_result, said, too_large
from mailgate.findings import Finding, Points
from mailgate.interfaces import Answered, FilterServices, IContentFilter, IMessageModifier
from mailgate.message import AddHeader, Content, Edit, Message
from mailgate.scanners.conversation import Line
from mailgate.scanners.pool import IScannerReactor, Pool, ScannerError, endpoint_of
from mailgate.scanners.verdict_service import ServiceAnswer, ask_service
from mailgate.verdict import Accept, Continue, Verdict

__all__ = ["HttpVerdict", "Options", "ServiceResult", "build"]

_PORTS = {"http": 80, "https": 443}
#: Facts of other filters that the service is told.
_MOST_FACTS = 500


class Options(AskedSection):
    """`[filters.http]`: asks a service of your own about each message; see `pydoc mailgate.filters.http` for the JSON.

    An answer that is not exactly as described there is a failure, and `on_failure` decides: a page of HTML with 200
    lets nothing pass.
    """

    urls: list[HttpUrl] = Field(min_length=1)
    """the service: "https://judge.example.org/mail"; several are asked as `order` says. https proves that it is the
    host that was meant; redirects are not followed"""
    token_file: ConfigPath | None = None
    """a file with a secret that is sent along ("Authorization: Bearer ..."), only over https or to this machine"""
    ca: ConfigPath | None = None
    """a file of authorities (PEM) that sign the certificate of the service, in the place of the system's"""
    content: Literal["none", "base64"] = "none"
    """whether the service is sent the message itself: none, or base64"""
    max_size: Annotated[Size, at_least(1024, format_size)] = 25 * 1024 * 1024
    """larger messages are not sent; only where `content` is base64"""
    oversize: Literal["without", "continue", "defer", "quarantine", "reject"] = "without"
    """what to do with those: without (ask with content = null), continue (do not ask), defer, quarantine or reject"""
    text: str = "Refused by policy"
    """what the sender of a refused message is told, where the service has no text of its own"""


@dataclass(frozen=True, slots=True)
class ServiceResult(Finding, OwnResult):
    """What the service said; None for a message that is too large to be asked about."""

    answer: ServiceAnswer | None = None
    by: object = field(default=None, repr=False, compare=False)

    def summary(self) -> str:
        if self.answer is None:
            return "http=oversize"
        return f"http={self.answer.verdict} {self.answer.reason}".rstrip()

    def facts(self) -> Sequence[str]:
        return ("http.oversize",) if self.answer is None else (f"http.{self.answer.verdict}",)


@dataclass(frozen=True, slots=True)
class ServiceFact(Finding):
    """A fact of the service's, which has a weight of its own."""

    name: str

    def facts(self) -> Sequence[str]:
        return (f"http.fact.{self.name}",)


def build(options: Options, services: FilterServices) -> object:
    """The filter; ValueError where a file that the section names is of no use, or a secret could be read on its way."""
    return HttpVerdict(options, services)


@dataclass(frozen=True, slots=True)
class _Service:
    url: str
    line: Line


@implementer(IContentFilter, IMessageModifier)
class HttpVerdict:
    """One question for each message."""

    def __init__(self, options: Options, services: FilterServices) -> None:
        self._options = options
        self._hostname = services.hostname
        self._by = object()
        self._fields: list[tuple[str, str]] = []
        if options.token_file is not None:
            self._fields.append(("Authorization", f"Bearer {read_secret(options.token_file)}"))
        reactor = cast(IScannerReactor, services.clock)
        creators = verifying(services.clock, options.ca)
        found = [_service(url, reactor, creators, options) for url in options.urls]
        self._pool = Pool(
            {f"{_host_of(one.url)} (number {number})": one for number, one in enumerate(found, 1)},
            services.clock,
            in_turns=options.order == "in-turns",
            limit=options.connections,
            timeout=options.timeout,
        )

    def on_message(self, session: Session, transaction: Transaction, message: Message) -> Answered:
        """Do what the service says."""
        content = message.content if self._options.content == "base64" else None
        if content is not None and content.size > self._options.max_size:
            if self._options.oversize != "without":
                evidence = (ServiceResult(by=self._by),)
                return too_large(self._options.oversize, content.size, self._options.max_size, evidence)
            content = None
        return self._judge(session, transaction, message, content)

    def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit]:
        """The fields that the service wants added, the first on top."""
        result = own_result(transaction.evidence, ServiceResult, self._by)
        if result is None or result.answer is None:
            return []
        return [AddHeader(one.name, one.value) for one in reversed(result.answer.add_headers)]

    async def _judge(
        self, session: Session, transaction: Transaction, message: Message, content: Content | None
    ) -> Verdict:
        facts = self._facts(session, transaction, message)

        async def ask(service: _Service) -> tuple[ServiceAnswer, list[Recipient]]:
            answer = await ask_service(service.line, service.url, self._fields, facts, content)
            return answer, _named(answer, transaction.recipients)

        answer, named = await self._pool.ask(ask)
        evidence: list[object] = [ServiceResult(answer, self._by)]
        reason = answer.reason or f"the service says {answer.verdict}"
        if answer.points:
            evidence.append(Points(answer.points, reason))
        evidence += [ServiceFact(name) for name in answer.facts]
        if answer.verdict == "accept":
            # It would skip what is asked after this for the other recipients, too.
            return Continue(tuple(evidence)) if named else Accept(reason, tuple(evidence))
        text = answer.text.strip() or ("Try again later" if answer.verdict == "defer" else self._options.text)
        return said(answer.verdict, text, reason, tuple(evidence), named)

    def _facts(self, session: Session, transaction: Transaction, message: Message) -> dict[str, object]:
        client, tls = session.client, session.tls
        findings = (one for one in (*session.evidence, *transaction.evidence) if isinstance(one, Finding))
        known = dict.fromkeys(fact for one in findings for fact in one.facts())
        return {
            "version": 1,
            "gateway": self._hostname,
            "session": {
                "id": session.id,
                "listener": session.listener,
                "role": session.role,
                "protocol": session.protocol,
                "helo": session.helo,
                "client": {
                    "address": None if client.address is None else str(client.address),
                    "port": client.port,
                    "name": client.name,
                },
                "user": None if session.identity is None else session.identity.name,
                "tls": None if tls is None else {"version": tls.version, "cipher": tls.cipher},
            },
            "envelope": {
                "id": transaction.id,
                "sender": str(transaction.sender),
                "recipients": [str(one.address) for one in transaction.recipients],
                "size": message.content.size,
            },
            "headers": [[one.name, one.value] for one in message.fields if one.name],
            "facts": list(known)[:_MOST_FACTS],
        }


def _service(url: str, reactor: IScannerReactor, creators: Creators, options: Options) -> _Service:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if options.token_file is not None and parts.scheme == "http" and not is_this_machine(host):
        raise ValueError(f"urls: the secret of token_file would go to {host} in clear text: use https://")
    where = HostPort(host, parts.port or _PORTS[parts.scheme])

    def endpoint() -> IStreamClientEndpoint:
        plain = endpoint_of(where, reactor, options.connect_timeout)
        return wrapClientTLS(creators(host), plain) if parts.scheme == "https" else plain

    return _Service(url, Line(endpoint, reactor))


def _host_of(url: str) -> str:
    """The service without its path, which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _named(answer: ServiceAnswer, recipients: Sequence[Recipient]) -> list[Recipient]:
    """Those of the recipients that the answer names; none where it names none, or all.

    ScannerError where it names one that the message is not for.
    """
    known = [str(one.address).lower() for one in recipients]
    try:
        named = {str(Address.parse(text)).lower() for text in answer.recipients}
    except AddressError:
        raise ScannerError("the answer of the service is wrong: recipients: one is no address") from None
    if named.difference(known):
        raise ScannerError("the answer of the service is wrong: recipients: one is none of the message's")
    found = [one for one, text in zip(recipients, known, strict=True) if text in named]
    return found if len(found) < len(recipients) else []
