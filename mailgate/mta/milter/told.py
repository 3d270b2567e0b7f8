"""What a mail server tells about a client and a message, as ours: by commands, and by macros beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from mailgate.address import NULL_PATH, Address, AddressError, parse_path
from mailgate.envelope import PLAIN_MAIL, Client, Identity, MailParameters, Recipient, Tls
from mailgate.wire.fault import CommandError
from mailgate.wire.milter.commands import ClientTold
from mailgate.wire.milter.words import MacroStage
from mailgate.wire.parameters import parse_mail_parameters, parse_rcpt_parameters, parse_size

__all__ = [
    "WANTED",
    "client_of",
    "destination_of",
    "id_of",
    "identity_of",
    "known_of",
    "mail_of",
    "path_of",
    "recipient_of",
    "tls_of",
]

#: The macros that we ask for, where the mail server lets a milter choose.
WANTED: Mapping[MacroStage, Sequence[str]] = {
    MacroStage.CONNECT: ("{client_resolve}", "{daemon_addr}", "{daemon_port}"),
    MacroStage.HELO: ("{tls_version}", "{cipher}", "{cert_subject}", "{verify}"),
    MacroStage.MAIL: (
        "i",
        "{auth_type}",
        "{auth_authen}",
        "{tls_version}",
        "{cipher}",
        "{cert_subject}",
        "{verify}",
        "{mail_addr}",
    ),
    MacroStage.RCPT: ("i", "{rcpt_addr}"),
    MacroStage.DATA: ("i",),
    MacroStage.END_OF_HEADER: ("i",),
    MacroStage.END_OF_BODY: ("i",),
}

_MACROS = frozenset(name.strip("{}") for names in WANTED.values() for name in names)
_MAX_TEXT, _MAX_ID = 255, 100
_ROUTED = re.compile("[%!]")
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_KNOWN = frozenset({"8BITMIME", "BINARYMIME", "SMTPUTF8", "DSN", "REQUIRETLS", "MT-PRIORITY"})

Macros = Mapping[str, str]


def known_of(values: Macros) -> dict[str, str]:
    """The macros that we make anything of; without those whose values nobody would have who is not hostile."""
    return {
        name: value if len(value) <= _MAX_TEXT and value.isprintable() else ""
        for name, value in values.items()
        if name in _MACROS
    }


def client_of(told: ClientTold, macros: Macros) -> Client:
    """The client; without a name where the mail server has none that is confirmed."""
    is_confirmed = macros.get("client_resolve", "OK") == "OK"
    name = told.name if is_confirmed and _NAME.fullmatch(told.name) and told.name != "unknown" else ""
    return Client(told.address, told.port, name[:_MAX_TEXT].removesuffix("."))


def destination_of(macros: Macros) -> tuple[IPv4Address | IPv6Address | None, int]:
    """Where the client has come to, as in Session."""
    port = macros.get("daemon_port", "")
    try:
        return ip_address(macros.get("daemon_addr", "")), int(port) if _PORT.fullmatch(port) else 0
    except ValueError:
        return None, 0


def tls_of(macros: Macros) -> Tls | None:
    """Its TLS, with the mail server; None in clear text."""
    version = macros.get("tls_version", "")
    if not version:
        return None
    subject, is_verified = macros.get("cert_subject", ""), macros.get("verify") == "OK"
    return Tls(version=version, cipher=macros.get("cipher", ""), subject=subject, is_verified=is_verified)


def identity_of(macros: Macros) -> Identity | None:
    """As whom it has logged in there."""
    name = macros.get("auth_authen", "")
    return Identity(name, macros.get("auth_type", "") or "AUTH") if name else None


def id_of(macros: Macros) -> str:
    """The message's id there; "" as long as it has none."""
    return macros.get("i", "")[:_MAX_ID]


def path_of(written: str, hostname: str, *, allow_null: bool = False, understood: str = "") -> Address:
    """The address of a path that the mail server has accepted. It may be less strict than we are: where the path is
    none to us, or could name another host, it is what the mail server has `understood`, if it has told; an address
    without a domain is one at `hostname`. AddressError where there is nothing to make an address of."""
    text = written.strip()
    inner = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    if not inner:
        if allow_null:
            return NULL_PATH
        raise AddressError("the null path is not allowed here")
    try:
        address = parse_path(f"<{inner}>")[0]
        # A relay of old may be in the local part: user%host, host!user.
        return path_of(understood, hostname) if _ROUTED.search(address.local_part) and "@" in understood else address
    except AddressError:
        if understood and understood != inner:
            return path_of(understood, hostname)
        local_part, _, domain = inner.rpartition("@")
        if not local_part:
            local_part, domain = inner, hostname
        if not local_part.isprintable() or len(local_part) > _MAX_TEXT:
            raise
        return Address(local_part, Address.parse(f"postmaster@{domain}").domain)


def mail_of(words: Sequence[str], now: float) -> tuple[int | None, MailParameters]:
    """SIZE= and what else MAIL asked for, as far as we know it: the mail server has judged that already."""
    given = _given(words)
    size, asked = None, PLAIN_MAIL
    try:
        size = parse_size(given.pop("SIZE")) if "SIZE" in given else None
        asked = parse_mail_parameters(given, _KNOWN, now) if given else PLAIN_MAIL
    except CommandError:
        known = [one for one in ("8BITMIME", "BINARYMIME") if given.get("BODY", "").upper() == one]
        asked = MailParameters(body=known[0] if known else "7BIT", smtputf8="SMTPUTF8" in given)
    return size, asked


def recipient_of(address: Address, words: Sequence[str]) -> Recipient:
    """A recipient, with what RCPT asked for, as far as we know it."""
    try:
        notify, orcpt = parse_rcpt_parameters(_given(words), _KNOWN, is_utf8=True)
    except CommandError:
        notify, orcpt = (), ""
    return Recipient(address=address, notify=notify, orcpt=orcpt)


def _given(words: Sequence[str]) -> dict[str, str]:
    """Parameters by their keywords, but for those that are the mail server's alone."""
    found = {}
    for word in words:
        keyword, _, value = word.partition("=")
        if keyword.upper() in ("SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "REQUIRETLS", "NOTIFY", "ORCPT"):
            found[keyword.upper()] = value
    return found
