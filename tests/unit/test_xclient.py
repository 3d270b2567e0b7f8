"""XCLIENT and XFORWARD: what is taken, what is refused, what is told, and xtext."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.envelope import NO_ORIGIN, Origin
from mailgate.wire.commands import CommandError, parse_command
from mailgate.wire.xclient import (
    MAX_COMMAND,
    XClient,
    XForward,
    parse_xclient,
    parse_xforward,
    xclient_attributes,
    xclient_commands,
    xforward_attributes,
    xforward_commands,
)
from mailgate.wire.xtext import utf8_addr_decode, utf8_addr_xtext, xtext_decode, xtext_encode

ALL_XCLIENT = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
ALL_XFORWARD = "NAME ADDR PORT PROTO HELO IDENT SOURCE"
ORIGIN = Origin(
    address="192.0.2.1",
    port=40123,
    name="client.example",
    helo="pc.client.example",
    protocol="ESMTP",
    login="anna@example.org",
    ident="0ABC",
    source="REMOTE",
)


def xclient_of(commands: list[bytes]) -> list[XClient]:
    parsed = [parse_command(command.removesuffix(b"\r\n")) for command in commands]
    assert {command.verb for command in parsed} <= {"XCLIENT"}
    return [parse_xclient(command.argument) for command in parsed]


def xforward_of(commands: list[bytes]) -> XForward:
    told = XForward()
    for command in commands:
        parsed = parse_command(command.removesuffix(b"\r\n"))
        assert parsed.verb == "XFORWARD"
        told = told.merge(parse_xforward(parsed.argument))
    return told


# xtext


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", ""),
        ("plain@example.org", "plain@example.org"),
        ("a+b=c", "a+2Bb+3Dc"),
        ("one two", "one+20two"),
        ("jörg", "j+C3+B6rg"),
        ("\r\n\x00\x7f", "+0D+0A+00+7F"),
        ("!*,<>~", "!*,<>~"),
    ],
)
def test_xtext_both_ways(text: str, encoded: str) -> None:
    assert xtext_encode(text) == encoded
    assert xtext_decode(encoded) == text


def test_xtext_may_encode_what_it_need_not() -> None:
    assert xtext_decode("+41bc") == "Abc"


@pytest.mark.parametrize(
    "text", ["a=b", "a b", "+", "+4", "+4g", "+2b", "+C3", "ä", "a\n", "\n", "+C3+28", "+ED+A0+80", "\x7f", "+\n1"]
)
def test_what_is_no_xtext(text: str) -> None:
    with pytest.raises(ValueError, match="xtext"):
        xtext_decode(text)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("plain@example.org", "plain@example.org"),
        ("jörg@example.org", "j\\x{F6}rg@example.org"),
        ("a+b=c d\\e", "a\\x{2B}b\\x{3D}c\\x{20}d\\x{5C}e"),
        ("\N{LATIN SMALL LETTER LONG S}\N{KELVIN SIGN}", "\\x{17F}\\x{212A}"),
        ("\U0001f600\U0010fffd", "\\x{1F600}\\x{10FFFD}"),
    ],
)
def test_addresses_of_type_utf_8_both_ways(text: str, encoded: str) -> None:
    assert utf8_addr_xtext(text) == encoded
    assert utf8_addr_xtext(encoded) == encoded
    assert utf8_addr_decode(encoded) == text


def test_an_address_of_type_utf_8_in_both_forms_at_once() -> None:
    assert utf8_addr_xtext("jörg\\x{2b}a\\x{41}") == "j\\x{F6}rg\\x{2b}a\\x{5C}x{41}"
    assert utf8_addr_decode("jörg\\x{2b}a") == "jörg+a"


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a+b", "a=b", "a\\b", "\\x{}", "\\x{41}", "\\x{0F6}", "\\x{D800}", "\\x{110000}", "\\X", "a\n", "\x7f"],
)
def test_what_is_no_address_of_type_utf_8(text: str) -> None:
    with pytest.raises(ValueError, match="not utf-8-addr-unitext"):
        utf8_addr_decode(text)


@given(st.text())
def test_what_is_printable_survives_the_form_of_type_utf_8(text: str) -> None:
    text = "".join(one for one in text if one.isprintable() and one != "\\")
    encoded = utf8_addr_xtext(text)
    assert encoded.isascii()
    assert not text or utf8_addr_decode(encoded) == text


@given(st.text())
def test_xtext_round_trip(text: str) -> None:
    encoded = xtext_encode(text)
    assert xtext_decode(encoded) == text
    assert re.fullmatch(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*", encoded)


@given(st.text(alphabet="+=0123456789ABCDEFabcdef \n~é"))
def test_whatever_decodes_is_xtext(text: str) -> None:
    try:
        decoded = xtext_decode(text)
    except ValueError:
        return
    assert xtext_decode(xtext_encode(decoded)) == decoded


# XCLIENT


def test_every_attribute_of_xclient() -> None:
    told = parse_xclient(
        "NAME=client.example ADDR=192.0.2.1 PORT=40123 PROTO=ESMTP HELO=[192.0.2.1] LOGIN=j+C3+B6rg"
        " DESTADDR=IPV6:2001:db8::25 DESTPORT=587"
    )
    assert told == XClient(
        name="client.example",
        address=IPv4Address("192.0.2.1"),
        port=40123,
        protocol="ESMTP",
        helo="[192.0.2.1]",
        login="jörg",
        destination_address=IPv6Address("2001:db8::25"),
        destination_port=587,
    )


def test_what_is_not_given_is_none_and_what_is_unavailable_is_empty() -> None:
    assert parse_xclient("PORT=1") == XClient(port=1)
    told = parse_xclient(
        "NAME=[UNAVAILABLE] ADDR=[unavailable] PORT=[UNAVAILABLE] HELO=[UNAVAILABLE] LOGIN=[UNAVAILABLE]"
        " DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]"
    )
    assert told == XClient(name="", address="", port=0, helo="", login="", destination_address="", destination_port=0)


def test_a_name_that_is_not_there_for_now() -> None:
    assert parse_xclient("NAME=[TEMPUNAVAIL]") == XClient(name="", name_is_temporary=True)
    assert parse_xclient("NAME=[tempunavail]").name_is_temporary
    assert not parse_xclient("NAME=[UNAVAILABLE]").name_is_temporary


def test_words_in_any_case_and_encoded() -> None:
    assert parse_xclient("name=a.example Addr=ipv6:::1 pRoTo=smtp") == XClient(
        name="a.example", address=IPv6Address("::1"), protocol="SMTP"
    )
    assert parse_xclient("LOGIN=+5BUNAVAILABLE+5D NAME=+5Btempunavail+5D") == XClient(
        login="", name="", name_is_temporary=True
    )


def test_ipv4_in_ipv6_is_ipv4() -> None:
    assert parse_xclient("ADDR=IPV6:::ffff:192.0.2.1").address == IPv4Address("192.0.2.1")


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "NAME",
        "NAME=",
        "=x",
        "NAME=a.example  PORT=1",
        "NAME=a.example\tPORT=1",
        "NAME=a=b",
        "NAME=a+2eexample",
        "FOO=1",
        "IDENT=1",
        "SOURCE=LOCAL",
        "NAME=a.example name=b.example",
        "ADDR=192.0.2.256",
        "ADDR=192.0.2.01",
        "ADDR=2001:db8::1",
        "ADDR=[192.0.2.1]",
        "ADDR=IPV6:192.0.2.1",
        "ADDR=IPV6:fe80::1%eth0",
        "ADDR=IPV6:",
        "ADDR=[TEMPUNAVAIL]",
        "ADDR=unix",
        "DESTADDR=x",
        "PORT=65536",
        "PORT=01",
        "PORT=-1",
        "PORT=+31+0A",
        "PORT=smtp",
        "PORT=²",
        "DESTPORT=587x",
        "PROTO=LMTP",
        "PROTO=[UNAVAILABLE]",
        "HELO=a+20b",
        "HELO=a(b)",
        "HELO=-",
        "NAME=a.example+0D+0AX",
        "NAME=" + "a" * 256,
        "HELO=" + "a" * 256,
        "LOGIN=a+0Ab",
        "LOGIN=a+00",
        "LOGIN=a+C2+85b",
        "LOGIN=a+E2+80+A8b",
        "LOGIN=+FF",
        "LOGIN=" + "a" * 256,
        "LOGIN=" + "+C3+B6" * 128,
    ],
)
def test_what_xclient_is_not(argument: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_xclient(argument)
    assert (caught.value.reply.code, caught.value.reply.status) == (501, "5.5.4")


def test_the_longest_values() -> None:
    assert parse_xclient("LOGIN=" + "+C3+B6" * 127 + "a").login == "ö" * 127 + "a"
    assert parse_xclient("HELO=" + "a" * 255 + " NAME=" + "b" * 255).name == "b" * 255


def test_a_login_is_not_repeated_where_it_is_refused() -> None:
    with pytest.raises(CommandError) as caught:
        parse_xclient("LOGIN=hunter2+0A")
    assert "hunter2" not in str(caught.value)
    assert "LOGIN" in str(caught.value)


# XFORWARD


def test_every_attribute_of_xforward() -> None:
    told = parse_xforward(
        "NAME=client.example ADDR=IPV6:2001:db8::1 PORT=40123 PROTO=ESMTPSA HELO=pc IDENT=3CF6B2AAE8 SOURCE=remote"
    )
    assert told == XForward(
        name="client.example",
        address=IPv6Address("2001:db8::1"),
        port=40123,
        protocol="ESMTPSA",
        helo="pc",
        ident="3CF6B2AAE8",
        source="REMOTE",
    )
    assert told.apply(NO_ORIGIN) == Origin(
        name="client.example",
        address="2001:db8::1",
        port=40123,
        protocol="ESMTPSA",
        helo="pc",
        ident="3CF6B2AAE8",
        source="REMOTE",
    )


def test_what_postfix_sends_for_a_local_submission() -> None:
    told = parse_xforward("NAME=localhost ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] SOURCE=LOCAL")
    assert told == XForward(name="localhost", address="", port=0, source="LOCAL")


@pytest.mark.parametrize("word", ["NAME", "ADDR", "PROTO", "HELO", "IDENT", "SOURCE"])
def test_anything_may_be_unavailable(word: str) -> None:
    told = parse_xforward(f"{word}=[Unavailable]").apply(ORIGIN)
    emptied = [name for name in Origin.__struct_fields__ if getattr(told, name) != getattr(ORIGIN, name)]
    assert [getattr(told, name) for name in emptied] == [""]


@pytest.mark.parametrize("greeting", ["my+2Bpc", "?", "a+20b", "host:25", "+C3+BC.example", "a" * 254 + "-"])
def test_a_greeting_of_a_forwarded_client_that_is_no_host_is_not_available(greeting: str) -> None:
    assert parse_xforward(f"HELO={greeting} NAME={greeting} IDENT=x") == XForward(helo="", name="", ident="x")


def test_several_commands_add_up_and_the_later_one_wins() -> None:
    first = parse_xforward("NAME=a.example ADDR=192.0.2.1 PORT=1 PROTO=SMTP")
    second = parse_xforward("NAME=[UNAVAILABLE] PORT=[UNAVAILABLE] HELO=a IDENT=x SOURCE=LOCAL")
    assert first.merge(second) == XForward(
        name="", address=IPv4Address("192.0.2.1"), port=0, protocol="SMTP", helo="a", ident="x", source="LOCAL"
    )
    assert first.merge(XForward()) == first == XForward().merge(first)


def test_what_was_not_given_stays_in_the_origin() -> None:
    assert XForward().apply(ORIGIN) == ORIGIN
    assert parse_xforward("PORT=7 ADDR=[UNAVAILABLE]").apply(ORIGIN) == Origin(
        address="",
        port=7,
        name=ORIGIN.name,
        helo=ORIGIN.helo,
        protocol="ESMTP",
        login=ORIGIN.login,
        ident="0ABC",
        source="REMOTE",
    )


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "LOGIN=a",
        "DESTADDR=192.0.2.1",
        "IDENT=a+20b",
        "IDENT=a+0Ab",
        "IDENT=+C3+B6",
        "IDENT=" + "a" * 256,
        "SOURCE=x",
        "PROTO=" + "A" * 65,
        "PROTO=a+28b",
        "ADDR=1",
        "HELO=a+0D",
        "IDENT=a IDENT=b",
    ],
)
def test_what_xforward_is_not(argument: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_xforward(argument)
    assert (caught.value.reply.code, caught.value.reply.status) == (501, "5.5.4")


# Telling a server


def test_the_offers() -> None:
    assert xclient_attributes() == f"XCLIENT {ALL_XCLIENT}"
    assert xforward_attributes() == f"XFORWARD {ALL_XFORWARD}"


def test_xclient_tells_all_with_name_and_address_last() -> None:
    assert xclient_commands(ORIGIN, ALL_XCLIENT, destination=("2001:db8::25", 25)) == [
        b"XCLIENT PROTO=ESMTP HELO=pc.client.example LOGIN=anna@example.org DESTADDR=IPV6:2001:db8::25 DESTPORT=25"
        b" PORT=40123 ADDR=192.0.2.1 NAME=client.example\r\n"
    ]


def test_only_what_is_offered_is_told() -> None:
    assert xclient_commands(ORIGIN, "addr Name X", destination=None) == [
        b"XCLIENT ADDR=192.0.2.1 NAME=client.example\r\n"
    ]
    assert xclient_commands(ORIGIN, "", destination=None) == []
    assert xforward_commands(ORIGIN, "Q1", "IDENT REST") == [b"XFORWARD IDENT=Q1\r\n"]


def test_what_is_not_known_is_said_to_be_unavailable() -> None:
    assert xclient_commands(NO_ORIGIN, ALL_XCLIENT, destination=None) == [
        b"XCLIENT HELO=[UNAVAILABLE] LOGIN=[UNAVAILABLE] DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]"
        b" PORT=[UNAVAILABLE] ADDR=[UNAVAILABLE] NAME=[UNAVAILABLE]\r\n"
    ]
    assert xforward_commands(NO_ORIGIN, "Q1", ALL_XFORWARD) == [
        b"XFORWARD NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] PROTO=[UNAVAILABLE] HELO=[UNAVAILABLE]"
        b" IDENT=Q1 SOURCE=[UNAVAILABLE]\r\n"
    ]


def test_xforward_names_our_queue_id() -> None:
    assert xforward_commands(ORIGIN, "0Q1", ALL_XFORWARD) == [
        b"XFORWARD NAME=client.example ADDR=192.0.2.1 PORT=40123 PROTO=ESMTP HELO=pc.client.example IDENT=0Q1"
        b" SOURCE=REMOTE\r\n"
    ]


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("2001:DB8:0::1", b"IPV6:2001:db8::1"),
        ("::ffff:192.0.2.1", b"192.0.2.1"),
        ("fe80::1%eth0", b"IPV6:fe80::1"),
        ("local", b"[UNAVAILABLE]"),
        ("1", b"[UNAVAILABLE]"),
    ],
)
def test_addresses_as_they_are_told(address: str, written: bytes) -> None:
    assert xclient_commands(Origin(address=address), "ADDR", destination=None) == [b"XCLIENT ADDR=" + written + b"\r\n"]


@pytest.mark.parametrize(
    "name", ["192.0.2.1", "a..b", "-a.example", "a b", "a" * 64, "a." * 127 + "example", "a\r\nQUIT"]
)
def test_a_name_that_a_server_would_refuse_is_unavailable(name: str) -> None:
    assert xclient_commands(Origin(name=name), "NAME", destination=None) == [b"XCLIENT NAME=[UNAVAILABLE]\r\n"]


def test_control_characters_are_not_told() -> None:
    origin = Origin(login="a\r\nQUIT", helo="a\nb", ident="x", protocol="ESMTP\r\n")
    assert xclient_commands(origin, "LOGIN HELO PROTO", destination=None) == [
        b"XCLIENT HELO=[UNAVAILABLE] LOGIN=[UNAVAILABLE]\r\n"
    ]
    assert xforward_commands(origin, "Q\n", "PROTO IDENT") == [b"XFORWARD PROTO=[UNAVAILABLE] IDENT=[UNAVAILABLE]\r\n"]


def test_long_values_take_several_commands_and_none_is_cut() -> None:
    name, helo = ".".join(["n" * 50] * 5), ".".join(["h" * 50] * 5)
    commands = xclient_commands(Origin(name=name, helo=helo, login="l" * 300), ALL_XCLIENT, destination=None)
    assert [len(command) <= MAX_COMMAND for command in commands] == [True, True, True]
    assert b" LOGIN=" + b"l" * 300 in commands[1]
    assert commands[-1].endswith(b" PORT=[UNAVAILABLE] ADDR=[UNAVAILABLE] NAME=" + name.encode() + b"\r\n")
    commands = xclient_commands(Origin(login="ö" * 255), "LOGIN", destination=None)
    assert commands == [b"XCLIENT LOGIN=[UNAVAILABLE]\r\n"]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(1, 200))
def test_address_and_name_change_together(login: int, helo: int, name: int) -> None:
    origin = Origin(login="l" * login, helo="h" * helo, address="2001:db8::1", name=".".join("n" * name))
    commands = xclient_commands(origin, ALL_XCLIENT, destination=None)
    assert [b" ADDR=" in command or b" NAME=" in command for command in commands[:-1]] == [False] * (len(commands) - 1)
    assert max(map(len, commands)) <= MAX_COMMAND


def test_the_longest_command_has_512_octets() -> None:
    room = MAX_COMMAND - len("XCLIENT LOGIN=\r\n")
    assert xclient_commands(Origin(login="l" * room), "LOGIN", destination=None)[0] == (
        b"XCLIENT LOGIN=" + b"l" * room + b"\r\n"
    )
    assert xclient_commands(Origin(login="l" * (room + 1)), "LOGIN", destination=None) == [
        b"XCLIENT LOGIN=[UNAVAILABLE]\r\n"
    ]


labels = st.text(alphabet="abcXYZ019_", min_size=1, max_size=63)
hosts = st.lists(labels, min_size=1, max_size=4).map(lambda parts: ".".join([*parts, "example"])[-255:].lstrip("."))
addresses = st.one_of(st.ip_addresses(v=4), st.integers(1 << 64, (1 << 128) - 1).map(IPv6Address))
ports = st.integers(1, 65535)
logins = st.text(max_size=60).filter(lambda text: text.isprintable() and text.upper() not in ("[UNAVAILABLE]",))


@given(hosts, hosts, addresses, ports, st.sampled_from(["SMTP", "ESMTP"]), logins, addresses, ports)
def test_what_is_told_is_understood(
    name: str,
    helo: str,
    address: IPv4Address | IPv6Address,
    port: int,
    protocol: str,
    login: str,
    destination: IPv4Address | IPv6Address,
    destination_port: int,
) -> None:
    origin = Origin(address=str(address), port=port, name=name, helo=helo, protocol=protocol, login=login)
    commands = xclient_commands(origin, ALL_XCLIENT, destination=(str(destination), destination_port))
    assert all(len(command) <= MAX_COMMAND for command in commands)
    told: dict[str, object] = {}
    for part in xclient_of(commands):
        told |= {slot: value for slot in XClient.__slots__ if (value := getattr(part, slot)) is not None}
    assert told == {
        "name": name,
        "name_is_temporary": False,
        "address": address,
        "port": port,
        "protocol": protocol,
        "helo": helo,
        "login": login,
        "destination_address": destination,
        "destination_port": destination_port,
    }


@given(hosts, hosts, addresses, ports, st.sampled_from(["LOCAL", "REMOTE", ""]))
def test_what_is_forwarded_is_understood(
    name: str, helo: str, address: IPv4Address | IPv6Address, port: int, source: str
) -> None:
    origin = Origin(address=str(address), port=port, name=name, helo=helo, protocol="LMTP", source=source)
    told = xforward_of(xforward_commands(origin, "0Q1", ALL_XFORWARD))
    assert told.apply(NO_ORIGIN) == Origin(
        address=str(address), port=port, name=name, helo=helo, protocol="LMTP", source=source, ident="0Q1"
    )


@given(
    st.builds(Origin, **dict.fromkeys(("address", "name", "helo", "protocol", "login", "ident", "source"), st.text()))
)
def test_any_origin_makes_commands_that_our_own_server_takes(origin: Origin) -> None:
    for commands in (
        xclient_commands(origin, ALL_XCLIENT, destination=(origin.address, 0)),
        xforward_commands(origin, origin.ident, ALL_XFORWARD),
    ):
        for command in commands:
            assert len(command) <= MAX_COMMAND
            assert command.find(b"\r\n") == len(command) - 2
    for part in xclient_commands(origin, ALL_XCLIENT.replace("LOGIN", ""), destination=None):
        parse_xclient(parse_command(part[:-2]).argument)


PIECES = (
    "NAME ADDR PORT PROTO HELO LOGIN IDENT SOURCE = = IPV6: :: 192.0.2.1 [UNAVAILABLE] [TEMPUNAVAIL] + +0A +C3 +B6 %"
    " 1 65535 99999999 a.example LOCAL"
)
pieces = st.sampled_from([" ", *PIECES.split()])


@given(st.one_of(st.text(), st.lists(pieces).map("".join)))
def test_whatever_comes_is_taken_or_refused(argument: str) -> None:
    for parse in (parse_xclient, parse_xforward):
        try:
            told = parse(argument)
        except CommandError:
            continue
        texts = [value for slot in told.__slots__ if isinstance(value := getattr(told, slot), str)]
        assert all(text.isprintable() and len(text.encode()) <= 255 for text in texts)
