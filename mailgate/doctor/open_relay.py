"""Whether strangers can relay through the listeners that run: they are asked, from an address that they do not trust.

Nothing is sent: MAIL and RCPT, and then RSET.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import cast

from twisted.internet.defer import TimeoutError as DeferredTimeout

from mailgate.address import NULL_PATH, Address
from mailgate.awaiting import as_deferred
from mailgate.config.machine import is_here
from mailgate.config.schema import ListenerSection
from mailgate.doctor.certificates import read_pairs
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.site import IpAddress, Site, addresses_of
from mailgate.interfaces import OutcomeKind
from mailgate.relay.attempt import ConnectFailedError, Target
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.client.connector import SmtpConnector
from mailgate.relay.client.terms import Terms, TlsMode
from mailgate.relay.sources import Source
from mailgate.tls.check import fingerprint
from mailgate.tls.client import ClientContexts

__all__ = ["Entrance", "entrances", "knock", "relay_checks", "stranger_to"]

#: Whom nobody can have mail for (RFC 6761), and who seems to ask.
_ELSEWHERE, _STRANGER = "relay-test.invalid", "doctor.invalid"
#: An address of this machine by which hardly anybody is trusted by himself; every one of 127.0.0.0/8 is.
_LOOPBACK = (ip_address("127.83.17.5"), ip_address("127.0.0.1"), ip_address("::1"))
#: Seconds for one session.
_PATIENCE = 25.0


@dataclass(frozen=True, slots=True)
class Entrance:
    """A port of a listener, and the address at which it is reached from this machine."""

    listener: ListenerSection
    address: IpAddress
    port: int

    def __str__(self) -> str:
        return f"listeners.{self.listener.name}: port {self.port}"


def entrances(site: Site) -> Iterator[Entrance]:
    """Every TCP port of the listeners."""
    for listener, interface, port in site.ports():
        if not port:
            continue
        if interface in ("", "0.0.0.0"):  # noqa: S104  compared, not bound
            yield Entrance(listener, ip_address("127.0.0.1"), port)
        elif interface == "::":
            yield Entrance(listener, ip_address("::1"), port)
        else:
            yield Entrance(listener, ip_address(interface), port)


def relay_checks(site: Site) -> Iterator[Check]:
    """One for each port, but for those that take copies: they say yes to all, and send nothing on."""
    for one in entrances(site):
        if one.listener.rehearse:
            continue
        yield Check("relay", str(one), partial(_ask, site, one), 4 * _PATIENCE)
    if not any(True for _ in entrances(site)):
        yield Check("relay", site.hostname, _nowhere)


async def knock(
    site: Site, entrance: Entrance, source: IpAddress | None = None, *, secured: bool = False
) -> SmtpConnection:
    """A session with a listener of ours, from this address, under TLS where the listener insists on that, or we do
    (`secured`). ConnectFailedError, or Twisted's TimeoutError."""
    listener = entrance.listener
    mode: TlsMode = "required" if secured or listener.tls == "required" else "off"
    terms = Terms(tls=mode, contexts=ClientContexts(site.reactor) if mode != "off" else None)
    if listener.tls == "implicit":
        terms = Terms(tls="implicit", tls_fingerprints=await _prints(site), contexts=ClientContexts(site.reactor))
    connector = SmtpConnector(site.reactor, _STRANGER, _PATIENCE, _PATIENCE, _PATIENCE, terms=terms)
    v4 = source if isinstance(source, IPv4Address) else None
    v6 = source if isinstance(source, IPv6Address) else None
    target = Target(site.hostname, str(entrance.address), entrance.port, listener.protocol == "lmtp")
    opening = as_deferred(connector.connect(target, source=Source("doctor", v4, v6)))
    return cast(SmtpConnection, await opening.addTimeout(_PATIENCE, site.reactor))


async def _prints(site: Site) -> tuple[str, ...]:
    """The fingerprints of our own certificates: no name matters from inside."""
    path = site.config.tls.certificate
    if path is None:
        return ()
    pairs, _ = await site.in_thread(partial(read_pairs, path))
    return tuple(fingerprint(one.certificate) for one in pairs)


async def _nowhere(notes: Notes) -> None:
    notes.note(
        "not tried: no listener has a TCP port of its own (unix sockets and systemd: who reaches them may relay)"
    )


async def _ask(site: Site, entrance: Entrance, notes: Notes) -> None:
    source = await stranger_to(site, entrance)
    if source is None:
        text = "could not be shown: the listener trusts every address that this machine can ask from"
        notes.note(text, "try it from elsewhere: swaks --server HOST --to x@elsewhere.example --quit-after RCPT")
        return
    try:
        connection = await knock(site, entrance, source)
    except (ConnectFailedError, DeferredTimeout) as error:
        why = error.reason if isinstance(error, ConnectFailedError) else f"no answer within {_PATIENCE:g} s"
        fix = "start the gateway, and ask again" if "connect" in why else ""
        notes.note(f"could not be shown: {why}", fix)
        return
    senders = [NULL_PATH, Address("stranger", _STRANGER)]
    senders += [Address("postmaster", domain) for domain in site.domains[:1]]
    told: list[str] = []
    try:
        for sender in senders:
            if not connection.is_usable:
                break
            [result] = await connection.probe(sender, Address("nobody", _ELSEWHERE), through_data=False)
            if result.kind is OutcomeKind.DELIVERED:
                who = f"<{sender}>"
                text = f"takes mail from a stranger ({source}, {who}) to nobody@{_ELSEWHERE}: it is an open relay"
                notes.fail(text, "see trusted_networks, role and [routing] of the listener, and its filters")
                return
            told.append(str(result.reply))
    finally:
        connection.close()
    _judge(told, source, notes)


def _judge(told: list[str], source: IpAddress, notes: Notes) -> None:
    shown = [one for one in told if one.startswith("5")]
    if shown and len(shown) == len(told):
        notes.ok(f"refuses to relay for strangers ({source}): {shown[0]}")
    elif shown:
        other = next(one for one in told if not one.startswith("5"))
        notes.note(
            f"refuses to relay for strangers ({source}): {shown[0]}; could not be shown for each sender: {other}"
        )
    else:
        notes.note(f"could not be shown ({source}): {told[0] if told else 'no answer'}", "try it from elsewhere")


async def stranger_to(site: Site, entrance: Entrance) -> IpAddress | None:
    """An address of this machine that the listener takes for a stranger's, and that can reach it; None where it trusts
    each of them."""
    listener = entrance.listener
    believed = [*listener.proxy_protocol_from, *listener.xclient_from]
    trusted = [*believed, *([] if listener.role == "inbound" else listener.trusted_networks)]
    candidates: list[IpAddress] = list(_LOOPBACK) if entrance.address.is_loopback else [entrance.address]
    candidates += await addresses_of(site.resolver, site.hostname)
    for section in site.config.sources.values():
        candidates += [one for one in (section.address, section.address6) if one is not None]
    for one in candidates:
        if one.version != entrance.address.version or not is_here(one):
            continue
        if not any(one.version == network.version and one in network for network in trusted):
            return one
    return None
