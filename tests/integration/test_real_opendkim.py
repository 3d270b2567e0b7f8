"""OpenDKIM verifies what the filter dkim-sign has signed: with keys of its own tools, and with those of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from milter_parts import DOMAIN, SELECTOR, OpenDkim, show
from parts import folder
from twisted.internet.task import Clock

from mailgate.cli.main import main
from mailgate.envelope import Identity
from mailgate.filters.dkim_sign import DkimSign, Options, build
from mailgate.message import AddHeader, Content, Edit, Message, Splice, apply_edits, edited_body
from mailgate.testing import services, session, transaction, wait_for

pytestmark = pytest.mark.needs("opendkim", "opendkim-genkey")

PAST = 1_700_000_000.0
MAIL = (
    b"From: Ann <ann@client.example>\r\n"
    b"To: Bob <bob@example.org>,\r\n"
    b"\tEve   <eve@example.org>\r\n"
    b"Subject:  two  spaces\r\n"
    b"Date: Thu, 01 Jan 2026 12:00:00 +0000\r\n"
    b"Message-ID: <1@client.example>\r\n"
    b"\r\n"
    b"Hello  Bob. \r\n"
    b"\t\r\n"
    b".\r\n"
    b"\r\n"
    b"\r\n"
)


class Publishing(OpenDkim):
    """It knows the key of `mailgate dkim-key`, too: selector ours."""

    def prepare(self) -> Sequence[str]:
        arguments = list(super().prepare())
        made = CliRunner().invoke(main, ["dkim-key", DOMAIN, "ours", "--path", str(self.directory / "ours.pem")])
        record = "".join(made.stdout.split('"')[1::2])
        with (self.directory / "public").open("a") as file:
            file.write(f"ours._domainkey.{DOMAIN} {record}\n")
        return arguments


@pytest.fixture(scope="module")
def verifier() -> Iterator[OpenDkim]:
    with folder("opendkim") as directory, Publishing(directory / "opendkim") as part:
        yield part


def signed(
    keys: Sequence[tuple[str, Path]], edits: Sequence[Edit] = (), octets: bytes = MAIL, **options: object
) -> str:
    """The message as it leaves us."""
    named = [{"selector": selector, "path": str(path)} for selector, path in keys]
    clock = Clock()
    clock.advance(PAST)
    built = build(Options.model_validate({"domains": {DOMAIN: {"keys": named}}} | options), services(clock=clock))
    assert isinstance(built, DkimSign)
    mail = transaction(f"ann@{DOMAIN}", edits=list(edits))
    client = session(identity=Identity("ann", "PLAIN"))
    content = Content(octets)
    every = [*edits, *wait_for(built.modify(client, mail, Message(content)))]
    return (apply_edits(content.header, every) + b"\r\n" + b"".join(edited_body(content, every))).decode()


def passes(verifier: OpenDkim, message: str) -> bool:
    (shown,) = show([verifier.server], [message])
    return shown.word == "Continue" and "dkim=pass" in shown.message.partition("\r\n\r\n")[0]


@pytest.mark.parametrize("canons", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
def test_keys_of_both_makers(verifier: OpenDkim, canons: str) -> None:
    theirs = (SELECTOR, verifier.directory / f"{SELECTOR}.private")
    ours = ("ours", verifier.directory / "ours.pem")
    messages = [signed([key], canonicalization=canons) for key in (theirs, ours)]
    shown = show([verifier.server], [*messages, *(one.replace("Hello", "Hullo") for one in messages)])
    assert [one.word for one in shown] == ["Continue", "Continue", "Reject", "Reject"]
    for selector, one in zip((SELECTOR, "ours"), shown, strict=False):
        assert f"s={selector};" in one.message
        assert "dkim=pass" in one.message.partition("\r\n\r\n")[0]


def test_beside_an_ed25519_key(verifier: OpenDkim) -> None:
    seed = verifier.directory / "seed"
    seed.write_bytes(bytes(range(32)))
    message = signed([("ours", verifier.directory / "ours.pem"), ("ed", seed)])
    assert message.count("DKIM-Signature:") == 2
    assert "dkim=pass" in show([verifier.server], [message], sees="received")[0].message


def test_what_filters_have_changed(verifier: OpenDkim) -> None:
    end = len(MAIL)
    edits: list[Edit] = [
        AddHeader("List-Unsubscribe", "<https://news.client.example/u/1>"),
        AddHeader("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        Splice(end, end, b"-- \r\nExample Ltd\r\n"),
    ]
    message = signed([("ours", verifier.directory / "ours.pem")], edits)
    shown = show([verifier.server], [message, message.replace("/u/1", "/u/2")])
    assert [one.word for one in shown] == ["Continue", "Reject"]


def test_fields_that_are_added_on_the_way(verifier: OpenDkim) -> None:
    message = signed([("ours", verifier.directory / "ours.pem")])
    added = [f"Received: from a by b\r\nX-Spam: no\r\n{message}", f"Subject: another\r\n{message}"]
    assert [one.word for one in show([verifier.server], added)] == ["Continue", "Reject"]


def test_a_large_body(verifier: OpenDkim) -> None:
    octets = MAIL + b"A line of some  length, many times. \r\n" * 30_000
    assert passes(verifier, signed([("ours", verifier.directory / "ours.pem")], octets=octets))
