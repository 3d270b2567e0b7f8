"""What becomes of a transaction: one message, or several where filters have changed it for some recipients only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mailgate.address import Address
from mailgate.envelope import EnvelopeRecipient, Recipient, Transaction, new_id
from mailgate.message import Edit
from mailgate.relay.editing import EnvelopeChanges, NextHop
from mailgate.verdict import Accept, Continue, Defer, Discard, Disconnect, Quarantine, Reject, Verdict
from mailgate.wire.xtext import utf8_addr_xtext, xtext_encode

__all__ = ["Part", "change", "fill", "original_of", "parts_of"]


class Part(Struct, eq=False):
    """One message of a transaction, for those of its recipients whose edits are the same.

    `places` are theirs in the transaction. `fill` finds out `named`, those of whom something is kept, `recipients`,
    whom the message goes to, with those whom edits have `added`, and `removed`, whom one has removed; `named_by`, for
    those behind aliases, the address that the sender has named, by their numbers. `has_fates`: a policy keeps it from
    somebody.
    """

    queue_id: str
    edits: Sequence[Edit]
    places: Sequence[int]
    changes: EnvelopeChanges | None = None
    named: list[Recipient] = []
    recipients: list[EnvelopeRecipient] = []
    removed: list[Address] = []
    added: list[EnvelopeRecipient] = []
    named_by: dict[int, Address] = {}
    has_fates: bool = False
    has_aliases: bool = False


def parts_of(transaction: Transaction) -> list[Part]:
    """The messages, by their edits, in the order of their first recipients; all with the transaction's id."""
    if not transaction.edits_for:
        return [Part(transaction.id, transaction.edits, range(len(transaction.recipients)))]
    own: dict[Address, list[Edit]] = {}
    for one in transaction.edits_for:
        for address in one.recipients:
            own.setdefault(address, []).extend(one.edits)
    places: dict[tuple[Edit, ...], list[int]] = {}
    for place, recipient in enumerate(transaction.recipients):
        places.setdefault(tuple(own.get(recipient.address, ())), []).append(place)
    return [Part(transaction.id, [*transaction.edits, *edits], found) for edits, found in places.items()]


def change(parts: Sequence[Part], sender: Address, next_hop: NextHop) -> None:
    """Find out what edits make of the envelopes. ValueError where a recipient that is added has no route."""
    for part in parts:
        part.changes = EnvelopeChanges(part.edits, sender, next_hop)


def fill(
    parts: Sequence[Part], transaction: Transaction, verdicts: Sequence[Verdict], *, is_lmtp: bool
) -> Sequence[Part]:
    """Find out whom each message goes to; those that go to anybody, the first of which keeps the transaction's id. Each
    address gets one message."""
    has_aliases = has_changes = False
    for part in parts:
        _fill(part, transaction, verdicts, is_lmtp)
        has_aliases = has_aliases or part.has_aliases
        has_changes = has_changes or part.changes is not None
    if has_aliases:
        _without_doubles(parts)
    if not has_changes:  # and so but one, as mostly
        return parts if parts[0].recipients else []
    _add(parts, transaction, verdicts)
    going = [part for part in parts if part.recipients]
    for part in going[1:]:
        part.queue_id = new_id()
    for part in parts:
        if going and not part.recipients:
            going[0].named += part.named  # whose mail goes to the same addresses in another message
    return going


def _fill(part: Part, transaction: Transaction, verdicts: Sequence[Verdict], is_lmtp: bool) -> None:
    changes, recipients, named, people = part.changes, part.recipients, part.named, transaction.recipients
    for number in part.places:
        recipient, verdict = people[number], verdicts[number]
        quarantine = refusal = ""
        if type(verdict) is Continue:
            pass
        elif isinstance(verdict, Discard):
            part.has_fates = True
            continue
        elif isinstance(verdict, Quarantine):
            part.has_fates = True
            quarantine = verdict.reason
        elif isinstance(verdict, Reject | Defer | Disconnect):
            if is_lmtp:
                continue  # its own reply tells it
            refusal = str(verdict.reply)
        if changes is not None and not refusal and changes.removes(recipient.address):
            part.removed.append(recipient.address)
            continue
        named.append(recipient)
        path = None if changes is None else changes.return_path(recipient.address)
        if recipient.targets:
            part.has_aliases = True
            first = len(transaction.recipients) + len(recipients)
            recipients += _targets_of(recipient, first, quarantine, refusal, path)
            part.named_by.update((one.number, recipient.address) for one in recipients[-len(recipient.targets) :])
            continue
        recipients.append(
            EnvelopeRecipient(
                number, recipient.address, recipient.route, quarantine, refusal, recipient.notify, recipient.orcpt, path
            )
        )
    if changes is not None:
        part.removed += [one.address for one in recipients if not one.refusal and changes.removes(one.address)]
        part.recipients = [one for one in recipients if one.refusal or not changes.removes(one.address)]


def _add(parts: Sequence[Part], transaction: Transaction, verdicts: Sequence[Verdict]) -> None:
    """The recipients that come in: each with the first message that adds it, one that somebody gets if there is any.

    What is in quarantine for all whom it was written to is so for them, too, and what nobody is to have, they have not.
    """
    there = [one.address for one in transaction.recipients]
    there += [one.address for part in parts for one in part.recipients]
    hows = {id(part): _how_kept(part, verdicts) for part in parts}
    for part in sorted(parts, key=lambda part: (bool(hows[id(part)]), not part.recipients)):
        quarantine = hows[id(part)]
        if part.changes is not None and quarantine is not None:
            last = max((one.number for one in part.recipients), default=len(transaction.recipients))
            part.added = [replace(one, quarantine=quarantine) for one in part.changes.added(there, last + 1)]
            part.recipients += part.added
            there += [one.address for one in part.added]


def _how_kept(part: Part, verdicts: Sequence[Verdict]) -> str | None:
    """The reason for which a message is in quarantine for all who may have it, "" where it is not for one of them; None
    where nobody may."""
    found = [verdicts[place] for place in part.places]
    reasons = [one.reason for one in found if isinstance(one, Quarantine)]
    if any(isinstance(one, Continue | Accept) for one in found):
        return ""
    return reasons[0] if reasons else None


def _without_doubles(parts: Sequence[Part]) -> None:
    """Keep one for each address: where several recipients stand for it, or it is one itself, the first that lets it
    through. Of those that are kept back or refused, the first."""
    found: dict[Address, EnvelopeRecipient] = {}
    for one in (one for part in parts for one in part.recipients):
        before = found.get(one.address)
        if before is None or ((before.quarantine or before.refusal) and not (one.quarantine or one.refusal)):
            found[one.address] = one
    kept = set(map(id, found.values()))
    for part in parts:
        part.recipients = [one for one in part.recipients if id(one) in kept]


def _targets_of(
    recipient: Recipient, number: int, quarantine: str, refusal: str, path: Address | None
) -> Iterator[EnvelopeRecipient]:
    """A recipient for each target. Reports name the address that the sender wrote to (RFC 3461 section 5.2.7.2)."""
    orcpt = recipient.orcpt or original_of(recipient.address)
    for place, target in enumerate(recipient.targets):
        yield EnvelopeRecipient(
            number + place,
            target.address,
            recipient.route or target.route,
            quarantine,
            refusal,
            recipient.notify,
            orcpt,
            path if target.return_path is None else target.return_path,
        )


def original_of(address: Address) -> str:
    """What stands in ORCPT for an address that stands for another."""
    text = str(address)
    return f"rfc822;{xtext_encode(text)}" if text.isascii() else f"utf-8;{utf8_addr_xtext(text)}"
