"""Recipients that a real service knows, over HTTPS, and those that the server behind knows, by callouts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from parts import Postfix, wait_until
from recipients_ask import NO, PUT_OFF, YES, AskingGateway
from secured import Trust
from web_peer import QuietHandler, WebPeer

PEOPLE = {"ann@corp.test", "o'brien&co@corp.test"}


class Service(WebPeer):
    """Knows PEOPLE, at /known/ADDRESS and, by POST, at /known; `asked` are the addresses."""

    def __init__(self, identity: Path) -> None:
        self.asked: list[str] = []
        self.is_broken = False
        service = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def get(self) -> None:
                self.answer(unquote(self.path.removeprefix("/known/")))

            def post(self) -> None:
                self.answer(json.loads(self.heard())["address"])

            def answer(self, address: str) -> None:
                service.asked.append(address)
                is_allowed = self.headers["Authorization"] == "Bearer t0ken"
                known = 204 if address in PEOPLE else 404
                self.say(500 if service.is_broken else known if is_allowed else 401)

        super().__init__(Handler, identity)


@pytest.fixture
def trust(base: Path) -> Trust:
    return Trust.new(base / "trust")


@pytest.fixture
def service(trust: Trust) -> Iterator[Service]:
    made = Service(trust.issue("localhost"))
    yield made
    made.close()


def section(service: Service, base: Path, trust: Trust, **changes: Any) -> dict[str, Any]:
    token = base / "token"
    token.write_text("t0ken")
    token.chmod(0o600)
    url = f"https://localhost:{service.port}/known/{{address}}"
    return {"kind": "http", "url": url, "token_file": token, "ca": trust.ca, **changes}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_service_decides_and_is_remembered(service: Service, base: Path, trust: Trust, method: str) -> None:
    asked = section(service, base, trust)
    if method == "POST":
        asked |= {"method": "POST", "url": f"https://localhost:{service.port}/known"}
    with AskingGateway(base / "gateway", "corp.test", {"web": asked}) as gateway:
        for _ in range(2):
            assert gateway.says("Ann@corp.test", "o'brien&co@corp.test", "a/ann@corp.test") == [YES, YES, NO]
    assert service.asked == ["ann@corp.test", "o'brien&co@corp.test", "a/ann@corp.test"]


def test_a_service_that_fails_puts_off_whom_it_has_not_known(service: Service, base: Path, trust: Trust) -> None:
    with AskingGateway(
        base / "gateway", "corp.test", {"web": section(service, base, trust, cache="0s", cache_unknown="0s")}
    ) as gateway:
        assert gateway.says("ann@corp.test", "bob@corp.test") == [YES, NO]
        service.is_broken = True
        assert gateway.says("ann@corp.test", "bob@corp.test") == [YES, PUT_OFF]


def test_a_service_that_is_another_is_not_believed(service: Service, base: Path, trust: Trust) -> None:
    asked = section(service, base, trust, ca=Trust.new(base / "other").ca)
    with AskingGateway(base / "gateway", "corp.test", {"web": asked}) as gateway:
        assert gateway.says("ann@corp.test") == [PUT_OFF]
    assert service.asked == []


@pytest.mark.needs("postfix", "root")
@pytest.mark.parametrize("stage", ["rcpt", "data"])
def test_the_server_behind_knows_its_recipients(base: Path, stage: str) -> None:
    with Postfix(base / "postfix", ["ann", "bob"]) as postfix:
        routes = f"\n[routes.behind]\ntransport = 'smtp'\nhosts = ['127.0.0.1:{postfix.port}']\n"
        asked = {"kind": "callout", "route": "behind", "stage": stage, "timeout": "5s"}
        with AskingGateway(base / "gateway", "postfix.test", {"behind": asked}, routes=routes) as gateway:
            for _ in range(2):
                assert gateway.says("ann@postfix.test", "bob@postfix.test", "eve@postfix.test") == [YES, YES, NO]
            log = postfix.log.read_text(errors="replace")
            assert log.count("<eve@postfix.test>: Recipient address rejected") == 1
            postfix.stop()
            assert gateway.says("ann@postfix.test", "new@postfix.test") == [YES, PUT_OFF]
            history = gateway.directory / "state" / "mailgate.log"
            wait_until(lambda: '"unavailable"' in history.read_text(), "the outage is told")
        assert not list(postfix.mail.glob("*/new/*"))


@pytest.mark.needs("postfix", "root")
def test_a_server_that_takes_anything_is_found_out(base: Path) -> None:
    with Postfix(base / "postfix", relay_port=9) as postfix:
        routes = f"\n[routes.behind]\ntransport = 'smtp'\nhosts = ['127.0.0.1:{postfix.port}']\n"
        asked = {"kind": "callout", "route": "behind"}
        with AskingGateway(base / "gateway", "postfix.test", {"behind": asked}, routes=routes) as gateway:
            assert gateway.says("ann@postfix.test", "eve@postfix.test") == [YES, YES]
            wait_until(lambda: " rcpt=" in postfix.log.read_text(errors="replace"), "the end of the session is logged")
            log = postfix.log.read_text(errors="replace")
            assert log.count(" rcpt=") == 1
            history = gateway.directory / "state" / "mailgate.log"
            wait_until(lambda: '"accepts all"' in history.read_text(), "it is told")
