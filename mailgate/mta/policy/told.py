"""What Postfix tells in one request, as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from mailgate.address import Address, AddressError
from mailgate.envelope import Client, Identity, Tls
from mailgate.mta.milter.told import path_of
from mailgate.reply import Reply
from mailgate.wire.policy import RequestError

__all__ = ["Told", "told_by"]

#: The states in which there is a message, so far as it has come.
_IN_MESSAGE = frozenset({"MAIL", "RCPT", "DATA", "END-OF-MESSAGE"})

_BAD_SENDER = Reply.of(553, "5.1.7", "The sender's address cannot be read")
_BAD_RECIPIENT = Reply.of(553, "5.1.3", "The recipient's address cannot be read")

_MAX_TEXT, _MAX_ID, _MAX_ADDRESS = 255, 100, 400
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
_NUMBER = re.compile(r"[0-9]{1,15}")
_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One request. `instance` is the same in all about one message, and "" where none was told.

    `sender` is None where there is none yet; `recipient` as well where the request is about no single one.
    `recipient_count` is 0 before DATA, `size` None where it is not known. Where an address cannot be read, `refusal`
    is what to say, and `reason` why.
    """

    state: str
    instance: str
    client: Client
    destination: tuple[IPv4Address | IPv6Address | None, int]
    helo: str
    identity: Identity | None
    tls: Tls | None
    protocol: str
    sender: Address | None
    recipient: Address | None
    recipient_count: int
    size: int | None
    ident: str
    refusal: Reply | None = None
    reason: str = ""

    @property
    def is_in_message(self) -> bool:
        """Whether there is a message, so far as it has come."""
        return self.state in _IN_MESSAGE

    @property
    def is_whole(self) -> bool:
        """Whether all recipients have been named."""
        return self.state in ("DATA", "END-OF-MESSAGE")


def told_by(attributes: Mapping[str, str], hostname: str) -> Told:
    """A request from its attributes. RequestError where it is none about mail."""
    if attributes.get("request") != "smtpd_access_policy":
        raise RequestError(f"a request of the kind {attributes.get('request', '')[:60]!r}")
    state = attributes.get("protocol_state", "")
    if not state:
        raise RequestError("a request without protocol_state")
    identity, tls = _identity(attributes), _tls(attributes)
    sender = to = refusal = None
    reason = ""
    if state in _IN_MESSAGE:
        try:
            refusal = _BAD_SENDER
            sender = path_of(_written(attributes, "sender"), hostname, allow_null=True)
            refusal = _BAD_RECIPIENT
            if state == "RCPT" or (state != "MAIL" and attributes.get("recipient")):
                to = path_of(_written(attributes, "recipient"), hostname)
            refusal = None
        except AddressError as error:
            reason = str(error)
    protocol = "ESMTP" if attributes.get("protocol_name") != "SMTP" or identity or tls else "SMTP"
    return Told(
        state=state,
        instance=attributes.get("instance", "")[:_MAX_ID],
        client=_client(attributes),
        destination=(_address(attributes, "server_address"), _number(attributes, "server_port")),
        helo=_helo(attributes),
        identity=identity,
        tls=tls,
        protocol=f"{protocol}{'S' if tls else ''}{'A' if identity else ''}",
        sender=sender,
        recipient=to,
        recipient_count=_number(attributes, "recipient_count"),
        size=_number(attributes, "size") or None,
        ident=_text(attributes, "queue_id")[:_MAX_ID],
        refusal=refusal,
        reason=reason,
    )


def _client(attributes: Mapping[str, str]) -> Client:
    """The client; without a name where Postfix has none that is confirmed."""
    name = _text(attributes, "client_name")
    name = name.removesuffix(".") if _NAME.fullmatch(name) and name != "unknown" else ""
    return Client(_address(attributes, "client_address"), _number(attributes, "client_port"), name)


def _identity(attributes: Mapping[str, str]) -> Identity | None:
    name = _text(attributes, "sasl_username")
    return Identity(name, _text(attributes, "sasl_method") or "AUTH") if name else None


def _tls(attributes: Mapping[str, str]) -> Tls | None:
    """Its TLS. Whether its certificate was verified is not told."""
    version = _text(attributes, "encryption_protocol")
    if not version:
        return None
    fingerprint = _text(attributes, "ccert_fingerprint")
    is_ours = _FINGERPRINT.fullmatch(fingerprint) is not None  # SHA-256, and no other digest
    return Tls(
        version=version,
        cipher=_text(attributes, "encryption_cipher"),
        subject=_text(attributes, "ccert_subject"),
        fingerprint=fingerprint.replace(":", "").lower() if is_ours else "",
    )


def _address(attributes: Mapping[str, str], name: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(attributes.get(name, "").partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _number(attributes: Mapping[str, str], name: str) -> int:
    value = attributes.get(name, "")
    return int(value) if _NUMBER.fullmatch(value) else 0


def _helo(attributes: Mapping[str, str]) -> str:
    value = attributes.get("helo_name", "")[:_MAX_TEXT]
    return value if value.isprintable() else "invalid"


def _written(attributes: Mapping[str, str], name: str) -> str:
    """An address as it stands, which is not the null one because it cannot be read."""
    value = attributes.get(name, "")
    if len(value) > _MAX_ADDRESS or not value.isprintable():
        raise AddressError(f"{value[:_MAX_TEXT]!a} is no address")
    return value


def _text(attributes: Mapping[str, str], name: str) -> str:
    value = attributes.get(name, "")[:_MAX_TEXT]
    return value if value.isprintable() else ""
