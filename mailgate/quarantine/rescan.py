"""Asks the content filters again, as if the message had just come, and tells what they say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.internet.defer import Deferred, DeferredSemaphore

from mailgate.address import Address
from mailgate.awaiting import as_deferred
from mailgate.config.schema import Config, ListenerSection
from mailgate.envelope import Client, Envelope, EnvelopeRecipient, Identity, Kept, Recipient, Session, Transaction
from mailgate.interfaces import Again, IRescan
from mailgate.message import Content, Message

__all__ = ["Rescanner", "ways_in"]

#: Messages about which filters are asked again at one time: those that come now are not to wait for them.
_AT_A_TIME = 2


class Rescanner:
    """Knows by which filters the mail of each listener is judged; `use` before anything else."""

    def __init__(self) -> None:
        self._hostname = ""
        self._listeners: Mapping[str, ListenerSection] = {}
        self._rescans: Mapping[str, IRescan] = {}
        self._turns = DeferredSemaphore(_AT_A_TIME)

    def use(self, config: Config, rescans: Mapping[str, IRescan]) -> None:
        """From now on go by this configuration; `rescans` by the names of the pipelines."""
        self._hostname = config.gateway.hostname
        self._listeners = ways_in(config)
        self._rescans = rescans

    def filters(self, envelope: Envelope) -> Collection[str]:
        """The names of the filters that are asked about it."""
        rescan = self._rescan_of(envelope)
        return rescan.names if rescan is not None else ()

    async def ask(
        self,
        envelope: Envelope,
        content: Content,
        recipients: Sequence[EnvelopeRecipient],
        of: Container[str] | None = None,
    ) -> Sequence[Again]:
        """What they say, for each of these recipients. `content` is what they are shown; `of` as in IRescan."""
        rescan = self._rescan_of(envelope)
        if rescan is None:
            reason = f"there is no listener {envelope.listener}" if envelope.listener else "its listener is not known"
            return [Again("unknown", "", f"{reason}, so its filters are not")] * len(recipients)
        said: dict[int, Again] = {}
        for facts, members in _by_facts(envelope.kept, recipients):
            session = self._session(envelope)
            transaction = Transaction(
                id=envelope.queue_id,
                sender=envelope.sender,
                recipients=[Recipient(address=_named(envelope.kept, one), route=one.route) for one in members],
                declared_size=envelope.size,
                parameters=envelope.parameters,
            )
            ask = partial(rescan.ask, session, transaction, Message(content), facts, of)
            asked: Deferred[Sequence[Again]] = self._turns.run(_answers, ask)
            said.update(zip((one.number for one in members), await asked, strict=True))
        return [said[one.number] for one in recipients]

    def _rescan_of(self, envelope: Envelope) -> IRescan | None:
        section = self._listeners.get(envelope.listener)
        if section is None:
            return None
        trusted = section.trusted_pipeline if self._identity(envelope) is not None else None
        return self._rescans.get(trusted or section.pipeline)

    def _session(self, envelope: Envelope) -> Session:
        origin, section = envelope.origin, self._listeners[envelope.listener]
        return Session(
            id=envelope.queue_id,
            client=Client(_address(origin.address), origin.port, origin.name),
            listener=section.name,
            role=section.role,
            hostname=self._hostname,
            protocol=origin.protocol or "SMTP",
            helo=origin.helo,
            identity=self._identity(envelope),
        )

    def _identity(self, envelope: Envelope) -> Identity | None:
        """As whom the client was known, as far as that can still be told."""
        origin, section = envelope.origin, self._listeners[envelope.listener]
        if origin.login:
            return Identity(origin.login, "")
        address = _address(origin.address)
        if section.role == "inbound":
            return None
        if address is None:
            is_own = envelope.client.endswith("[local]") and origin.source != "REMOTE"  # that is our mail server's word
            return Identity("local", "network") if is_own else None
        is_trusted = not address.is_unspecified and any(address in network for network in section.trusted_networks)
        return Identity(str(address), "network") if is_trusted else None


def _answers(ask: Callable[[], Awaitable[Sequence[Again]]]) -> Deferred[Sequence[Again]]:
    return as_deferred(ask())


def _by_facts(
    kept: Kept | None, recipients: Sequence[EnvelopeRecipient]
) -> Iterable[tuple[Sequence[str] | None, Sequence[EnvelopeRecipient]]]:
    """The recipients about whom the same was found, and that; None where it is not known."""
    if kept is None:
        return [(None, recipients)]
    groups: dict[tuple[str, ...], list[EnvelopeRecipient]] = {}
    for one in recipients:
        groups.setdefault(tuple(kept.facts_of(one.number)), []).append(one)
    return groups.items()


def _named(kept: Kept | None, recipient: EnvelopeRecipient) -> Address:
    """The address for which the filters were asked when the message came."""
    return recipient.address if kept is None else kept.address_of(recipient)


def ways_in(config: Config) -> Mapping[str, ListenerSection]:
    """All ways by which mail comes in, by the names that envelopes have for them; some are no listeners."""
    return {one.name: one for one in (*config.listeners, *_by_http(config), *_by_milters(config))}


def _by_http(config: Config) -> Sequence[ListenerSection]:
    """What stands for the way in that is no listener."""
    section = config.http.injection
    if section is None:
        return ()
    values = {"name": section.name, "role": "outbound", "endpoints": ["tcp:0"], "pipeline": section.pipeline}
    return (ListenerSection.model_validate(values),)


def _by_milters(config: Config) -> Iterator[ListenerSection]:
    """What stands for mail servers that ask us."""
    for name, section in config.milters.items():
        same = ("role", "endpoints", "pipeline", "trusted_pipeline", "trusted_networks")
        values = {key: getattr(section, key) for key in same}
        yield ListenerSection.model_validate({"name": name, **values})


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
