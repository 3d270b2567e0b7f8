"""The filter banner: whom it is for, what it says, and that what it changes is sealed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mailgate.envelope import Identity, Session, Transaction
from mailgate.filters.banner import Banner, Options, build
from mailgate.mailauth import sign_dkim, verify_dkim
from mailgate.mailauth.results import ArcResult, DkimResult, SpfResult
from mailgate.message import (
    Content,
    ContentWriter,
    Edit,
    Message,
    ReplaceBody,
    Splice,
    apply_edits,
    behind_header,
    check_body_edits,
    materialised,
)
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from tests.unit.arc_mail import MESSAGE, NOW, key_of, pem_of, resolver, sealed, validated
from tests.unit.test_filter_dkim import Threads

DISCLAIMER = "Example Ltd, registered in London"
SMIME = b"From: a@b.test\r\nContent-Type: application/pkcs7-mime\r\n\r\nAAAA\r\n"


def filter_of(clock: Any = None, **options: object) -> Banner:
    more = {} if clock is None else {"clock": clock}
    built = build(Options.model_validate({"text": DISCLAIMER} | options), services(**more))
    assert isinstance(built, Banner)
    return built


def asked(
    built: Banner, mail: Transaction | None = None, found: Message | None = None, client: Session | None = None
) -> Sequence[Any]:
    answer: Any = built.modify(client or session(), mail or transaction(), found or message())
    return wait_for(answer)


def after(content: Content, edits: Sequence[Edit], before: Sequence[Edit] = ()) -> bytes:
    check_body_edits(content, before, edits)
    every = [*before, *edits]
    new = materialised(content, every, ContentWriter(Path(), 1 << 26))
    return apply_edits(new.header, every) + b"".join(behind_header(new))


def test_below_and_above() -> None:
    found = message()
    data = found.content.read()
    assert after(found.content, asked(filter_of(), found=found)) == data + b"\r\n" + DISCLAIMER.encode() + b"\r\n"
    top = after(found.content, asked(filter_of(position="top"), found=found))
    assert top.partition(b"\r\n\r\n")[2] == DISCLAIMER.encode() + b"\r\n\r\nHello Bob.\r\n"


def test_the_trace_says_banner() -> None:
    (edit,) = asked(filter_of())
    assert isinstance(edit, Splice)
    assert edit.note == "banner"


def test_names_in_the_text_are_escaped_in_html() -> None:
    built = filter_of(text="$sender to $recipient_domain by $hostname, $$5", html="<p>$sender</p>")
    mail = transaction('"<b>"@client.example')
    (edit,) = asked(built, mail)
    assert isinstance(edit, Splice)
    assert b'"<b>"@client.example to example.org by mx.example.org, $5' in edit.data
    html = message(b"Content-Type: text/html\r\n\r\nhi\r\n")
    (edit,) = asked(built, mail, html)
    assert isinstance(edit, Splice)
    assert edit.data == b"\r\n<p>&quot;&lt;b&gt;&quot;@client.example</p>\r\n"


def test_html_from_the_text() -> None:
    (edit,) = asked(filter_of(text="a < b\nc"), found=message(b"Content-Type: text/html\r\n\r\nhi\r\n"))
    assert isinstance(edit, Splice)
    assert edit.data == b"\r\n<div>a &lt; b<br>\r\nc</div>\r\n"


def test_once() -> None:
    answer = message(f"Subject: Re\n\nfine\n> {DISCLAIMER}\n")
    assert asked(filter_of(), found=answer) == []
    assert len(asked(filter_of(once=False), found=answer)) == 1
    assert asked(filter_of(skip_if_present="FINE? fine"), found=message("Subject: x\n\nFINE?  fine\n")) == []


def test_texts_by_domain() -> None:
    domains: dict[str, object] = {"a.test": {"text": "of a"}, "*.a.test": {"text": "below a"}, "b.test": {}}

    def text(built: Banner, sender: str, *recipients: str) -> bytes | None:
        edits = asked(built, transaction(sender, recipients or ("bob@example.org",)))
        assert all(isinstance(edit, Splice) for edit in edits)
        return edits[0].data.strip() if edits else None

    built = filter_of(domains=domains)
    assert text(built, "x@a.test") == b"of a"
    assert text(built, "x@c.a.test") == b"below a"
    assert text(built, "x@b.test") is None
    assert text(built, "x@other.test") == DISCLAIMER.encode() == text(built, "")
    assert text(filter_of(domains=domains, only_domains=True), "x@other.test") is None
    built = filter_of(domains=domains, domains_of="recipients")
    assert text(built, "x@other.test", "1@a.test", "2@a.test") == b"of a"
    found = asked(built, transaction("x@other.test", ["1@a.test", "2@other.test", "3@a.test", "4@b.test"]))
    assert [(list(map(str, one.recipients)), one.edits[0].data.strip()) for one in found] == [
        (["1@a.test", "3@a.test"], b"of a"),
        (["2@other.test"], DISCLAIMER.encode()),
    ]


def test_domains_with_the_same_text_both_have_it() -> None:
    domains: dict[str, object] = {name: {"text": "the same"} for name in ("a.test", "b.test")}
    built = filter_of(domains=domains, domains_of="recipients", only_domains=True)
    (found,) = asked(built, transaction("x@other.test", ["1@a.test", "2@other.test", "3@b.test"]))
    assert list(map(str, found.recipients)) == ["1@a.test", "3@b.test"]
    (same, other) = asked(
        filter_of(domains={"a.test": {"text": DISCLAIMER}}, domains_of="recipients", html="<p>x</p>"),
        transaction("x@other.test", ["1@a.test", "2@other.test"]),
    )
    assert (same.edits[0].data, len(other.recipients)) == (other.edits[0].data, 1)


def test_a_text_with_the_domain_of_its_reader() -> None:
    built = filter_of(text="For $recipient_domain only")
    (edit,) = asked(built, transaction("x@other.test", ["1@a.test", "2@a.test"]))
    assert isinstance(edit, Splice)
    assert edit.data.strip() == b"For a.test only"
    domains = [f"{number}.test" for number in range(50)]
    found = asked(built, transaction("x@other.test", [f"u@{domain}" for domain in domains]))
    texts = [one.edits[0].data.strip().decode() for one in found]
    assert texts == [f"For {domain} only" for domain in domains]
    (edit,) = asked(built, transaction("x@other.test", [f"u@{domain}" for domain in [*domains, "more.test"]]))
    assert isinstance(edit, Splice)
    assert edit.data.strip() == b"For  only"


def test_whom_it_is_not_for() -> None:
    known = session(identity=Identity("ann", "PLAIN"))
    assert asked(filter_of(external_only=True), client=known) == []
    assert len(asked(filter_of(external_only=True))) == 1
    assert asked(filter_of(exempt=["192.0.2.0/24"])) == []
    for sender in ("ANN@client.example", "client.example"):
        assert asked(filter_of(exempt_senders=[sender])) == []
    assert len(asked(filter_of(exempt_senders=["bob@client.example", "*.client.example"]))) == 1
    assert asked(filter_of(max_size="10B")) == []


@pytest.mark.parametrize("data", [SMIME, b"Subject: x\r\n", b"X: y\r\n" * 50_000 + b"\r\nbody\r\n"])
def test_what_it_cannot_be_put_into_stays(data: bytes) -> None:
    assert asked(filter_of(), found=message(data)) == []


def test_behind_other_filters() -> None:
    found = message()
    at = found.content.read().index(b"Hello Bob.")
    built = filter_of()
    before: list[Edit] = [Splice(at, at + 5, b"Goodbye")]
    new = after(found.content, asked(built, transaction(edits=before), found), before)
    assert new.endswith(b"\r\n\r\nGoodbye Bob.\r\n\r\n" + DISCLAIMER.encode() + b"\r\n")
    before.append(ReplaceBody(Content(b"new body\r\n"), follows=1))
    new = after(found.content, asked(built, transaction(edits=before), found), before)
    assert new.endswith(b"\r\n\r\nnew body\r\n\r\n" + DISCLAIMER.encode() + b"\r\n")
    html = message(b"Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n")
    at = html.content.read().index(b"aGV")
    assert asked(built, transaction(edits=[Splice(at, at + 4, b"")]), html) == []


@pytest.mark.parametrize(("is_file", "lines", "in_thread"), [(True, 1, True), (False, 1, False), (False, 3_000, True)])
def test_what_takes_long_is_done_in_a_thread(tmp_path: Path, is_file: bool, lines: int, in_thread: bool) -> None:
    threads = Threads()
    data = MESSAGE + b"a line\r\n" * lines
    path = tmp_path / "content"
    path.write_bytes(data)
    found = Message(Content.in_file(path) if is_file else Content(data))
    answer: Any = filter_of(threads).modify(session(), transaction(), found)
    assert bool(threads.pool.given) is in_thread
    threads.pool.work()
    assert after(found.content, wait_for(answer)) == data + b"\r\n" + DISCLAIMER.encode() + b"\r\n"


def test_what_lies_in_a_file_and_is_nested_too_deep_is_left_alone(tmp_path: Path) -> None:
    depth = 1000
    opening = "".join(
        f'--b{number}\r\nContent-Type: multipart/mixed; boundary="b{number + 1}"\r\n\r\n' for number in range(depth)
    )
    path = tmp_path / "content"
    path.write_bytes(f'Content-Type: multipart/mixed; boundary="b0"\r\n\r\n{opening}'.encode())
    threads = Threads()
    answer: Any = filter_of(threads).modify(session(), transaction(), Message(Content.in_file(path)))
    threads.pool.work()
    assert wait_for(answer) == []


# -- the seal


@pytest.fixture
def seal(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "key.pem"
    path.write_bytes(pem_of("two.example"))
    return {"domain": "two.example", "selector": "s", "key": str(path)}


def sealing(seal: dict[str, str], **options: object) -> Banner:
    built = filter_of(seal=seal, **options)
    assert built._sealer is not None
    built._sealer._clock.advance(NOW)  # type: ignore[attr-defined]  # a Clock, of services()
    return built


def test_what_was_signed_is_sealed_as_changed(seal: dict[str, str]) -> None:
    data = sign_dkim(MESSAGE, key_of("one.example"), domain="one.example", selector="s", now=NOW) + MESSAGE
    mail = transaction()
    (signature,) = wait_for(verify_dkim(resolver(), data, now=NOW))
    for found in (signature, SpfResult("pass", identity="mailfrom", domain="client.example")):
        mail.evidence.add(found)
    content = Content(data)
    built = sealing(
        seal, text="Grüße, Müller & Söhne, London"
    )  # the body is encoded anew: header edits are sealed, too
    new = after(content, asked(built, mail, Message(content)))
    (broken,) = wait_for(verify_dkim(resolver(), new, now=NOW))
    assert (signature.result, broken.result) == ("pass", "fail")
    found_ = validated(new)
    assert (found_.result, [one.domain for one in found_.sets]) == ("pass", ["two.example"])
    told = new[: new.index(b"Received:")].replace(b"\r\n\t", b" ").replace(b"\r\n ", b" ")
    assert b"ARC-Authentication-Results: i=1; mx.example.org; spf=pass" in told
    assert b"dkim=pass" in told


def test_each_text_is_sealed_for_itself(seal: dict[str, str]) -> None:
    data = sealed(MESSAGE, "one.example")
    mail = transaction(recipients=["1@a.test", "2@b.test"])
    mail.evidence.add(validated(data))
    found = asked(sealing(seal, text="For $recipient_domain"), mail, message(data))
    assert [list(map(str, one.recipients)) for one in found] == [["1@a.test"], ["2@b.test"]]
    for one, text in zip(found, (b"For a.test", b"For b.test"), strict=True):
        new = after(Content(data), one.edits)
        assert text in new
        chain = validated(new)
        assert (chain.result, [each.domain for each in chain.sets]) == ("pass", ["one.example", "two.example"])


def test_a_chain_goes_on(seal: dict[str, str]) -> None:
    data = sealed(MESSAGE, "one.example")
    mail = transaction()
    mail.evidence.add(validated(data))
    new = after(Content(data), asked(sealing(seal), mail, message(data)))
    found = validated(new)
    assert (found.result, [one.domain for one in found.sets]) == ("pass", ["one.example", "two.example"])


@pytest.mark.parametrize(
    "evidence",
    [
        [],
        [DkimResult("fail", "client.example")],
        [ArcResult("fail")],
        [DkimResult("pass", "client.example"), ArcResult("fail", is_temporary=True)],
    ],
)
def test_what_nobody_vouches_for_is_not_sealed(seal: dict[str, str], evidence: list[object]) -> None:
    mail = transaction()
    for one in evidence:
        mail.evidence.add(one)
    assert [type(edit) for edit in asked(sealing(seal), mail)] == [Splice]


def test_a_chain_that_nobody_has_looked_at_is_not_gone_on_with(seal: dict[str, str]) -> None:
    mail = transaction()
    mail.evidence.add(DkimResult("pass", "client.example"))
    assert [type(edit) for edit in asked(sealing(seal), mail, message(sealed(MESSAGE, "one.example")))] == [Splice]


def test_what_is_not_changed_is_not_sealed(seal: dict[str, str]) -> None:
    mail = transaction()
    mail.evidence.add(DkimResult("pass", "client.example"))
    assert asked(sealing(seal), mail, message(SMIME)) == []


# -- its options


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"text": ""}, "no text"),
        ({"text": "", "domains": {"a.test": {}}}, "no text"),
        ({"text": "", "only_domains": True, "domains": {}}, "no text"),
        ({"text": "costs $5"}, "a dollar without a name"),
        ({"text": "$password"}, r"\$password stands for nothing"),
        ({"text_file": "/nowhere"}, "give one of them"),
        ({"text": "", "text_file": "/nowhere/text"}, "text_file: .*No such file"),
        ({"seal": {"domain": "a.test", "selector": "s", "key": "/nowhere/key"}}, "seal.key: .*No such file"),
    ],
)
def test_mistakes(options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        filter_of(**options)


@pytest.mark.parametrize("selector", ["", "a b", "a..b", "ä;"])
def test_a_selector_is_one(selector: str) -> None:
    with pytest.raises(ValidationError, match="no selector"):
        filter_of(seal={"domain": "a.test", "selector": selector, "key": "/nowhere/key"})


def test_texts_from_files(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("Grüße\n", encoding="utf-8")
    html = message(b"Content-Type: text/html\r\n\r\nhi\r\n")
    (edit,) = asked(filter_of(text="", html_file=str(path)), found=html)
    assert isinstance(edit, Splice)
    assert edit.data == b"\r\nGr&#252;&#223;e\r\n"
    assert asked(filter_of(text="", html_file=str(path))) == []
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"text_file: .*decode"):
        filter_of(text="", text_file=str(path))


class TestContract(FilterContract):
    factory = FilterMaker("banner", "mailgate.filters.banner", "puts a text above or below what the sender wrote")
    settings: Mapping[str, object] = {"text": DISCLAIMER, "external_only": True}

    def occasions(self) -> list[Occasion]:
        return [
            Occasion(),
            Occasion(message=message(SMIME)),
            Occasion(message=message(b"Content-Type: text/html\r\n\r\n<body>hi</body>\r\n")),
        ]
