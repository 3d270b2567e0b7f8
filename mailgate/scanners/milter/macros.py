"""What a milter is told beside each step, as Postfix tells it: macros, by their names without braces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mailgate.envelope import Recipient, Session, Transaction
from mailgate.wire.milter.words import MacroStage

__all__ = ["macros_for", "message_macros", "recipient_macros", "session_macros", "told_at"]

_USUAL: dict[MacroStage, tuple[str, ...]] = {
    MacroStage.CONNECT: (
        *("j", "daemon_name", "daemon_addr", "daemon_port", "v", "_"),
        *("client_addr", "client_port", "client_name", "client_ptr", "client_resolve"),
    ),
    MacroStage.HELO: ("tls_version", "cipher", "cert_subject"),
    MacroStage.MAIL: ("i", "auth_type", "auth_authen", "auth_author", "mail_addr", "mail_host", "mail_mailer"),
    MacroStage.RCPT: ("i", "rcpt_addr", "rcpt_host", "rcpt_mailer"),
    MacroStage.DATA: ("i",),
    MacroStage.END_OF_HEADER: ("i",),
    MacroStage.END_OF_BODY: ("i",),
}
_KNOWN = frozenset(name for names in _USUAL.values() for name in names)


def session_macros(session: Session, hostname: str) -> dict[str, str]:
    """What is known of a session: the client, TLS, and as whom it has logged in."""
    client = session.client
    name, address = client.name or "unknown", str(client.address) if client.address is not None else "local"
    found = {
        "j": hostname,
        "v": "mailgate",
        "_": f"{name} [{address}]",
        "daemon_name": session.listener,
        "client_addr": address,
        "client_port": str(client.port),
        "client_name": name,
        "client_ptr": name,
        "client_resolve": "OK" if client.name else "FAIL",
    }
    at, port = session.destination
    if at is not None:
        found |= {"daemon_addr": str(at), "daemon_port": str(port)}
    if session.tls is not None:
        found |= {"tls_version": session.tls.version, "cipher": session.tls.cipher}
        if session.tls.subject:
            found["cert_subject"] = session.tls.subject
    # Whoever is known by its address alone has not logged in.
    if session.identity is not None and session.identity.mechanism != "network":
        found |= {"auth_type": session.identity.mechanism, "auth_authen": session.identity.name}
    return found


def message_macros(transaction: Transaction) -> dict[str, str]:
    """What is known of a message from MAIL on."""
    sender = transaction.sender
    return {"i": transaction.id, "mail_addr": str(sender), "mail_host": sender.domain, "mail_mailer": "smtp"}


def recipient_macros(recipient: Recipient) -> dict[str, str]:
    """What is known of a recipient."""
    return {"rcpt_addr": str(recipient.address), "rcpt_host": recipient.address.domain, "rcpt_mailer": "smtp"}


def told_at(stage: MacroStage, chosen: Mapping[MacroStage, Sequence[str]], more: Sequence[str] = ()) -> Sequence[str]:
    """The names that are told at a stage, without braces: those that the milter has chosen, or else the usual ones.
    Those of `more` that have no usual stage are told at the connection."""
    if stage in chosen:
        return [name.strip("{}") for name in chosen[stage]]
    own = [name for name in more if name not in _KNOWN] if stage is MacroStage.CONNECT else []
    return [*_USUAL[stage], *own]


def macros_for(names: Sequence[str], values: Mapping[str, str]) -> list[tuple[str, str]]:
    """These macros with their values, in the milter's form; those that have none are left out."""
    return [(name if len(name) == 1 else f"{{{name}}}", values[name]) for name in names if values.get(name)]
