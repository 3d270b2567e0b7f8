"""What the spool has written, it reads: envelopes with all they hold, and what earlier versions have left."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from mailgate.address import Address
from mailgate.envelope import (
    EIGHT_BIT_MAIL,
    NO_ORIGIN,
    PLAIN_MAIL,
    Envelope,
    EnvelopeRecipient,
    Kept,
    MailParameters,
    Origin,
    TraceStep,
)
from mailgate.interfaces import Selector, SpoolError
from mailgate.message import AddHeader, RemoveHeader, RenameHeader
from mailgate.spool import sqlite
from mailgate.spool.codec import CodecError, decode_envelope, encode_envelope
from mailgate.spool.database import rebuild
from tests.unit.test_spool import Bench, envelope, lease_all

# -- what envelopes hold


def test_envelopes_come_back_as_they_were() -> None:
    one = envelope(
        3,
        client="x[192.0.2.1]",
        parameters=EIGHT_BIT_MAIL,
        edits=(AddHeader("X", "ü\r\n y", True), AddHeader("Y", "z"), RemoveHeader("A"), RenameHeader("B", "C")),
    )
    assert decode_envelope(encode_envelope(one)) == one
    for text in ("", "[]", "{}", '{"v": 3}', encode_envelope(one).replace('"top"', '"side"')):
        with pytest.raises(CodecError):
            decode_envelope(text)


def test_what_was_found_of_a_message_in_quarantine_is_kept() -> None:
    step = TraceStep("message", "av", "quarantine", "Eicar\ud800", 0.25, False, "a@b.test", "clamav=found Eicar")
    kept = Kept(
        steps=(step, TraceStep("rcpt", "access")),
        facts=("clamav.found", "spf.pass"),
        has_original=True,
        facts_for=(((0, 2), (1,)), ((1,), (0, 1))),
        named=((2, "büro", "b.test"),),
    )
    one = replace(envelope(), listener="mx", kept=kept)
    text = encode_envelope(one, b"octets")
    assert text.isascii()
    assert decode_envelope(text) == one
    assert decode_envelope(encode_envelope(replace(one, kept=Kept()))).kept == Kept()


@pytest.mark.parametrize(
    "kept",
    [b"[]", b"null", b'{"steps": [[]]}', b'{"facts": [7]}', b'{"named": [[1]]}', b'{"steps": [{"stage": 1}]}'],
)
def test_findings_that_are_none_are_damage(kept: bytes) -> None:
    text = encode_envelope(replace(envelope(), kept=Kept()))
    start = text.index('"kept":')
    broken = f'{text[:start]}"kept":{kept.decode()}' + "}"
    with pytest.raises(CodecError):
        decode_envelope(broken)


def test_a_stream_is_written_only_where_there_is_one() -> None:
    assert "stream" not in encode_envelope(envelope())
    assert decode_envelope(encode_envelope(replace(envelope(), stream="news"))).stream == "news"


def test_what_tells_of_no_listener_came_before_that_was_kept() -> None:
    text = encode_envelope(replace(envelope(), listener="mx"))
    old = text.replace(',"listener":"mx"', "")
    assert old != text
    found = decode_envelope(old)
    assert (found.listener, found.kept) == ("", None)


@pytest.mark.parametrize(
    "return_path", [None, Address("SRS0=AB=CD=sender.test=ann", "gw.test"), Address('a "b"', "x.test"), Address("", "")]
)
@pytest.mark.parametrize(("notify", "orcpt"), [((), ""), (("NEVER",), ""), ((), "rfc822;info@d.test")])
def test_the_reverse_path_of_a_recipient_is_kept(
    return_path: Address | None, notify: tuple[str, ...], orcpt: str
) -> None:
    one = envelope(2)
    first = replace(one.recipients[0], return_path=return_path, notify=notify, orcpt=orcpt)
    kept = replace(one, recipients=(first, one.recipients[1]))
    assert decode_envelope(encode_envelope(kept)) == kept


def with_row(text: str, *more: object) -> str:
    """An envelope whose first recipient has more behind it."""
    found = json.loads(text)
    found["to"][0] += more
    return json.dumps(found)


def test_recipients_without_one_are_written_as_before() -> None:
    """What an older process of the same spool reads, and what one has written."""
    text = encode_envelope(envelope(1))
    assert len(json.loads(text)["to"][0]) == 6
    assert decode_envelope(text).recipients[0].return_path is None
    (old,) = decode_envelope(with_row(text, ["NEVER"], "rfc822;x@d.test")).recipients
    assert (old.notify, old.orcpt, old.return_path) == (("NEVER",), "rfc822;x@d.test", None)
    (new,) = decode_envelope(with_row(text, [], "", ["a", "b.test"])).recipients
    assert new.return_path == Address("a", "b.test")


@pytest.mark.parametrize("wrong", ["x", [], ["a"], ["a", "b", "c"], ["\ud800", "b.test"], 1])
def test_a_reverse_path_that_is_none_is_damage(wrong: object) -> None:
    with pytest.raises(CodecError):
        decode_envelope(with_row(encode_envelope(envelope(1)), [], "", wrong))


ASKED = MailParameters(
    body="BINARYMIME",
    smtputf8=True,
    ret="FULL",
    envid="QQ+2B1",
    require_tls=True,
    tls_optional=True,
    priority=-4,
    auth="<>",
    release_at=1.7e9,
    deliver_by=1.8e9,
    by_mode="N",
    by_trace=True,
)
FROM_AFAR = Origin(
    address="2001:db8::1",
    port=4711,
    name="first.test",
    helo="[192.0.2.1]",
    protocol="LMTP",
    login="änn",
    ident="4XYZ",
    source="LOCAL",
)


@pytest.mark.parametrize("origin", [NO_ORIGIN, FROM_AFAR, Origin(helo="x"), Origin(source="REMOTE"), Origin(port=1)])
@pytest.mark.parametrize(
    "asked", [PLAIN_MAIL, MailParameters(), EIGHT_BIT_MAIL, ASKED, MailParameters(priority=0, auth="a+2Bb@c.test")]
)
def test_what_mail_asked_and_where_it_came_from_come_back(asked: MailParameters, origin: Origin) -> None:
    bob = EnvelopeRecipient(3, Address("bob", "d.test"), "r", notify=("SUCCESS", "DELAY"), orcpt="rfc822;b@d.test")
    carl = EnvelopeRecipient(4, Address("carl", "d.test"), "r", orcpt="utf-8;\\x{FC}@d.test")
    one = replace(envelope(2, parameters=asked, origin=origin), recipients=(bob, carl, *envelope(1).recipients))
    text = encode_envelope(one)
    assert text.isascii()
    assert decode_envelope(text) == one


def test_the_first_version_is_read() -> None:
    text = (
        '{"v":1,"id":"0Q","from":["ann","client.test"],"to":[[0,"bob","d.test","out","",""]],"at":1700000000.5,'
        '"size":5,"body":"8BITMIME","client":"x[192.0.2.1]","edits":[["top","X","y"]]}'
    )
    assert decode_envelope(text) == Envelope(
        queue_id="0Q",
        sender=Address("ann", "client.test"),
        recipients=(EnvelopeRecipient(0, Address("bob", "d.test"), "out"),),
        received=1700000000.5,
        size=5,
        parameters=EIGHT_BIT_MAIL,
        client="x[192.0.2.1]",
        edits=(AddHeader("X", "y"),),
    )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"v":2', '"v":3', "envelope of version 3, which this mailgate does not know"),
        ('"priority":-4', '"priority":"-4"', "an unknown parameter priority"),
        ('"priority"', '"urgency"', "an unknown parameter urgency"),
        ('"by_trace":true', '"by_trace":1', "an unknown parameter by_trace"),
        ("4711", '"x"', "no envelope"),
        ('"mail":{', '"mail":[{', "no envelope"),
    ],
)
def test_what_cannot_be_understood_is_refused(old: str, new: str, why: str) -> None:
    text = encode_envelope(envelope(1, parameters=ASKED, origin=FROM_AFAR))
    assert old in text
    with pytest.raises(CodecError, match=why):
        decode_envelope(text.replace(old, new))


# -- from one version to the next

V1 = (
    '{{"v":1,"id":"{id}","from":["ann","client.test"],"to":[[0,"user0","d0.test","route","",""]],"at":1700000000.5,'
    '"size":5,"body":"7BIT","client":"x[192.0.2.1]","edits":[]}}'
)


def old_spool(directory: Path, version: int = 1) -> None:
    """A spool of an earlier version: one message deferred, and one that was being delivered for the first time."""
    directory.mkdir()
    with closing(sqlite3.connect(directory / "spool.db")) as old:
        folder = Path(sqlite.__file__).with_name("schema")
        steps = "".join((folder / f"{number:03}.sql").read_text() for number in range(1, version + 1))
        old.executescript(f"PRAGMA journal_mode = WAL; BEGIN; {steps} PRAGMA user_version = {version}; COMMIT;")
        old.execute("INSERT INTO fresh VALUES (7, ?, x'68656c6c6f')", (V1.format(id="FRESH"),))
        old.execute(
            "INSERT INTO messages VALUES ('OLD', 'ann@client.test', 1700000000.5, 5, ?, x'68656c6c6f')",
            (V1.format(id="OLD"),),
        )
        old.execute(
            "INSERT INTO recipients"
            " (queue_id, number, address, domain, route, state, hold, due, attempts, last_reply)"
            " VALUES ('OLD', 0, 'user0@d0.test', 'd0.test', 'route', 'queued', 0, 1700000300, 4, '451 later')"
        )
        if version > 1:
            old.execute("UPDATE recipients SET warned = 1, not_before = 1700000000")
        old.commit()


def test_a_spool_of_the_first_version_goes_on(tmp_path: Path) -> None:
    old_spool(tmp_path / "spool")
    bench = Bench(tmp_path / "spool", min_free=0)
    kept = tmp_path / "spool" / "spool.db.v1"
    assert kept.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(kept)) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT queue_id, attempts FROM recipients").fetchall() == [("OLD", 4)]
        assert copy.execute("SELECT count(*) FROM fresh").fetchone() == (1,)
    bench.wait(bench.spool.sweep())
    leases = {one.envelope.queue_id: one for one in lease_all(bench)}
    assert sorted(leases) == ["FRESH", "OLD"]
    assert (dict(leases["OLD"].attempts), leases["OLD"].warned) == ({0: 4}, frozenset())
    assert all(one.content.read() == b"hello" for one in leases.values())
    assert not list(tmp_path.rglob("*.part"))
    # It is brought up to date once: the copy is of what was there before.
    changed = kept.stat().st_mtime_ns
    bench.wait(bench.spool.close())
    bench = Bench(tmp_path / "spool", min_free=0)
    assert kept.stat().st_mtime_ns == changed
    bench.wait(bench.spool.close())


def test_an_upgrade_that_cannot_be_made_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_spool(tmp_path / "spool")

    def no_room(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mailgate.spool.database.sync", no_room)
        with pytest.raises(SpoolError, match="No space left"):
            Bench(tmp_path / "spool", min_free=0)
    assert not (tmp_path / "spool" / "spool.db.v1").exists()
    assert not list(tmp_path.rglob("*.part"))
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (1,)


def test_the_second_version_goes_on_with_all_it_knows(tmp_path: Path) -> None:
    old_spool(tmp_path / "spool", 2)
    urgent = encode_envelope(replace(envelope(1, parameters=MailParameters(priority=7)), queue_id="URGENT"))
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as old:
        for queue_id, text in (("URGENT", urgent), ("BAD", '{"priority":'), ("WORSE", b'\xff"priority":')):
            old.execute("INSERT INTO messages VALUES (?, 'ann@client.test', 0, 5, ?, x'68656c6c6f')", (queue_id, text))
            old.execute(
                "INSERT INTO recipients (queue_id, number, address, domain, route, state, due)"
                " VALUES (?, 0, 'user0@d0.test', 'd0.test', 'route', 'held', 1)",
                (queue_id,),
            )
        old.commit()
    bench = Bench(tmp_path / "spool", min_free=0)
    assert (tmp_path / "spool" / "spool.db.v2").exists()
    rows = dict(bench.spool._store.database.execute("SELECT queue_id, priority FROM recipients"))
    assert rows == {"OLD": 0, "URGENT": 7, "BAD": 0, "WORSE": 0}
    views = {one.queue_id: one for one in bench.wait(bench.spool.view(Selector(), 10))}
    assert (views["OLD"].attempts, views["OLD"].last_reply, views["OLD"].not_before) == (4, "451 later", 1700000000)
    assert views["URGENT"].state == "held"
    (lease,) = lease_all(bench)
    assert (lease.envelope.queue_id, dict(lease.attempts), lease.warned) == ("OLD", {0: 4}, frozenset({0}))
    bench.wait(bench.spool.close())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_damaged_database_of_any_version_is_put_in_order(tmp_path: Path, version: int) -> None:
    """A broken page of an index: every row can still be read."""
    directory = tmp_path / "spool"
    old_spool(directory, version)
    with closing(sqlite3.connect(directory / "spool.db")) as database:
        if version == 3:
            database.execute("INSERT INTO suspensions VALUES ('route', 'out', 1, 0, 'maintenance')")
            database.execute("INSERT INTO counts VALUES ('2026-11-26/x', 7)")
            database.commit()
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'recipients_address'").fetchone()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = database.execute("SELECT * FROM recipients").fetchall()
    with (directory / "spool.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    for folder in ("set-aside", "content"):
        (directory / folder).mkdir(exist_ok=True)
    rebuild(directory / "spool.db", directory / "set-aside", directory / "content")
    with closing(sqlite3.connect(directory / "spool.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (3,)
        (row,) = database.execute("SELECT * FROM recipients").fetchall()
        assert row[: len(before[0])] == before[0]
        assert database.execute("SELECT warned FROM recipients").fetchone() == (int(version > 1),)
        assert database.execute("SELECT count(*) FROM fresh").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM suspensions").fetchone() == (int(version == 3),)
        assert dict(database.execute("SELECT * FROM counts")) == ({"2026-11-26/x": 7} if version == 3 else {})
