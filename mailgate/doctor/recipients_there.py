"""At which stage a next hop refuses recipients that do not exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mailgate.address import NULL_PATH, Address
from mailgate.config.recipients import CalloutRecipients
from mailgate.config.schema import DomainSection
from mailgate.doctor.diagnosis import Notes
from mailgate.doctor.site import Site
from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces import OutcomeKind
from mailgate.message import Content
from mailgate.relay.attempt import Result, Target
from mailgate.relay.client.connection import SmtpConnection
from mailgate.relay.probing import NOBODY
from mailgate.relay.replies.classify import Classifier

__all__ = ["about_recipients", "made_up"]

_MESSAGE = (
    b"From: mailgate doctor <postmaster@%(hostname)s>\r\n"
    b"To: <%(address)s>\r\n"
    b"Subject: mailgate doctor: does this recipient exist?\r\n"
    b"Auto-Submitted: auto-generated\r\n"
    b"\r\n"
    b"This message was sent to an address that is made up, to see whether it is refused.\r\n"
)


def made_up(site: Site, domain: str) -> Address:
    """An address that nobody has."""
    return Address(f"mailgate-doctor-{site.chance.getrandbits(64):016x}", domain)


async def about_recipients(
    site: Site,
    name: str,
    target: Target,
    connection: SmtpConnection,
    open_another: Callable[[], Awaitable[SmtpConnection]],
    notes: Notes,
) -> None:
    """Say at which stage it is that the next hop of the route `name` refuses what it does not know. Nothing is sent
    there but MAIL, RCPT and RSET, unless the site wants it to be found out for certain."""
    domains = {one: section for one, section in site.config.domains.items() if section.route == name}
    domain = next((one for one in domains if not one.startswith("*.")), "")
    if not domain:
        return
    address = made_up(site, domain)
    [result] = await connection.probe(NULL_PATH, address, through_data=False)
    if result.kind is not OutcomeKind.DELIVERED:
        _refused(site, domain, result, notes, "RCPT")
        return
    if not site.is_deep:
        _accepted(site, domains, name, "at RCPT", notes, "; --deep finds out whether it refuses them later")
        return
    another = await open_another()
    try:
        [result] = await another.probe(NULL_PATH, address, through_data=True)
    finally:
        another.close()
    if result.kind is OutcomeKind.FAILED:
        notes.ok(f"refuses unknown recipients of {domain} at DATA: {result.reply}")
        return
    another = await open_another()
    try:
        [result] = await _sent(site, another, address, name)
    finally:
        another.close()
    if result.kind is OutcomeKind.DELIVERED:
        _accepted(site, domains, name, "for good", notes)
    elif result.kind is OutcomeKind.FAILED:
        _accepted(site, domains, name, f"until it has the content ({result.reply})", notes)
    else:
        notes.warn(f"puts off a message to an unknown recipient of {domain}: {result.reply}", "see the log of the host")


def _refused(site: Site, domain: str, result: Result, notes: Notes, stage: str) -> None:
    classifier = site.assembly.bounces.classifier if site.assembly is not None else Classifier()
    reply = result.reply
    category = classifier.category(reply)
    if category == "relay-denied" and not reply.is_positive:
        # also where it says that for now: nobody will change it but an administrator
        notes.fail(f"refuses mail for {domain}: {reply}", "have it take mail for this domain from our address")
    elif result.kind is OutcomeKind.FAILED and category in NOBODY:
        notes.ok(f"refuses unknown recipients of {domain} at {stage}: {reply}")
    elif result.kind is OutcomeKind.FAILED:
        notes.fail(f"refuses mail for {domain}: {reply}", "have it take mail for this domain from our address")
    elif reply.is_permanent:
        notes.fail(f"refuses reports (the null sender) for {domain}: {reply}", "have it take mail from <> (RFC 5321)")
    else:
        notes.warn(f"puts off mail for {domain}: {reply}", "exempt our address from greylisting and rate limits there")


def _accepted(site: Site, domains: dict[str, DomainSection], name: str, how: str, notes: Notes, more: str = "") -> None:
    """It says nothing at RCPT: who does then?"""
    unasked = [one for one, section in domains.items() if section.recipients == ["any"]]
    callouts = [
        source
        for section in domains.values()
        for source in section.recipients
        if isinstance(one := site.config.recipients.get(source), CalloutRecipients)
        and (one.route, one.stage) == (name, "rcpt")
    ]
    text = f"takes unknown recipients {how}{more}"
    if callouts:
        fix = 'ask another port, or with stage = "data"; best, take the addresses from a list or a directory'
        notes.warn(f"{text}: the source {', '.join(callouts)}, which asks there, cannot know anybody", fix)
    elif unasked:
        fix = "give the domain a source of recipients ([recipients.NAME]): a list, a directory"
        whose = ", ".join(unasked)
        notes.warn(
            f'{text}, and recipients of {whose} are "any": what it cannot deliver is returned to forged senders', fix
        )
    else:
        notes.note(f"{text}: our own source of recipients is all that refuses them")


async def _sent(site: Site, connection: SmtpConnection, address: Address, route: str) -> Sequence[Result]:
    """By the null sender, to whom nobody returns anything."""
    values = {b"hostname": site.hostname.encode(), b"address": str(address).encode()}
    content = Content(_MESSAGE % values)
    recipients = (EnvelopeRecipient(0, address, route),)
    now = site.reactor.seconds()
    envelope = Envelope(queue_id="", sender=NULL_PATH, recipients=recipients, received=now, size=content.size)
    return await connection.deliver(envelope, recipients, content)
