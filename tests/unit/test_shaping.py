"""What holds for a destination, and which of its answers mean "not so fast"."""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.config.schema import LmtpRoute, RetrySection, SmtpRoute
from mailgate.relay.replies.limits import Limits
from mailgate.relay.replies.shaping import Shaping
from mailgate.reply import Reply, parse_reply
from tests.unit.relaying import configuration

BY_MX = SmtpRoute(transport="smtp", connections=20, messages_per_connection=100)
FIXED = SmtpRoute(transport="smtp", hosts=["mx.orange.fr:25"], connections=20)
FASTER = {"first": "1m", "longest": "10m", "expire": "2d"}


def shaping(**sections: dict[str, Any]) -> Shaping:
    return Shaping(configuration(routes={"out": {"transport": "smtp"}}, shaping=sections))


def limits(one: Shaping, domain: str = "d.test", *hosts: str, route: str = "out", source: str = "") -> Limits:
    return one.limits(route, BY_MX, domain, hosts or ("mx.d.test",), source)


# -- limits


def test_without_sections_the_route_says_it() -> None:
    one = shaping()
    found = limits(one)
    assert found == Limits(20, 100, BY_MX.retry, 100, 0.0, 0.0, ())
    assert limits(one, "other.test") is found


def test_a_route_that_changes_is_not_remembered() -> None:
    one = shaping()
    assert limits(one).connections == 20
    other = SmtpRoute(transport="smtp", connections=3)
    assert one.limits("out", other, "d.test", ("mx",), "").connections == 3


def test_every_limit_can_be_given() -> None:
    one = shaping(
        slow={
            "domains": ["d.test"],
            "connections": 2,
            "messages_per_connection": 5,
            "recipients_per_message": 10,
            "message_rate": "30/m",
            "connection_rate": "2/s",
            "retry": FASTER,
        }
    )
    retry = RetrySection.model_validate(FASTER)
    assert limits(one) == Limits(2, 5, retry, 10, 0.5, 2.0, ("slow",))
    assert limits(one, "other.test").rules == ()


def test_the_last_section_has_the_word_on_what_it_gives() -> None:
    one = shaping(
        everybody={"connections": 10, "message_rate": "10/s"},
        slow={"domains": ["d.test"], "connections": 2},
        big={"mx": ["*.d.test"], "messages_per_connection": 500},
    )
    found = limits(one)
    assert (found.connections, found.message_rate, found.messages_per_connection) == (2, 10.0, 500)
    assert found.rules == ("everybody", "slow", "big")
    assert limits(one, "e.test", "mx.e.test").rules == ("everybody",)


@pytest.mark.parametrize(
    ("section", "is_meant"),
    [
        ({"domains": ["d.test"]}, True),
        ({"domains": ["*.d.test"]}, False),
        ({"domains": ["*.test"]}, True),
        ({"domains": ["test"]}, False),
        ({"domains": ["e.test"], "mx": ["mx.d.test"]}, True),
        ({"mx": ["mx2.d.test"]}, True),
        ({"mx": ["*.d.test"]}, True),
        ({"mx": ["d.test"]}, False),
        ({"mx": ["*.mx.d.test"]}, False),
        ({"routes": ["out"]}, True),
        ({"routes": ["in"]}, False),
        ({"routes": ["in", "out"], "domains": ["d.test"]}, True),
        ({"routes": ["in"], "domains": ["d.test"]}, False),
        ({"sources": ["a"]}, True),
        ({"sources": ["b"], "domains": ["d.test"]}, False),
        ({}, True),
    ],
)
def test_whom_a_section_is_for(section: dict[str, Any], is_meant: bool) -> None:
    one = shaping(it={**section, "connections": 1})
    assert (limits(one, "d.test", "mx.d.test", "mx2.d.test", source="a").rules == ("it",)) is is_meant


def test_a_section_for_sources_is_not_for_the_systems() -> None:
    one = shaping(it={"sources": ["a"], "connections": 1})
    assert limits(one, source="").rules == ()


def test_fixed_hosts_have_no_domain() -> None:
    one = shaping(it={"domains": ["d.test"], "connections": 1}, host={"mx": ["box"], "connections": 2})
    route = LmtpRoute(transport="lmtp", hosts=["box:24"])
    assert one.limits("out", route, "", ("box",), "").rules == ("host",)


def test_what_a_destination_publishes_holds_where_the_route_does_not_say_less() -> None:
    one = shaping()
    found = limits(one, "orange.fr", "smtp-in.orange.fr")
    assert (found.connections, found.messages_per_connection) == (2, 100)
    modest = SmtpRoute(transport="smtp", connections=1, messages_per_connection=7)
    found = one.limits("out", modest, "orange.fr", ("smtp-in.orange.fr",), "")
    assert (found.connections, found.messages_per_connection) == (1, 7)
    # Not on the way to hosts of one's own choice.
    assert one.limits("out", FIXED, "", ("mx.orange.fr",), "").connections == 20


def test_the_configuration_knows_better_than_what_is_published() -> None:
    one = shaping(more={"mx": ["*.orange.fr"], "connections": 8})
    assert limits(one, "orange.fr", "smtp-in.orange.fr").connections == 8


# -- signals


def reply(text: str) -> Reply:
    return parse_reply([text.encode()])


@pytest.mark.parametrize(
    "text",
    [
        "421 4.7.0 mx.example.org Error: too many connections from 192.0.2.1",
        "450 4.7.1 Error: too much mail from 192.0.2.1",
        "421 Too many concurrent SMTP connections; please try again later.",
        "421 4.7.0 Connection rate limit exceeded.",
        "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
        "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714)",
        "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.",
        "452 4.3.1 Insufficient system resources (UsedDiskSpace)",
        "421 4.1.0 192.0.2.1 Throttled - too many messages",
        "421 mwinf5c04 ME Too many connections, slow down. OFR104_104",
        "421 4.7.66 TLS is busy",
        "554 5.7.1 too many connections from your address",
    ],
)
def test_answers_that_mean_not_so_fast(text: str) -> None:
    one = shaping()
    signal = one.signal(limits(one), reply(text))
    assert signal is not None
    assert signal.recovery > 0
    assert signal.reason == "built in"


@pytest.mark.parametrize(
    "text",
    [
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages",
        "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded",
        "452 4.2.2 The recipient's inbox is out of storage: over quota",
        "550 5.1.1 user unknown",
        "450 4.2.0 <a@d.test>: Recipient address rejected: Greylisted",
        "451 4.3.0 Temporary lookup failure",
        "421 4.4.2 timeout exceeded",
        "421 4.3.0 closing",
        "554 5.7.1 Your message looks like spam",
        "452 4.5.3 Too many recipients",
        "550 5.7.1 rates of our plans are at https://example.org",
    ],
)
def test_answers_that_do_not(text: str) -> None:
    one = shaping()
    assert one.signal(limits(one), reply(text)) is None


def test_a_421_that_greets_us_is_one_that_ends_a_session_is_not() -> None:
    one = shaping()
    closing = reply("421 closing")
    assert one.signal(limits(one), closing, "greeting") is not None
    assert one.signal(limits(one), closing, "hello") is None
    assert one.signal(limits(one), closing) is None


def test_some_say_how_long_they_want_to_be_left_alone() -> None:
    one = shaping()
    found = one.signal(limits(one), reply("421 4.7.28 unusual rate of mail"))
    assert found is not None
    assert (found.rest, found.recovery) == (300.0, 1800.0)


def test_a_sites_own_answers_come_first() -> None:
    one = shaping(
        all={"slow_down": [{"replies": ["4.7.28"], "recovery": "1h"}]},
        slow={
            "domains": ["d.test"],
            "slow_down": [
                {"replies": ["451 come later"], "action": "rest", "rest": "2m", "recovery": "20m"},
                {"replies": ["4.7.28"], "recovery": "2h"},
            ],
        },
    )
    there, elsewhere = limits(one), limits(one, "e.test")
    found = one.signal(there, reply("451 4.0.0 Please come later"))
    assert found is not None
    assert (found.rest, found.recovery, found.reason) == (120.0, 1200.0, "shaping.slow")
    assert one.signal(elsewhere, reply("451 4.0.0 Please come later")) is None
    for held, seconds in ((there, 7200.0), (elsewhere, 3600.0)):
        found = one.signal(held, reply("421 4.7.28 unusual rate"))
        assert found is not None
        assert (found.rest, found.recovery) == (0.0, seconds)


def test_what_is_configured_counts_even_where_we_know_better() -> None:
    one = shaping(all={"slow_down": [{"replies": ["receiving mail at a rate that"]}]})
    assert one.signal(limits(one), reply("450 4.2.1 The user is receiving mail at a rate that is high")) is not None
