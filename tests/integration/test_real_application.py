"""Mail for an application of the site's own, over HTTP: signed, as often as needed, and once where that is taken."""

from __future__ import annotations

import base64
import json
import signal
import smtplib
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from application import SECRET, Answer, Application, Posted
from configurations import configuration
from parts import Gateway, free_port, wait_until
from secured import Trust
from web_peer import WebPeer

ROUTE = """
[routes.app]
transport = "http"
url = "https://127.0.0.1:{port}/mail"
ca = "{ca}"
secret_file = "{secret}"
retry = {{ first = "1s", longest = "1s" }}
timeout = "5s"

[routes.box]
transport = "maildir"
path = "mail/{{local_part}}"
"""


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def trust(base: Path) -> Trust:
    return Trust.new(base / "trust")


@pytest.fixture
def peer(application: Application, trust: Trust) -> Iterator[WebPeer]:
    with application.serving(trust.server()) as served:
        yield served


@pytest.fixture
def gateway(base: Path, build: Callable[[str, int], Gateway], trust: Trust, peer: WebPeer) -> Gateway:
    secret = base / "secret"
    secret.write_bytes(SECRET + b"\n")
    port = free_port()
    routes = ROUTE.format(port=peer.port, ca=trust.ca, secret=secret)
    made = build(configuration(port, routes, domains={"app.test": "app", "client.test": "box"}), port)
    made.start()
    return made


def send(gateway: Gateway, subject: str, *recipients: str, file: bytes = b"") -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@client.test", ", ".join(recipients), subject
    message.set_content("please\n")
    if file:
        message.add_attachment(file, maintype="application", subtype="zip", filename="a.zip")
    with smtplib.SMTP("127.0.0.1", gateway.ports[0]) as client:
        client.send_message(message, "ann@client.test", recipients)


def has_delivered(gateway: Gateway, number: int) -> bool:
    return len(outcomes(gateway, "delivered")) == number


def outcomes(gateway: Gateway, *kinds: str) -> list[str]:
    return [str(one["recipient"]) for kind in kinds for one in gateway.events(kind)]


def test_one_request_for_all_recipients_over_one_connection(application: Application, gateway: Gateway) -> None:
    for number in range(3):
        send(gateway, f"number {number}", "tickets@app.test", "sales@app.test", file=b"PK" * 1000)
        wait_until(partial(has_delivered, gateway, 2 * (number + 1)), "it is delivered")
    assert len(application.posted) == 3
    for one in application.posted:
        assert one.is_ours()
        assert [each["address"] for each in one.mail["recipients"]] == ["tickets@app.test", "sales@app.test"]
        assert one.mail["text"] == "please\n"
        assert base64.b64decode(one.mail["attachments"][0]["content"]) == b"PK" * 1000
    assert len({id(one.connection) for one in application.posted}) == 1


def test_what_is_not_taken_comes_again_with_its_key_and_even_after_a_crash(
    application: Application, gateway: Gateway
) -> None:
    application.mood = lambda _: (500, {}, b"")
    send(gateway, "late", "tickets@app.test")
    wait_until(lambda: len(application.posted) >= 2, "it is tried again")
    gateway.stop(signal.SIGKILL)
    application.mood = lambda _: (200, {}, b"")
    before = len(application.posted)
    gateway.start()
    wait_until(lambda: bool(outcomes(gateway, "delivered")), "it is delivered in the end")
    assert len({one.key for one in application.posted}) == 1
    assert len(application.posted) == before + 1


def test_a_refusal_returns_to_the_sender_with_its_words(application: Application, gateway: Gateway) -> None:
    def mood(one: Posted) -> Answer:
        said = {"recipients": {"sales@app.test": {"result": "refused", "reason": "nobody sells here"}}}
        return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()

    application.mood = mood
    send(gateway, "mixed", "tickets@app.test", "sales@app.test")
    box = gateway.directory / "mail" / "ann" / "new"
    wait_until(lambda: box.exists() and any(box.iterdir()), "the report has come")
    (report,) = (one.read_text() for one in box.iterdir())
    assert "nobody sells here" in report
    assert "Diagnostic-Code: x-http; nobody sells here" in report
    assert "Remote-MTA: x-http; 127.0.0.1" in report
    assert "Final-Recipient: rfc822; sales@app.test" in report
    assert "tickets@app.test" not in report.partition("Content-Type: message/")[0]
    wait_until(lambda: "tickets@app.test" in outcomes(gateway, "delivered"), "the other one is delivered")
    assert len(application.posted) == 1


def test_a_rest_that_is_asked_for_is_given(application: Application, gateway: Gateway) -> None:
    application.mood = lambda _: (503, {"Retry-After": "600"}, b"")
    send(gateway, "first", "tickets@app.test")
    wait_until(lambda: bool(gateway.events("site_slowed")), "the site rests")
    send(gateway, "second", "tickets@app.test")
    wait_until(lambda: "rests for" in gateway.command("queue", "list").stdout, "the second waits for that")
    assert len(application.posted) == 1
    (slowed,) = gateway.events("site_slowed")
    assert (slowed["site"], slowed["reason"]) == ("127.0.0.1", "its Retry-After")
    at, until = (datetime.fromisoformat(slowed[key]) for key in ("at", "rests_until"))
    assert (until - at).total_seconds() == pytest.approx(600, abs=1)


def doctor(gateway: Gateway) -> list[dict[str, str]]:
    """What it says of the route to the application."""
    found = gateway.command("doctor", "--only", "hops", "--json", check=False)
    return [one for one in json.loads(found.stdout)["findings"] if one["subject"].startswith("routes.app")]


def test_who_we_are_is_shown_to_the_application_and_told_nobody(
    application: Application, base: Path, build: Callable[[str, int], Gateway], trust: Trust
) -> None:
    secret, token = base / "secret", base / "token"
    secret.write_bytes(SECRET + b"\n")
    token.write_text("a-token.that-nobody-else-knows\n")
    port = free_port()
    with application.serving(trust.server(), clients=trust.ca) as peer:
        routes = ROUTE.format(port=peer.port, ca=trust.ca, secret=secret)
        ours = trust.issue("gateway.test")
        login = f'[routes.app]\ntoken_file = "{token}"\ncertificate = "{ours}"'
        routes = routes.replace("[routes.app]", login)
        gateway = build(configuration(port, routes, domains={"app.test": "app", "client.test": "box"}), port)
        gateway.start()
        (found,) = doctor(gateway)
        assert found["severity"] == "ok"
        assert "answers 501 to OPTIONS" in found["says"]
        assert application.posted == []
        send(gateway, "known", "tickets@app.test")
        wait_until(partial(has_delivered, gateway, 1), "it is delivered")
        (one,) = application.posted
        assert one.fields["Authorization"] == f"Bearer {token.read_text().strip()}"
        assert "gateway.test" in str(cast(ssl.SSLSocket, one.connection).getpeercert())
        gateway.stop()
        gateway.file.write_text(gateway.file.read_text().replace(f'certificate = "{ours}"', ""))
        gateway.start()
        send(gateway, "unknown", "tickets@app.test")
        wait_until(lambda: bool(gateway.events("deferred")), "it waits")
        assert len(application.posted) == 1
        (found,) = doctor(gateway)
        assert (found["severity"], "certificate that we show" in found["fix"]) == ("fail", True)
    kept = [path.read_bytes() for path in gateway.directory.rglob("*") if path.is_file()]
    assert not [one for one in kept if b"nobody-else-knows" in one]


def test_the_doctor_says_why_an_application_gets_no_mail(
    application: Application, gateway: Gateway, trust: Trust, peer: WebPeer, base: Path
) -> None:
    (found,) = doctor(gateway)
    assert found["severity"] == "ok"
    assert "verified, and answers 501 to OPTIONS" in found["says"]
    Trust.new(base / "other").authority.write_certificate(trust.ca)
    (found,) = doctor(gateway)
    assert (found["severity"], found["fix"].startswith("see ca of the route")) == ("fail", True)
    peer.close()
    (found,) = doctor(gateway)
    assert (found["severity"], "cannot connect" in found["says"]) == ("fail", True)
    assert application.posted == []


def test_a_certificate_that_is_not_trusted_gets_no_mail(
    application: Application, gateway: Gateway, trust: Trust, base: Path
) -> None:
    Trust.new(base / "other").authority.write_certificate(trust.ca)
    gateway.stop()
    gateway.start()
    send(gateway, "secret", "tickets@app.test")
    wait_until(lambda: bool(gateway.events("deferred")), "it waits")
    assert application.posted == []
    assert "does not lead to a known authority" in str(gateway.events("deferred")[0])
