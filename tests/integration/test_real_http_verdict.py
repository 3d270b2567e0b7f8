"""The filter http and a service behind HTTP and HTTPS: what it is told, whose certificate is believed."""

from __future__ import annotations

import contextlib
import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scanner_parts import ask, mail
from secured import Trust
from web_peer import QuietHandler, WebPeer

HAM, BAD = mail(b"hello\r\n"), mail(b"bad " * 100_000 + b"\r\n")


class Service(WebPeer):
    """Refuses what has "bad" in it; `told` is what it was asked."""

    def __init__(self, identity: Path | None = None) -> None:
        self.told: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        service = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def post(self) -> None:
                told = json.loads(self.heard())
                service.told.append(told)
                service.tokens.add(self.headers["Authorization"])
                is_bad = b"bad" in b64decode(told["content"] or "")
                answer = {"verdict": "reject", "text": "No"} if is_bad else {"verdict": "continue", "points": 1}
                self.say(200, json.dumps(answer).encode())

        super().__init__(Handler, identity)


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    with contextlib.ExitStack() as stack:

        def start(identity: Path | None = None) -> Service:
            service = Service(identity)
            stack.callback(service.close)
            return service

        yield start


def test_the_service_decides(serve: Callable[..., Service], tmp_path: Path) -> None:
    service = serve()
    (tmp_path / "token").write_text("abc\n")
    options = {"urls": [f"http://127.0.0.1:{service.port}/judge"], "content": "base64"}
    ham, bad = ask("http", options | {"token_file": tmp_path / "token"}, HAM, BAD)
    assert (ham["verdict"], ham["facts"]) == ("continue", ["http.continue"])
    assert bad["reply"] == "550 5.7.1 No"
    assert [b64decode(one["content"]) for one in service.told] == [HAM, BAD]
    assert service.tokens == {"Bearer abc"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_of_the_right_authority_and_name_is_believed(
    serve: Callable[..., Service], tmp_path: Path, host: str
) -> None:
    trust = Trust.new(tmp_path / "trust")
    service = serve(trust.issue("localhost", "127.0.0.1"))
    options = {"urls": [f"https://{host}:{service.port}/"], "ca": trust.ca, "content": "base64"}
    answers = ask("http", options, HAM, BAD)
    assert [one.get("verdict") for one in answers] == ["continue", "reject"], answers


@pytest.mark.parametrize("wrong", ["name", "authority", "no authority"])
def test_others_are_not_and_are_told_nothing(serve: Callable[..., Service], tmp_path: Path, wrong: str) -> None:
    trust = Trust.new(tmp_path / "trust")
    service = serve(trust.issue("other.test" if wrong == "name" else "localhost"))
    ca = {"name": trust.ca, "authority": Trust.new(tmp_path / "another").ca, "no authority": None}[wrong]
    options = {"urls": [f"https://localhost:{service.port}/"]} | ({"ca": ca} if ca else {})
    (one,) = ask("http", options, HAM)
    assert one["failure"].startswith("ScannerError: ")
    assert service.told == []
