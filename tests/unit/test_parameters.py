"""The parameters of MAIL and RCPT: each right and wrong, and that nothing but a refusal comes of anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import Address
from mailgate.envelope import EIGHT_BIT_MAIL, PLAIN_MAIL, MailParameters
from mailgate.wire.commands import (
    CommandError,
    MailCommand,
    RcptCommand,
    parse_bdat,
    parse_command,
    parse_greeting,
    parse_mail,
    parse_rcpt,
)
from mailgate.wire.parameters import merge_notify

ALL = frozenset(
    {
        *("SIZE", "8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8", "DSN", "AUTH", "REQUIRETLS", "MT-PRIORITY"),
        *("FUTURERELEASE", "DELIVERBY"),
    }
)
NOW = 1_000_000.0


def mail(parameters: str, offered: frozenset[str] = ALL) -> MailCommand:
    return parse_mail(f"FROM:<ann@client.example> {parameters}", offered, NOW)


def rcpt(parameters: str, offered: frozenset[str] = ALL, *, is_utf8: bool = False) -> RcptCommand:
    return parse_rcpt(f"TO:<bob@example.org> {parameters}", "mx.example.org", offered, is_utf8=is_utf8)


def code_of(error: pytest.ExceptionInfo[CommandError]) -> tuple[int, str]:
    return error.value.reply.code, error.value.reply.status


MAIL_RIGHT: dict[str, dict[str, Any]] = {
    # RFC 6152 section 2, RFC 3030 section 3
    "BODY=7BIT": {},
    "body=8bitmime": {"body": "8BITMIME"},
    "BODY=BINARYMIME": {"body": "BINARYMIME"},
    # RFC 6531 section 3.4
    "SMTPUTF8": {"smtputf8": True},
    "SmtpUtf8 BODY=8BITMIME": {"smtputf8": True, "body": "8BITMIME"},
    # RFC 3461 sections 4.3 and 4.4
    "RET=full": {"ret": "FULL"},
    "RET=HDRS ENVID=QQ314159": {"ret": "HDRS", "envid": "QQ314159"},
    "ENVID=a+20b+2B": {"envid": "a+20b+2B"},
    f"ENVID={'x' * 100}": {"envid": "x" * 100},
    # RFC 4954 section 5
    "AUTH=<>": {"auth": "<>"},
    "AUTH=e+3Dmc2@example.com": {"auth": "e+3Dmc2@example.com"},
    # RFC 8689 section 3
    "REQUIRETLS": {"require_tls": True},
    # RFC 6710 section 4
    "MT-PRIORITY=3": {"priority": 3},
    "mt-priority=-9": {"priority": -9},
    "MT-PRIORITY=0": {"priority": 0},
    # RFC 4865 section 4
    "HOLDFOR=3600": {"release_at": NOW + 3600},
    "HOLDFOR=999999999": {"release_at": NOW + 999_999_999},
    "HOLDUNTIL=1970-01-31T00:00:00Z": {"release_at": 30 * 86400.0},
    "HOLDUNTIL=1970-01-31T02:00:00.5+02:00": {"release_at": 30 * 86400.0 + 0.5},
    # RFC 2852 section 4
    "BY=120;R": {"deliver_by": NOW + 120, "by_mode": "R"},
    "BY=-120;nt": {"deliver_by": NOW - 120, "by_mode": "N", "by_trace": True},
    "BY=0;N": {"deliver_by": NOW, "by_mode": "N"},
    "BY=+60;R": {"deliver_by": NOW + 60, "by_mode": "R"},
    "BY=60;R HOLDFOR=59": {"deliver_by": NOW + 60, "by_mode": "R", "release_at": NOW + 59},
    "BY=60;N HOLDFOR=90": {"deliver_by": NOW + 60, "by_mode": "N", "release_at": NOW + 90},
    # several
    "SIZE=10 BODY=8BITMIME RET=FULL REQUIRETLS": {"body": "8BITMIME", "ret": "FULL", "require_tls": True},
}


@pytest.mark.parametrize("parameters", MAIL_RIGHT)
def test_what_mail_may_ask_for(parameters: str) -> None:
    assert mail(parameters).parameters == MailParameters(**MAIL_RIGHT[parameters])


def test_most_mail_shares_its_parameters() -> None:
    assert mail("").parameters is PLAIN_MAIL
    assert mail("SIZE=10").parameters is PLAIN_MAIL
    assert mail("SIZE=10 BODY=8BITMIME").parameters is EIGHT_BIT_MAIL


MAIL_WRONG = [
    *("SIZE", "SIZE=x", "SIZE=-1", "SIZE=1.5", "SIZE=\u0661", f"SIZE={'9' * 21}"),  # RFC 1870 section 3
    *("BODY", "BODY=", "BODY=9BIT", "BODY=8B\u0131TMIME", "BODY=8BITMIME BODY=7BIT"),
    *("SMTPUTF8=yes", "SMTPUTF8 SMTPUTF8"),
    *("RET", "RET=ALL", "RET=HDR\u017f", "RET=FULL RET=FULL", "ret=FULL RET=HDRS"),
    *("ENVID", "ENVID=a+2", "ENVID=a+2b", "ENVID=a+0D+0A", "ENVID=a=b", "ENVID=\u00e9", f"ENVID={'x' * 101}"),
    *("AUTH", "AUTH=<", "AUTH=ann", "AUTH=ann+40", "AUTH=ann@", "AUTH=+0D+0Aann@b.example", "AUTH=j\u00f6rg@b.example"),
    *("REQUIRETLS=1", "REQUIRETLS REQUIRETLS"),
    *("MT-PRIORITY", "MT-PRIORITY=10", "MT-PRIORITY=-10", "MT-PRIORITY=+3", "MT-PRIORITY=-0", "MT-PRIORITY=x"),
    *("HOLDFOR", "HOLDFOR=-1", "HOLDFOR=1h", f"HOLDFOR={'9' * 10}", "HOLDFOR=1 HOLDUNTIL=2030-01-31T12:00:00Z"),
    *("HOLDUNTIL", "HOLDUNTIL=2030-01-31", "HOLDUNTIL=2030-13-31T12:00:00Z", "HOLDUNTIL=2030-01-31T12:00:00"),
    *("HOLDUNTIL=2030-01-31T12:00:60Z", "HOLDUNTIL=2030-01-31T12:00:00+99:00", "HOLDUNTIL=20300131T120000Z"),
    *("HOLDFOR=60 BY=60;R", "BY=60;R HOLDFOR=61", "BY=60;R HOLDUNTIL=2030-01-31T12:00:00Z"),
    *("BY=+0;R", "BY=+-1;N", "BY=+;N"),
    *("BY", "BY=120", "BY=120;X", "BY=0;R", "BY=-1;R", "BY=;R", f"BY={'9' * 10};N", "BY=1;RTT"),
    *("=x", "-SIZE=1", "SIZE==1", "S\u00cfZE=1", "SIZE=1 =", "RET=FULL,HDRS"),
]


@pytest.mark.parametrize("parameters", MAIL_WRONG)
def test_what_mail_may_not_say(parameters: str) -> None:
    with pytest.raises(CommandError) as error:
        mail(parameters)
    assert code_of(error) == (501, "5.5.4")


#: The extension that each parameter belongs to.
OWNERS = {
    "SIZE=1": "SIZE",
    "BODY=8BITMIME": "8BITMIME",
    "BODY=7BIT": "8BITMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET=FULL": "DSN",
    "ENVID=x": "DSN",
    "AUTH=<>": "AUTH",
    "REQUIRETLS": "REQUIRETLS",
    "MT-PRIORITY=1": "MT-PRIORITY",
    "HOLDFOR=1": "FUTURERELEASE",
    "HOLDUNTIL=2030-01-31T12:00:00Z": "FUTURERELEASE",
    "BY=1;R": "DELIVERBY",
}


@pytest.mark.parametrize("parameter", OWNERS)
def test_what_is_not_offered_is_not_known(parameter: str) -> None:
    mail(parameter, frozenset({OWNERS[parameter]}))
    for offered in (ALL - {OWNERS[parameter]}, frozenset[str]()):  # the second as after HELO
        with pytest.raises(CommandError) as error:
            mail(parameter, offered)
        assert code_of(error) == (555, "5.5.4")


@pytest.mark.parametrize("parameter", ["FOO", "FOO=bar", "NOTIFY=NEVER", "ORCPT=rfc822;a@b.example", "SOLICIT=x"])
def test_parameters_that_nobody_knows(parameter: str) -> None:
    with pytest.raises(CommandError) as error:
        mail(parameter)
    assert code_of(error) == (555, "5.5.4")


def test_binary_content_needs_its_own_extension() -> None:
    with pytest.raises(CommandError) as error:
        mail("BODY=BINARYMIME", ALL - {"BINARYMIME"})
    assert code_of(error) == (501, "5.5.4")
    assert mail("BODY=8BITMIME", ALL - {"BINARYMIME"}).parameters is EIGHT_BIT_MAIL


@pytest.mark.parametrize("parameters", ["", "BODY=8BITMIME", "SIZE=10"])
def test_an_internationalized_sender_says_so(parameters: str) -> None:
    for address in ("j\u00f6rg@client.example", "ann@b\u00fccher.example"):
        argument = f"FROM:<{address}> {parameters}"
        with pytest.raises(CommandError) as error:
            parse_mail(argument, ALL, NOW)
        assert code_of(error) == (553, "5.6.7")
        assert parse_mail(f"{argument} SMTPUTF8", ALL, NOW).sender == Address.parse(address)


@pytest.mark.parametrize("address", ["j\u00f6rg@client.example", "ann@b\u00fccher.example"])
def test_an_internationalized_recipient_needs_a_sender_that_has_said_so(address: str) -> None:
    for parameters in ("", "NOTIFY=NEVER"):
        with pytest.raises(CommandError) as error:
            parse_rcpt(f"TO:<{address}> {parameters}", "mx.example.org", ALL, is_utf8=False)
        assert code_of(error) == (553, "5.6.7")
    assert parse_rcpt(f"TO:<{address}>", "mx.example.org", ALL, is_utf8=True).recipient == Address.parse(address)


RCPT_RIGHT: dict[str, tuple[tuple[str, ...], str]] = {
    # RFC 3461 sections 4.1 and 4.2
    "NOTIFY=NEVER": (("NEVER",), ""),
    "notify=success,FAILURE,Delay": (("SUCCESS", "FAILURE", "DELAY"), ""),
    "NOTIFY=DELAY,DELAY": (("DELAY",), ""),
    "ORCPT=rfc822;Bob@example.org": ((), "rfc822;Bob@example.org"),
    "ORCPT=rfc822;a+2Bb@example.org NOTIFY=FAILURE": (("FAILURE",), "rfc822;a+2Bb@example.org"),
    # RFC 6533 section 3: in ASCII
    "ORCPT=utf-8;j\\x{F6}rg@example.org": ((), "utf-8;j\\x{F6}rg@example.org"),
}


@pytest.mark.parametrize("parameters", RCPT_RIGHT)
def test_what_rcpt_may_ask_for(parameters: str) -> None:
    found = rcpt(parameters)
    assert (found.notify, found.orcpt) == RCPT_RIGHT[parameters]


RCPT_WRONG = [
    *(
        "NOTIFY",
        "NOTIFY=",
        "NOTIFY=ALWAYS",
        "NOTIFY=NEVER,DELAY",
        "NOTIFY=NEVER,NEVER,DELAY",
        "NOTIFY=,",
        "NOTIFY=DELAY,",
    ),
    *("NOTIFY=\u017fUCCESS", "NOTIFY=NEVER NOTIFY=NEVER"),
    *("ORCPT", "ORCPT=bob@example.org", "ORCPT=rfc822;", "ORCPT=;x", "ORCPT=rfc822;a+2b", "ORCPT=rfc822;a+00"),
    *("ORCPT=rfc822;a+0D+0Ab", f"ORCPT=rfc822;{'x' * 500}", "ORCPT=rfc822;j\u00f6rg@example.org"),
    *("ORCPT=utf-8;j\u00f6rg@example.org", "=", "NOTIFY=NEVER x=="),
]


@pytest.mark.parametrize("parameters", RCPT_WRONG)
def test_what_rcpt_may_not_say(parameters: str) -> None:
    with pytest.raises(CommandError) as error:
        rcpt(parameters)
    assert code_of(error) == (501, "5.5.4")


def test_an_original_recipient_in_utf_8() -> None:
    assert rcpt("ORCPT=utf-8;j\u00f6rg@example.org", is_utf8=True).orcpt == "utf-8;j\u00f6rg@example.org"
    assert rcpt("ORCPT=utf-8;j\u00f6rg\\x{2B}a@example.org", is_utf8=True).orcpt.endswith("\\x{2B}a@example.org")


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "rfc822;j\u00f6rg@example.org",
            "utf-8;j\u200brg",
            "utf-8;j\ue000rg",
            "utf-8;j\u00f6rg+2Ba",
            "utf-8;\u00f6+a",
        ),
        *(
            "utf-8;\u00f6\\a",
            "utf-8;\u00f6\\x{41}",
            "utf-8;\u00f6\\x{D800}",
            "utf-8;\u00f6\\x{01}",
            f"utf-8;{chr(246) * 250}",
        ),
    ],
)
def test_what_is_no_original_recipient_in_utf_8(wrong: str) -> None:
    with pytest.raises(CommandError) as error:
        rcpt(f"ORCPT={wrong}", is_utf8=True)
    assert code_of(error) == (501, "5.5.4")


NEVER, ALL_THREE = ("NEVER",), ("SUCCESS", "FAILURE", "DELAY")


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ((), (), ()),
        (NEVER, NEVER, NEVER),
        (NEVER, ("SUCCESS",), ("SUCCESS",)),
        (NEVER, (), ("FAILURE", "DELAY")),
        (("SUCCESS",), ("SUCCESS", "DELAY"), ("SUCCESS", "DELAY")),
        (("SUCCESS",), (), ALL_THREE),
        (("FAILURE",), ("DELAY",), ("FAILURE", "DELAY")),
    ],
)
def test_what_two_rcpts_ask_for(first: tuple[str, ...], second: tuple[str, ...], both: tuple[str, ...]) -> None:
    assert merge_notify(first, second) == both
    assert sorted(merge_notify(second, first)) == sorted(both)


@pytest.mark.parametrize(
    ("parameter", "offered"),
    [
        ("NOTIFY=NEVER", ALL - {"DSN"}),
        ("ORCPT=rfc822;a@b.example", frozenset[str]()),
        ("FOO=bar", ALL),
        ("SIZE=1", ALL),
        ("RET=FULL", ALL),
    ],
)
def test_what_rcpt_does_not_know(parameter: str, offered: frozenset[str]) -> None:
    with pytest.raises(CommandError) as error:
        rcpt(parameter, offered)
    assert code_of(error) == (555, "5.5.4")


def test_a_postmaster_takes_parameters_too() -> None:
    found = parse_rcpt("TO:<Postmaster> NOTIFY=NEVER", "example.org", ALL, is_utf8=False)
    assert (str(found.recipient), found.notify) == ("Postmaster@example.org", ("NEVER",))


KEYWORDS = [
    *OWNERS,
    "SIZE=",
    "BY=",
    "HOLDFOR=",
    "HOLDUNTIL=",
    "AUTH=",
    "ORCPT=",
    "NOTIFY=",
    "ENVID=",
    "X=",
    "MT-PRIORITY=",
]
PIECES = st.one_of(
    st.sampled_from([*KEYWORDS, " ", ";", ",", "+", "=", "<>", "99999999999999999999", "-1", "R", "N", "T", "+0A"]),
    st.text(max_size=5),
    st.datetimes().map(lambda when: when.isoformat() + "Z"),
)


@given(st.lists(PIECES, max_size=8).map("".join), st.sets(st.sampled_from(sorted(ALL))), st.floats(0, 1e10))
def test_nothing_but_a_refusal(text: str, offered: set[str], now: float) -> None:
    codes = set()
    for parse in (
        lambda: parse_mail(f"FROM:<a@b.example> {text}", offered, now),
        lambda: parse_mail(text, offered, now),
        lambda: parse_rcpt(f"TO:<a@b.example> {text}", "h.example", offered, is_utf8="SMTPUTF8" in offered),
        lambda: parse_rcpt(text, "h.example", offered, is_utf8=True),
        lambda: parse_bdat(text),
        lambda: parse_greeting(text),
        lambda: parse_command(text.encode("utf-8", "surrogatepass")),
    ):
        try:
            parse()
        except CommandError as error:
            codes.add(error.reply.code)
            error.reply.to_bytes()
    assert codes <= {500, 501, 553, 555}
