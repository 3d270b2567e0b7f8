"""OpenDKIM as a milter of ours: it signs and verifies, is killed and stopped while mail comes, and nothing slips by."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import dkim  # type: ignore[import-untyped]  # it has none
import pytest
from milter_parts import DOMAIN, OpenDkim, show
from parts import folder, free_port

pytestmark = pytest.mark.needs("opendkim", "opendkim-genkey")

MAIL = (
    "From: Ann <ann@client.example>\r\n"
    "To: Bob <bob@example.org>,\r\n"
    "\tEve   <eve@example.org>\r\n"
    "Subject:  two  spaces\r\n"
    "Date: Thu, 01 Jan 2026 12:00:00 +0000\r\n"
    "Message-ID: <1@client.example>\r\n"
    "\r\n"
    "Hello  Bob.\r\n"
    ".\r\n"
    "\r\n"
    "\r\n"
)


@pytest.fixture(scope="module", params=["relaxed/simple", "simple/simple"])
def milter(request: pytest.FixtureRequest) -> Iterator[OpenDkim]:
    with folder("milter") as directory, OpenDkim(directory / "opendkim", request.param) as part:
        yield part


def test_it_signs_what_is_ours_and_verifies_what_it_signed(milter: OpenDkim) -> None:
    (signed,) = show([milter.server], [MAIL], user="ann")
    assert signed.word == "Continue"
    top = signed.message.partition(":")[0]
    assert top == "DKIM-Signature"
    assert signed.message.endswith(MAIL)
    record = (milter.directory / "public").read_bytes().partition(b" ")[2]
    assert dkim.verify(signed.message.encode(), dnsfunc=lambda *_values, **_named: record)  # another implementation
    (again,) = show([milter.server], [signed.message])
    assert "dkim=pass" in again.message.partition("\r\n\r\n")[0]
    assert again.message.endswith(signed.message)


def test_macros_say_that_it_is_ours(milter: OpenDkim) -> None:
    (signed,) = show([milter.server], [MAIL], macros={"{daemon_name}": "ORIGINATING"})
    assert f"d={DOMAIN}" in signed.message
    (as_edited,) = show([milter.server], [MAIL], macros={"daemon_name": "ORIGINATING"}, sees="edited")
    assert f"d={DOMAIN}" in as_edited.message
    (not_ours,) = show([milter.server], [MAIL])
    assert "DKIM-Signature" not in not_ours.message


def test_what_was_changed_is_refused_in_its_words(milter: OpenDkim) -> None:
    (signed,) = show([milter.server], [MAIL], user="ann")
    refused, edited = (
        show([milter.server], [signed.message.replace("Hello", "Hullo")], sees=sees)[0]
        for sees in ("received", "edited")
    )
    assert refused.word == "Reject"
    assert "code=550" in refused.reason
    assert edited.word == "PermanentFailure"


def test_many_messages_of_one_session(milter: OpenDkim) -> None:
    results = show([milter.server], [MAIL] * 20, user="ann")
    assert [one.word for one in results] == ["Continue"] * 20
    assert all("DKIM-Signature" in one.message for one in results)


def test_refusing_one_message_leaves_the_next_one_alone(milter: OpenDkim) -> None:
    (signed,) = show([milter.server], [MAIL], user="ann")
    results = show([milter.server], [signed.message.replace("Hello", "Hullo"), signed.message] * 3)
    assert [one.word for one in results] == ["Reject", "Continue"] * 3


@pytest.mark.parametrize("protocol", [2, 4, 6])
def test_versions_of_the_protocol(milter: OpenDkim, protocol: int) -> None:
    (one,) = show([milter.server], [MAIL], user="ann", protocol=protocol)
    assert one.word == "Continue"
    assert "DKIM-Signature" in one.message


def test_a_large_body_in_pieces(milter: OpenDkim) -> None:
    large = MAIL + "A line of some length, many times.\r\n" * 30_000
    (signed,) = show([milter.server], [large], user="ann")
    (again,) = show([milter.server], [signed.message])
    assert "dkim=pass" in again.message.partition("\r\n\r\n")[0]


def test_the_next_server_is_asked_where_the_first_is_gone(milter: OpenDkim) -> None:
    (one,) = show([f"127.0.0.1:{free_port()}", milter.server], [MAIL], user="ann")
    assert "DKIM-Signature" in one.message


def test_killed_stopped_and_back() -> None:
    with folder("milter") as directory:
        part = OpenDkim(directory / "opendkim")
        with part:
            assert show([part.server], [MAIL])[0].word == "Continue"
            assert part.process is not None
            part.process.send_signal(signal.SIGSTOP)
            (hung,) = show([part.server], [MAIL], connect_timeout="500ms", command_timeout="1s")
            part.process.send_signal(signal.SIGCONT)
            assert hung.word == "ScannerError"
            assert "no answer within" in hung.reason
            assert show([part.server], [MAIL])[0].word == "Continue"
            part.stop(signal.SIGKILL)
            (gone,) = show([part.server], [MAIL])
            assert gone.word == "ScannerError"
            part.start()
            assert show([part.server], [MAIL])[0].word == "Continue"
