"""Takes copies of mail that another gateway handles: each is judged as it had come to that one, and goes nowhere.

The session with the other gateway is nobody's mail: no filter sees it, and whatever is wrong with us or the copy, its
answer is 250. A copy that could not be judged is no reason for the other gateway to keep it, or to tell a sender of it;
and what a session of ours would have refused by itself, as the form of an address, is told in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from zope.interface import implementer

from mailgate.address import Address, AddressError
from mailgate.config.rehearsal import RehearsalSection
from mailgate.config.schema import ListenerSection
from mailgate.envelope import NO_ORIGIN, Client, Identity, Origin, Recipient, Session, Transaction
from mailgate.filters.networks import LOCAL_NETWORKS, NetworkSet
from mailgate.interfaces import IIntake, IPipeline, IRouting
from mailgate.message import Content, ContentWriter, HeaderField, Message
from mailgate.rehearsal.compare import OURSELVES, Account, Pair, Side, failed_in, sides_of, sides_then
from mailgate.rehearsal.facts import NO_CLIENT, Facts, facts_of, first_fields
from mailgate.rehearsal.judging import Judge, Sent
from mailgate.rehearsal.store import Accounts
from mailgate.rehearsal.tags import Tag, outcome_of
from mailgate.reply import Reply
from mailgate.smtp.copies import Faulty
from mailgate.verdict import Continue, Defer, Disconnect, Reject, Verdict

__all__ = ["CopyDoor", "CopyIntake", "CopyRouting", "largest_copy"]

_log = Logger()

_CONTINUE = Continue()
_TAKEN = Reply.of(250, "2.0.0", "Copy judged")
# For now only: were this somebody's MX by mistake, no mail is to be returned for it.
_NOT_YOU = Reply.of(421, "4.7.1", "Copies only are taken here, and not from you")
#: What stands for a route, of which there is none.
_NOWHERE = "rehearsal"
#: Characters that are kept of a text.
_LONGEST = 500
#: The status of a reply to a recipient whose address is none.
_BAD_ADDRESS = "5.1.3"


def largest_copy() -> int:
    """Octets of a copy that the session takes: what is too large for the listener is said by the judgement."""
    return 1024**3


@implementer(IPipeline)
class CopyDoor:
    """Lets in who may bring copies, and asks nothing more."""

    stages = frozenset({"connect"})

    def __init__(self, section: RehearsalSection) -> None:
        self._networks = NetworkSet(section.copies_from)

    def connect(self, session: Session) -> Verdict:
        peer = session.proxy or session.client
        if peer.address is None or peer.address in self._networks:
            return _CONTINUE  # a unix socket's permissions have said who may come
        return Disconnect(_NOT_YOU, f"{peer} is in none of rehearsal.copies_from")

    def helo(self, session: Session) -> Verdict:
        return _CONTINUE

    def auth(self, session: Session, identity: Identity) -> Verdict:
        return _CONTINUE

    def mail(self, session: Session, transaction: Transaction) -> Verdict:
        return _CONTINUE

    def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> Verdict:
        return _CONTINUE

    def data(self, session: Session, transaction: Transaction) -> Verdict:
        return _CONTINUE

    def message(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Verdict]:
        return [_CONTINUE] * len(transaction.recipients)


@implementer(IRouting)
class CopyRouting:
    """Copies may be for anybody."""

    def route(self, session: Session, transaction: Transaction, address: Address) -> str:
        return _NOWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Came:
    """How the mail had come to the other gateway, as far as the copy tells. `is_named`: whether it tells of the name of
    the client, or that there is none."""

    facts: Facts
    origin: Origin
    client: Client
    is_named: bool
    helo: str
    recipients: tuple[Address, ...]
    assumed: tuple[str, ...]


@implementer(IIntake)
class CopyIntake:
    """Judges what is given to it, keeps what was found, and lets the copy go. `incoming` is a folder for copies that
    are too large for memory."""

    def __init__(
        self,
        listener: ListenerSection,
        section: RehearsalSection,
        judge: Judge,
        accounts: Accounts,
        *,
        is_local: Callable[[str], bool],
        incoming: Path,
    ) -> None:
        self._listener = listener
        self._suffix = f".{section.suffix}"
        self._inside = NetworkSet([*LOCAL_NETWORKS, *section.copies_from, *section.inside])
        self._tags = [Tag.parse(one) for one in section.tagged]
        self._judge = judge
        self._accounts = accounts
        self._is_local = is_local
        self._incoming = incoming

    def refuse_before_data(self, size: int | None) -> Reply | None:
        return None

    async def take(
        self, session: Session, transaction: Transaction, content: Content, verdicts: Sequence[Verdict]
    ) -> Sequence[Reply]:
        try:
            await self._accounts.add(
                await self._account(session, transaction, content, _refusal(transaction, verdicts))
            )
        except CancelledError:
            raise
        except Exception:
            _log.failure("a copy of {sender} could not be judged", sender=str(transaction.sender))
            self._accounts.lose()
        finally:
            content.discard()
            content.give_back()
        return [_TAKEN] * len(verdicts)

    async def _account(
        self, session: Session, transaction: Transaction, content: Content, refusal: Side | None
    ) -> Account:
        """What is found of a copy; `refusal` is what a session says to all of it, whoever it is for."""
        came = self._came(session, transaction, content)
        facts, client, helo = came.facts, came.client, came.helo
        now: Mapping[Address, Side] = {}
        failed: Sequence[str] = ()
        sound = [] if refusal is not None else [one for one in came.recipients if not isinstance(one, Faulty)]
        if sound:
            sent = await self._as_it_came(content, facts.begin)
            try:
                judged, rehearsal = await self._judge.judge(
                    Sent(
                        listener=self._listener,
                        address=client.address,
                        name=client.name if came.is_named else None,
                        helo=helo,
                        sender=transaction.sender,
                        recipients=tuple(sound),
                        identity=came.origin.login or facts.login,
                        content=sent,
                        parameters=transaction.parameters,
                    ),
                    "deferred",
                    was_received=True,
                )
            finally:
                if sent is not content:
                    sent.discard()
            client, helo = judged.client, judged.helo or helo
            now, failed = dict(zip(sound, sides_of(rehearsal), strict=True)), failed_in(rehearsal)
        fields = first_fields(content.header)
        (was,) = sides_then([outcome_of(fields, self._tags)])
        return Account(
            name=came.origin.ident or facts.ident or transaction.id,
            received=facts.received or self._accounts.now(),
            client=str(client),
            helo=helo[:_LONGEST],
            sender=str(transaction.sender),
            subject=_first(fields, "subject"),
            message_id=_first(fields, "message-id"),
            pairs=tuple(
                Pair(recipient=str(one), was=was, now=now.get(one) or refusal or _faulty(one))
                for one in came.recipients
            ),
            failed=tuple(failed),
            assumed=came.assumed,
        )

    def _came(self, session: Session, transaction: Transaction, content: Content) -> _Came:
        origin = transaction.origin or NO_ORIGIN
        if session.proxy is not None:
            client = session.client  # as XCLIENT has told
            origin = Origin(address=str(client.address or ""), name=client.name, helo=session.helo, ident=origin.ident)
        told = _address(origin.address)
        # Where the client is known, the field that names it is looked for, and no other is believed.
        is_inside = self._inside.__contains__ if told is None else lambda address: address != told
        named = dict.fromkeys(filter(None, (self._named(one.address) for one in transaction.recipients)))
        known = tuple(one for one in named if not isinstance(one, Faulty))
        facts = facts_of(content.header, is_inside, self._is_local, str(transaction.sender), known)
        if told is not None and facts.address != told:
            # No field is of the other gateway: whoever sent the mail has written them all.
            facts = replace(facts, helo="", login="", received=0.0, begin=0, ident="")
        recipients = tuple(named) or facts.recipients
        assumed = [one for one in facts.assumed if one != NO_CLIENT and not named]
        if told is None and facts.address is None:
            assumed.append(NO_CLIENT)
        if not recipients:
            assumed.append("no recipients at all")
        name = origin.name if told is not None else facts.name
        return _Came(
            facts=facts,
            origin=origin,
            client=Client(told or facts.address, name=name or ""),
            is_named=name is not None,
            helo=origin.helo or facts.helo,
            recipients=recipients,
            assumed=tuple(assumed),
        )

    def _named(self, address: Address) -> Address | None:
        """Whom the mail was for, where the copy's recipient tells."""
        domain = address.domain.removesuffix(self._suffix)
        if isinstance(address, Faulty):
            if domain != address.domain and address.fault.status == _BAD_ADDRESS:
                try:  # what stands behind it may be all that makes it too long
                    return Address.parse(f"{address.local_part}@{domain}")
                except AddressError:
                    pass
            return Faulty(address.local_part, domain, address.fault)
        if domain != address.domain:
            return Address(address.local_part, domain)
        return address if self._is_local(address.domain) else None

    async def _as_it_came(self, content: Content, begin: int) -> Content:
        """The content without what the other gateway has put on top of it."""
        if not begin:
            return content
        if content.in_memory:
            return Content(content.part(begin, content.size))

        def cut() -> Content:
            writer = ContentWriter(self._incoming, 0)
            try:
                at = 0
                for chunk in content.chunks():
                    writer.write(chunk[max(0, begin - at) :])
                    at += len(chunk)
                return writer.finish()
            except BaseException:
                writer.abandon()
                raise

        return await self._accounts.in_thread(cut)


def _refusal(transaction: Transaction, verdicts: Sequence[Verdict]) -> Side | None:
    """What a session says to the whole of a mail by itself: to its MAIL, or to its content."""
    sender = transaction.sender
    if isinstance(sender, Faulty):
        return _faulty(sender)
    match next(iter(verdicts), _CONTINUE):
        case Reject(reply, reason) | Defer(reply, reason):
            outcome = "deferred" if reply.is_transient else "refused"
            return Side(outcome=outcome, by=OURSELVES, reason=reason, reply=str(reply))
    return None


def _faulty(said: Address) -> Side:
    fault = str(said.fault) if isinstance(said, Faulty) else ""
    return Side(outcome="refused", by=OURSELVES, reason="the session itself refuses this form", reply=fault)


def _first(fields: Sequence[HeaderField], name: str) -> str:
    return next((one.value for one in fields if one.name.lower() == name), "")[:_LONGEST]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
