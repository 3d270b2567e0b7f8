"""Our certificates: those that listeners show, and those that routes show to next hops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography.x509 import Certificate, ExtendedKeyUsage, ExtensionNotFound
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreContext, X509StoreContextError

from mailgate.config.routes import HttpRoute, ServerRoute
from mailgate.config.schema import ListenerSection
from mailgate.doctor.diagnosis import Check, Notes, Severity
from mailgate.doctor.site import Site
from mailgate.tls.check import is_of, objection_of
from mailgate.tls.context import new_context
from mailgate.tls.names import MALFORMED
from mailgate.tls.pem import KeyPair, Source, TlsError, read_key_pair, sources

__all__ = ["certificate_checks", "read_pairs"]

#: How long before its end a certificate should have been renewed: those of 90 days are when 30 are left.
_SOON = timedelta(days=14)
#: Files of a folder that are read.
_MOST = 1000


def certificate_checks(site: Site) -> Iterator[Check]:
    """What [tls] names, and the certificate of each route."""
    shown = [one for one in site.config.listeners if one.tls != "off"]
    if site.config.tls.certificate is not None:
        yield Check("certificates", str(site.config.tls.certificate), partial(_ours, site, shown))
    elif any(port == 25 for _, _, port in site.ports()):
        yield Check("certificates", site.hostname, _none)
    for name, route in site.config.routes.items():
        if isinstance(route, ServerRoute | HttpRoute) and route.certificate is not None:
            yield Check("certificates", f"routes.{name}", partial(_of_route, site, route.certificate))


def read_pairs(path: Path) -> tuple[list[KeyPair], list[str]]:
    """The certificates in a file or a folder, and what is wrong with those that cannot be read. Blocks."""
    pairs: list[KeyPair] = []
    problems: list[str] = []
    try:
        found = sources(path)[:_MOST]
    except OSError as error:
        return [], [f"{path}: cannot be read: {error.strerror}"]
    for source in found:
        try:
            pairs.append(read_key_pair(source))
        except TlsError as error:
            problems += error.errors
    return pairs, problems if pairs or problems else [f"{path}: holds no certificate"]


async def _none(notes: Notes) -> None:
    text = "there is no certificate: what is sent to us can be read on the way, and some senders refuse to send it"
    notes.warn(text, "get one (certbot), and name it in tls.certificate")


async def _ours(site: Site, shown: Sequence[ListenerSection], notes: Notes) -> None:
    path = site.config.tls.certificate
    if path is None:
        return
    pairs, problems = await site.in_thread(partial(read_pairs, path))
    for problem in problems:
        notes.fail(problem, "mend or remove the file; certificate, chain and key belong together")
    for host in site.own_hosts:
        if pairs and not any(is_of(one.certificate, host) for one in pairs):
            names = ", ".join(dict.fromkeys(name for one in pairs for name in one.names)) or "nobody"
            severity: Severity = "fail" if site.config.mta_sts.mode == "enforce" else "warn"
            text = f"no certificate is for {host}, only for {names}: who verifies us does not send, or log in"
            notes.say(severity, text, f"get one with the name {host}")
    for pair in pairs:
        is_own = any(is_of(pair.certificate, host) for host in site.own_hosts)
        await _look(site, pair, notes, is_client=False, must_be_known=is_own and site.config.mta_sts.mode == "enforce")
    submitting = [one.name for one in shown if one.auth is not None]
    if submitting and not pairs:
        notes.fail(f"without a certificate nobody can log in at {', '.join(submitting)}")


async def _of_route(site: Site, path: Path, notes: Notes) -> None:
    def read() -> KeyPair:
        return read_key_pair(Source(path, path))

    try:
        pair = await site.in_thread(read)
    except TlsError as error:
        notes.fail(str(error), "certificate, chain and key belong together")
        return
    await _look(site, pair, notes, is_client=True, must_be_known=False)


async def _look(site: Site, pair: KeyPair, notes: Notes, *, is_client: bool, must_be_known: bool) -> None:
    subject = f"{pair.path} ({pair.names[0]})" if pair.names else str(pair.path)
    now = datetime.fromtimestamp(site.reactor.seconds(), UTC)
    start, end = pair.certificate.not_valid_before_utc, pair.certificate.not_valid_after_utc
    before = len(notes.found)
    if end < now:
        notes.fail(f"expired on {end:%Y-%m-%d}", "renew it, and see why that was not done", subject=subject)
    elif start > now:
        notes.warn(f"is not valid before {start:%Y-%m-%d %H:%M} UTC", "is the clock right?", subject=subject)
    elif end < now + _SOON:
        text = f"expires on {end:%Y-%m-%d}: it should have been renewed by now"
        notes.warn(text, "see why that was not done (systemctl status certbot.timer)", subject=subject)
    _purpose(pair.certificate, notes, subject, is_client=is_client)
    objection = await site.in_thread(partial(chain_objection, pair))
    if objection and end >= now >= start:
        severity: Severity = "fail" if must_be_known else "note" if is_client else "warn"
        text = f"{objection}: who verifies us does not take it"
        notes.say(severity, text, "put the issuers behind it into the file (fullchain.pem)", subject=subject)
    if len(notes.found) == before:
        notes.ok(f"is good until {end:%Y-%m-%d}", subject=subject)


def _purpose(certificate: Certificate, notes: Notes, subject: str, *, is_client: bool) -> None:
    try:
        usages = list(certificate.extensions.get_extension_for_class(ExtendedKeyUsage).value)
    except (ExtensionNotFound, *MALFORMED):
        return  # for anything
    if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages:
        return
    if is_client and ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        text = (
            "is not meant for clients (no clientAuth), as public authorities issue none any more: a next hop that is "
        )
        text += "strict about that refuses it"
        notes.note(
            text, "ask whether it is; else use one of a private authority that the next hop trusts", subject=subject
        )
    if not is_client and ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        notes.fail(
            "is not meant for servers (no serverAuth): clients refuse it", "get one for a server", subject=subject
        )


def chain_objection(pair: KeyPair) -> str:
    """Why the system's authorities do not vouch for the certificate; "" where they do. Blocks."""
    context = new_context(SSL.TLS_CLIENT_METHOD, "1.2")
    context.set_default_verify_paths()
    store = context.get_cert_store()
    if store is None:
        return "the system has no authorities"
    chain = [X509.from_cryptography(one) for one in pair.chain]
    try:
        X509StoreContext(store, X509.from_cryptography(pair.certificate), chain).verify_certificate()
    except X509StoreContextError as error:
        return objection_of(error.certificate.to_cryptography(), int(error.errors[0]), int(error.errors[1]))
    return ""
