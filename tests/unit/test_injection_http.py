"""Mail by HTTP as it goes over the wire: who may, how much, and what the paths are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.awaiting import at_once
from mailgate.config.http import HttpSection, TokenSection
from mailgate.web.injection.following import Following
from mailgate.web.injection.resource import Messages
from mailgate.web.openapi import openapi
from mailgate.web.tokens import hash_of
from tests.unit.http_stand import SECRETS, HttpStand
from tests.unit.test_injection_calls import Stand

SECRET = "mailgate_sends"  # noqa: S105  for tests
ORDER = {"from": "shop@example.org", "to": ["ann@example.net"], "subject": "x", "text": "y"}
JSON = "application/json"


class Site(HttpStand):
    """With `[http.injection]`, and the calls of a stand of their own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {"max_body": "1KiB"})
        self.mail = Stand(folder)
        tokens = {**self.section.tokens, "app": TokenSection(hash=hash_of(SECRET), scopes=["send"])}
        said = {"injection": {"pipeline": "out", "max_call": "64KiB"}, "max_body": "1KiB"}
        self.section = HttpSection.model_validate(said).model_copy(update={"tokens": tokens})
        following = Following(self.mail.spool, folder / "history", at_once)
        messages = Messages(self.mail.calls, following, lambda: "api")
        self.front.use(self.section, self.api.children[b"v1"], None, messages)
        self.server.let_more(self.front.most_content, folder)

    def post(self, content: bytes, secret: str | None = SECRET, target: str = "/v1/messages", **fields: str) -> Any:
        return self.ask("POST", target, secret, content=content, **{"Content_Type": JSON, **fields})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def order(**more: Any) -> bytes:
    return json.dumps({**ORDER, **more}).encode()


def test_a_message_and_where_it_is(site: Site) -> None:
    answer = site.post(order(), Idempotency_Key="k")
    assert answer.status == 202
    assert answer.fields["cache-control"] == "no-store"
    (queue_id,) = answer.json["ids"]
    followed = site.ask("GET", f"/v1/messages/{queue_id}", SECRET)
    assert followed.status == 200
    assert [(one["address"], one["state"]) for one in followed.json["recipients"]] == [("ann@example.net", "queued")]
    known = site.ask("GET", "/v1/messages?idempotency_key=k", SECRET)
    assert (known.status, known.json) == (200, answer.json)
    (session,) = site.mail.pipeline.sessions
    assert (str(session.client), session.protocol) == ("unknown[192.0.2.7]", "HTTP")


@pytest.mark.parametrize(
    ("secret", "status"), [(None, 401), ("mailgate_wrong", 401), (SECRETS["writer"], 403), (SECRETS["keeper"], 403)]
)
def test_who_may_not(site: Site, secret: str | None, status: int) -> None:
    assert site.post(order(), secret).status == status
    assert site.ask("GET", "/v1/messages/ABC", secret).status == status
    assert site.mail.kept == []


def test_who_may_send_may_nothing_else(site: Site) -> None:
    for target in ("/v1/queue", "/v1/status", "/v1/quarantine", "/metrics"):
        assert site.ask("GET", target, SECRET).status == 403


def test_more_than_others_may_is_for_who_may_send(site: Site) -> None:
    large = order(text="line\n" * 2000)
    assert site.post(large).status == 202
    assert site.post(large, target="/v1/messages?x=y").status == 400
    assert site.post(large, "mailgate_wrong").status == 413
    assert site.post(large, SECRETS["writer"]).status == 413
    assert site.post(large, target="/v1/queue/hold").status == 413
    assert site.post(order(text="x" * 70_000)).status == 413


def test_a_length_that_was_not_told_is_bounded_too(site: Site) -> None:
    connection = site.connect()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    connection.send(head.encode())
    for _ in range(8):
        octets = connection.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        assert octets == b""
    assert b" 413 " in connection.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")


def test_a_client_that_has_gone_has_its_mail_taken_once(site: Site) -> None:
    held: list[Any] = []

    def waiting(call: Any) -> Any:
        held.append((Deferred(), call))
        return held[-1][0]

    site.mail.in_thread = waiting
    connection = site.connect()
    content = order(text="line\n" * 2000)
    head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
    connection.send(f"{head}Content-Type: {JSON}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    connection.end()
    while held:
        done, call = held.pop(0)
        done.callback(call())
    assert site.mail.kept == ["ann@example.net"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("PUT", "/v1/messages", 405),
        ("DELETE", "/v1/messages/ABC", 405),
        ("POST", "/v1/messages/ABC", 405),
        ("GET", "/v1/messages", 400),
        ("GET", "/v1/messages?idempotency_key=a&idempotency_key=b", 400),
        ("GET", "/v1/messages?idempotency_key=%ff", 400),
        ("GET", "/v1/messages?idempotency_key=unknown", 404),
        ("GET", "/v1/messages/ABC", 404),
        ("GET", "/v1/messages/..", 404),
        ("GET", "/v1/messages/" + "A" * 100, 404),
        ("GET", "/v1/messages/A/B", 404),
        ("POST", "/v1/messages?from=%ff", 400),
        ("POST", "/v1/messages", 415),
    ],
)
def test_what_is_none_of_it(site: Site, method: str, target: str, status: int) -> None:
    answer = site.ask(method, target, SECRET)
    assert answer.status == status
    assert answer.json["error"]


def test_what_cannot_be_told_now(site: Site) -> None:
    site.mail.register.close()
    assert site.ask("GET", "/v1/messages?idempotency_key=k", SECRET).status == 503
    assert site.post(order(), Idempotency_Key="k").status == 503
    assert site.post(order()).status == 202  # without a key nothing is noted


def test_where_no_mail_is_taken_there_is_nothing(site: Site) -> None:
    site.front.use(site.section, site.api.children[b"v1"], None)
    assert site.post(order()).status == 404


def test_a_mistake_has_its_path_and_shows_nothing_of_ours(site: Site) -> None:
    answer = site.post(order(to=["ann@example.net", "bob"]))
    assert answer.status == 400
    assert answer.json["errors"] == [
        {"path": "to.1", "error": "is no address: ann@example.org, or Ann <ann@example.org>"}
    ]
    assert answer.json["error"].startswith("to.1: ")


def test_the_description_is_open_and_names_all_that_is_served(site: Site) -> None:
    answer = site.ask("GET", "/v1/openapi.json")
    assert answer.status == 200
    assert answer.json == json.loads(json.dumps(openapi()))
    paths = answer.json["paths"]
    served = {"/" + name.decode() for name in site.api.children[b"v1"].children} | {"/messages"}
    assert {"/" + path.split("/")[1] for path in paths} == served
    assert site.ask("POST", "/v1/openapi.json").status == 405
    references = [part.split('"')[0] for part in answer.text.split('"#/components/schemas/')[1:]]
    assert set(references) <= set(answer.json["components"]["schemas"])
