"""Who may see and do what by HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mailgate.events import OperatorActed, SpoolFailed, Started, Stopping
from mailgate.web.front import Front
from mailgate.web.server import HttpServer
from mailgate.web.tokens import Tokens
from tests.unit.http_stand import NOW, SECRETS, Answer, HttpStand

EVERYTHING = json.dumps({"everything": True}).encode()


@pytest.fixture
def stand(tmp_path: Path) -> HttpStand:
    return HttpStand(tmp_path)


def test_health_is_open_and_readiness_follows_the_gateway(stand: HttpStand) -> None:
    assert (stand.ask("GET", "/healthz").status, stand.ask("GET", "/healthz").text) == (200, "ok\n")
    assert stand.ask("GET", "/readyz").json == {"error": "starting"}
    stand.board.observe(Started(at=NOW, listeners=("mx",)))
    assert (stand.ask("GET", "/readyz").status, stand.ask("GET", "/readyz").text) == (200, "ready\n")
    stand.board.observe(SpoolFailed(at=NOW, error="disk /secret/place is full"))
    answer = stand.ask("GET", "/readyz")
    assert (answer.status, "secret" in answer.text) == (503, False)
    stand.board.observe(Stopping(at=NOW))
    assert stand.ask("GET", "/readyz").json == {"error": "stopping"}
    assert stand.ask("GET", "/healthz").status == 200


def test_before_there_is_anything_to_serve(stand: HttpStand) -> None:
    front = Front(Tokens(stand.counters, stand.clock.seconds), stand.board.status, stand.front._metrics)
    stand.server = HttpServer(stand.section, front, stand.clock, has_tls=False)
    stand.board.observe(Started(at=NOW, listeners=("mx",)))
    assert stand.ask("GET", "/healthz").status == 200
    assert stand.ask("GET", "/readyz").status == 503
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"]).status == 401  # no token is known yet
    assert stand.ask("GET", f"/release/{stand.token('A')}").status == 404


@pytest.mark.parametrize(
    ("secret", "status"),
    [
        (None, 401),
        ("", 401),
        ("mailgate_wrong", 401),
        (SECRETS["reader"][:-1], 401),
        (SECRETS["reader"] + "x", 401),
        (SECRETS["reader"].upper(), 401),
        (SECRETS["old"], 401),
        (SECRETS["keeper"], 403),
        (SECRETS["prometheus"], 403),
        (SECRETS["reader"], 200),
        (f"  {SECRETS['reader']} ", 200),
        ("\u00e4" * 300, 401),
    ],
)
def test_a_token_opens_what_its_scopes_name(stand: HttpStand, secret: str | None, status: int) -> None:
    stand.keep("A1")
    answer = stand.ask("GET", "/v1/queue", secret)
    assert answer.status == status
    assert answer.fields["cache-control"] == "no-store"
    assert ("entries" in answer.json) == (status == 200)
    assert answer.fields.get("www-authenticate") == ('Bearer realm="mailgate"' if status == 401 else None)


def test_other_schemes_are_no_tokens(stand: HttpStand) -> None:
    for field in (f"Basic {SECRETS['reader']}", SECRETS["reader"], f"Bearer{SECRETS['reader']}", "Bearer"):
        assert stand.ask("GET", "/v1/queue", Authorization=field).status == 401
    assert stand.ask("GET", "/v1/queue", Authorization=f"bearer {SECRETS['reader']}").status == 200
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"], Authorization=f"Bearer {SECRETS['reader']}").status == 401


def test_looking_is_not_changing(stand: HttpStand) -> None:
    stand.keep("A1")
    assert stand.ask("POST", "/v1/queue/delete", SECRETS["reader"], content=EVERYTHING).status == 403
    assert stand.ask("POST", "/v1/quarantine/delete", SECRETS["writer"], content=EVERYTHING).status == 403
    assert stand.ask("GET", "/v1/status", SECRETS["reader"]).status == 403
    assert stand.ask("GET", "/v1/status", SECRETS["keeper"]).status == 200
    assert stand.states() == {"A1:0": "quarantined"}
    assert stand.ask("GET", "/v1/quarantine/A1", SECRETS["keeper"]).json["entries"][0]["recipient"] == "ann@example.org"
    assert stand.ask("POST", "/v1/quarantine/delete", SECRETS["keeper"], content=EVERYTHING).json["deleted"] == 1
    assert stand.states() == {}


def test_a_token_expires_with_its_day(stand: HttpStand) -> None:
    stand.clock.rightNow = NOW - 86400 * 2
    assert stand.ask("GET", "/v1/queue", SECRETS["old"]).status == 200


def test_wrong_tokens_cost_their_address_the_right_ones_too(tmp_path: Path) -> None:
    stand = HttpStand(tmp_path, {"max_wrong_tokens": 3})
    for _ in range(3):
        assert stand.ask("GET", "/v1/queue", "guess").status == 401
    answer = stand.ask("GET", "/v1/queue", SECRETS["reader"])
    assert (answer.status, answer.fields["retry-after"]) == (429, "3600")
    assert stand.ask("GET", "/metrics", SECRETS["prometheus"]).status == 429
    assert stand.ask("GET", "/healthz").status == 200
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"], address="192.0.2.8").status == 200
    stand.clock.advance(2 * 3600)
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"]).status == 200


def test_addresses_of_one_network_of_ipv6_guess_together(tmp_path: Path) -> None:
    stand = HttpStand(tmp_path, {"max_wrong_tokens": 2})
    for host in ("1", "2"):
        assert stand.ask("GET", "/v1/queue", "guess", address=f"2001:db8::{host}").status == 401
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"], address="2001:db8::3").status == 429
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"], address="2001:db8:0:1::3").status == 200


def test_no_token_and_a_foreign_scope_are_no_guesses(tmp_path: Path) -> None:
    stand = HttpStand(tmp_path, {"max_wrong_tokens": 1})
    assert stand.ask("GET", "/v1/queue").status == 401
    assert stand.ask("GET", "/v1/queue", SECRETS["keeper"]).status == 403
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"]).status == 200


def test_metrics_need_their_scope_or_a_client_that_is_named(tmp_path: Path) -> None:
    stand = HttpStand(tmp_path)
    assert stand.ask("GET", "/metrics", address="127.0.0.1").status == 401
    assert stand.ask("GET", "/metrics", SECRETS["reader"]).status == 403
    answer = stand.ask("GET", "/metrics", SECRETS["prometheus"])
    assert (answer.status, answer.fields["content-type"][:10]) == (200, "text/plain")
    stand = HttpStand(tmp_path, {"metrics_from": ["127.0.0.1"]})
    stand.keep("A1")
    assert (
        'mailgate_spool_recipients{state="quarantined"} 1.0' in stand.ask("GET", "/metrics", address="127.0.0.1").text
    )
    assert stand.ask("GET", "/metrics", address="127.0.0.2").status == 401


def test_proxies_are_believed_that_are_named(tmp_path: Path) -> None:
    stand = HttpStand(tmp_path, {"metrics_from": ["192.0.2.99"], "forwarded_from": ["10.0.0.0/8"]})

    def status(address: str, said: str) -> int:
        return stand.ask("GET", "/metrics", address=address, X_Forwarded_For=said).status

    assert status("10.0.0.1", "192.0.2.99") == 200
    assert status("10.0.0.1", "1.2.3.4, 192.0.2.99, 10.9.9.9") == 200
    assert status("10.0.0.1", "192.0.2.99, 192.0.2.50") == 401  # what a client has written itself
    assert status("192.0.2.50", "192.0.2.99") == 401
    assert status("10.0.0.1", "nonsense") == 401
    assert status("10.0.0.1", "::ffff:192.0.2.99") == 200
    stand = HttpStand(tmp_path, {"metrics_from": ["10.0.0.1"], "forwarded_from": ["10.0.0.1"]})
    assert [status("10.0.0.1", said) for said in ("192.0.2.50:4711", "unknown")] == [401, 401]  # it is not the proxy
    assert status("10.0.0.1", ", ".join(["10.0.0.2"] * 5000)[:9000]) == 401


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v1//status",
        "//v1/status",
        "/v1/status/",
        "/v1/./status",
        "/v1/../v1/status",
        "/healthz/../v1/status",
        "/healthz/",
        "/healthz/x",
        "/HEALTHZ",
        "/%68ealthz",
        "/v1/%73tatus",
        "/v1%2fstatus",
        "/v1/%2e%2e/metrics",
        "/v1/..%2fmetrics",
        "/v1\\status",
        "/v1/status%00",
        "/v1/status;x",
        "/metrics/x",
        "/release",
        "/release/",
        "/release/a/b",
        "/release/..",
        "/release/../v1/status",
        "/v1/nothing",
        "http://gate.test/v1/status",
        "http://gate.test/healthz",
        "healthz",
        "*",
    ],
)
def test_paths_that_are_written_otherwise_lead_nowhere(stand: HttpStand, path: str) -> None:
    stand.board.observe(Started(at=NOW, listeners=("mx",)))
    for secret in (None, SECRETS["keeper"]):
        answer = stand.ask("GET", path, secret)
        assert answer.status in (400, 401, 404, 405), answer.text
        assert "uptime" not in answer.text
        assert answer.text != "ok\n"


def test_methods(stand: HttpStand) -> None:
    head = stand.ask("HEAD", "/healthz")
    assert (head.status, head.content, head.fields["content-length"]) == (200, b"", "3")
    for method in ("OPTIONS", "POST", "TRACE", "DELETE", "NONSENSE"):
        answer = stand.ask(method, "/healthz")
        assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")
        assert stand.ask(method, "/v1/queue").status == 401
        assert stand.ask(method, "/v1/queue", SECRETS["reader"]).status == 403
        answer = stand.ask(method, "/v1/queue", SECRETS["writer"])
        assert (answer.status, answer.fields["allow"]) == (405, "GET")
    assert stand.ask("HEAD", "/v1/queue", SECRETS["reader"]).content == b""
    assert not any(name.startswith("access-control") for name in stand.ask("OPTIONS", "/v1/queue").fields)


def test_nothing_of_a_request_becomes_a_field_of_an_answer(stand: HttpStand) -> None:
    for path in ("/release/a%0d%0aX-Evil:1", "/v1/queue/A%0D%0AX-Evil:1", "/v1/queue?limit=1%0d%0aX-Evil:%201"):
        answer = stand.ask("GET", path, SECRETS["reader"])
        assert "x-evil" not in answer.fields
    answer = stand.ask("GET", "/healthz", Host="evil.test", X_Forwarded_Host="evil.test")
    assert "evil" not in str(answer.fields) + answer.text


def test_the_history_tells_which_token_it_was_whatever_the_client_says(stand: HttpStand) -> None:
    stand.keep("A1")
    order = json.dumps({"ids": ["A1"], "by": "the chief administrator"}).encode()
    assert stand.ask("POST", "/v1/quarantine/release", SECRETS["keeper"], content=order).json["released"] == 1
    assert [one.by for one in stand.events.of(OperatorActed)] == ["token keeper"]
    stand.keep("A2")
    order = order.replace(b"A1", b"A2")
    assert stand.ask("POST", "/v1/queue/release", SECRETS["writer"], content=order).json["changed"] == 1
    assert [one.by for one in stand.events.of(OperatorActed)] == ["token keeper", "token writer"]


def test_a_failure_of_ours_is_no_news_for_others(stand: HttpStand, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> bytes:
        raise RuntimeError("a secret thing")

    monkeypatch.setattr(stand.front, "_metrics", fail)
    answer = stand.ask("GET", "/metrics", SECRETS["prometheus"])
    assert (answer.status, "secret" in answer.text) == (500, False)


def test_counters_that_cannot_answer_open_nothing(stand: HttpStand, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("the ledger is gone")

    monkeypatch.setattr(stand.counters, "peek", fail)
    assert stand.ask("GET", "/v1/queue", SECRETS["reader"]).status == 500


def test_our_policy_of_mta_sts_is_for_everybody_who_asks_the_right_host(stand: HttpStand) -> None:
    policy = b"version: STSv1\r\nmode: testing\r\nmx: mx.example.org\r\nmax_age: 604800\r\n"
    path = "/.well-known/mta-sts.txt"

    def ask(host: str | None, method: str = "GET", target: str = path) -> Answer:
        connection = stand.connect()
        lines = [f"{method} {target} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), "", ""]
        answer = Answer(connection.send("\r\n".join(lines).encode()))
        connection.end()
        return answer

    assert ask("mta-sts.example.org").status == 404
    stand.front.policies = {"mta-sts.example.org": policy}
    for host in ("mta-sts.example.org", "MTA-STS.Example.ORG", "mta-sts.example.org:443", "mta-sts.example.org."):
        answer = ask(host)
        assert (answer.status, answer.fields["content-type"], answer.content) == (200, "text/plain", policy)
    head = ask("mta-sts.example.org", "HEAD")
    assert (head.status, head.content, head.fields["content-length"]) == (200, b"", str(len(policy)))
    for wrong in ("example.org", "mta-sts.example.net", "x.mta-sts.example.org", "", "\xff", None):
        assert ask(wrong).status in (400, 404)
    assert ask("mta-sts.example.org", "POST").status == 405
    for target in (f"{path}/", f"/x{path}", "/.well-known/", "/.well-known/mta-sts.txt%20", f"/{path}"):
        assert ask("mta-sts.example.org", target=target).status == 404
