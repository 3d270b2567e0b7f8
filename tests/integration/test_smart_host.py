"""Mail that goes out through a provider: TLS from the first octet, a login by XOAUTH2, tokens that end and are revoked,
and another way where the provider is away."""

from __future__ import annotations

import json
import smtplib
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from configurations import configuration
from parts import Gateway, free_port, free_ports, wait_until
from secured import HOSTNAME, USER, Trust
from web_peer import QuietHandler

BOX = """
[routes.box]
transport = "maildir"
path = "mail/{domain}/{local_part}"
"""


class Issuer(ThreadingHTTPServer):
    """Gives tokens, one after another, and says whether they are good; `asked` are the forms of who wanted one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Desk)
        self.asked: list[dict[str, list[str]]] = []
        self.good: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def give(self) -> dict[str, object]:
        token = f"token-{len(self.asked)}"
        self.good.add(token)
        return {"access_token": token, "token_type": "Bearer", "expires_in": 3600, "refresh_token": f"R{token}"}


class _Desk(QuietHandler):
    server: Issuer

    def post(self) -> None:
        form = parse_qs(self.heard().decode())
        if self.path == "/token":
            self.server.asked.append(form)
            answer = self.server.give()
        else:
            answer = {"active": form["token"][0] in self.server.good, "email": USER}
        self.say(200, json.dumps(answer).encode())


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def provider(base: Path, port: int, trust: Trust, issuer: Issuer) -> Gateway:
    """A gateway that takes mail from those who log in with a token."""
    listener = f"""
[[listeners]]
name = "submissions"
role = "outbound"
endpoints = ["tcp:{port}:interface=127.0.0.1"]
pipeline = "inbound"
tls = "implicit"
auth = "tokens"

[auth.tokens]
kind = "oauth"
introspection = "{issuer.url}/introspect"

[tls]
certificate = "{trust.server()}"

[routing]
default = "box"
"""
    inbound = free_port()
    return Gateway(base / "provider", configuration(inbound, BOX, domains={}, more=listener), [inbound])


def ours(base: Path, port: int, smart: int, trust: Trust, issuer: Issuer, more: str = "") -> Gateway:
    """A gateway whose mail goes out through the provider."""
    folder = base / "ours"
    folder.mkdir()
    for name in ("secret", "refresh"):
        (folder / name).write_text(f"{name}-0\n")
        (folder / name).chmod(0o600)
    routes = f"""
[routes.out]
transport = "smtp"
hosts = ["127.0.0.1:{smart}"]
tls = "implicit"
tls_ca = "{trust.ca}"
tls_name = "{HOSTNAME}"
idle_timeout = "0s"
retry = {{ first = "1s", longest = "1s" }}
{more}

[routes.out.auth]
username = "{USER}"
oauth = {{ token_url = "{issuer.url}/token", client_id = "gw", client_secret_file = "{folder}/secret", \
refresh_token_file = "{folder}/refresh", scope = "smtp.send" }}
"""
    inbound = free_port()
    return Gateway(folder, configuration(inbound, routes, domains={}, outbound=port), [inbound, port])


def send(port: int, to: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.sendmail("ann@client.test", [to], "Subject: x\r\n\r\nhello\r\n")


def arrived(gateway: Gateway, to: str) -> bool:
    local_part, _, domain = to.partition("@")
    return any((gateway.directory / "mail" / domain / local_part).glob("new/*"))


def test_mail_goes_out_with_tokens_that_are_got_anew(base: Path, issuer: Issuer) -> None:
    trust = Trust.new(base / "trust")
    smart, port = free_ports(2)
    with provider(base, smart, trust, issuer) as there, ours(base, port, smart, trust, issuer) as here:
        send(port, "one@far.test")
        wait_until(lambda: arrived(there, "one@far.test"), "the first has arrived")
        send(port, "two@far.test")
        wait_until(lambda: arrived(there, "two@far.test"), "the second has arrived")
        assert len(issuer.asked) == 1
        assert issuer.asked[0] == {
            "grant_type": ["refresh_token"],
            "refresh_token": ["refresh-0"],
            "scope": ["smtp.send"],
            "client_id": ["gw"],
            "client_secret": ["secret-0"],
        }
        assert (here.directory / "refresh").read_text() == "Rtoken-1\n"
        issuer.good.clear()  # revoked before its time
        send(port, "three@far.test")
        wait_until(lambda: arrived(there, "three@far.test"), "the third has arrived")
        assert [one["refresh_token"] for one in issuer.asked] == [["refresh-0"], ["Rtoken-1"]]
        told = here.command("why", "three@far.test").stdout
        assert "delivered" in told
        printed = (here.directory / "mailgate.out").read_text() + (
            here.directory / "state" / "mailgate.log"
        ).read_text()
        for secret in ("token-1", "token-2", "secret-0", "refresh-0"):
            assert secret not in printed + told


def test_another_way_where_the_provider_is_away(base: Path, issuer: Issuer) -> None:
    trust = Trust.new(base / "trust")
    smart, port = free_ports(2)
    gateway = ours(base, port, smart, trust, issuer, 'fallback = "other"\nfallback_after = "0s"')
    with gateway.file.open("a") as file:
        file.write(BOX.replace("routes.box", "routes.other"))
    with gateway as here:
        send(port, "four@far.test")
        wait_until(lambda: arrived(here, "four@far.test"), "it has gone the other way")
        told = here.command("why", "four@far.test").stdout
        assert "deferred for four@far.test by route out" in told
        assert "delivered to four@far.test by route other" in told
