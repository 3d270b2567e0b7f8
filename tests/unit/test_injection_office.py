"""Taking mail by HTTP, begun and ended; and what is told of a message that was handed in."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.defer import Deferred as Awaited
from twisted.logger import capturedLogs

from mailgate.awaiting import at_once
from mailgate.events import Bounced, Deferred, Delivered, Event, MessageAccepted, OperatorActed
from mailgate.observe.history import History
from mailgate.observe.recorder import Written
from mailgate.observe.render import Renderer
from mailgate.testing import MemorySpool
from mailgate.web.injection.following import Following
from mailgate.web.injection.models import Followed
from mailgate.web.injection.office import InjectionOffice
from mailgate.web.injection.register import Entry, Register
from tests.unit.http_stand import NOW, result
from tests.unit.test_injection_calls import Stand

ATTEMPT = {"at": NOW, "queue_id": "A1", "sender": "shop@example.org", "route": "out", "host": "mx", "seconds": 1.0}


def office(stand: Stand, register: Path) -> InjectionOffice:
    return InjectionOffice(
        stand.spool, register=register, history=stand.folder / "history", clock=stand.clock, in_thread=at_once
    )


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_mail_is_taken_while_a_configuration_says_so(stand: Stand) -> None:
    one = office(stand, stand.folder / "other.db")
    assert one.resource is None
    one.use(None)
    assert (one.resource, (stand.folder / "other.db").exists()) == (None, False)
    one.use(stand.calls._taker())
    assert one.resource is not None
    assert (stand.folder / "other.db").stat().st_mode & 0o777 == 0o600
    one.use(None)
    assert one.resource is None
    one.use(stand.calls._taker())
    result(one.close())
    assert one.resource is None
    result(one.close())


def test_a_register_that_is_none_is_told_of_and_no_mail_is_taken(stand: Stand) -> None:
    path = stand.folder / "wrong.db"
    path.write_bytes(b"x" * 5000)
    one = office(stand, path)
    with capturedLogs() as logs:
        one.use(stand.calls._taker())
    assert one.resource is None
    assert "no mail is taken by HTTP" in str(logs[0]["log_format"])
    assert path.read_bytes() == b"x" * 5000


def test_calls_that_were_broken_off_are_told_of(stand: Stand) -> None:
    path = stand.folder / "left.db"
    register = Register(path)
    register.begin("app", "k", Entry("X", "d", "2027-01-15"), NOW, 0.0)
    register.close()
    with capturedLogs() as logs:
        office(stand, path).use(stand.calls._taker())
    assert [one["count"] for one in logs if "count" in one] == [1]


def test_what_reads_calls_is_ended_where_nobody_waits_for_the_calls_any_longer(stand: Stand) -> None:
    one = office(stand, stand.folder / "other.db")
    one.use(stand.calls._taker())
    assert one._calls is not None
    one._calls._active = 1  # a call that does not end
    closing = Awaited.fromCoroutine(one.close())
    assert not one._readers._is_closed
    closing.addErrback(lambda failure: failure.trap(CancelledError))
    closing.cancel()
    assert one._readers._is_closed


def follow(stand: Stand, *events: Event, token: str = "app") -> Followed | None:  # noqa: S107  a name
    folder = stand.folder / "history"
    history, renderer = History(folder, keep=1e9, max_size=10**7), Renderer()
    history.write([Written(one, renderer.render(one)) for one in events])
    history.close()
    found: Followed | None = result(Following(MemorySpool(stand.clock), folder, at_once).follow("A1", token, "api"))
    return found


def accepted(identity: str = "app by token", listener: str = "api") -> MessageAccepted:
    return MessageAccepted(
        at=NOW,
        queue_id="A1",
        session="S1",
        client="unknown[192.0.2.7]",
        listener=listener,
        helo="",
        sender="shop@example.org",
        recipients=("ann@example.net", "bob@example.net", "carl@example.net", "dora@example.net"),
        size=5,
        identity=identity,
    )


def test_each_recipient_has_its_last_state(stand: Stand) -> None:
    found = follow(
        stand,
        accepted(),
        Deferred(recipient="ann@example.net", reply="451 later", attempt=1, next_attempt=NOW + 60, **ATTEMPT),  # type: ignore[arg-type]
        Delivered(recipient="ann@example.net", reply="250 ok", attempt=2, delay=9.0, **ATTEMPT),  # type: ignore[arg-type]
        Bounced(recipient="bob@example.net", reply="550 no", attempt=1, reason="x", **ATTEMPT),  # type: ignore[arg-type]
        Deferred(recipient="carl@example.net", reply="451 later", attempt=1, next_attempt=NOW + 60, **ATTEMPT),  # type: ignore[arg-type]
        OperatorActed(at=NOW, action="delete", queue_id="A1", recipients=("dora@example.net",)),
    )
    assert found is not None
    assert [(one.address[:4], one.state, one.reply) for one in found.recipients] == [
        ("ann@", "delivered", "250 ok"),
        ("bob@", "bounced", "550 no"),
        ("carl", "deferred", "451 later"),
        ("dora", "deleted", ""),
    ]
    assert [one.next_attempt is not None for one in found.recipients] == [False, False, True, False]


@pytest.mark.parametrize(
    "event", [accepted("other by token"), accepted("app by PLAIN"), accepted(""), accepted(listener="mx")]
)
def test_mail_of_others_is_nobodys(stand: Stand, event: MessageAccepted) -> None:
    assert follow(stand, event) is None


def test_what_nobody_knows(stand: Stand) -> None:
    assert follow(stand) is None
