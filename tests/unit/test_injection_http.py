"""Mail by HTTP as it goes over the wire: who may, how much, and what the paths are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource

from mailgate.awaiting import at_once
from mailgate.config.http import HttpSection, TokenSection
from mailgate.web.front import _SCOPES
from mailgate.web.injection import calls
from mailgate.web.injection.following import Following
from mailgate.web.injection.resource import Messages
from mailgate.web.openapi import openapi
from mailgate.web.resources import _Missing, rates, suppressions
from mailgate.web.tokens import hash_of
from tests.unit.http_stand import SECRETS, Answer, HttpStand
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
        self.server.keep_large(folder)

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


def test_a_message_that_is_gone_before_the_history_tells_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_LATELY", 2)
    ids = [site.post(order()).json["ids"][0] for _ in range(3)]
    site.mail.spool._stored.clear()  # as if all were delivered
    answers = [site.ask("GET", f"/v1/messages/{one}", SECRET) for one in ids]
    assert [one.status for one in answers] == [404, 200, 200]
    assert answers[1].json == {"id": ids[1], "sender": "shop@example.org", "recipients": []}
    assert site.mail.calls.lately("another", ids[1]) is None


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
        ("OPTIONS", "/v1/messages", 405),
        ("HEAD", "/v1/messages", 400),
    ],
)
def test_what_is_none_of_it(site: Site, method: str, target: str, status: int) -> None:
    answer = site.ask(method, target, SECRET)
    assert answer.status == status
    assert method == "HEAD" or answer.json["error"]


def test_what_is_packed_stays_packed(site: Site) -> None:
    answer = site.post(gzip.compress(order()), Content_Encoding="gzip")
    assert (answer.status, answer.json["errors"][0]["path"]) == (415, "content-encoding")
    assert site.post(order(), Content_Encoding="identity").status == 202


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


def ways(path: str, resource: Resource) -> Iterator[tuple[str, str]]:
    """The methods and paths of a resource and of what is below it."""
    methods: Sequence[bytes] = resource.allowedMethods
    yield from ((method.decode().lower(), path) for method in methods)
    for name, child in resource.children.items():
        yield from ways(f"{path}/{name.decode()}", child)
    asked: Any = None
    if not isinstance(resource.getChild(b"A1", asked), _Missing):
        yield "get", f"{path}/{{id}}"


@pytest.mark.parametrize("secret", [None, "mailgate_wrong", SECRETS["reader"]])
def test_what_comes_from_strangers_is_not_kept(site: Site, secret: str | None) -> None:
    shown = f"Authorization: Bearer {secret}\r\n" if secret else ""
    for target in ("/v1/messages", "/v1/queue/hold", "/nothing"):
        for said in ("Content-Length: 1000", "Transfer-Encoding: chunked"):
            connection = site.connect()
            connection.send(f"POST {target} HTTP/1.1\r\nHost: x\r\n{shown}{said}\r\n\r\n".encode())
            chunked = "chunked" in said
            connection.send(b"3e7\r\n" + b"x" * 999 + b"\r\n" if chunked else b"x" * 999)
            (request,) = connection.channel.requests
            assert request.content.getvalue() == b""
            answer = Answer(connection.send(b"1\r\nx\r\n0\r\n\r\n" if chunked else b"x"))
            assert answer.status == (404 if target == "/nothing" else 403 if secret == SECRETS["reader"] else 401)
            assert connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").count(b"HTTP/1.1 200") == 1
            connection.end()
    connection = site.connect()
    connection.send(f"POST /v1/messages HTTP/1.1\r\nHost: x\r\n{shown}Transfer-Encoding: chunked\r\n\r\n".encode())
    assert connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n") == b""
    assert b" 413 " in connection.send(b"1\r\nx\r\n")


@pytest.mark.parametrize(
    ("secret", "status", "is_told"), [(SECRET, b"", True), ("mailgate_wrong", b" 401 ", False), (None, b" 401 ", False)]
)
def test_who_asks_first_is_told_before_it_sends(site: Site, secret: str | None, status: bytes, is_told: bool) -> None:
    connection = site.connect()
    shown = f"Authorization: Bearer {secret}\r\n" if secret else ""
    for_all = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\n{shown}Expect: 100-continue\r\n"
    answer = connection.send(f"{for_all}Content-Length: 1000\r\n\r\n".encode())
    assert (b" 100 " in answer) is is_told
    assert status in answer
    assert connection.is_closing is not is_told
    if not is_told:
        assert connection.send(b"x" * 1000 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == answer


def test_forms_are_small(tmp_path: Path) -> None:
    stand = HttpStand(tmp_path)
    for target in ("/release/x", "/unsubscribe/x"):
        assert stand.ask("POST", target, content=b"x" * 16 * 1024).status == 404
        assert stand.ask("POST", target, content=b"x" * (16 * 1024 + 1)).status == 413


def test_only_names_that_are_described(site: Site) -> None:
    given = json.loads(order())
    given["sender"] = given.pop("from")
    answer = site.post(json.dumps(given).encode())
    assert answer.status == 400
    assert {one["path"] for one in answer.json["errors"]} == {"from", "sender"}


def test_no_tag_is_dropped_without_a_word(site: Site) -> None:
    content = b"From: shop@example.org\nTo: ann@example.net\n\nx\n"
    target = "/v1/messages?to=ann@example.net" + "".join(f"&tag=t{number}" for number in range(11))
    raw = {"Content_Type": "message/rfc822"}
    answer = site.ask("POST", target, SECRET, content=content, **raw)
    assert (answer.status, answer.json["errors"][0]["path"]) == (400, "tag")
    assert site.ask("POST", target.removesuffix("&tag=t10"), SECRET, content=content, **raw).status == 202
    answer = site.post(order(tags=[f"t{number}" for number in range(11)]))
    assert (answer.status, answer.json["errors"][0]["path"]) == (400, "tags")


def test_the_description_is_open_and_names_all_that_is_served(site: Site) -> None:
    answer = site.ask("GET", "/v1/openapi.json")
    assert answer.status == 200
    assert answer.json == json.loads(json.dumps(openapi()))
    paths = answer.json["paths"]
    nobody: Any = None
    built = {b"suppressions": suppressions(nobody), b"rates": rates(nobody)}
    served = {("post", "/messages"), ("get", "/messages"), ("get", "/messages/{id}")}
    for name in set(_SCOPES) - {b"messages"}:
        served |= set(ways("/" + name.decode(), site.api.children[b"v1"].children.get(name) or built[name]))
    assert {(method, path) for path, methods in paths.items() for method in methods} == served
    assert site.ask("POST", "/v1/openapi.json").status == 405
    references = [part.split('"')[0] for part in answer.text.split('"#/components/schemas/')[1:]]
    assert set(references) <= set(answer.json["components"]["schemas"])
