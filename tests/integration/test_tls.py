"""TLS and AUTH towards real clients: the client of OpenSSL, swaks, and Python's."""

from __future__ import annotations

import smtplib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clients import s_client, swaks
from configurations import configuration
from parts import Gateway, folder, free_port, is_accepted, wait_until
from secured import HOSTNAME, PASSWORD, USER, Trust, listener

from tests.unit.certificates import authority, issue

pytestmark = pytest.mark.needs("openssl", "swaks")

ROUTES = """
[routes.box]
transport = "maildir"
path = "mail/{local_part}"
"""

MECHANISMS = 'auth_mechanisms = ["scram-sha-256-plus", "scram-sha-256", "plain", "login", "cram-md5", "external"]'


@dataclass
class Site:
    """One gateway with many doors, and what its clients need."""

    gateway: Gateway
    trust: Trust
    other: Trust
    clear: int
    starttls: int
    implicit: int
    asking: int
    requiring: int

    def received(self, user: str) -> str:
        """The newest Received field of the one mail of this user, once it is there."""
        box = self.gateway.directory / "mail" / user / "new"
        wait_until(lambda: len(list(box.glob("*"))) == 1, f"one mail for {user}")
        return next(box.glob("*")).read_text().partition("\n\n")[0]

    @property
    def pairs(self) -> Path:
        """The folder of the gateway's certificates."""
        return self.trust.directory / "pairs"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with folder("tls") as base:
        trust, other = Trust.new(base / "trust"), Trust.new(base / "other")
        (trust.directory / "pairs").mkdir()
        for name in (HOSTNAME, "mx.other.test"):
            issue(trust.authority, name, "127.0.0.1").write(trust.directory / "pairs" / f"{name}.pem")
        trust.issue("client.test", "robot@client.test", file="client.pem")
        known = issue(None, "known.test")
        known.write(trust.directory / "known.pem")
        clear, starttls, implicit, asking, requiring = ports = [free_port() for _ in range(5)]
        ask = 'tls = "implicit"\nclient_certificates = "%s"'
        text = configuration(
            clear,
            ROUTES,
            domains={"box.test": "box"},
            listener='role = "hybrid"\nauth = "users"',
            more=f"""
[routing]
default = "box"

[tls]
certificate = "{trust.directory}/pairs"
client_ca = "{trust.ca}"
client_fingerprints = {{ known = "{known.fingerprint}" }}
"""
            + trust.users()
            + listener("starttls", starttls, 'tls = "required"', 'auth = "users"', MECHANISMS)
            + listener("implicit", implicit, 'tls = "implicit"', 'auth = "users"', MECHANISMS)
            + listener("asking", asking, ask % "request", 'auth = "users"', MECHANISMS)
            + listener("requiring", requiring, ask % "require", 'auth = "users"', MECHANISMS),
        )
        with Gateway(base / "gateway", text, [clear, starttls]) as gateway:
            yield Site(gateway, trust, other, *ports)


# -- versions and certificates, as OpenSSL sees them


@pytest.mark.parametrize(("option", "told"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
@pytest.mark.parametrize("starttls", [False, True])
def test_tls_of_today_is_spoken(site: Site, option: str, told: str, starttls: bool) -> None:
    how = ("-starttls", "smtp") if starttls else ()
    port = site.starttls if starttls else site.implicit
    said = s_client(
        port, option, "-CAfile", str(site.trust.ca), "-verify_hostname", HOSTNAME, *how, said="NOOP\r\nQUIT\r\n"
    )
    assert f"Protocol  : {told}" in said or f"New, {told}" in said
    assert "Verify return code: 0 (ok)" in said
    assert "221 2.0.0 Bye" in said


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_tls_of_yesterday_is_not(site: Site, option: str) -> None:
    said = s_client(site.implicit, option, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert "alert protocol version" in said
    assert "221" not in said


@pytest.mark.parametrize("name", [HOSTNAME, "mx.other.test"])
def test_the_certificate_is_that_of_the_name_that_is_asked_for(site: Site, name: str) -> None:
    said = s_client(site.implicit, "-servername", name, "-CAfile", str(site.trust.ca), "-verify_hostname", name)
    assert f"subject=CN = {name}" in said
    assert "Verify return code: 0 (ok)" in said


@pytest.mark.parametrize("options", [("-noservername",), ("-servername", "nobody.test")])
def test_who_asks_for_no_name_of_ours_gets_the_certificate_of_our_hostname(site: Site, options: tuple[str]) -> None:
    assert f"subject=CN = {HOSTNAME}" in s_client(site.implicit, *options)


def test_a_certificate_that_is_replaced_is_shown_to_the_next_connection(site: Site) -> None:
    new = issue(site.other.authority, "renewed.test", "127.0.0.1")
    asked = ("-servername", "renewed.test")
    with site.trust.client(site.implicit, implicit=True) as before:
        place = new.write(site.pairs / "renewed.pem")
        wait_until(lambda: "subject=CN = renewed.test" in s_client(site.implicit, *asked), "the new one is shown")
        issue(site.trust.authority, "renewed.test", subject="later").write(place)
        wait_until(lambda: "subject=CN = later" in s_client(site.implicit, *asked), "the one after it is shown")
        place.write_text("this is no certificate")
        time.sleep(1.1)  # files are looked at once a second
        assert "subject=CN = later" in s_client(site.implicit, *asked)
        place.unlink()
        wait_until(lambda: f"subject=CN = {HOSTNAME}" in s_client(site.implicit, *asked), "ours is shown again")
        assert before.noop()[0] == 250


# -- client certificates


def with_certificate(site: Site, pair: Path) -> ssl.SSLContext:
    context = site.trust.context()
    context.load_cert_chain(pair)
    return context


def rcpt_far_away(port: int, context: ssl.SSLContext) -> tuple[int, int]:
    """The codes of MAIL, and of RCPT for a domain that is not ours."""
    with smtplib.SMTP_SSL("127.0.0.1", port, "client.test", timeout=60, context=context) as client:
        client.ehlo()
        mail, _ = client.mail("ann@client.test")
        return mail, client.rcpt("bob@elsewhere.test")[0]


def stranger(site: Site) -> Path:
    """A certificate like that of our client, by an authority of the same name."""
    return issue(authority(), "client.test").write(site.trust.directory / "stranger.pem")


def test_a_required_client_certificate(site: Site) -> None:
    # Who is known by a fingerprint has no authority: the handshake lets everyone in where there is such a list.
    assert rcpt_far_away(site.requiring, site.trust.context())[0] == 530
    assert rcpt_far_away(site.requiring, with_certificate(site, stranger(site)))[0] == 530
    said = s_client(site.requiring, "-cert", str(site.trust.directory / "client.pem"))
    assert "220 mailgate.test" in said
    assert "221 2.0.0 Bye" in said


def test_without_a_list_of_fingerprints_the_handshake_fails_for_who_does_not_prove_who_it_is(
    site: Site, base: Path
) -> None:
    ready, port = free_port(), free_port()
    text = configuration(
        ready,
        ROUTES,
        domains={"box.test": "box"},
        more=f'\n[tls]\ncertificate = "{site.pairs}"\nclient_ca = "{site.trust.ca}"\n'
        + listener("requiring", port, 'tls = "implicit"', 'client_certificates = "require"', role="inbound"),
    )
    with Gateway(base / "gateway", text, [ready]):
        for options in ((), ("-cert", str(stranger(site)))):
            said = s_client(port, *options)
            assert "220 mailgate.test" not in said
            assert "alert certificate required" in said or "alert unknown ca" in said
        assert "220 mailgate.test" in s_client(port, "-cert", str(site.trust.directory / "client.pem"))


@pytest.mark.parametrize("door", ["asking", "requiring"])
def test_a_certificate_of_a_known_fingerprint_may_relay(site: Site, door: str) -> None:
    known = with_certificate(site, site.trust.directory / "known.pem")
    assert rcpt_far_away(getattr(site, door), known) == (250, 250)


def test_a_verified_certificate_logs_in_by_external(site: Site) -> None:
    pair = with_certificate(site, site.trust.directory / "client.pem")
    assert rcpt_far_away(site.asking, pair)[0] == 530
    with smtplib.SMTP_SSL("127.0.0.1", site.asking, "client.test", timeout=60, context=pair) as client:
        client.ehlo()
        assert "EXTERNAL" in client.esmtp_features["auth"].split()
        assert client.docmd("AUTH", "EXTERNAL cm9ib3RAY2xpZW50LnRlc3Q=")[0] == 235  # robot@client.test
        client.sendmail("robot@client.test", "external@elsewhere.test", "Subject: x\r\n\r\nx\r\n")
    assert "with ESMTPSA" in site.received("external")


def test_a_certificate_that_is_not_needed_and_of_nobody_we_know_is_as_good_as_none(site: Site) -> None:
    context = with_certificate(site, stranger(site))
    assert rcpt_far_away(site.asking, context)[0] == 530
    with smtplib.SMTP_SSL("127.0.0.1", site.asking, timeout=60, context=context) as client:
        client.ehlo("client.test")
        assert "EXTERNAL" not in client.esmtp_features["auth"].split()


# -- logging in


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("door", ["starttls", "implicit"])
def test_swaks_logs_in(site: Site, door: str, mechanism: str) -> None:
    user = f"swaks-{door}-{mechanism.lower()}"
    done = swaks(
        getattr(site, door),
        *("--tls" if door == "starttls" else "--tls-on-connect", "--tls-verify", "--tls-ca-path", str(site.trust.ca)),
        *("--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD),
        *("--from", "ann@client.test", "--to", f"{user}@elsewhere.test"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    received = site.received(user)
    assert "(using TLSv1.3 with cipher " in received
    assert f"by {HOSTNAME} (mailgate) with ESMTPSA" in received
    assert PASSWORD not in received


@pytest.mark.parametrize("implicit", [False, True])
def test_python_logs_in(site: Site, implicit: bool) -> None:
    user = f"python-{implicit}".lower()
    with site.trust.client(site.implicit if implicit else site.starttls, implicit=implicit) as client:
        assert client.login(USER, PASSWORD)[0] == 235
        assert client.login(USER, PASSWORD)[0] == 503
        client.sendmail("ann@client.test", f"{user}@elsewhere.test", "Subject: x\r\n\r\nx\r\n")
    assert "with ESMTPSA" in site.received(user)


def test_without_tls_no_mechanism_that_shows_the_password_is_offered(site: Site) -> None:
    with smtplib.SMTP("127.0.0.1", site.clear, "client.test", timeout=60) as client:
        client.ehlo()
        assert set(client.esmtp_features["auth"].split()) == {"SCRAM-SHA-256"}
        assert client.docmd("AUTH", "PLAIN AGEAYg==")[0] == 538
    with smtplib.SMTP("127.0.0.1", site.starttls, "client.test", timeout=60) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.mail("ann@client.test")[0] == 530
        assert client.docmd("AUTH", "PLAIN AGEAYg==")[0] in (530, 538)


def test_who_has_not_logged_in_sends_nothing(site: Site) -> None:
    with site.trust.client(site.starttls) as client:
        client.ehlo()
        code, text = client.mail("ann@client.test")
        assert (code, text[:5]) == (530, b"5.7.0")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_wrong_password_is_refused_and_told_of(site: Site, mechanism: str) -> None:
    wrong = f"wrong-{mechanism.lower()}"
    done = swaks(
        site.implicit,
        *("--tls-on-connect", "--local-interface", f"127.0.1.{len(mechanism)}"),
        *("--auth", mechanism, "--auth-user", USER, "--auth-password", wrong),
        *("--from", "ann@client.test", "--to", "bob@elsewhere.test"),
    )
    assert done.returncode == 28  # swaks: AUTH failed
    assert "535 5.7.8" in done.stdout

    def told() -> bool:
        why = site.gateway.command("why", f"127.0.1.{len(mechanism)}", check=False).stdout
        return "refused at auth" in why and f"{mechanism} as {USER}" in why

    wait_until(told, "the history tells of it")
    state = site.gateway.directory / "state"
    kept = b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())
    for secret in (wrong, PASSWORD):
        assert secret.encode() not in kept + site.gateway.log.read_bytes()


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_check_of_health_is_no_refusal(site: Site, is_reset: bool) -> None:
    ours = f"127.0.2.{1 + is_reset}"
    with socket.create_connection(("127.0.0.1", site.implicit), 60, (ours, 0)) as probe:
        if is_reset:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: is_accepted(probe), "it has been accepted")

    def told() -> list[tuple[str, str]]:
        return [(event["event"], event.get("cause", "")) for event in site.gateway.logged(ours)]

    wait_until(lambda: bool(told()), "the end of the session is told")
    assert told() == [("session_closed", "lost")]
