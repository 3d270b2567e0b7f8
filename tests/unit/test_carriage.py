"""Every row of docs/guide/extensions.md: what is said to a next hop, and what becomes of mail that it cannot take."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, EnvelopeRecipient, MailParameters, Origin
from mailgate.interfaces import Handover, OutcomeKind
from mailgate.message import AddHeader, Content, RemoveHeader
from mailgate.relay.attempt import Target
from mailgate.relay.client.carriage import PLAIN, Carriage, Hop, carriage_of, handover_of, recipient_parameters
from mailgate.relay.client.sending import UnsendableError
from mailgate.relay.client.transaction import begin
from mailgate.reply import Reply
from mailgate.wire.extensions import Extensions
from tests.unit.peer import LMTP, MX, envelope

NOW = 1_000_000.0
OK = Reply.of(250, "", "ok")
MESSAGE = Content(b"Subject: x\r\n\r\nhello\r\n")
IN_UTF8 = Content("Subject: Grüße\r\n\r\nhello\r\n".encode())
FAR_LMTP = Target("box", "192.0.2.7", 24, lmtp=True)
NEAR_LMTP = Target("box", "127.0.0.1", 24, lmtp=True)


def hop(*offered: str, target: Target = MX, **more: Any) -> Hop:
    lines = (one.partition(" ") for one in offered)
    return Hop(target, Extensions({keyword: value for keyword, _, value in lines}), **more)


def carried(to: Hop, content: Content = MESSAGE, edits: Any = (), **asked: Any) -> Carriage:
    return carriage_of(to, envelope(parameters=MailParameters(**asked), edits=edits), content, lambda: NOW)


def refusal(to: Hop, content: Content = MESSAGE, **asked: Any) -> tuple[int, str, bool]:
    with pytest.raises(UnsendableError) as caught:
        carried(to, content, **asked)
    return caught.value.reply.code, caught.value.reply.status, caught.value.next_host


def recipient(local_part: str = "user", **more: Any) -> EnvelopeRecipient:
    return EnvelopeRecipient(0, Address(local_part, "example.org"), "mx", **more)


# -- BODY


def test_plain_mail_costs_nothing() -> None:
    one = envelope(parameters=PLAIN_MAIL)
    assert carriage_of(hop("DSN", "SMTPUTF8"), one, MESSAGE, lambda: NOW) is PLAIN
    two = envelope(parameters=EIGHT_BIT_MAIL)
    eight_bit = hop("8BITMIME")
    assert carriage_of(eight_bit, two, MESSAGE, lambda: NOW) is carriage_of(eight_bit, two, MESSAGE, lambda: NOW)


@pytest.mark.parametrize(
    ("body", "offered", "more", "expected"),
    [
        ("8BITMIME", ("8BITMIME",), {}, Carriage(" BODY=8BITMIME")),
        ("8BITMIME", ("SIZE",), {}, Carriage(fit="7BIT")),
        ("7BIT", ("8BITMIME", "BINARYMIME", "CHUNKING"), {}, PLAIN),
        ("BINARYMIME", ("BINARYMIME", "CHUNKING"), {}, Carriage(" BODY=BINARYMIME", by_chunks=True)),
        ("BINARYMIME", ("BINARYMIME", "8BITMIME"), {}, Carriage(" BODY=8BITMIME", fit="8BIT")),
        ("BINARYMIME", ("CHUNKING",), {}, Carriage(fit="7BIT")),
        (
            "BINARYMIME",
            ("BINARYMIME", "CHUNKING", "8BITMIME"),
            {"chunking": False},
            Carriage(" BODY=8BITMIME", fit="8BIT"),
        ),
    ],
)
def test_body(body: str, offered: tuple[str, ...], more: Any, expected: Carriage) -> None:
    assert carried(hop(*offered, **more), body=body) == expected


# -- SMTPUTF8


def test_utf8_is_said_where_it_was_declared_and_is_offered() -> None:
    to = hop("SMTPUTF8", "8BITMIME")
    assert carried(to, IN_UTF8, smtputf8=True).utf8
    assert carried(to, smtputf8=True).utf8
    assert not carried(to, IN_UTF8, body="8BITMIME").utf8


@pytest.mark.parametrize("offered", [("8BITMIME",), ("SMTPUTF8",)])
def test_a_header_in_utf8_needs_it(offered: tuple[str, ...]) -> None:
    assert refusal(hop(*offered), IN_UTF8, smtputf8=True) == (550, "5.6.7", True)
    assert refusal(hop(*offered), Content(b"Subject: caf\xe9\r\n\r\n"), smtputf8=True) == (550, "5.6.7", True)
    assert carried(hop(*offered), smtputf8=True) == PLAIN


def test_the_header_counts_as_it_is_sent() -> None:
    edits = (RemoveHeader("subject"),)
    assert carried(hop(), IN_UTF8, edits, smtputf8=True) == PLAIN
    with pytest.raises(UnsendableError):
        carried(hop(), MESSAGE, (AddHeader("X-Name", "Grüße"),), smtputf8=True)


def test_a_header_that_cannot_be_read(tmp_path: Any) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"x")
    content = Content.in_file(path)
    path.unlink()
    assert refusal(hop(), content, smtputf8=True) == (451, "4.3.0", False)


# -- DSN


def test_dsn_is_passed_on_as_it_is() -> None:
    assert carried(hop("DSN"), ret="HDRS", envid="QQ+2B314159").parameters == " RET=HDRS ENVID=QQ+2B314159"
    assert carried(hop(), ret="HDRS", envid="QQ314159").parameters == ""
    one = recipient(notify=("SUCCESS", "DELAY"), orcpt="rfc822;Ann+2BX@example.org")
    assert recipient_parameters(one, utf8=False) == " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Ann+2BX@example.org"
    assert recipient_parameters(recipient(notify=("NEVER",)), utf8=False) == " NOTIFY=NEVER"
    assert recipient_parameters(recipient(), utf8=False) == ""


def test_an_original_recipient_in_utf8() -> None:
    one = recipient(orcpt="utf-8;jürgen@example.org")
    assert recipient_parameters(one, utf8=True) == " ORCPT=utf-8;jürgen@example.org"
    assert recipient_parameters(one, utf8=False) == r" ORCPT=utf-8;j\x{FC}rgen@example.org"
    assert recipient_parameters(recipient(orcpt="utf-8;a\u2028@x"), utf8=True) == r" ORCPT=utf-8;a\x{2028}@x"


def test_an_original_recipient_becomes_xtext_as_a_whole() -> None:
    """RFC 6533 section 3: what has a meaning in xtext is escaped, what is in this form already is kept."""
    one = recipient(orcpt=r"utf-8;jürgen+x=y\z\x{FC}@example.org")
    expected = r" ORCPT=utf-8;j\x{FC}rgen\x{2B}x\x{3D}y\x{5C}z\x{FC}@example.org"
    assert recipient_parameters(one, utf8=False) == expected


def test_no_original_recipient_is_too_long_to_be_said() -> None:
    """500 octets are what the other side must take (RFC 3461 section 4.2), not what it takes at most."""
    for much in ("rfc822;" + "a" * 500, "utf-8;" + "\U0001f600" * 130):
        assert recipient_parameters(recipient(orcpt=much), utf8=True) == f" ORCPT={much}"
    grown = recipient_parameters(recipient(orcpt="utf-8;" + "é" * 200), utf8=False)
    assert grown == " ORCPT=utf-8;" + r"\x{E9}" * 200


@pytest.mark.parametrize(
    ("dsn", "lmtp", "relayed", "expected"),
    [
        (True, False, False, Handover.PASSED_ON),
        (True, True, False, Handover.PASSED_ON),
        (False, False, False, Handover.RELAYED),
        (False, True, False, Handover.FINAL),
        (True, False, True, Handover.RELAYED),
    ],
)
def test_who_reports(dsn: bool, lmtp: bool, relayed: bool, expected: Handover) -> None:
    assert handover_of(dsn, lmtp=lmtp, relayed=relayed) is expected


# -- REQUIRETLS


def test_a_refusal_for_want_of_tls_says_whose_wish_it_was() -> None:
    for to in (hop("REQUIRETLS"), hop(is_verified=True)):
        with pytest.raises(UnsendableError, match=r"^REQUIRETLS, as the sender asked: "):
            carried(to, require_tls=True)


def test_require_tls_goes_where_it_is_kept() -> None:
    assert carried(hop("REQUIRETLS", is_verified=True), require_tls=True).parameters == " REQUIRETLS"
    for to in (hop("REQUIRETLS"), hop(), hop(target=FAR_LMTP), hop(target=Target("mx", "127.0.0.1", 25))):
        assert refusal(to, require_tls=True) == (550, "5.7.10", True)
    assert refusal(hop(is_verified=True), require_tls=True) == (550, "5.7.30", True)


def test_require_tls_does_not_believe_dns_that_anybody_can_forge() -> None:
    """RFC 8689 section 4.2.1: a certificate proves a name, and the name has to be proved, too."""
    found = replace(MX, is_vouched_for=False)
    assert refusal(hop("REQUIRETLS", target=found, is_verified=True), require_tls=True) == (550, "5.7.30", True)
    assert refusal(hop("REQUIRETLS", target=found), require_tls=True) == (550, "5.7.10", True)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (hop("REQUIRETLS", is_verified=True), " REQUIRETLS"),
        (hop("REQUIRETLS", is_verified=True, target=replace(MX, is_vouched_for=False)), " REQUIRETLS"),
        (hop("REQUIRETLS"), ""),
        (hop(is_verified=True), ""),
        (hop(), ""),
    ],
)
def test_a_report_is_not_lost_for_want_of_require_tls(to: Hop, said: str) -> None:
    """RFC 8689 section 5: it would be returned to nobody."""
    report = envelope(sender=NULL_PATH, parameters=MailParameters(require_tls=True))
    assert carriage_of(to, report, MESSAGE, lambda: NOW).parameters == said


@pytest.mark.parametrize("target", [LMTP, NEAR_LMTP, Target("box", "::1", 24, lmtp=True)])
def test_require_tls_on_this_machine(target: Target) -> None:
    assert carried(hop(target=target), require_tls=True) == PLAIN
    assert carried(hop("REQUIRETLS", target=target), require_tls=True) == PLAIN
    assert carried(hop("REQUIRETLS", target=target, is_verified=True), require_tls=True).parameters == " REQUIRETLS"


def test_tls_optional_stays_here() -> None:
    assert carried(hop("REQUIRETLS", is_verified=True), tls_optional=True) == PLAIN


# -- in clear text, as TLS has failed


@pytest.mark.parametrize(
    ("asked", "content", "status"),
    [
        ({"require_tls": True}, MESSAGE, "4.7.10"),
        ({"smtputf8": True}, IN_UTF8, "4.6.7"),
        ({"by_mode": "R", "deliver_by": NOW + 60}, MESSAGE, "4.4.7"),
    ],
)
def test_what_tls_may_offer_is_waited_for(asked: Any, content: Content, status: str) -> None:
    with pytest.raises(UnsendableError) as caught:
        carried(hop("PIPELINING"), content, **asked)
    (failed,) = caught.value.results([recipient()], is_fallback=False)
    assert (failed.kind, failed.reply.status) == (OutcomeKind.FAILED, f"5{status[1:]}")
    (waits,) = caught.value.results([recipient()], is_fallback=True)
    assert (waits.kind, waits.reply.code, waits.reply.status) == (OutcomeKind.DEFERRED, 451, status)
    assert waits.next_host
    assert "TLS has failed" in waits.reason


def test_what_no_handshake_betters_is_not_waited_for() -> None:
    with pytest.raises(UnsendableError) as caught:
        carried(hop(), by_mode="R", deliver_by=NOW - 1)
    assert caught.value.results([recipient()], is_fallback=True)[0].kind is OutcomeKind.FAILED


@pytest.mark.parametrize(
    ("is_fallback", "kind", "status"), [(False, OutcomeKind.FAILED, "5.6.7"), (True, OutcomeKind.DEFERRED, "4.6.7")]
)
def test_an_address_in_utf8_waits_for_tls(is_fallback: bool, kind: OutcomeKind, status: str) -> None:
    one = envelope((recipient(), recipient("b\u00fccher")))
    to = hop("PIPELINING", is_fallback=is_fallback)
    found = begin(to, one, one.recipients, PLAIN, 10, domains=set(), reset=False, reused=False).results
    assert [(result.recipient.address.local_part, result.kind, result.reply.status) for result in found] == [
        ("b\u00fccher", kind, status)
    ]


# -- domains that no parser lets in


@pytest.mark.parametrize("domain", ["a b", "a>", "<a", 'a"b', "a%b", "[IPv6:fe80::1%x> BODY=8BITMIME]", "a\\"])
def test_what_is_no_domain_is_never_written(domain: str) -> None:
    bad = EnvelopeRecipient(1, Address("user", domain), "mx")
    one = envelope((recipient(), bad))
    transaction = begin(hop("PIPELINING"), one, one.recipients, PLAIN, 10, domains=set(), reset=False, reused=False)
    assert transaction.start() == b"MAIL FROM:<ann@client.test>\r\nRCPT TO:<user@example.org>\r\nDATA\r\n"
    assert [(found.kind, found.reply.status, found.next_host) for found in transaction.results] == [
        (OutcomeKind.FAILED, "5.1.3", False)
    ]
    two = envelope(sender=bad.address)
    with pytest.raises(UnsendableError) as caught:
        begin(hop(), two, two.recipients, PLAIN, 10, domains=set(), reset=False, reused=False)
    assert caught.value.reply.status == "5.1.3"


# -- AUTH, MT-PRIORITY, FUTURERELEASE


def test_auth_goes_to_those_who_know_us() -> None:
    assert carried(hop("AUTH PLAIN", is_authenticated=True), auth="ann+2Bx@example.org").parameters == (
        " AUTH=ann+2Bx@example.org"
    )
    assert carried(hop("AUTH PLAIN", is_authenticated=True), auth="<>").parameters == " AUTH=<>"
    assert carried(hop("AUTH PLAIN"), auth="<>") == PLAIN
    assert carried(hop(is_authenticated=True), auth="<>") == PLAIN
    assert carried(hop("AUTH PLAIN", is_authenticated=True), ret="FULL") == PLAIN


def test_priority() -> None:
    assert carried(hop("MT-PRIORITY MIXER"), priority=-3).parameters == " MT-PRIORITY=-3"
    assert carried(hop("MT-PRIORITY"), priority=0).parameters == " MT-PRIORITY=0"
    assert carried(hop(), priority=4) == PLAIN


def test_what_was_held_is_not_held_again() -> None:
    assert carried(hop("FUTURERELEASE 1000 2030-01-01T00:00:00Z"), release_at=NOW + 5) == PLAIN


# -- DELIVERBY


@pytest.mark.parametrize(
    ("offered", "mode", "left", "trace", "expected"),
    [
        ("DELIVERBY", "R", 90.7, False, " BY=90;R"),
        ("DELIVERBY", "N", 90.0, True, " BY=90;NT"),
        ("DELIVERBY", "N", -5.0, False, " BY=-5;N"),
        ("DELIVERBY 60", "R", 60.0, True, " BY=60;RT"),
        ("DELIVERBY nonsense", "R", 1.0, False, " BY=1;R"),
        ("DELIVERBY 60,x=1,y", "R", 60.0, False, " BY=60;R"),
        ("DELIVERBY ,x=1", "R", 1.0, False, " BY=1;R"),
        ("DELIVERBY", "N", 1e12, False, " BY=999999999;N"),
    ],
)
def test_the_time_that_is_left(offered: str, mode: str, left: float, trace: bool, expected: str) -> None:
    found = carried(hop(offered), deliver_by=NOW + left, by_mode=mode, by_trace=trace)
    assert (found.parameters, found.relayed) == (expected, False)


@pytest.mark.parametrize("offered", ["SIZE", "DELIVERBY 60", "DELIVERBY 60,x=1"])
def test_a_host_that_cannot_be_told_by_when(offered: str) -> None:
    assert refusal(hop(offered), deliver_by=NOW + 30, by_mode="R") == (554, "5.4.7", True)
    assert carried(hop(offered), deliver_by=NOW + 30, by_mode="N") == Carriage(relayed=True)
    for mode in "RN":
        assert carried(hop(offered, target=FAR_LMTP), deliver_by=NOW + 30, by_mode=mode) == PLAIN


@pytest.mark.parametrize("target", [MX, LMTP])
@pytest.mark.parametrize("left", [0.9, 0.0, -10.0])
def test_it_is_too_late_to_deliver_what_is_to_be_returned(left: float, target: Target) -> None:
    assert refusal(hop("DELIVERBY", target=target), deliver_by=NOW + left, by_mode="R") == (554, "5.4.7", False)


# -- Anything at all

KEYWORDS = [
    "PIPELINING",
    "SIZE",
    "8BITMIME",
    "BINARYMIME",
    "CHUNKING",
    "SMTPUTF8",
    "DSN",
    "REQUIRETLS",
    "MT-PRIORITY",
    "DELIVERBY",
    "FUTURERELEASE",
    "AUTH",
    "XFORWARD",
]
#: What each parameter needs.
NEEDS = {
    "SIZE": {"SIZE"},
    "BODY=8BITMIME": {"8BITMIME"},
    "BODY=BINARYMIME": {"BINARYMIME", "CHUNKING"},
    "SMTPUTF8": {"SMTPUTF8"},
    "RET": {"DSN"},
    "ENVID": {"DSN"},
    "NOTIFY": {"DSN"},
    "ORCPT": {"DSN"},
    "AUTH": {"AUTH"},
    "REQUIRETLS": {"REQUIRETLS"},
    "MT-PRIORITY": {"MT-PRIORITY"},
    "BY": {"DELIVERBY"},
}
COMMAND = re.compile(
    r"RSET|DATA|XFORWARD( [A-Z]+=[!-~]+)+"
    r"|(MAIL FROM|RCPT TO):<(|(\"[^\x00-\x1f]*\"|[^\s<>]*)@[!-;=?-~]+)>(?P<words>( [A-Z0-9-]+(=[^\s=]+)?)*)"
)
TEXT = st.text(max_size=8)
PARAMETERS = st.builds(
    MailParameters,
    body=st.sampled_from(["7BIT", "8BITMIME", "BINARYMIME"]),
    smtputf8=st.booleans(),
    ret=st.sampled_from(["", "FULL", "HDRS"]) | TEXT,
    envid=TEXT | st.just("QQ+2B3"),
    require_tls=st.booleans(),
    tls_optional=st.booleans(),
    priority=st.none() | st.integers(-9, 9),
    auth=st.none() | st.just("<>") | TEXT,
    release_at=st.floats(0, NOW * 2),
    deliver_by=st.floats(-NOW, NOW * 2),
    by_mode=st.sampled_from(["", "R", "N"]),
    by_trace=st.booleans(),
)
RECIPIENTS = st.lists(
    st.builds(
        recipient,
        st.sampled_from(["a", "ü", "a b", "x\r\nRSET", '"', "\ud800", ">"]),
        notify=st.sampled_from([(), ("NEVER",), ("SUCCESS", "DELAY"), ("A\r\nB",)]),
        orcpt=st.sampled_from(["", "rfc822;a@b", "utf-8;ü@b", "x;\r\nRSET", "x y"]) | TEXT,
    ),
    min_size=1,
    max_size=4,
)


@given(
    st.sets(st.sampled_from(KEYWORDS)),
    st.sampled_from(["", "DELIVERBY 60", "LIMITS RCPTMAX=2"]),
    PARAMETERS,
    RECIPIENTS,
    st.sampled_from(["ann", "", "jürgen"]),
    st.sampled_from([MX, LMTP, FAR_LMTP]),
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from([MESSAGE, IN_UTF8]),
)
def test_commands_are_well_formed_and_use_what_is_offered(
    offered: set[str],
    limit: str,
    parameters: MailParameters,
    recipients: list[EnvelopeRecipient],
    sender: str,
    target: Target,
    flags: tuple[bool, ...],
    content: Content,
) -> None:
    is_verified, is_authenticated, chunking, xforward, reset = flags
    to = hop(
        *offered,
        *([limit] if limit else ()),
        target=target,
        is_verified=is_verified,
        is_authenticated=is_authenticated,
        chunking=chunking,
        xforward=xforward,
    )
    if "XFORWARD" in offered:
        extensions = Extensions({**to.extensions.offered, "XFORWARD": "NAME ADDR PROTO HELO IDENT"})
        to = dataclasses.replace(to, extensions=extensions)
    one = envelope(
        tuple(recipients),
        sender=Address(sender, "client.test" if sender else ""),
        parameters=parameters,
        origin=Origin(name="client.test", address="192.0.2.1"),
    )
    try:
        carriage = carriage_of(to, one, content, lambda: NOW)
        transaction = begin(to, one, one.recipients, carriage, 10, domains=set(), reset=reset, reused=False)
    except UnsendableError:
        return
    lines = []
    octets = transaction.start()
    while octets:
        lines += octets.decode().split("\r\n")[:-1]
        if transaction.owed > 1 or lines[-1] == "DATA":
            break
        # One by one: whoever is asked says yes.
        transaction.receive(OK)
        octets, transaction.output = transaction.output, b""
    for line in lines:
        match = COMMAND.fullmatch(line)
        assert match, line
        words = (match["words"] or "").split()
        assert len({word.partition("=")[0] for word in words}) == len(words)
        for word in words:
            keyword = word if word.startswith("BODY") else word.partition("=")[0]
            assert NEEDS[keyword] <= to.extensions.offered.keys(), line
        assert line.isascii() or "SMTPUTF8" in to.extensions.offered
        if line.startswith("XFORWARD"):
            assert xforward
            assert "XFORWARD" in offered
    if not "".join(lines).isascii():
        assert next(line for line in lines if line.startswith("MAIL")).endswith(" SMTPUTF8")
    named = sum(line.startswith("RCPT") for line in lines)
    assert named <= (2 if limit.startswith("LIMITS") else 4)
    if parameters.require_tls and lines and sender:
        assert target is LMTP or (is_verified and "REQUIRETLS" in offered)
