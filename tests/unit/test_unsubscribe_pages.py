"""Unsubscribing by link: with one click, for oneself alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.events import Unsubscribed
from mailgate.rewriting.unsubscribe import UnsubscribeTokens, Unsubscription
from mailgate.stores.suppressions import Suppressions
from mailgate.testing import EventRecorder, wait_for
from mailgate.web.rendering import Templates
from mailgate.web.unsubscribe import UnsubscribePages
from tests.unit.http_stand import HttpStand

NEWS, BOB, EVE = Address("news", "example.org"), Address("bob", "example.net"), Address("eve", "example.com")
TOKENS = UnsubscribeTokens(lambda: [b"one secret, long enough"])
ONE_CLICK = b"List-Unsubscribe=One-Click"
MULTIPART = b'--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n'


async def at_once(call: Any, /) -> Any:
    return call()


class Stand:
    def __init__(self, folder: Path) -> None:
        self.events = EventRecorder()
        clock = Clock()
        self.list = Suppressions(folder / "list.db", at_once, clock.seconds)
        self.pages = UnsubscribePages(TOKENS, self.list, self.events, clock.seconds, Templates())

    def ask(self, token: str, method: bytes = b"POST", content: bytes = ONE_CLICK) -> Any:
        return wait_for(self.pages.answer(method, token, content))

    def suppressed(self) -> list[tuple[str, str, str]]:
        return [(one.address, one.scope, one.reason) for one in wait_for(self.list.list(100))]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def token(recipient: Address | None = BOB, stream: str = "") -> str:
    return TOKENS.make(Unsubscription(NEWS, recipient, stream))


@pytest.mark.parametrize("content", [ONE_CLICK, MULTIPART])
@pytest.mark.parametrize(("stream", "scope"), [("", "news@example.org"), ("news", "news")])
def test_one_click(stand: Stand, content: bytes, stream: str, scope: str) -> None:
    for _ in range(2):
        assert stand.ask(token(stream=stream), content=content).status == 200
    assert stand.suppressed() == [("bob@example.net", scope, "unsubscribe")]
    (event,) = stand.events.of(Unsubscribed)
    assert (event.recipient, event.sender, event.stream) == ("bob@example.net", "news@example.org", stream)


def test_looking_changes_nothing(stand: Stand) -> None:
    page = stand.ask(token(), b"GET", b"")
    assert (page.status, page.kind) == (200, "text/html; charset=utf-8")
    assert b"bob@example.net" in page.body
    assert b'<form method="post">' in page.body
    assert "frame-ancestors 'none'" in page.fields["content-security-policy"]
    stand.ask(token(), b"HEAD", b"")
    assert stand.ask(token(), content=b"").status == 400
    assert stand.ask(token(), b"DELETE").status == 405
    assert stand.suppressed() == []


def test_nobody_else(stand: Stand) -> None:
    mine, others = token(), token(EVE)
    mixed = f"{others.rpartition('.')[0]}.{mine.rpartition('.')[2]}"
    foreign = UnsubscribeTokens(lambda: [b"somebody else's secret"]).make(Unsubscription(NEWS, EVE))
    for wrong in (mixed, foreign, mine[:-1], mine + "x", "", "x" * 5000, "../..", "\u00e9"):
        assert stand.ask(wrong).status == 404
    stand.ask(mine)
    assert [address for address, *_ in stand.suppressed()] == ["bob@example.net"]


def test_a_token_for_many_is_nobodys(stand: Stand) -> None:
    assert stand.ask(token(None)).status == 400
    assert stand.suppressed() == []


def test_names_are_shown_as_text(stand: Stand) -> None:
    page = stand.ask(token(Address('"<script>"', "example.net")), b"GET", b"")
    assert b"<script>" not in page.body


def test_a_disk_that_fails(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "list.db").write_bytes(b"this is no database, and long enough to be one" * 100)
    assert stand.ask(token()).status == 503
    assert not stand.events.events


def test_it_is_served(stand: Stand, tmp_path: Path) -> None:
    http = HttpStand(tmp_path / "http")
    path = f"/unsubscribe/{token()}"
    assert http.ask("POST", path, content=ONE_CLICK).status == 404
    http.front.leaving = stand.pages
    assert http.ask("GET", path).status == 200
    assert http.ask("POST", "/unsubscribe/x", content=ONE_CLICK).status == 404
    assert stand.suppressed() == []
    assert http.ask("POST", path, content=ONE_CLICK).status == 200
    assert len(stand.suppressed()) == 1
