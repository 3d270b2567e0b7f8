"""What the spool has written, it reads: envelopes with all they hold, and what earlier versions have left."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mailgate.address import Address
from mailgate.envelope import (
    EIGHT_BIT_MAIL,
    NO_ORIGIN,
    PLAIN_MAIL,
    Envelope,
    EnvelopeRecipient,
    MailParameters,
    Origin,
)
from mailgate.interfaces import SpoolError
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


def old_spool(directory: Path) -> None:
    """A spool of the first version: one message deferred, and one that was being delivered for the first time."""
    directory.mkdir()
    with closing(sqlite3.connect(directory / "spool.db")) as old:
        schema = Path(sqlite.__file__).with_name("schema") / "001.sql"
        old.executescript(f"PRAGMA journal_mode = WAL; BEGIN; {schema.read_text()} PRAGMA user_version = 1; COMMIT;")
        old.execute("INSERT INTO fresh VALUES (7, ?, x'68656c6c6f')", (V1.format(id="FRESH"),))
        old.execute(
            "INSERT INTO messages VALUES ('OLD', 'ann@client.test', 1700000000.5, 5, ?, x'68656c6c6f')",
            (V1.format(id="OLD"),),
        )
        old.execute(
            "INSERT INTO recipients VALUES"
            " ('OLD', 0, 'user0@d0.test', 'd0.test', 'route', 'queued', 0, 1700000300, 4, '451 later')"
        )
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


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_database_of_any_version_is_put_in_order(tmp_path: Path, version: int) -> None:
    """A broken page of an index: every row can still be read."""
    directory = tmp_path / "spool"
    old_spool(directory)
    if version == 2:
        bench = Bench(directory, min_free=0)
        bench.spool._store.database.execute("UPDATE recipients SET warned = 1, not_before = 1700000000")
        bench.wait(bench.spool.close())
    with closing(sqlite3.connect(directory / "spool.db")) as database:
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
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        (row,) = database.execute("SELECT * FROM recipients").fetchall()
        assert row[: len(before[0])] == before[0]
        assert row[-2:] == ((1, 1700000000) if version == 2 else (0, 0))
        assert database.execute("SELECT count(*) FROM fresh").fetchone() == (1,)
