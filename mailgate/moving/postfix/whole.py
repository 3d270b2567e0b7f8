"""A whole Postfix: its folder to a draft."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from mailgate.config.hosts import parse_hostname
from mailgate.moving.certificates import certificate
from mailgate.moving.draft import Draft
from mailgate.moving.files import ReadingError, read_text
from mailgate.moving.postfix.domains import read_aliases, read_domains
from mailgate.moving.postfix.listeners import read_listeners
from mailgate.moving.postfix.reading import Parameters, is_below, read_main, read_master
from mailgate.moving.postfix.rest import tell_rest
from mailgate.moving.postfix.security import read_tls_policies
from mailgate.moving.postfix.site import Site
from mailgate.moving.postfix.tables import Tables
from mailgate.moving.postfix.transports import read_transports

__all__ = ["read_postfix"]


def read_postfix(
    folder: Path, users: Callable[[], Sequence[str]], dump: Callable[[str], str | None] = lambda _: None
) -> Draft:
    """The draft for the Postfix whose main.cf and master.cf are in `folder`.

    `users` are the names of this machine's users, and `dump` gives the lines of a database without a source. Raises
    ReadingError where the two files cannot be read.
    """
    main = read_main(read_text(folder / "main.cf"))
    master = folder / "master.cf"
    parameters = Parameters(main, hostname=socket.gethostname(), folder=str(folder.absolute()))
    chroots = is_below(parameters.get("compatibility_level"), 1)
    services = read_master(read_text(master), chroots=chroots) if master.exists() else []
    tables = Tables(folder, users, dump)
    site = Site(parameters, services, tables)
    _gateway(site)
    certificate(site.draft, _pairs(site))
    probes = read_listeners(site)
    read_domains(site, probes=probes)
    read_aliases(site)
    read_transports(site)
    read_tls_policies(site)
    _soft_bounce(site)
    tell_rest(site)
    return site.draft


def _gateway(site: Site) -> None:
    parameters, section = site.parameters, site.draft.section("gateway")
    hostname = parameters.get("myhostname").lower()
    try:
        section.set("hostname", parse_hostname(hostname), parameters.origin("myhostname"))
    except ValueError:
        section.set("hostname", f"{hostname.partition('.')[0] or 'mail'}.invalid", parameters.origin("myhostname"))
        advice = "write the one that the PTR record of your address has"
        site.draft.decide(section, "myhostname", f'"{hostname}" is no full name', advice)
    section.set("state_dir", "/var/lib/mailgate")


def _pairs(site: Site) -> list[tuple[Path, Path, str]]:
    """Files of certificates and keys that any service shows, with the settings that name them."""
    found = []
    for parameters in (site.parameters, *(site.parameters.of(one) for one in site.services)):
        found += _chains(site, parameters)
        for kind in ("", "ec", "d"):
            cert, key = parameters.get(f"smtpd_tls_{kind}cert_file"), parameters.get(f"smtpd_tls_{kind}key_file")
            if cert and cert != "none":
                site.use(parameters, f"smtpd_tls_{kind}key_file")
                key = cert if not key or "smtpd_tls_cert_file" in key else key
                found.append(
                    (site.tables.find(cert), site.tables.find(key), parameters.origin(f"smtpd_tls_{kind}cert_file"))
                )
    return list(dict.fromkeys(found))


def _chains(site: Site, parameters: Parameters) -> list[tuple[Path, Path, str]]:
    """Pairs of smtpd_tls_chain_files: each file has a key and its chain, or the key stands in the file before."""
    found, key = [], None
    for path in map(site.tables.find, parameters.words("smtpd_tls_chain_files")):
        try:
            text = read_text(path)
        except ReadingError:
            text = "PRIVATE KEY CERTIFICATE"  # what is wrong with it is found out where it is read
        if "PRIVATE KEY" in text:
            key = path
        if "CERTIFICATE" in text and key is not None:
            found.append((path, key, parameters.origin("smtpd_tls_chain_files")))
    return found


def _soft_bounce(site: Site) -> None:
    if site.parameters.is_yes("soft_bounce"):
        advice = 'Try filters in mode = "shadow" instead'
        site.draft.leave("missing", site.parameters.origin("soft_bounce"), "refusals are what they are", advice)
