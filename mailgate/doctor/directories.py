"""Who knows our recipients, and who checks users: whether they can be asked, and know somebody from nobody."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

from twisted.cred.error import UnauthorizedLogin

from mailgate.addressing import alias_sources, recipient_sources
from mailgate.auth.checker import PASSWORD_MECHANISMS, TOKEN_MECHANISMS, AuthUnavailable
from mailgate.auth.portal import Authenticator
from mailgate.awaiting import answered
from mailgate.backends.questions import BackendError
from mailgate.config.hosts import HostPort
from mailgate.config.postfix import PostfixRecipients
from mailgate.config.recipients import CalloutRecipients, LdapRecipients, ListRecipients, RecipientsSection
from mailgate.doctor.diagnosis import Check, Notes
from mailgate.doctor.recipients_there import made_up
from mailgate.doctor.servers import SilentError, exchange
from mailgate.doctor.site import Site
from mailgate.interfaces import RecipientStatus
from mailgate.recipients.snapshot_file import SnapshotFile
from mailgate.recipients.source import ISource
from mailgate.rewriting.source import AliasSource
from mailgate.wire.sasl_exchange import BearerToken, Credentials, Password

__all__ = ["auth_checks", "recipient_checks"]


def recipient_checks(site: Site) -> Iterator[Check]:
    """One for each source of recipients, aliases and senders; and for the domains that take anybody."""
    anybody = [name for name, section in site.config.domains.items() if section.recipients == ["any"]]
    if anybody:
        yield Check("recipients", ", ".join(anybody), _anybody)
    if site.assembly is None:
        return
    for kind in ("aliases", "senders"):
        for name, other in alias_sources(site.assembly.sources, kind).items():
            yield Check("recipients", f"{kind}.{name}", partial(_find, site, other.source))
    for name, one in recipient_sources(site.assembly.sources).items():
        section = site.config.recipients[name]
        domains = [domain for domain, its in site.config.domains.items() if name in its.recipients]
        check = partial(_ask, site, name, section, one.source, [domain.removeprefix("*.") for domain in domains])
        yield Check("recipients", f"recipients.{name}", check)


async def _anybody(notes: Notes) -> None:
    text = 'its recipients are "any": what the server behind refuses has to be returned, mostly to forged senders'
    notes.note(text, "a source of recipients ([recipients.NAME]): a list, a directory, or callout")


async def _find(site: Site, source: AliasSource, notes: Notes) -> None:
    domain = site.domains[0] if site.domains else site.hostname
    try:
        found = await answered(source.find(str(made_up(site, domain))))
    except BackendError as error:
        text = f"cannot be asked: {error}: mail to addresses that it does not remember is put off (451)"
        notes.fail(text, "see its address, password and TLS (ca), and the server's log")
        return
    if found:
        notes.warn(
            f"knows a made-up address at {domain}: it stands for {', '.join(found[:3])}", "see its query or rules"
        )
    else:
        notes.ok("can be asked")


async def _ask(
    site: Site, name: str, section: RecipientsSection, source: ISource, domains: list[str], notes: Notes
) -> None:
    if not domains:
        notes.note("no domain names this source")
        return
    if isinstance(section, LdapRecipients) and section.snapshot:
        await _snapshot(site, name, section, notes)
    for domain in domains[:3]:
        address = made_up(site, domain)
        status = source.at_hand(address.local_part, address.domain)
        if status is None:
            status = await answered(source.ask(address.local_part, address.domain))
        match status:
            case RecipientStatus.UNKNOWN:
                notes.ok(f"knows that a made-up address at {domain} is nobody's")
            case RecipientStatus.UNAVAILABLE:
                what = "mail to addresses that it does not remember is put off (451)"
                notes.fail(f"cannot be asked about {domain}: {what}", _fix_of(section))
            case _:
                known = isinstance(section, ListRecipients | PostfixRecipients)
                text = f"knows a made-up address at {domain}: it takes every address there"
                fix = "" if known else "see its query, filter or server"
                notes.say("note" if known else "warn", text, fix)


async def _snapshot(site: Site, name: str, section: LdapRecipients, notes: Notes) -> None:
    """Whether the directory is there, and how old what is known of it: the daemon reads it, and we its file."""
    for url in section.urls:
        parts = urlsplit(url)
        if not parts.hostname:
            continue
        host = HostPort(parts.hostname, parts.port or (636 if parts.scheme == "ldaps" else 389))
        try:
            await exchange(site, host, b"", 0)
        except SilentError as error:
            notes.warn(f"{url}: {error}", "start it, or see urls")
    file = SnapshotFile(site.config.gateway.state_dir, name, section)
    stamp = await site.in_thread(file.look)
    if stamp is None:
        text = "there is no snapshot yet: the gateway makes it when it runs, and until then recipients are put off"
        notes.warn(text, "start the gateway, and ask again")
        return
    age = site.reactor.seconds() - stamp.at
    told = f"the snapshot was right {age / 60:.0f} minutes ago"
    if age > section.stale:
        notes.fail(f"{told}: new recipients are put off", "the directory cannot be read: see the log of the gateway")
    elif age > 3 * section.refresh:
        notes.warn(told, "does the gateway run? Can the directory be read (see its log)?")
    else:
        notes.ok(told)


def _fix_of(section: RecipientsSection) -> str:
    if isinstance(section, CalloutRecipients):
        return f"see what is said of routes.{section.route}"
    return "see its address, password and TLS (ca), and the server's log"


def auth_checks(site: Site) -> Iterator[Check]:
    """One for each section that a listener names."""
    used = dict.fromkeys(listener.auth for listener in site.config.listeners if listener.auth is not None)
    for name in used:
        if site.assembly is not None and name in site.assembly.users:
            yield Check("auth", f"auth.{name}", partial(_log_in, site, site.assembly.users[name]))


async def _log_in(site: Site, users: Authenticator, notes: Notes) -> None:
    """As somebody who does not exist."""
    name, secret = (f"mailgate-doctor-{site.chance.getrandbits(64):016x}" for _ in range(2))
    mechanism, shown = "PLAIN", Password(name, secret)
    credentials: Credentials = shown
    if not users.mechanisms & PASSWORD_MECHANISMS and users.mechanisms & TOKEN_MECHANISMS:
        mechanism, credentials = "OAUTHBEARER", BearerToken(name, secret)
    try:
        await users.check(credentials, mechanism=mechanism)
    except UnauthorizedLogin:
        notes.ok("can be asked, and does not know a made-up user")
    except AuthUnavailable as error:
        text = f"cannot be asked: {error}: nobody can log in (454)"
        notes.fail(text, "see its address, socket, password and TLS, and the server's log")
    else:
        notes.fail("lets a made-up user in with a made-up password: anybody may relay", "see its query, or the service")
