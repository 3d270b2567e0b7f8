"""What a gateway writes itself, signed by the keys of a filter: reports and notices, and what becomes of a reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent

from mailgate.events import ConfigRefused, LimitNear
from mailgate.filters.dkim_sign import Options
from mailgate.filters.own_signature import OwnSignature
from mailgate.mailauth import verify_dkim
from mailgate.pipeline.registry import FilterMaker
from mailgate.plugins import builtin
from mailgate.testing import MemoryResolver, services, wait_for
from tests.memory.configured import configuration
from tests.memory.gateway import MemoryGateway, World
from tests.memory.hop import NextHop
from tests.unit.dkim_parts import pem, rsa

FILTERS = '["headers", "signer"]'
SIGNER = """
[filters.signer]
kind = "dkim-sign"

[filters.signer.domains."example.org"]
keys = [{ selector = "s", path = "key.pem" }]
"""
PUBLISHED = MemoryResolver({"s._domainkey.example.org": {"TXT": [rsa().record]}})


def config(name: str = "signer", more: str = SIGNER) -> str:
    return configuration(more, filters=FILTERS).replace("[gateway]\n", f'[gateway]\nsign_with = "{name}"\n', 1)


class Site:
    def __init__(self, world: World, folder: Path, text: str) -> None:
        folder.mkdir()
        (folder / "key.pem").write_bytes(pem())
        self.world = world
        self.inside = NextHop(world)
        self.gateway = MemoryGateway(world, folder, text).start()

    def bounce(self) -> None:
        """Mail of somebody that cannot be delivered."""
        self.inside.script["RCPT nobody@example.org"] = "550 5.1.1 no such user"
        self.gateway.connect("mx").mail("bob@example.org", "nobody@example.org")
        self.world.run()

    def results(self) -> list[list[str]]:
        """Of each mail that came."""
        now = self.world.reactor.seconds()
        return [
            [one.result for one in wait_for(verify_dkim(PUBLISHED, it.octets, now=now))] for it in self.inside.mails
        ]


@pytest.fixture(autouse=True)
def _kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        builtin, "dkim_sign", FilterMaker("dkim-sign", "mailgate.filters.dkim_sign", "x"), raising=False
    )


def test_reports_and_notices_are_signed(world: World, tmp_path: Path) -> None:
    site = Site(world, tmp_path / "gw", config())
    site.bounce()
    near = {"filter": "quota", "rule": "r", "subject": "bob", "count": 1, "limit": 1, "window": 60.0, "until": 60.0}
    site.gateway.events.publish(
        LimitNear(at=0.0, is_reached=True, session="", queue_id="", notify=("bob@example.org",), **near)  # type: ignore[arg-type]  # texts and numbers
    )
    world.run()
    assert [it.sender for it in site.inside.mails] == ["", ""]
    assert site.results() == [["pass"], ["pass"]]


def test_a_reload_begins_and_ends_it(world: World, tmp_path: Path) -> None:
    plain = config().replace('sign_with = "signer"\n', "")
    site = Site(world, tmp_path / "gw", plain)
    site.bounce()
    for text in (config(), plain):
        site.gateway.file.write_text(text)
        site.gateway.reload()
        world.run()
        site.bounce()
    assert site.results() == [[], ["pass"], []]


def test_where_the_key_cannot_be_had_the_report_goes_all_the_same(world: World, tmp_path: Path) -> None:
    until = SIGNER.replace('"key.pem"', '"key.pem", until = 2027-01-16')
    site = Site(world, tmp_path / "gw", config(more=until))
    site.bounce()
    world.run(2 * 86400.0)
    with capturedLogs() as logs:
        site.bounce()
    assert [len(one) for one in site.results()] == [1, 0]
    assert any(
        "goes without a signature: example.org has no key that signs now" in str(formatEvent(one)) for one in logs
    )


@pytest.mark.parametrize(
    ("name", "more", "problem"),
    [
        ("nobody", SIGNER, 'gateway.sign_with: there is no filter "nobody" of kind dkim-sign'),
        ("headers", SIGNER, 'gateway.sign_with: there is no filter "headers" of kind dkim-sign'),
        (
            "signer",
            SIGNER.replace('"example.org"', '"example.net"'),
            "gateway.sign_with: signer: it has no keys of gw.example.org, nor of a domain above it",
        ),
    ],
)
def test_a_filter_that_cannot_sign_for_us(world: World, tmp_path: Path, name: str, more: str, problem: str) -> None:
    site = Site(world, tmp_path / "gw", config())
    site.gateway.file.write_text(config(name, more))
    site.gateway.reload()
    world.run()
    (refused,) = site.gateway.of(ConfigRefused)
    assert refused.errors[0].endswith(problem)


def test_what_is_signed_already_is_not_signed_again(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem())
    options = {"domains": {"example.org": {"keys": [{"selector": "s", "path": str(tmp_path / "key.pem")}]}}}
    sign = OwnSignature(Options.model_validate(options), services(hostname="mx.example.org"))
    once = sign(b"From: <a@example.org>\r\nSubject: x\r\n\r\nhello\r\n")
    assert once.startswith(b"DKIM-Signature: ")
    assert sign(once) == once
    other = b"From: <a@example.net>\r\n\r\nhello\r\n"
    assert sign(other) == other
