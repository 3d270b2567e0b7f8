"""Leases: given, ended with outcomes, and given back. Plain calls inside the spool's transaction.

Between two statements, and between two rows, the interpreter's lock changes hands; so what concerns many recipients is
one statement with one value, a JSON array of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from mailgate.envelope import Envelope, EnvelopeRecipient
from mailgate.interfaces.spool import TURN_LIFE, Destination, Lease, Outcome, OutcomeKind, Return, Selector
from mailgate.message import Content
from mailgate.spool.codec import NO_OCTETS, CodecError, check_size, check_sum, content_file, decode_named
from mailgate.spool.database import Key, in_one_row, keys_of
from mailgate.spool.past import fresh_ids
from mailgate.spool.query import selected, told
from mailgate.spool.store import SetAside, Store
from mailgate.spool.stored import StoredContent

__all__ = ["END_LEASE", "Found", "give_back", "lease", "lease_in_turn", "lease_selected", "next_due", "record"]

_FINAL = (OutcomeKind.DELIVERED, OutcomeKind.FAILED, OutcomeKind.DISCARDED)

#: How a lease ends where nothing else is said: a hold that was asked for meanwhile comes into force.
END_LEASE = "state = CASE hold WHEN 0 THEN 'queued' WHEN 1 THEN 'held' ELSE 'quarantined' END, hold = 0"

#: Recipients that are put into their turns in one transaction, or a few more.
_PARKED_AT_ONCE = 1000
#: Seconds between the recipients of one message in the line of a destination.
_SPACING = 0.05
#: Seconds after which those are looked at again whose destination is full after TURN_LIFE: somebody knows of them.
_NEXT_LOOK = 3600.0
#: Recipients of other sources that are passed over at one time.
_SKIPPED = 10_000
#: Content up to this size, in octets, comes with the lease; larger content is read when it is delivered.
_AT_ONCE = 8 * 1024
#: Envelopes for more recipients than this are worth keeping decoded.
_LONG = 100

_COLUMNS = "queue_id, number, route, domain, state, attempts, warned, source, not_before"
#: What damage has left there may be no text, and no number.
_AS_JSON = (
    "CAST(queue_id AS TEXT), CAST(number AS INTEGER), CAST(route AS TEXT), CAST(domain AS TEXT), CAST(state AS TEXT),"
    " CAST(attempts AS INTEGER), CAST(warned AS INTEGER), CAST(source AS TEXT),"
    " max(0.0, min(ifnull(CAST(not_before AS REAL), 0.0), 1e12))"
)
_OURS = "queue_id = json_extract(k.value, '$[0]') AND number = json_extract(k.value, '$[1]')"

_DUE_ROWS = (
    "FROM ("
    + " UNION ALL ".join(
        f"SELECT * FROM (SELECT {_COLUMNS}, due FROM recipients WHERE state = '{state}' AND due <= :now"
        " ORDER BY due LIMIT :most)"
        for state in ("queued", "leased", "turn")
    )
    + ") ORDER BY due LIMIT :most"
)

_DUE = "due = max(json_extract(k.value, '$[2]'), ifnull(not_before, 0))"
#: Even who has a place far behind is looked at soon.
_IN_TURN = f"turn = json_extract(k.value, '$[2]'), due = min(json_extract(k.value, '$[2]'), :soon) + {TURN_LIFE}"


_IN_LINE = {
    True: "FROM recipients INDEXED BY recipients_turn WHERE state = 'turn' AND route = :route AND domain = :domain",
    False: "FROM recipients INDEXED BY recipients_turn_by_route WHERE state = 'turn' AND route = :route",
}
_FIRST = "ORDER BY priority DESC, turn LIMIT"
#: Whose turn it is, by whether a domain is given, and whether some stay.
_TURN_ROWS = {(has_domain, False): f"{rows} {_FIRST} :limit" for has_domain, rows in _IN_LINE.items()} | {
    # The index tells the source; the rows are looked at only of those that are taken.
    (has_domain, True): "FROM recipients WHERE (queue_id, number) IN (SELECT queue_id, number FROM"
    f" (SELECT queue_id, number, source {rows} {_FIRST} :most)"
    " WHERE source NOT IN (SELECT value FROM json_each(:without)) LIMIT :limit)"
    " ORDER BY priority DESC, turn"
    for has_domain, rows in _IN_LINE.items()
}


class _Row(NamedTuple):
    """One recipient, by _COLUMNS."""

    queue_id: str
    number: int
    route: str
    domain: str
    state: str
    attempts: int
    warned: int
    source: str
    not_before: float

    @property
    def key(self) -> Key:
        return self.queue_id, self.number


@dataclass(frozen=True, slots=True)
class Found:
    """What a look has found: leases, and what was set aside. `is_all`: nothing else was due."""

    leases: list[Lease]
    aside: list[SetAside]
    is_all: bool = True


# -- given


def lease(store: Store, limit: int, until: float, full: Container[Destination]) -> Found:
    """Lease up to `limit` recipients that are due, oldest first; what goes to a destination that is full gets its turn
    there. A bounded number of rows is looked at: there may be more although no leases are found."""
    aside = store.expand_ended()
    if store.now() >= store.past.next_look:
        aside += _inherit(store)
    now = store.now()
    store.database.execute(
        f"UPDATE recipients SET {END_LEASE} WHERE state = 'leased' AND due <= ? AND hold != 0", (now,)
    )
    most = limit + _PARKED_AT_ONCE if full != () else limit
    rows = _rows(store, _DUE_ROWS, {"now": now, "most": most})
    taken: list[_Row] = []
    parked: list[_Row] = []
    for row in rows:
        if Destination(row.route, row.domain) in full:
            parked.append(row)
        elif len(taken) < limit:
            taken.append(row)
    _park(store, parked, now)
    leases, more_aside = _take(store, taken, until)
    return Found(leases, aside + more_aside, is_all=len(rows) < most or limit < 1)


def _inherit(store: Store) -> list[SetAside]:
    """What workers have left that there are no more, and that ended when we had begun, is due at once."""
    aside: list[SetAside | None] = []
    now = store.now()
    for number in store.past.ended_since(now):
        fresh = store.database.execute("SELECT id FROM fresh WHERE id >= ? AND id < ?", fresh_ids(number)).fetchall()
        aside += [store.unfold(row, f"fresh-{row}", None) for (row,) in fresh]
        ended = store.database.execute(
            f"UPDATE recipients SET {END_LEASE}, due = max(?, ifnull(not_before, 0))"
            " WHERE state = 'leased' AND owner = ?",
            (now, number),
        )
        if not fresh and not ended.rowcount:  # only then, since what we do here may be rolled back
            store.past.forget(number)
    return [one for one in aside if one is not None]


def lease_in_turn(
    store: Store, destination: Destination, limit: int, until: float, without: Sequence[str] = ()
) -> Found:
    """Lease up to `limit` recipients whose turn it is at a destination, or by a route where it has no domain; those
    that go on from the sources `without` stay, and a bounded number of them is looked at."""
    rows = _rows(
        store,
        _TURN_ROWS[bool(destination.domain), bool(without)],
        {
            "route": destination.route,
            "domain": destination.domain,
            "limit": limit,
            "most": limit + _SKIPPED,
            "without": json.dumps(list(without)),
        },
    )
    return Found(*_take(store, rows, until))


def lease_selected(store: Store, selector: Selector, limit: int, until: float) -> Found:
    """Lease up to `limit` recipients that are chosen and not leased; whoever gives them back leaves them as they were,
    held or quarantined."""
    which, values = selected(store.database, selector, store.now(), "r.state != 'leased'")
    rows = _rows(
        store, f"FROM recipients WHERE (queue_id, number) IN ({which} LIMIT :limit)", {**values, "limit": limit}
    )
    return Found(*_take(store, rows, until))


def _rows(store: Store, rest: str, values: dict[str, object]) -> list[_Row]:
    return [_Row(*row) for row in in_one_row(store.database, _AS_JSON, f"SELECT {_COLUMNS} {rest}", values)]


def _park(store: Store, rows: Sequence[_Row], now: float) -> None:
    """Let them wait for their turns. Those that have waited already keep their place."""
    if rows:
        store.database.execute(
            "UPDATE recipients SET turn = CASE state WHEN 'turn' THEN turn ELSE :now + number * :spacing END,"
            " due = :now + CASE state WHEN 'turn' THEN :next_look ELSE :life END, state = 'turn', waits = ''"
            f" FROM json_each(:keys) AS k WHERE {_OURS}",
            {
                "now": now,
                "spacing": _SPACING,
                "next_look": _NEXT_LOOK,
                "life": TURN_LIFE,
                "keys": keys_of(row.key for row in rows),
            },
        )


def _take(store: Store, rows: Iterable[_Row], until: float) -> tuple[list[Lease], list[SetAside]]:
    """Lease these recipients, a lease for each message, and set aside the messages that cannot be read."""
    wanted: dict[str, list[_Row]] = {}
    for row in rows:
        wanted.setdefault(row.queue_id, []).append(row)
    if not wanted:
        return [], []
    store.last_end = max(store.last_end, until)
    stored = _read(store, wanted)
    aside, leases, keys = [], [], []
    for queue_id, parts in wanted.items():
        try:
            found = stored.get(queue_id, _NOTHING)
            if isinstance(found, CodecError):
                raise found
            leases.append(_lease_of(*found, parts, until))
        except CodecError as error:
            aside.append(store.set_aside(queue_id, str(error)))
        else:
            keys += [part.key for part in parts]
    store.database.execute(
        "UPDATE recipients SET hold = CASE state WHEN 'held' THEN 1 WHEN 'quarantined' THEN 2 ELSE hold END,"
        " waits = CASE state WHEN 'quarantined' THEN waits ELSE '' END,"  # it goes back there, for that reason
        f" state = 'leased', due = ?, owner = ? FROM json_each(?) AS k WHERE {_OURS}",
        (until, store.worker, keys_of(keys)),
    )
    return leases, aside


_NOTHING = CodecError("recipients without a message")


def _read(store: Store, queue_ids: Iterable[str]) -> dict[str, tuple[Envelope, Content] | CodecError]:
    """Messages that have rows. Small content is read at once; large content when somebody delivers it, so that what
    waits in memory for its delivery does not fill it."""
    known = {queue_id: store.envelopes[queue_id] for queue_id in queue_ids if queue_id in store.envelopes}
    rows = store.database.execute(
        "SELECT queue_id, CASE WHEN queue_id IN (SELECT value FROM json_each(:known)) THEN NULL ELSE envelope END,"
        " typeof(content), length(content), CASE WHEN length(content) <= :at_once THEN content END FROM messages"
        " WHERE queue_id IN (SELECT value FROM json_each(:wanted))",
        {"known": json.dumps(list(known)), "at_once": _AT_ONCE, "wanted": json.dumps(list(queue_ids))},
    ).fetchall()
    found: dict[str, tuple[Envelope, Content] | CodecError] = {}
    for queue_id, text, kind, length, data in rows:
        try:
            envelope = known.get(queue_id)
            if envelope is None:
                envelope = decode_named(text, queue_id)
                if _LONG < len(envelope.recipients) <= store.envelopes.maxsize:
                    store.envelopes[queue_id] = envelope
            if kind == "null":
                content = _in_file(store, queue_id, envelope)
            elif kind != "blob":
                raise CodecError(NO_OCTETS)
            else:
                if text is not None:  # else it has been looked at before
                    check_sum(text, _octets(store, queue_id) if data is None else data)
                content = StoredContent(store.reader, queue_id, length) if data is None else Content(data)
            check_size(envelope, content)
            found[queue_id] = (envelope, content)
        except CodecError as error:
            found[queue_id] = error
    return found


def _octets(store: Store, queue_id: str) -> bytes:
    """Content that is not kept in memory while it waits: a look at whether it is whole."""
    (data,) = store.database.execute("SELECT content FROM messages WHERE queue_id = ?", (queue_id,)).fetchone()
    return data if isinstance(data, bytes) else b""


def _in_file(store: Store, queue_id: str, envelope: Envelope) -> Content:
    """The content that has a file. Where the disk does not tell of it now, whoever delivers it has the error, and tries
    later: others' leases do not fail with it."""
    try:
        return content_file(store.contents, queue_id)
    except OSError:
        return Content(None, store.contents / queue_id, envelope.size)


def _lease_of(envelope: Envelope, content: Content, rows: Sequence[_Row], until: float) -> Lease:
    return Lease(
        envelope,
        tuple(_recipient(envelope, row) for row in sorted(rows, key=lambda row: row.number)),
        content,
        until,
        {row.number: row.attempts for row in rows},
        frozenset(row.number for row in rows if row.warned),
        {row.number: row.source for row in rows if row.source},
        max((row.not_before for row in rows), default=0.0),
    )


def _recipient(envelope: Envelope, row: _Row) -> EnvelopeRecipient:
    """A recipient as the envelope has it, with the route that the row says."""
    recipients = envelope.recipients
    found = None
    if row.number < len(recipients) and recipients[row.number].number == row.number:  # they all begin so
        found = recipients[row.number]
    else:
        found = next((one for one in recipients if one.number == row.number), None)
    if found is None:
        raise CodecError(f"a recipient {row.number} that its envelope does not have")
    return found if found.route == row.route else replace(found, route=row.route)


# -- ended


def record(store: Store, lease: Lease, outcomes: Sequence[Outcome]) -> None:
    """Write outcomes; the message goes with its last recipient.

    What is final is so whoever has the lease now; a deferral ends none but its own.
    """
    queue_id = lease.envelope.queue_id
    store.expand(queue_id)
    final = [one.recipient.number for one in outcomes if one.kind in _FINAL]
    deferred = [
        (queue_id, one.recipient.number, one.next_attempt, told(one), one.site, one.source, one.category)
        for one in outcomes
        if one.kind is OutcomeKind.DEFERRED
    ]
    # Whoever has the lease now: the report goes out with this.
    warned = [(queue_id, one.recipient.number) for one in outcomes if one.warned]
    if final:
        store.database.execute(
            "DELETE FROM recipients WHERE queue_id = ? AND number IN (SELECT value FROM json_each(?))",
            (queue_id, json.dumps(final)),
        )
    if deferred:
        _end(
            store,
            f"{_DUE}, attempts = attempts + 1,"
            " last_reply = json_extract(k.value, '$[3]'), site = json_extract(k.value, '$[4]'),"
            " source = json_extract(k.value, '$[5]'), category = json_extract(k.value, '$[6]'), waits = ''",
            deferred,
            lease.until,
        )
    if warned:
        store.database.execute(
            f"UPDATE recipients SET warned = 1 FROM json_each(?) AS k WHERE {_OURS}", (keys_of(warned),)
        )
    if final:
        store.drop_finished([queue_id])


def give_back(store: Store, returns: Sequence[Return]) -> None:
    """End leases without an attempt; one that somebody else has by now stays."""
    now = store.now()
    by_end: dict[tuple[float, bool], list[Sequence[object]]] = {}
    for one in returns:
        queue_id = one.lease.envelope.queue_id
        store.expand(queue_id)
        due = max(one.due, now) if one.in_turn else one.due or now
        by_end.setdefault((one.lease.until, one.in_turn), []).extend(
            (queue_id, recipient.number, due, one.waits) for recipient in one.lease.recipients
        )
    for (until, in_turn), rows in by_end.items():
        waits = "waits = CASE hold WHEN 2 THEN waits ELSE json_extract(k.value, '$[3]') END"
        _end(store, f"{_IN_TURN if in_turn else _DUE}, {waits}", rows, until, in_turn)


def _end(store: Store, changes: str, rows: Sequence[Sequence[object]], until: float, in_turn: bool = False) -> None:
    """End a lease of ours, where it still is one. `rows` begin with queue id, number, and when it is due."""
    end = END_LEASE.replace("queued", "turn") if in_turn else END_LEASE
    store.database.execute(
        f"UPDATE recipients SET {end}, {changes} FROM json_each(:rows) AS k"
        f" WHERE {_OURS} AND +state = 'leased' AND +due = :until AND owner = :owner",
        {"rows": json.dumps(rows), "until": until, "owner": store.worker, "soon": store.now() + _NEXT_LOOK},
    )


def next_due(store: Store) -> float | None:
    """When the next recipient is due or a lease ends."""
    found = [
        due
        for state in ("queued", "turn", "leased")
        for (due,) in store.database.execute("SELECT min(due) FROM recipients WHERE state = ?", (state,))
        if due is not None
    ]
    first = min([*found, store.first_end(), store.past.next_look])
    return None if first == math.inf else first
