"""Inline delivery to a next hop with TLS, and with a login: what its route asks for is kept while the client waits, or
the client is told to come again, and nothing goes in clear text."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from twisted.internet.task import Clock

from mailgate.dns.resolver import Resolver
from mailgate.events import Delivered, Refused
from mailgate.tls.dane import Tlsa
from mailgate.tls.store import CertificateStore
from tests.memory.configured import HOST, ZONE, configuration
from tests.memory.gateway import MemoryGateway, World, _Resolver
from tests.memory.hop import NextHop
from tests.memory.test_inline import Site
from tests.memory.wire import Wire
from tests.unit.certificates import Issued, authority, issue

NAME = "mx.inside.test"
ROOT, OTHER_ROOT = authority(), authority("Another authority")
RIGHT, STRANGER, OTHER_NAME = issue(ROOT, NAME), issue(OTHER_ROOT, NAME), issue(ROOT, "mx.elsewhere.test")
PASSWORD = "correct horse"  # noqa: S105  for tests
AUTH = 'auth = { username = "gw", password_file = "password", mechanisms = ["plain"] }\n'


class SecureHop(NextHop):
    """It offers STARTTLS, and then AUTH. `clear` and `secured` are the words that it has heard without and with TLS."""

    def __init__(self, world: World, folder: Path, shown: Issued) -> None:
        self._creator = CertificateStore(shown.write(folder / "hop.pem"), Clock()).server_creator("none")
        self.clear: list[str] = []
        self.secured: list[str] = []
        self.starttls: str | None = "220 go ahead"
        super().__init__(world, HOST)

    def reply(self, word: str, recipient: str, otherwise: str) -> str | None:
        server = self.open[-1]
        wire = cast(Wire, server.transport)
        is_secure = wire.protocol is not server
        (self.secured if is_secure else self.clear).append(word)
        if word == "EHLO":
            offers = "AUTH PLAIN" if is_secure else "STARTTLS"
            return "250 hop.test" if self.starttls is None else f"250-hop.test\r\n250-PIPELINING\r\n250 {offers}"
        if word == "STAR" and (self.starttls or "").startswith("220"):
            server.say(self.starttls)
            wire.startTLS(self._creator, normal=False)
            return None
        if word == "STAR":
            return self.starttls
        return super().reply(word, recipient, "235 2.7.0 ok" if word == "AUTH" else otherwise)


class SignedGateway(MemoryGateway):
    """DNSSEC vouches for all that it is told."""

    def make_resolver(self) -> Resolver:
        return cast(Resolver, _Resolver(self.zone, secure=True))


class SecureSite(Site):
    """A gateway whose route is to NAME, by these lines, and a next hop that shows this certificate."""

    def __init__(self, world: World, folder: Path, lines: str, shown: Issued = RIGHT, tlsa: Issued = RIGHT) -> None:
        self.world = world
        self.hop = self.secure = SecureHop(world, folder, shown)
        (folder / "gw").mkdir()
        ROOT.write_certificate(folder / "gw" / "ca.pem")
        (folder / "gw" / "password").write_text(PASSWORD)
        (folder / "gw" / "password").chmod(0o600)
        inside = f'transport = "smtp"\nhosts = ["{NAME}"]\nqueue = false\ntls_ca = "ca.pem"\n{lines}'
        text = configuration("\n[dns]\ndnssec = true\n", inside=inside)
        zone = ZONE | {
            (NAME, "A"): [HOST],
            (f"_25._tcp.{NAME}", "TLSA"): [str(Tlsa.of(tlsa.certificate))],
        }
        self.gateway = SignedGateway(world, folder / "gw", text, zone).start()


KEPT = [
    ('tls = "required"', STRANGER, "TLSv1.3 TLS_AES_256_GCM_SHA384"),
    ('tls = "verified"', RIGHT, "verified"),
    ('tls = "verified"\ntls_name = "mx.elsewhere.test"', OTHER_NAME, "verified"),
    (f'tls = "required"\ntls_fingerprints = ["{STRANGER.fingerprint}"]', STRANGER, "verified"),
    ('security = "dane"', RIGHT, "DANE verified"),
    ('tls = "opportunistic"', STRANGER, "TLSv1.3 TLS_AES_256_GCM_SHA384"),
]


@pytest.mark.parametrize(("lines", "shown", "told"), KEPT)
def test_what_the_route_asks_for_is_kept_while_the_client_waits(
    world: World, tmp_path: Path, lines: str, shown: Issued, told: str
) -> None:
    site = SecureSite(world, tmp_path, lines, shown)
    for _ in range(2):
        client = site.client()
        assert site.ask(client, "bob@example.org", "ann@example.org") == ["250 ok", "250 ok"]
        assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert site.secure.clear == ["EHLO", "STAR"]
    assert [one.recipients for one in site.hop.mails] == [("bob@example.org", "ann@example.org")] * 2
    assert all(one.tls.endswith(told) for one in site.gateway.of(Delivered))


BROKEN = [
    ('tls = "required"', RIGHT, None, "does not offer STARTTLS"),
    ('tls = "required"', RIGHT, "454 4.7.0 not now", "454 4.7.0 not now"),
    ('tls = "verified"', STRANGER, "220 go ahead", "the handshake failed"),
    ('tls = "verified"', OTHER_NAME, "220 go ahead", "the handshake failed"),
    ('tls = "verified"', RIGHT, None, "does not offer STARTTLS"),
    (f'tls = "required"\ntls_fingerprints = ["{STRANGER.fingerprint}"]', RIGHT, "220 go ahead", "fingerprint"),
    (f'tls = "required"\ntls_fingerprints = ["{STRANGER.fingerprint}"]', RIGHT, None, "does not offer STARTTLS"),
    ('security = "dane"', STRANGER, "220 go ahead", "TLSA"),
    ('security = "dane"', RIGHT, None, "does not offer STARTTLS"),
    ('security = "dane"', RIGHT, "454 4.7.0 not now", "454 4.7.0 not now"),
]


@pytest.mark.parametrize("mode", ["defer", "queue"])
@pytest.mark.parametrize(("lines", "shown", "starttls", "why"), BROKEN)
def test_what_cannot_be_kept_is_the_clients_to_try_again_and_nothing_goes(
    world: World, tmp_path: Path, lines: str, shown: Issued, starttls: str | None, why: str, mode: str
) -> None:
    site = SecureSite(world, tmp_path, f'{lines}\nwhen_unreachable = "{mode}"', shown)
    site.secure.starttls = starttls
    client = site.client()
    (answer,) = site.ask(client, "bob@example.org")
    if mode == "queue":
        assert answer.startswith("250 2.1.5")
        assert site.content(client)[0].startswith("250 2.0.0 queued as ")
        assert list(site.gateway.queue()) == ["bob@example.org"]
        world.run(7200.0)
    else:
        assert answer.startswith("451 4.")
        assert NAME not in answer
        (refused,) = site.gateway.of(Refused)
        assert (refused.stage, refused.recipient) == ("rcpt", "bob@example.org")
        assert why in refused.reason
    assert set(site.secure.clear) <= {"EHLO", "STAR", "QUIT"}
    assert not {"MAIL", "RCPT", "DATA", "AUTH"} & set(site.secure.secured)
    # It is mended: the next client is served.
    if mode == "defer" and shown is RIGHT and "fingerprint" not in lines:
        site.secure.starttls = "220 go ahead"
        world.run(7200.0)
        client = site.client()
        assert site.ask(client, "bob@example.org") == ["250 ok"]
        assert site.content(client)[0].startswith("250 2.0.0 taken (")


def test_where_tls_is_only_welcome_a_host_that_cannot_is_served_without(world: World, tmp_path: Path) -> None:
    site = SecureSite(world, tmp_path, 'tls = "opportunistic"')
    site.secure.starttls = "454 4.7.0 not now"
    client = site.client()
    assert site.ask(client, "bob@example.org") == ["250 ok"]
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert "MAIL" in site.secure.clear


@pytest.mark.parametrize(
    ("said", "told"), [("235 2.7.0 ok", "250 ok"), ("535 5.7.8 no", "451 "), ("454 4.7.0 later", "451 ")]
)
def test_a_login_at_the_next_hop(world: World, tmp_path: Path, said: str, told: str) -> None:
    site = SecureSite(world, tmp_path, f'tls = "verified"\n{AUTH}')
    site.hop.script["AUTH"] = said
    client = site.client()
    (answer,) = site.ask(client, "bob@example.org")
    assert answer.startswith(told)
    assert site.secure.clear == ["EHLO", "STAR"]
    assert "AUTH" in site.secure.secured
    if told == "250 ok":
        assert site.content(client)[0].startswith("250 2.0.0 taken (")
        return
    assert "MAIL" not in site.secure.secured
    (refused,) = site.gateway.of(Refused)
    assert f"AUTH PLAIN refused: {said[:9]}" in refused.reason
    assert PASSWORD not in refused.reason + answer


@pytest.mark.parametrize("tls", ["required", "opportunistic"])
def test_no_password_in_clear_text(world: World, tmp_path: Path, tls: str) -> None:
    site = SecureSite(world, tmp_path, f'tls = "{tls}"\n{AUTH}')
    site.secure.starttls = None
    site.hop.script["EHLO"] = "250-hop.test\r\n250 AUTH PLAIN"
    client = site.client()
    assert site.ask(client, "bob@example.org")[0].startswith("451 4.")
    assert not {"AUTH", "MAIL"} & set(site.secure.clear)


def test_a_connection_under_tls_that_was_dead_is_replaced_by_one_under_tls(world: World, tmp_path: Path) -> None:
    site = SecureSite(world, tmp_path, 'tls = "verified"\nidle_timeout = "10m"')
    client = site.client()
    site.ask(client, "bob@example.org")
    site.content(client)
    world.run(2.0)
    site.hop.open[-1].dataReceived = lambda data: None  # type: ignore[method-assign]
    client = site.client()
    assert site.ask(client, "ann@example.org") == []
    world.run(6.0)
    assert client.received.endswith(b"250 ok\r\n")
    assert site.content(client)[0].startswith("250 2.0.0 taken (")
    assert site.secure.clear == ["EHLO", "STAR"] * 2
