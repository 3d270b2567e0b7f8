"""What the doctor finds out of applications that are posted mail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailgate.doctor.applications import application_checks
from mailgate.doctor.certificates import certificate_checks
from mailgate.doctor.diagnosis import Diagnosis
from tests.unit.certificates import issue
from tests.unit.doctor_stand import Network, found, make_site, said

HERE = ("127.0.0.1", 8080)


def routes(tmp_path: Path, url: str, **more: Any) -> dict[str, Any]:
    (tmp_path / "secret").write_text("a secret that both know\n")
    return {"app": {"transport": "http", "url": url, "secret_file": "secret"} | more}


def look(
    tmp_path: Path,
    answer: bytes | Callable[[bytes], bytes] | None,
    *,
    url: str = "http://127.0.0.1:8080/mail?key=hidden",
    **more: Any,
) -> list[Diagnosis]:
    def saying(octets: bytes) -> bytes:
        return answer(octets) if callable(answer) else answer or b""

    site = make_site(tmp_path, routes=routes(tmp_path, url, **more), routing={}, domains={}, recipients={})
    return found(site, application_checks(site), Network(raw={} if answer is None else {HERE: saying}))


def head(status: str, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "400 Bad", "405 Not Allowed", "415 No", "501 Not so"])
def test_who_answers_is_there(tmp_path: Path, status: str) -> None:
    (told,) = look(tmp_path, head(status))
    assert told.severity == "ok"
    assert told.subject == "routes.app: 127.0.0.1[127.0.0.1]:8080"
    assert told.says == f"is reached by HTTP within this machine, and answers {status[:3]} to OPTIONS"


@pytest.mark.parametrize(
    ("answer", "severity", "words", "fix"),
    [
        (None, "fail", "cannot connect", "whether the program runs"),
        (b"", "fail", "did not answer in time", "something else answers"),
        (b"220 hello\r\n", "fail", "does not speak HTTP as it should", "something else answers"),
        (head("401 Unauthorized"), "fail", "answers 401 to OPTIONS: it does not know us", "token_file"),
        (head("403 Forbidden"), "fail", "answers 403 to OPTIONS: it does not know us", "the same secret_file"),
        (head("404 Not Found"), "fail", "there is nothing at this path", "the path of url"),
        (head("503 Service Unavailable"), "fail", "does not work; mail waits", "see its log"),
        (
            head("301 Moved", "Location: https://app.test/elsewhere?key=hidden\r\n"),
            "warn",
            "redirects are not followed",
            "(at https://app.test)",
        ),
        (head("302 Found", "Location: //[\r\n"), "warn", "redirects are not followed", "where it is now"),
    ],
)
def test_each_thing_is_found(tmp_path: Path, answer: bytes | None, severity: str, words: str, fix: str) -> None:
    (told,) = look(tmp_path, answer, timeout="20s")
    assert (told.severity, words in told.says, fix in told.fix) == (severity, True, True), told
    assert "hidden" not in f"{told}"


def test_what_is_asked_delivers_nothing_and_shows_who_we_are(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc.DEF-123\n")
    asked: list[bytes] = []

    def answer(octets: bytes) -> bytes:
        asked.append(octets)
        return head("200 OK")

    told = look(tmp_path, answer, token_file=str(tmp_path / "token"))
    (request,) = asked
    first, *fields = request.decode().split("\r\n")
    assert first == "OPTIONS /mail?key=hidden HTTP/1.1"
    assert {"Authorization: Bearer abc.DEF-123", "Content-Length: 0", "Mailgate-Route: app"} <= set(fields)
    assert any(one.startswith("Mailgate-Signature: t=") for one in fields)
    assert request.endswith(b"\r\n\r\n")
    assert "abc.DEF" not in f"{told}"


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    (told,) = look(tmp_path, None, url="https://app.test/")
    assert told.severity == "fail"
    assert "cannot be found" in told.says
    assert told.fix == "see the route's url, and [dns]"


def test_files_that_do_not_serve(tmp_path: Path) -> None:
    (told,) = look(tmp_path, head("200 OK"), token_file=str(tmp_path / "missing"))
    assert (told.severity, "missing: cannot be read" in told.says) == ("fail", True)


def test_the_certificate_that_we_show_is_looked_at(tmp_path: Path) -> None:
    issue(None, "gw.example.org").write(tmp_path / "ours.pem")
    section = routes(tmp_path, "https://app.test/", certificate="ours.pem")
    site = make_site(tmp_path, routes=section, routing={}, domains={}, recipients={}, now=0.0)
    told = [one for one in found(site, certificate_checks(site)) if one.subject.startswith(str(tmp_path / "ours.pem"))]
    assert told
    assert not said(told, "expired")
