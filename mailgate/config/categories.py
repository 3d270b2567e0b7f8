"""The kinds of refusals that we tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["CATEGORIES"]

#: By name, what each means; those about the recipient first, then about the message, us, their side, the way there.
CATEGORIES: Mapping[str, str] = MappingProxyType(
    {
        "no-such-user": "there is no such mailbox, or it has moved",
        "no-such-domain": "the recipient's domain does not exist, or takes no mail",
        "bad-address": "the recipient's address cannot be one",
        "mailbox-full": "the mailbox has no room",
        "disabled": "the mailbox is closed, suspended, or not used any more",
        "busy-mailbox": "this one mailbox gets too much mail at the moment",
        "too-many-recipients": "more recipients than are taken in one transaction",
        "too-large": "the message is too large",
        "content": "the message has a form that is not taken, or cannot be converted",
        "content-spam": "the message looks like spam",
        "content-virus": "the message has an attachment or a link that is forbidden or dangerous",
        "authentication": "SPF, DKIM, DMARC or ARC: the message does not prove where it comes from",
        "bad-sender": "the sender's address is not accepted",
        "reputation": "our address or domain is not trusted, or has no proper name in DNS",
        "blocklist": "our address or domain is on a list of those to be refused",
        "greylisted": "we are to come again later, as everybody who is new",
        "rate-limited": "we send too much, too fast, or over too many connections",
        "policy": "a rule of theirs forbids it",
        "relay-denied": "the host is not responsible for this recipient, or does not let us relay",
        "login": "our login is refused or missing",
        "tls": "TLS fails, or is asked for and not there",
        "protocol": "a command or a reply was not understood",
        "system": "their system is full, broken, or out of service",
        "connection": "no connection, or it broke",
        "dns": "DNS does not say where the mail is to go, or does not answer",
        "loop": "the message goes round in a circle",
        "expired": "the time in which it was to be delivered is over",
        "local": "trouble of our own: the disk, the configuration",
        "operator": "an operator has given it up",
        "other": "anything else",
    }
)
