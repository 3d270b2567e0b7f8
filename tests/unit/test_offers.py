"""What EHLO offers, by the listener and the state of the session; and that all of it, and nothing else, is taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailgate.config.schema import ListenerSection
from mailgate.envelope import MailParameters
from mailgate.smtp.answers import of_a_stranger
from mailgate.smtp.offers import NOTHING, Offer, Offers, State
from tests.unit.session_security import b64, client, server, users
from tests.unit.smtp_stand import CONTENT, Stand, Wire

MakeStand = Callable[..., Stand]

#: Before TLS, to a stranger.
STRANGER = State(*[False] * 5)
MECHANISMS = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER", "CRAM-MD5", "EXTERNAL"]
DAY = 86400.0


def offers(*, has_tls: bool = True, **settings: Any) -> Offers:
    fields: dict[str, object] = {"name": "mx", "endpoints": ["tcp:25"], "pipeline": "p", **settings}
    section = ListenerSection.model_validate(fields)
    return Offers("mx.example.org", section, has_tls=has_tls, mechanisms=lambda: frozenset(MECHANISMS))


def offer(state: State = STRANGER, *, now: float = 0.0, has_tls: bool = True, **settings: object) -> Offer:
    return offers(has_tls=has_tls, **settings).to(state, now)


def lines_of(offer: Offer) -> dict[str, str]:
    """The keywords in the octets, each with its value; they are those of the offer."""
    lines = offer.reply.decode("ascii").split("\r\n")
    assert lines.pop() == ""
    assert all(line.startswith("250-") for line in lines[:-1])
    assert lines[0] == "250-mx.example.org"
    assert lines[-1].startswith("250 ")
    found = {keyword: value for keyword, _, value in (line[4:].partition(" ") for line in lines[1:])}
    assert found.keys() == offer.keywords
    return found


ALWAYS = {
    *("PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8", "DSN", "LIMITS", "MT-PRIORITY"),
    *("DELIVERBY", "ETRN", "ENHANCEDSTATUSCODES"),
}


@pytest.mark.parametrize(
    ("state", "more"),
    [
        ({}, {"STARTTLS", "AUTH"}),
        ({"is_tls": True}, {"AUTH", "REQUIRETLS"}),
        ({"may_xclient": True}, {"STARTTLS", "AUTH", "XCLIENT"}),
        ({"may_xforward": True}, {"STARTTLS", "AUTH", "XFORWARD"}),
    ],
)
def test_what_each_state_is_offered(state: dict[str, bool], more: set[str]) -> None:
    assert lines_of(offer(STRANGER._replace(**state))).keys() == ALWAYS | more


@pytest.mark.parametrize(
    ("tls", "has_tls", "is_offered"),
    [
        (None, True, True),
        ("optional", True, True),
        ("required", True, True),
        ("off", True, False),
        ("implicit", True, False),
        (None, False, False),
    ],
)
def test_who_is_offered_starttls(tls: str | None, has_tls: bool, is_offered: bool) -> None:
    assert ("STARTTLS" in offer(has_tls=has_tls, tls=tls).keywords) is is_offered


def test_values() -> None:
    state = STRANGER._replace(may_xclient=True, may_xforward=True)
    lines = lines_of(offer(state, now=1.5 * DAY, role="hybrid", max_message_size="1MiB", max_messages=7, max_hold="2d"))
    assert lines["SIZE"] == "1048576"  # RFC 1870 section 3
    assert lines["LIMITS"] == "MAILMAX=7 RCPTMAX=1000"  # RFC 9422 section 4
    assert lines["FUTURERELEASE"] == "172800 1970-01-04T00:00:00Z"  # RFC 4865 section 4
    assert lines["XCLIENT"].startswith("NAME ADDR ")
    assert lines["XFORWARD"].startswith("NAME ADDR ")


def test_limits_of_more_than_six_digits() -> None:
    assert lines_of(offer(max_messages=10_000_000))["LIMITS"] == "MAILMAX=999999 RCPTMAX=1000"


def test_the_latest_time_moves_with_the_days() -> None:
    one = offers(role="outbound", max_hold="1d")
    today = [one.to(STRANGER, now) for now in (0.0, DAY - 1)]
    assert today[0] is today[1]
    assert lines_of(one.to(STRANGER, DAY))["FUTURERELEASE"].endswith("1970-01-03T00:00:00Z")


def test_who_may_not_hold_mail() -> None:
    assert "FUTURERELEASE" not in offer(role="outbound", max_hold="0s").keywords
    assert "FUTURERELEASE" not in offer(role="inbound").keywords
    assert "FUTURERELEASE" in offer(role="hybrid").keywords


SHOWN = {"PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"}
ALL_MECHANISMS = [name.lower() for name in MECHANISMS]


@pytest.mark.parametrize(
    ("state", "settings", "mechanisms"),
    [
        ({}, {}, {"SCRAM-SHA-256", "CRAM-MD5"}),
        ({}, {"auth_without_tls": True}, {"SCRAM-SHA-256", "CRAM-MD5"} | SHOWN),
        ({}, {"tls": "required"}, set()),
        ({"is_tls": True}, {"tls": "required"}, {"SCRAM-SHA-256", "CRAM-MD5"} | SHOWN),
        ({"is_tls": True}, {}, {"SCRAM-SHA-256", "CRAM-MD5"} | SHOWN),
        ({"is_tls": True, "can_bind": True}, {}, {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "CRAM-MD5"} | SHOWN),
        ({"is_tls": True, "has_certificate": True}, {}, {"EXTERNAL", "SCRAM-SHA-256", "CRAM-MD5"} | SHOWN),
        ({"is_tls": True}, {"auth_mechanisms": ["login"]}, {"LOGIN"}),
        ({}, {"auth_mechanisms": ["login"]}, set()),
        ({}, {"hide": ["auth"]}, set()),
    ],
)
def test_mechanisms(state: dict[str, bool], settings: dict[str, Any], mechanisms: set[str]) -> None:
    found = offers(**{"auth_mechanisms": ALL_MECHANISMS, **settings}).to(STRANGER._replace(**state), 0.0)
    assert found.mechanisms == mechanisms
    assert set(lines_of(found).get("AUTH", "").split()) == mechanisms


def test_what_the_users_cannot_be_checked_by_is_not_offered() -> None:
    section = ListenerSection.model_validate({"name": "mx", "endpoints": ["tcp:25"], "pipeline": "p"})
    known = {"PLAIN"}
    offers = Offers("mx", section, has_tls=True, mechanisms=lambda: frozenset(known))
    assert offers.to(STRANGER._replace(is_tls=True), 0.0).mechanisms == {"PLAIN"}
    known.add("LOGIN")
    assert offers.to(STRANGER._replace(is_tls=True), 0.0).mechanisms == {"PLAIN", "LOGIN"}
    assert "AUTH" not in Offers("mx", section, has_tls=True).to(STRANGER, 0.0).keywords


@pytest.mark.parametrize("keyword", sorted((ALWAYS | {"STARTTLS", "AUTH"}) - {"ENHANCEDSTATUSCODES"}))
def test_what_is_hidden(keyword: str) -> None:
    one = offers(hide=[keyword.lower()])
    gone = {keyword}
    if keyword == "CHUNKING":  # RFC 3030 section 3
        gone.add("BINARYMIME")
    if keyword == "8BITMIME":  # RFC 6531 section 3.1
        gone |= {"BINARYMIME", "SMTPUTF8"}
    assert lines_of(one.to(STRANGER, 0.0)).keys() == (ALWAYS | {"STARTTLS", "AUTH"}) - gone
    assert one.hides(keyword)
    assert not one.hides("OTHER")


def test_nothing_is_offered_before_ehlo() -> None:
    assert Offer(frozenset(), frozenset(), b"") == NOTHING


# -- strangers


@pytest.mark.parametrize(
    ("asked", "given", "status"),
    [
        ({"ret": "FULL", "envid": "x"}, {"ret": "HDRS", "envid": "x"}, b"2.1.0"),
        ({"ret": "HDRS"}, {"ret": "HDRS"}, b"2.1.0"),
        ({"auth": "ann@client.example"}, {"auth": "<>"}, b"2.1.0"),
        ({"priority": 3}, {"priority": 0}, b"2.3.6"),
        ({"priority": -3}, {"priority": -3}, b"2.1.0"),
        ({"smtputf8": True}, {"smtputf8": True}, b"2.1.0"),
    ],
)
def test_what_a_stranger_gets_of_what_it_asked_for(asked: Any, given: Any, status: bytes) -> None:
    parameters, reply = of_a_stranger(MailParameters(**asked))
    assert parameters == MailParameters(**given)
    assert status in reply


@pytest.mark.parametrize("is_trusted", [False, True])
def test_whose_reports_carry_content(make_stand: MakeStand, is_trusted: bool) -> None:
    networks = ["192.0.2.0/24"] if is_trusted else []
    stand = make_stand({"role": "hybrid", "trusted_networks": networks})
    wire = stand.connect().hello()
    assert wire.say("MAIL FROM:<> RET=FULL", "RCPT TO:<bob@example.org>", "DATA") == [250, 250, 354]
    assert wire.send(CONTENT) == [250]
    assert stand.script.taken[0][1].parameters.ret == ("FULL" if is_trusted else "HDRS")


# -- offered is honoured, hidden is refused

#: What is said for a keyword, and the codes where it is offered and where it is not.
SAID: dict[str, tuple[list[str], list[int], list[int]]] = {
    "SIZE": (["MAIL FROM:<> SIZE=10"], [250], [555]),
    "8BITMIME": (["MAIL FROM:<> BODY=8BITMIME"], [250], [555]),
    "BINARYMIME": (["MAIL FROM:<> BODY=BINARYMIME"], [250], [501]),
    "SMTPUTF8": (["MAIL FROM:<> SMTPUTF8"], [250], [555]),
    "DSN": (
        ["MAIL FROM:<> RET=FULL ENVID=x", "RSET", "MAIL FROM:<>", "RCPT TO:<bob@example.org> NOTIFY=NEVER"],
        [250, 250, 250, 250],
        [555, 250, 250, 555],
    ),
    "MT-PRIORITY": (["MAIL FROM:<> MT-PRIORITY=-1"], [250], [555]),
    "DELIVERBY": (["MAIL FROM:<> BY=1000;R"], [250], [555]),
    "FUTURERELEASE": (["MAIL FROM:<> HOLDFOR=10"], [250], [555]),
    "REQUIRETLS": (["MAIL FROM:<> REQUIRETLS"], [250], [555]),
    "CHUNKING": (
        ["MAIL FROM:<>", "RCPT TO:<bob@example.org>", "BDAT 6 LAST\r\nabc\n"],
        [250, 250, 550],  # a bare line feed: it is taken for content
        [250, 250, 502],
    ),
    "AUTH": (["MAIL FROM:<> AUTH=<>", "RSET", f"AUTH PLAIN {b64('x')}"], [250, 250, 501], [555, 250, 502]),
    "ETRN": (["ETRN client.example"], [253], [502]),
    "XCLIENT": (["XCLIENT NAME=client.example"], [220], [502]),
    "XFORWARD": (["XFORWARD NAME=client.example"], [250], [502]),
    "STARTTLS": (["STARTTLS"], [220], [502]),
}
#: What only those may say whom the listener names.
NAMED = {"XCLIENT", "XFORWARD"}
#: What has no command and no parameter of its own.
PLAIN = {"PIPELINING", "LIMITS", "ENHANCEDSTATUSCODES"}


def greet(make_stand: MakeStand, folder: Path, keyword: str, *, is_hidden: bool = False) -> Wire:
    """A client that may do all there is; under TLS, unless TLS is what it is about."""
    settings: dict[str, Any] = {
        "role": "outbound",
        "trusted_networks": ["192.0.2.0/24"],
        "xclient_from": ["192.0.2.0/24"],
        "xforward_from": ["192.0.2.0/24"],
        "auth": "users",
    }
    if is_hidden:
        settings |= {f"{keyword.lower()}_from": []} if keyword in NAMED else {"hide": [keyword.lower()]}
    stand = make_stand(settings, tls=server(folder), authenticator=users(folder))
    wire = stand.connect().hello()
    return wire if keyword == "STARTTLS" else wire.starttls(client())


@pytest.mark.parametrize("keyword", SAID)
@pytest.mark.parametrize("is_hidden", [False, True], ids=["offered", "hidden"])
def test_what_is_offered_is_taken_and_what_is_hidden_is_not(
    make_stand: MakeStand, tmp_path: Path, keyword: str, is_hidden: bool
) -> None:
    wire = greet(make_stand, tmp_path, keyword, is_hidden=is_hidden)
    if keyword != "STARTTLS":
        wire.say("EHLO client.example")
    offered = set(re.findall(r"250[ -]([A-Z0-9-]+)", wire.octets.decode().rpartition("250-mx.example.org")[2]))
    assert (keyword in offered) is not is_hidden
    assert offered <= SAID.keys() | PLAIN
    lines, taken, refused = SAID[keyword]
    assert wire.say(*lines) == (refused if is_hidden else taken)


def test_a_client_of_helo_has_no_extensions(make_stand: MakeStand, tmp_path: Path) -> None:
    for keyword in SAID.keys() - {"XCLIENT", "XFORWARD", "ETRN", "STARTTLS", "AUTH", "BINARYMIME"}:
        wire = greet(make_stand, tmp_path, keyword)
        assert wire.say("HELO client.example") == [250]
        lines, _, refused = SAID[keyword]
        assert wire.say(*lines) == refused
