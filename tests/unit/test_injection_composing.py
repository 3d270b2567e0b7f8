"""Orders as messages: what stands where, and that no field can say more than it is for."""

from __future__ import annotations

import base64
import email
import json
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgate.address import Address
from mailgate.config.injection import InjectionSection
from mailgate.message import MAX_HEADER, Content, Message, header_problem
from mailgate.web.injection import pieces
from mailgate.web.injection.composing import Draft
from mailgate.web.injection.models import MOST_TEXT, Order, Person, Personal
from mailgate.web.injection.parts import _SMALL, _once
from mailgate.web.injection.pieces import PIECE
from mailgate.web.injection.problems import CallError
from mailgate.web.injection.reading import Asked, Call, read_call, read_light, read_small
from mailgate.web.injection.templating import HeavyError

NOW = 1_800_000_000.0
FILE = base64.b64encode(b"octets").decode()
SECTION = InjectionSection.model_validate({"pipeline": "out", "max_message_size": "96KiB"})
PLAIN: dict[str, Any] = {"from": "shop@example.org", "to": ["ann@example.net"], "subject": "x", "text": "y"}
RAW = "message/rfc822"


def read(content: bytes, kind: str = "application/json", query: Any = None, fields: Any = None) -> Call:
    return read_call(Asked(content, kind, query or {}, fields or {}), SECTION, "gw.example.org", NOW)


def order(**changes: Any) -> Draft:
    """The first message of an order like PLAIN; a change to None leaves a field out."""
    said = {name: value for name, value in {**PLAIN, **changes}.items() if value is not None}
    (draft,) = read(json.dumps(said).encode()).messages.drafts(0, 1)
    if not isinstance(draft, Draft):
        raise draft[1]
    return draft


def parsed(draft: Draft) -> EmailMessage:
    message: Any = email.message_from_bytes(draft.content, policy=SMTP)
    return message  # type: ignore[no-any-return]


def paths(error: CallError) -> list[str]:
    return [one.path for one in error.faults]


def assert_sound(draft: Draft) -> None:
    """It is mail that anybody may be sent."""
    content = Content(draft.content)
    assert header_problem(content) == ""
    assert b"\0" not in draft.content
    assert draft.content.replace(b"\r\n", b"").count(b"\n") == draft.content.replace(b"\r\n", b"").count(b"\r") == 0
    assert max(map(len, draft.content.split(b"\r\n"))) <= 998
    names = [one.name.lower() for one in Message(content).fields]
    assert "" not in names
    assert len(set(names)) == len(names)


def test_the_parts_of_a_message() -> None:
    draft = order(
        to=["Ann <ann@example.net>", {"address": "böb@exämple.net", "name": "Bob, B."}],
        cc=["carl@example.net"],
        bcc=["dora@example.net", "ann@example.net"],
        reply_to=["desk@example.org"],
        return_path="bounces@example.org",
        html="<p>",
        attachments=[{"content": FILE, "name": "a.txt"}, {"content": FILE, "cid": "c", "type": "image/png"}],
    )
    assert_sound(draft)
    message = parsed(draft)
    assert str(draft.sender) == "bounces@example.org"
    assert [(path, str(one)) for path, one in draft.recipients] == [
        ("to.0", "ann@example.net"),
        ("to.1", "böb@xn--exmple-cua.net"),
        ("cc.0", "carl@example.net"),
        ("bcc.0", "dora@example.net"),
    ]
    assert (draft.parameters.smtputf8, draft.parameters.body) == (True, "8BITMIME")
    assert (message["Reply-To"], message["Cc"], message["Bcc"]) == ("desk@example.org", "carl@example.net", None)
    assert [one.get_content_type() for one in message.walk()] == [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "application/octet-stream",
    ]
    assert b"dora" not in draft.content


def test_blind_copies_alone_name_nobody() -> None:
    draft = order(to=None, bcc=["ann@example.net"])
    assert b"To: undisclosed-recipients:;\r\n" in draft.content
    assert_sound(draft)


def test_all_that_is_sent_is_ascii_where_addresses_are() -> None:
    draft = order(subject="ä" * 300, text="ä" * 3000 + "\r.\n.\nFrom x", headers={"X-A": "ö " * 200})
    assert draft.content.isascii()
    assert (draft.parameters.smtputf8, draft.parameters.body) == (False, "7BIT")
    assert_sound(draft)
    assert parsed(draft).get_content().split() == ["ä" * 3000, ".", ".", "From", "x"]
    assert str(parsed(draft)["Subject"]) == "ä" * 300


INJECTIONS = [
    "a\r\nBcc: eve@example.com",
    "a\nX: y",
    "a\rX: y",
    "a\0b",
    "a\r\n\r\nbody",
    "a\u2028b",
    "a\x0bb",
    "a\x85b",
]


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("from", lambda text: {"from": f"{text} <shop@example.org>"}),
        ("from", lambda text: {"from": f"shop{text}@example.org"}),
        ("from", lambda text: {"from": {"address": "shop@example.org", "name": text}}),
        ("from", lambda text: {"from": {"address": f"shop@example.org{text}"}}),
        ("return_path", lambda text: {"return_path": f"shop@example.org{text}"}),
        ("to.0", lambda text: {"to": [f"ann@example.net{text}"]}),
        ("to.0", lambda text: {"to": [{"address": "ann@example.net", "name": text}]}),
        ("cc.0", lambda text: {"cc": [f'"{text}" <ann@example.net>']}),
        ("bcc.0", lambda text: {"bcc": [f"<{text}@example.net>"]}),
        ("reply_to.0", lambda text: {"reply_to": [f"{text} <ann@example.net>"]}),
        ("recipients.0.to", lambda text: {"to": None, "recipients": [{"to": f"{text} <ann@example.net>"}]}),
        ("subject", lambda text: {"subject": text}),
        ("template.subject", lambda text: {"subject": None, "text": None, "template": {"subject": text}}),
        ("headers.X-A", lambda text: {"headers": {"X-A": text}}),
        ("headers", lambda text: {"headers": {f"X-A: {text}": "x"}}),
        ("attachments.0.name", lambda text: {"attachments": [{"content": FILE, "name": text}]}),
        ("attachments.0.type", lambda text: {"attachments": [{"content": FILE, "type": f"text/plain{text}"}]}),
        ("attachments.0.cid", lambda text: {"html": "x", "attachments": [{"content": FILE, "cid": text}]}),
        ("tags.0", lambda text: {"tags": [text]}),
        ("stream", lambda text: {"stream": text}),
        ("idempotency_key", lambda text: {"idempotency_key": text}),
    ],
)
def test_no_field_can_bring_another(path: str, change: Any, text: str) -> None:
    with pytest.raises(CallError) as refused:
        order(**change(text))
    assert path in paths(refused.value)


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_value_of_a_template_can_bring_a_field(text: str) -> None:
    template = {"subject": "{{ a }}", "text": "x"}
    with pytest.raises(CallError) as refused:
        order(subject=None, text=None, template=template, substitutions={"a": text})
    assert paths(refused.value) == ["substitutions"]


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=190),
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=500),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=500),
)
def test_whatever_is_said_is_one_field(name: str, line: str, text: str) -> None:
    person = {"address": "ann@example.net", "name": name}
    draft = order(
        **{"from": person},
        to=[person, person],
        subject=line,
        text=text,
        headers={"X-Line": line},
        attachments=[{"content": FILE, "name": line[:255]}],
    )
    assert_sound(draft)
    message = Message(Content(draft.content))
    assert str(make_header(decode_header("".join(message.values("X-Line"))))).split() == line.split()
    assert [str(one.addr_spec) for one in parsed(draft)["From"].addresses] == ["ann@example.net"]
    assert len(parsed(draft)["To"].addresses) == 2


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("unknown", {"unknown": 1}),
        ("from", {"from": None}),
        ("from", {"from": "a@b@c"}),
        ("from", {"from": 7}),
        ("from", {"from": "a@example.org, b@example.org"}),
        ("from", {"from": {"name": "x"}}),
        ("from", {"from": "x <" + "a" * 65 + "@example.org>"}),
        ("to", {"to": None}),
        ("to", {"to": []}),
        ("to", {"to": [f"a{one}@example.net" for one in range(101)]}),
        ("to.1", {"to": ["ann@example.net", "nobody"]}),
        ("recipients", {"recipients": [{"to": "bob@example.net"}]}),
        ("recipients.0.to", {"to": None, "recipients": [{}]}),
        ("recipients.1.x", {"to": None, "recipients": [{"to": "bob@example.net"}, {"to": "bob@example.net", "x": 1}]}),
        ("recipients.0", {"to": None, "recipients": [7]}),
        ("subject", {"subject": "x" * 2001}),
        ("text", {"text": "a\0b"}),
        ("html", {"html": 5}),
        ("template.text", {"subject": None, "text": None, "template": {"text": "{{"}}),
        ("substitutions", {"subject": None, "text": None, "template": {"text": "{{ gone }}"}}),
        ("", {"template": {"text": "x"}}),
        ("", {"substitutions": {"a": 1}}),
        ("attachments.0.content", {"attachments": [{"content": "no base64!"}]}),
        ("attachments.0.content", {"attachments": [{"name": "x"}]}),
        ("attachments.0.type", {"attachments": [{"content": FILE, "type": "multipart/mixed"}]}),
        ("attachments.0.type", {"attachments": [{"content": FILE, "type": "message/rfc822"}]}),
        ("", {"attachments": [{"content": FILE, "cid": "c"}]}),
        ("", {"attachments": [{"content": base64.b64encode(b"x" * 100_000).decode()}]}),
        ("", {"text": "x" * 100_001}),
        ("headers", {"headers": {"Received": "x"}}),
        ("headers", {"headers": {"content-type": "x"}}),
        ("headers", {"headers": {"Resent-From": "x"}}),
        ("headers", {"headers": {"X-A": "1", "x-a": "2"}}),
        ("headers", {"headers": {"X A": "1"}}),
        ("headers", {"headers": {f"X-{one}": "1" for one in range(51)}}),
        ("headers", {"headers": {f"X-{one}": "\u00e9" * 2000 for one in range(50)}}),
        ("send_at", {"send_at": "2027-01-15T08:00:00"}),
        ("send_at", {"send_at": "tomorrow"}),
        ("send_at", {"send_at": 1_800_000_000}),
        ("send_at", {"send_at": "1800000000"}),
        ("recipients", {"to": None, "recipients": "a@example.net"}),
        ("recipients", {"to": None, "recipients": {}}),
        ("send_at", {"send_at": "2028-01-15T08:00:00Z"}),
        ("tags.0", {"tags": ["a b"]}),
        ("html", {"html": "x" * (MOST_TEXT + 1)}),
        ("idempotency_key", {"idempotency_key": ""}),
    ],
)
def test_mistakes_are_told_with_their_place(path: str, change: dict[str, Any]) -> None:
    with pytest.raises(CallError) as refused:
        order(**change)
    assert path in paths(refused.value)
    assert refused.value.status in (400, 413)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{", b'{"from": ', b"\xff", b'{"a": 1} x', b"[" * 10_000])
def test_what_is_no_object(content: bytes) -> None:
    with pytest.raises(CallError) as refused:
        read(content)
    assert refused.value.status == 400


def test_all_mistakes_at_once_but_no_more_than_can_be_read() -> None:
    with pytest.raises(CallError) as refused:
        order(to=None, recipients=[{"to": "x"}] * 1000)
    assert len(refused.value.faults) == 20


BOMBS = {
    "recipients": [
        b"[" + b"1," * 600_000 + b"1]",
        b"[" + b"{}," * 400_000 + b"{}]",
        b"[" + b'{"to":1},' * 201_000 + b'{"to":1}]',
        b'[{"to":"a@example.net","substitutions":{"a":[' + b"1," * 600_000 + b"1]}}]",
        b"{" + b'"a":1,' * 200_000 + b'"b":1}',
    ],
    "attachments": [
        b"[" + b"1," * 600_000 + b"1]",
        b"[" + b'{"content":""},' * 100_000 + b"1]",
        b'[{"content":[' + b"1," * 600_000 + b"1]}]",
        b'[{"content":"","name":"' + b"n" * 1_100_000 + b'"}]',
    ],
    "substitutions": [b'{"a":[' + b"1," * 600_000 + b"1]}"],
    "template": [b'{"text":"' + b"x" * 6_000_000 + b'"}', b'{"html":[' + b"1," * 600_000 + b"1]}"],
    "to": [b"[" + b'"a@example.net",' * 80_000 + b'"a@example.net"]'],
    "text": [b"[" + b"1," * 600_000 + b"1]", b'"' + b"x" * (6 * MOST_TEXT + 1) + b'"'],
    "headers": [b'{"X":"' + b"x" * 1_100_000 + b'"}'],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BOMBS.items() for value in values])
def test_what_would_be_large_in_memory_is_looked_at_by_nobody(
    name: str, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Personal, "model_validate_json", None)
    if name != "recipients":  # the rest is small then
        monkeypatch.setattr(Order, "model_validate_json", None)
    with pytest.raises(CallError) as refused:
        read(b'{"from":"shop@example.org","' + name.encode() + b'":' + value + b"}", fields={"idempotency-key": ["k"]})
    (path,) = paths(refused.value)
    assert path.split(".")[0] == name


@pytest.mark.parametrize("name", ["to", "cc", "bcc", "reply_to", "tags", "attachments"])
def test_a_list_of_too_much_is_counted_and_not_looked_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Order, "model_validate_json", None)  # it would tell of each
    with pytest.raises(CallError, match="more than") as refused:
        read(b'{"from":"shop@example.org","' + name.encode() + b'":[' + b"1," * 60_000 + b"1]}")
    assert paths(refused.value) == [name]


def test_files_are_for_a_thread_however_small_they_are() -> None:
    for files in ([], [{"content": FILE}]):
        asked = Asked(json.dumps({**PLAIN, "attachments": files}).encode(), "application/json", {}, {})
        if files:
            with pytest.raises(HeavyError):
                read_small(asked, SECTION, "gw.example.org", NOW)
        else:
            assert read_small(asked, SECTION, "gw.example.org", NOW).count == 1
        assert read_light(asked, SECTION, "gw.example.org", NOW).count == 1


class Counted(str):
    """A name that counts how often it is held against another."""

    __slots__ = ()
    asked = 0

    def __eq__(self, other: object) -> bool:
        Counted.asked += 1
        return str.__eq__(self, str(other))

    def __hash__(self) -> int:
        return int(self)


def test_the_name_that_stands_twice_is_found_in_one_go() -> None:
    names = [Counted(number) for number in [*range(1000), 999]]
    with pytest.raises(CallError, match="'999' stands twice"):
        _once([(name, None) for name in names])
    assert Counted.asked < 5 * len(names)


def test_a_large_call_with_an_unknown_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Order, "model_validate_json", None)
    names = b",".join(b'"k%d":1' % number for number in range(200_000))
    with pytest.raises(CallError, match="unknown field `k0`"):
        read(b"{" + names + b"}")


@pytest.mark.parametrize("size", [0, 1, 2, 3, PIECE - 1, PIECE, 3 * PIECE + 2])
def test_files_of_each_size(size: int) -> None:
    octets = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    section = InjectionSection(pipeline="out")
    for text in (base64.b64encode(octets).decode(), base64.encodebytes(octets).decode()):
        said = {**PLAIN, "text": "line of the text\n" * 100_000, "attachments": [{"content": text, "name": "a.bin"}]}
        call = read_call(Asked(json.dumps(said).encode(), "application/json", {}, {}), section, "gw.example.org", NOW)
        (draft,) = call.messages.drafts(0, 1)
        assert isinstance(draft, Draft)
        assert_sound(draft)
        (file,) = parsed(draft).iter_attachments()
        assert file.get_content() == octets
        body: Any = parsed(draft).get_body()
        assert body.get_content().replace("\r\n", "\n") == said["text"]


@pytest.mark.parametrize(
    "text", ["a", "ab", "abc", "a===", "QQ==QQ==", "ab=c", "ä", "QQ==" + "QUJD" * PIECE, "QUJD" * PIECE + "Q", 7]
)
def test_what_is_no_base64(text: object) -> None:
    with pytest.raises(CallError) as refused:
        order(attachments=[{"content": text}])
    assert paths(refused.value) == ["attachments.0.content"]


@given(st.lists(st.sampled_from(["a", "\r\n", "\n", "\r", "b" * 7])), st.integers(1, 10))
def test_pieces_are_whole_lines(parts: list[str], size: int) -> None:
    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", size)
        found = list(pieces.lines_together(text, "\n"))
    assert "".join(found) == text
    assert all(one.endswith("\n") for one in found[:-1])
    assert all(len(one) - one.rfind("\n", 0, -1) - 1 + size >= len(one) for one in found)


def test_other_types_are_none_of_ours() -> None:
    for kind in ("", "text/plain", "multipart/form-data"):
        with pytest.raises(CallError) as refused:
            read(b"{}", kind)
        assert refused.value.status == 415


def test_many_recipients_need_a_key() -> None:
    said = {**PLAIN, "recipients": [{"to": f"a{one}@example.net"} for one in range(1001)]}
    del said["to"]
    with pytest.raises(CallError) as refused:
        read(json.dumps(said).encode())
    assert paths(refused.value) == ["idempotency_key"]
    call = read(json.dumps(said).encode(), fields={"idempotency-key": ["k"]})
    assert (call.count, call.key, call.is_list) == (1001, "k", True)
    with pytest.raises(CallError):
        read(json.dumps({**said, "idempotency_key": "other"}).encode(), fields={"idempotency-key": ["k"]})


def raw(content: bytes, **query: Any) -> Draft:
    (draft,) = read(content, RAW, {"to": ["ann@example.net"], **query}).messages.drafts(0, 1)
    assert isinstance(draft, Draft)
    return draft


def test_a_raw_message_gets_what_it_lacks_and_loses_blind_copies() -> None:
    draft = raw(b"From: shop@example.org\nBcc: eve@example.com,\n  x@example.com\nSubject: s\n\nb\n..\n")
    assert_sound(draft)
    assert b"eve" not in draft.content
    assert b"x@example.com" not in draft.content
    assert str(draft.sender) == "shop@example.org"
    assert draft.content.endswith(b"\r\n\r\nb\r\n..\r\n")
    assert parsed(draft)["Message-ID"] == f"<{draft.id}@gw.example.org>"
    whole = b"From: shop@example.org\r\nDate: x\r\nMessage-ID: <a@b>\r\n\r\nb\r\n"
    assert raw(whole).content == whole
    assert raw(b"From: shop@example.org\r\n\r\n\xc3\xa4").parameters.body == "8BITMIME"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no header",
        b"Subject: x\r\n\r\n",
        b"From: a@example.org\r\nFrom: b@example.org\r\n\r\n",
        b"From: a@example.org, b@example.org@evil\r\n\r\n",
        b"From: nobody\r\n\r\n",
        b"From: a@example.org\r\nX: a\rBcc: y\r\n\r\n",
        b"From: a@example.org\r\n\r\na\0b",
        b"From: a@example.org\r\n\r\n" + b"a" * 999,
        b"From: a@example.org\r\nno field\r\n\r\n",
    ],
)
def test_raw_messages_that_are_none(content: bytes) -> None:
    with pytest.raises(CallError) as refused:
        raw(content)
    assert paths(refused.value) == ["content"]


@pytest.mark.parametrize("end", [b"a\rb\n", b"a" * 999])
def test_what_is_wrong_at_the_end_of_a_large_raw_message(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    large = InjectionSection.model_validate({"pipeline": "out", "max_message_size": "25MiB"})
    monkeypatch.setitem(globals(), "SECTION", large)
    with pytest.raises(CallError) as refused:
        raw(b"From: a@example.org\r\n\r\n" + b"line\n" * 2 * PIECE + end)
    assert paths(refused.value) == ["content"]


def test_a_raw_message_that_is_too_large_is_not_looked_through() -> None:
    with pytest.raises(CallError) as refused:
        raw(b"From: a@example.org\r\n\r\n" + b"\0" * 96 * 1024 + b"\0" * MAX_HEADER)
    assert (refused.value.status, paths(refused.value)) == (413, [""])


@pytest.mark.parametrize(
    "content",
    [
        b'{"from": "a@example.org", "from": "b@example.org", "to": ["ann@example.net"]}',
        b'{"from": "a@example.org", "fr\\u006fm": "b@example.org", "to": ["ann@example.net"]}',
        b'{"from": "a@example.org", "to": ["ann@example.net"], "headers": {"X-A": "1", "X-A": "2"}}',
        b'{"from": "a@example.org", "recipients": [{"to": "ann@example.net", "to": "bob@example.net"}]}',
        b'{"from": "a@example.org", "to": ["ann@example.net"], "text": "' + b"x" * _SMALL + b'", "text": ""}',
    ],
)
def test_a_name_that_stands_twice_would_be_read_in_two_ways(content: bytes) -> None:
    with pytest.raises(CallError, match="stands twice") as refused:
        read(content)
    assert refused.value.status == 400


def test_an_address_is_the_same_however_its_letters_are_put_together() -> None:
    draft = order(to=["a\u0301nn@example.net", "\u00e1nn@example.net"])
    assert [str(one) for _, one in draft.recipients] == ["\u00e1nn@example.net"]


TEXTS = [
    "",
    "a",
    "a\n\nb",
    "a\r\nb\rc",
    ".\nFrom x\n",
    "x" * 78,
    "x" * 79,
    "x" * 5000,
    " \t\n" * 3,
    "=3D\n",
    "a caf\u00e9 and some more\n" * 90,
    "\u4e2d" * 500,
]


@pytest.mark.parametrize("html", ["", "<p>caf\u00e9</p>\n"])
@pytest.mark.parametrize("text", TEXTS)
def test_bodies_say_what_was_given(text: str, html: str) -> None:
    draft = order(text=text, html=html)
    assert_sound(draft)
    message = parsed(draft)
    parts = [one for one in message.walk() if not one.is_multipart()]
    found = {one.get_content_subtype(): one.get_content().replace("\r\n", "\n") for one in parts}
    given = {"html": html} if html else {}
    if text or not html:
        given["plain"] = "\n".join(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")).removesuffix("\n") + "\n"
    assert found == given
    assert [name for name in message if name.lower() == "mime-version"] == ["MIME-Version"]
    encodings = {one.get_content_subtype(): one["Content-Transfer-Encoding"] for one in parts}
    assert encodings.get("plain") != "base64" or "\u4e2d" in text


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"to": []}, "to"),
        ({"to": ["nobody"]}, "to.0"),
        ({"to": ["Ann <ann@example.net>"]}, "to.0"),
        ({"to": ["ann@example.net\r\nX: y"]}, "to.0"),
        ({"to": [f"a{one}@example.net" for one in range(101)]}, "to"),
        ({"from": ["x"]}, "from"),
        ({"from": ["a@example.org", "b@example.org"]}, "from"),
        ({"send_at": ["soon"]}, "send_at"),
        ({"stream": ["a b"]}, "stream"),
        ({"tag": ["x", "\n"]}, "tag.1"),
        ({"other": ["x"]}, "other"),
        ({"idempotency_key": [" "]}, "idempotency_key"),
    ],
)
def test_envelopes_of_raw_messages_that_are_none(query: dict[str, Any], path: str) -> None:
    with pytest.raises(CallError) as refused:
        raw(b"From: a@example.org\r\n\r\n", **query)
    assert paths(refused.value) == [path]


def test_a_person_is_a_name_and_an_address() -> None:
    draft = order(**{"from": '"Shop, the" <Shop@Example.ORG.>'})
    assert parsed(draft)["From"].addresses[0].display_name == "Shop, the"
    assert draft.sender == Person("", Address("Shop", "example.org")).address
