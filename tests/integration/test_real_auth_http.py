"""Logins by a real service over HTTP and HTTPS: whose certificate is believed, and what comes of its answers."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from auth_ask import NO, UNAVAILABLE, ask
from secured import Trust
from web_peer import QuietHandler, WebPeer

USERS = {"ann": "ann's", "bob": "pass wörd"}


class Service(WebPeer):
    """Knows USERS; `requests` is what it was asked. `patience` is how long (seconds) it thinks."""

    def __init__(self, identity: Path | None = None, patience: float = 0.0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        service = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def post(self) -> None:
                asked = json.loads(self.heard())
                service.requests.append(asked)
                service.tokens.add(self.headers["Authorization"])
                if self.path == "/moved":
                    self.say(307, fields={"Location": "/check"})
                    return
                time.sleep(patience)
                is_right = USERS.get(asked["username"].lower()) == asked["password"]
                self.say(200 if is_right else 401, json.dumps({"username": asked["username"].lower()}).encode())
                # half of the answers end the connection without a word of it
                self.close_connection = len(service.requests) % 2 == 0

        super().__init__(Handler, identity)


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: Any, **more: Any) -> Service:
            service = Service(*arguments, **more)
            stack.callback(service.close)
            return service

        yield start


LOGINS = [
    ("Ann", "ann's"),
    ("ann", "wrong"),
    ("bob", "pass wörd"),
    ("nobody", "nobody's"),
    ("ann", ""),
    ("ann", "ann's"),
]
ANSWERS = ["ann", NO, "bob", NO, NO, "ann"]


def test_the_service_decides(serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve()
    (tmp_path / "token").write_text("abc\n")
    url = f"http://127.0.0.1:{service.port}/check"
    assert ask({"kind": "http", "url": url, "token_file": tmp_path / "token"}, *LOGINS) == ANSWERS
    assert [request["username"] for request in service.requests] == ["Ann", "ann", "bob", "nobody", "ann"]
    assert service.tokens == {"Bearer abc"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_of_the_right_authority_and_name_is_believed(
    serve: Callable[..., Service], tmp_path: Path, host: str
) -> None:
    trust = Trust.new(tmp_path / "trust")
    service = serve(trust.issue("localhost", "127.0.0.1"))
    section = {"kind": "http", "url": f"https://{host}:{service.port}/", "ca": trust.ca}
    assert ask(section, *LOGINS) == ANSWERS


@pytest.mark.parametrize("wrong", ["name", "authority", "no authority"])
def test_others_are_not_and_get_no_password(serve: Callable[..., Service], tmp_path: Path, wrong: str) -> None:
    trust = Trust.new(tmp_path / "trust")
    service = serve(trust.issue("other.test" if wrong == "name" else "localhost"))
    ca = {"name": trust.ca, "authority": Trust.new(tmp_path / "another").ca, "no authority": None}[wrong]
    url = f"https://localhost:{service.port}/"
    section = {"kind": "http", "url": url} | ({"ca": ca} if ca else {})
    assert ask(section, ("ann", "ann's")) == [UNAVAILABLE]
    assert service.requests == []


def test_no_redirect_is_followed(serve: Callable[..., Service]) -> None:
    service = serve()
    section = {"kind": "http", "url": f"http://127.0.0.1:{service.port}/moved"}
    assert ask(section, ("ann", "ann's")) == [UNAVAILABLE]
    assert len(service.requests) == 1


def test_a_service_that_thinks_too_long_or_is_away_is_no_answer(serve: Callable[..., Service]) -> None:
    service = serve(patience=1.0)
    section = {"kind": "http", "url": f"http://127.0.0.1:{service.port}/", "timeout": "300ms"}
    assert ask(section, ("ann", "ann's"), ("bob", "wrong")) == [UNAVAILABLE] * 2
    service = serve()
    service.close()
    assert ask({"kind": "http", "url": f"http://127.0.0.1:{service.port}/"}, ("ann", "ann's")) == [UNAVAILABLE]
