"""Commands and their order: what a session answers to each, and what it has understood."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from zope.interface.verify import verifyObject

from mailgate.address import NULL_PATH, Address
from mailgate.config.schema import Config
from mailgate.events import Refused, SessionClosed
from mailgate.interfaces import IIntake, IPipeline, IRouting
from mailgate.reply import Reply
from mailgate.smtp.postmaster import postmaster_domain
from mailgate.verdict import Reject
from tests.unit.smtp_stand import CONTENT, ENVELOPE, Script, Stand

MakeStand = Callable[..., Stand]

REJECT = Reject(Reply.of(550, "5.7.1", "No"), "because")


def test_the_script_is_what_it_stands_for() -> None:
    for interface in (IPipeline, IIntake, IRouting):
        verifyObject(interface, Script())


def test_a_whole_session(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().data()
    assert wire.send(CONTENT) == [250]
    assert wire.say("QUIT") == [221]
    assert wire.is_closed
    wire.lose()
    ((session, transaction, _, _),) = stand.script.taken
    assert stand.script.messages == [CONTENT.replace(b"\r\n..", b"\r\n.")[:-3]]
    assert transaction.sender == Address("ann", "client.example")
    assert [(one.address, one.route) for one in transaction.recipients] == [(Address("bob", "example.org"), "inside")]
    assert (session.helo, session.protocol, session.identity) == ("client.example", "ESMTP", None)
    assert stand.script.asked == ["connect", "helo", "room", "mail", "rcpt", "data", "message", "take"]
    (closed,) = stand.events.of(SessionClosed)
    assert (closed.cause, closed.messages, closed.client, closed.helo) == (
        "quit",
        1,
        "unknown[192.0.2.1]",
        "client.example",
    )


def test_the_banner_and_what_is_offered(make_stand: MakeStand) -> None:
    wire = make_stand({"max_message_size": "1MiB"}).connect()
    (banner,) = wire.replies()
    assert banner.lines == ("mx.example.org ESMTP mailgate",)
    wire.say("EHLO client.example")
    assert wire.octets.endswith(
        b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 1048576\r\n250-8BITMIME\r\n250-CHUNKING\r\n"
        b"250-BINARYMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-LIMITS MAILMAX=1000 RCPTMAX=1000\r\n"
        b"250-MT-PRIORITY\r\n250-DELIVERBY\r\n250-ETRN\r\n250 ENHANCEDSTATUSCODES\r\n"
    )
    wire.say("HELO client.example")
    assert wire.octets.endswith(b"\r\n250 mx.example.org\r\n")


COMMANDS = {
    "NOOP": 250,
    "noop with words": 250,
    "RSET": 250,
    "RSET now": 501,
    "VRFY bob": 252,
    "VRFY": 501,
    "HELP": 214,
    "EXPN staff": 502,
    "STARTTLS": 502,
    "AUTH PLAIN AGFubgBzZWNyZXQ=": 502,
    "AUTH": 502,
    "XCLIENT ADDR=10.0.0.1": 502,
    "TURN": 502,
    "FROBNICATE": 500,
    "": 500,
    "   ": 500,
    "A1 x": 500,
    "MÄIL FROM:<>": 500,
    "EHLO": 501,
    "EHLO -": 501,
    "EHLO [192.0.2.1]": 250,
    "LHLO client.example": 500,
    "MAIL": 501,
    "MAIL FROM:<a@b": 501,
    "MAIL FROM:<ann@client.example> SIZE=99999999999": 552,
    "MAIL FROM:<ann@client.example> RET=FULL": 250,
    "MAIL FROM:<ann@client.example> REQUIRETLS": 555,
    "MAIL FROM:<ann@client.example> HOLDFOR=10": 555,
    "MAIL FROM:<ann@client.example> BY=600;R": 250,
    "NOOP \x85": 500,
    "MAIL FROM:<a\u202eb@client.example>": 500,
    "ETRN client.example": 459,
    "ETRN not a domain": 501,
    "XFORWARD ADDR=10.0.0.1": 502,
    "MAIL FROM:<jörg@client.example>": 553,
    "RCPT TO:<bob@example.org>": 503,
    "DATA": 503,
    "DATA now": 501,
    "QUIT now": 501,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_one_answer_and_the_session_goes_on(make_stand: MakeStand, command: str) -> None:
    wire = make_stand().connect().hello()
    assert wire.say(command) == [COMMANDS[command]]
    assert wire.say("NOOP") == [250]
    assert not wire.is_closed


@pytest.mark.parametrize("command", ["NOOP", "RSET", "VRFY x", "HELP", "FROBNICATE", "RCPT TO:<bob@example.org>"])
def test_commands_before_the_greeting(make_stand: MakeStand, command: str) -> None:
    wire = make_stand().connect()
    assert wire.codes() == [220]
    assert wire.say(command) == [COMMANDS.get(command, 252 if command[0] == "V" else 503)]


def test_mail_needs_a_greeting(make_stand: MakeStand) -> None:
    stand = make_stand()
    assert stand.connect().say("MAIL FROM:<ann@client.example>") == [220, 503]
    assert "mail" not in stand.script.asked


def test_a_greeting_that_was_refused_is_none(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.script.answers["helo"] = REJECT
    wire = stand.connect()
    assert wire.say("EHLO friend", "MAIL FROM:<>") == [220, 550, 503]
    assert wire.session.helo == ""
    del stand.script.answers["helo"]
    assert wire.say("EHLO client.example", "MAIL FROM:<>") == [250, 250]


def test_parameters_need_ehlo(make_stand: MakeStand) -> None:
    wire = make_stand().connect()
    said = wire.say("HELO client.example", "MAIL FROM:<> SIZE=10", "MAIL FROM:<> BODY=8BITMIME", "MAIL FROM:<>")
    assert said == [220, 250, 555, 555, 250]
    assert wire.session.protocol == "SMTP"


def test_one_transaction_at_a_time(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    assert wire.say("MAIL FROM:<>", "MAIL FROM:<>", "RCPT TO:<bob@example.org>") == [250, 503, 250]
    assert wire.say("RSET", "RCPT TO:<bob@example.org>", "DATA") == [250, 503, 503]


@pytest.mark.parametrize("greeting", ["EHLO client.example", "HELO client.example"])
def test_a_greeting_ends_the_transaction(make_stand: MakeStand, greeting: str) -> None:
    wire = make_stand().connect().hello()
    wire.send(ENVELOPE)
    assert wire.say(greeting, "RCPT TO:<bob@example.org>") == [250, 503]


def test_a_greeting_with_a_mistake_ends_nothing(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    wire.send(ENVELOPE)
    assert wire.say("EHLO", "DATA") == [501, 354]


def test_the_null_sender(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.connect().data(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\n").send(CONTENT)
    assert stand.script.taken[0][1].sender == NULL_PATH


def test_what_mail_declares(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.connect().data(b"MAIL FROM:<> SIZE=123 BODY=8BITMIME\r\nRCPT TO:<bob@example.org>\r\n").send(CONTENT)
    transaction = stand.script.taken[0][1]
    assert (transaction.declared_size, transaction.parameters.body) == (123, "8BITMIME")


def test_relaying_is_refused_before_the_filters_are_asked(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<>", "RCPT TO:<eve@elsewhere.example>", "DATA") == [250, 550, 554]
    assert "rcpt" not in stand.script.asked
    (refused,) = stand.events.of(Refused)
    assert (refused.stage, refused.recipient, refused.filter, refused.reason) == (
        "rcpt",
        "eve@elsewhere.example",
        "",
        "not ours",
    )


def test_a_recipient_twice_is_one_recipient(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.connect().data(ENVELOPE + b"RCPT TO:<bob@EXAMPLE.org>\r\nRCPT TO:<BOB@example.org>\r\n").send(CONTENT)
    assert [str(one.address) for one in stand.script.taken[0][1].recipients] == ["bob@example.org", "BOB@example.org"]
    assert stand.script.asked.count("rcpt") == 2


def test_what_a_recipient_twice_asks_for(make_stand: MakeStand) -> None:
    envelope = b"MAIL FROM:<ann@client.example>\r\n" + b"".join(
        b"RCPT TO:<%b@example.org>%b\r\n" % one
        for one in [
            (b"bob", b" NOTIFY=SUCCESS"),
            (b"bob", b" NOTIFY=DELAY ORCPT=rfc822;robert@example.org"),
            (b"bob", b" ORCPT=rfc822;other@example.org NOTIFY=NEVER"),
            (b"eve", b""),
            (b"eve", b" NOTIFY=SUCCESS"),
        ]
    )
    stand = make_stand()
    stand.connect().data(envelope).send(CONTENT)
    bob, eve = stand.script.taken[0][1].recipients
    assert (bob.notify, bob.orcpt) == (("SUCCESS", "DELAY"), "rfc822;robert@example.org")
    assert (eve.notify, eve.orcpt) == (("FAILURE", "DELAY", "SUCCESS"), "")


@pytest.mark.parametrize(
    ("settings", "commands"),
    [
        ({}, "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY ETRN HELP QUIT"),
        ({"protocol": "lmtp"}, "LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY ETRN HELP QUIT"),
        ({"hide": ["chunking", "etrn"]}, "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT"),
        (
            {"xclient_from": ["192.0.2.0/24"], "xforward_from": ["192.0.2.0/24"]},
            "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY XCLIENT XFORWARD ETRN HELP QUIT",
        ),
    ],
)
def test_help_names_what_there_is(make_stand: MakeStand, settings: dict[str, object], commands: str) -> None:
    wire = make_stand(settings).connect()
    wire.say("HELP")
    assert wire.octets.endswith(f"214 2.0.0 {commands}\r\n".encode())


def test_where_a_bare_postmaster_lives(make_stand: MakeStand) -> None:
    envelope = b"MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\n"
    stand = make_stand(postmaster_domain="example.org")
    stand.connect().data(envelope).send(CONTENT)
    assert stand.script.taken[0][1].recipients[0].address == Address("Postmaster", "example.org")
    assert make_stand().connect().hello().send(envelope) == [250, 550]  # at mx.example.org, which is not ours


@pytest.mark.parametrize(
    ("domains", "domain"),
    [
        (["a.example", "b.example"], "a.example"),
        (["a.example", "mx.example.org"], "mx.example.org"),
        (["a.example", "*.example.org"], "mx.example.org"),
        (["*.example.net", "b.example"], "b.example"),
        (["*.example.net"], "mx.example.org"),
        ([], "mx.example.org"),
    ],
)
def test_the_domain_of_a_bare_postmaster(domains: list[str], domain: str) -> None:
    config = Config.model_validate(
        {
            "gateway": {"hostname": "MX.example.org", "state_dir": "state"},
            "listeners": [{"name": "mx", "endpoints": ["tcp:25"], "pipeline": "p"}],
            "pipelines": {"p": {"filters": ["headers"]}},
            "domains": {name: {"route": "r"} for name in domains},
        }
    )
    assert postmaster_domain(config) == domain


@pytest.mark.parametrize(
    ("stage", "line", "codes"),
    [
        ("mail", "MAIL FROM:<ann@client.example>", [550, 503, 503]),
        ("rcpt", "RCPT TO:<bob@example.org>", [250, 550, 554]),
        ("data", "DATA", [250, 250, 550]),
    ],
)
def test_a_filter_objects(make_stand: MakeStand, stage: str, line: str, codes: list[int]) -> None:
    stand = make_stand()
    stand.script.answers[stage] = REJECT
    assert stand.connect().hello().send(ENVELOPE + b"DATA\r\n") == codes
    refused = stand.events.of(Refused)[0]
    assert (refused.stage, refused.reason, refused.reply) == (stage, "because", "550 5.7.1 No")
    assert refused.queue_id
    assert refused.sender == "ann@client.example"
    assert refused.recipients == (() if stage == "mail" else ("bob@example.org",))


def test_the_spool_has_no_room(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.script.answers["room"] = Reply.of(452, "4.3.1", "Insufficient system storage")
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<>", "RCPT TO:<bob@example.org>") == [452, 503]
    assert "mail" not in stand.script.asked
    assert stand.refusals == [("mail", "452")]


def test_other_protocols_are_shown_out(make_stand: MakeStand) -> None:
    stand = make_stand()
    wire = stand.connect()
    request = b"POST / HTTP/1.1\r\nHost: mx\r\n\r\nEHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n"
    assert wire.send(request) == [220, 421]
    assert wire.is_closed
    assert wire.send(ENVELOPE) == []
    assert stand.script.asked == ["connect"]


def test_content_that_was_not_asked_for_is_not_executed(make_stand: MakeStand) -> None:
    wire = make_stand().connect().hello()
    assert wire.send(b"BDAT 6 LAST\r\nHELP\r\n") == [503]
    assert wire.say("NOOP") == [250]


@pytest.mark.parametrize(
    ("role", "address", "is_trusted"),
    [
        ("inbound", "10.1.2.3", False),
        ("hybrid", "10.1.2.3", True),
        ("hybrid", "192.0.2.1", False),
        ("outbound", "10.1.2.3", True),
        ("outbound", "::ffff:10.1.2.3", True),
        ("outbound", "2001:db8::1", False),
        ("outbound", "/run/mail.sock", True),
        ("inbound", "/run/mail.sock", False),
    ],
)
def test_whom_a_listener_trusts(make_stand: MakeStand, role: str, address: str, is_trusted: bool) -> None:
    networks = [] if role == "inbound" else ["10.0.0.0/8"]
    stand = make_stand({"role": role, "trusted_networks": networks})
    wire = stand.connect(address)
    identity = wire.session.identity
    assert (identity is not None and identity.mechanism == "network") is is_trusted
    assert (stand.trusted if is_trusted else stand.script).asked == ["connect"]
