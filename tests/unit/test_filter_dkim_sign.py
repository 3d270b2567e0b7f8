"""The filter dkim-sign: whose mail is signed and by which key, what is covered, and that nothing leaves unsigned."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dkim  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from zope.interface import implementer

from mailgate.envelope import Identity, Session, Target, Transaction
from mailgate.events import FilterFailed
from mailgate.filters import signing_keys
from mailgate.filters.dkim_sign import DkimSign, Options, build
from mailgate.filters.signing_keys import NoKeyError
from mailgate.interfaces import FilterServices, IMessageModifier
from mailgate.mailauth.dkim.keys import SigningKey, key_name
from mailgate.mailauth.dkim.sign import OVERSIGNED
from mailgate.mailauth.dkim.tags import parse_tags, without_space
from mailgate.mailauth.dkim.verify import verify_dkim
from mailgate.mailauth.results import DkimResult, DmarcResult
from mailgate.message import (
    AddHeader,
    Content,
    Edit,
    For,
    Message,
    RemoveHeader,
    ReplaceBody,
    Splice,
    apply_edits,
    body_at,
    edited_body,
    is_of_header,
)
from mailgate.mime.recode import recoded
from mailgate.pipeline.member import Member
from mailgate.pipeline.registry import FilterMaker
from mailgate.pipeline.runner import Pipeline
from mailgate.testing import (
    EventRecorder,
    FilterContract,
    MemoryResolver,
    Occasion,
    recipient,
    services,
    session,
    transaction,
    wait_for,
)
from mailgate.verdict import Continue, Defer, PermanentFailure, Quarantine, Reject, TemporaryFailure, Verdict
from tests.unit.dkim_parts import CANONS, MESSAGE, NOW, pem, rsa
from tests.unit.dkim_parts import ed25519 as _ed25519
from tests.unit.test_filter_dkim import Threads

SEED = bytes(range(32))
ANN = Identity("ann@example.org", "PLAIN")
DAY = 86400.0
#: dkimpy goes by the machine's clock.
PAST = 1_700_000_000.0


def keys_in(folder: Path, *names: str, bits: int = 1024) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SEED if name.endswith(".ed") else pem(bits))


def a_clock(now: float = NOW) -> Clock:
    clock = Clock()
    clock.advance(now)
    return clock


def filter_of(folder: Path, *, clock: Clock | None = None, **options: object) -> DkimSign:
    if "domains" not in options and "keys" not in options:
        keys_in(folder, "r.pem", "e.ed")
        both = [{"selector": "r", "path": "r.pem"}, {"selector": "e", "path": "e.ed"}]
        options["domains"] = {"example.org": {"keys": both}}
    read = Options.model_validate(options, context={"base": folder})
    built = build(read, services(clock=clock or a_clock()))
    assert isinstance(built, DkimSign)
    return built


def ours(**changes: Any) -> Session:
    return session(identity=ANN, role="outbound", **changes)


def edits_of(
    built: DkimSign,
    octets: bytes | Content = MESSAGE,
    *,
    client: Session | None = None,
    mail: Transaction | None = None,
    clock: Clock | None = None,
) -> Sequence[Edit]:
    content = Content(octets) if isinstance(octets, bytes) else octets
    return wait_for(built.modify(client or ours(), mail or transaction("ann@example.org"), Message(content)), clock)


def sent(octets: bytes, edits: Sequence[Edit]) -> bytes:
    """The message as the next hop gets it."""
    content = Content(octets)
    return apply_edits(content.header, edits) + b"\r\n" + b"".join(edited_body(content, edits))


def zone(*places: str, key: SigningKey | None = None) -> MemoryResolver:
    """Keys by place: "r.example.org"; a selector that begins with e is Ed25519."""
    names: dict[str, Any] = {}
    for place in places:
        selector, _, domain = place.partition(".")
        found = key or (_seed_key() if selector.startswith("e") else rsa())
        names[key_name(domain, selector)] = {"TXT": [found.record]}
    return MemoryResolver(names)


def _seed_key() -> SigningKey:
    return SigningKey.load(SEED)


def results(message: bytes, *places: str, now: float = NOW) -> list[DkimResult]:
    return list(wait_for(verify_dkim(zone(*(places or ("r.example.org", "e.example.org"))), message, now=now)))


def signers(message: bytes) -> list[str]:
    """s and d of the signatures, first to last."""
    content = Message(Content(message))
    found = [parse_tags(value.encode()) for value in content.values("DKIM-Signature")]
    return [f"{without_space(one[b's']).decode()}.{without_space(one[b'd']).decode()}" for one in found]


def dkimpy(message: bytes, number: int, record: str) -> bool:
    try:
        return bool(dkim.DKIM(message).verify(number, dnsfunc=lambda *_, **__: record.encode()))
    except dkim.ValidationError:
        return False


# -- what comes out


def test_rsa_and_ed25519_sign_together(tmp_path: Path) -> None:
    message = sent(MESSAGE, edits_of(filter_of(tmp_path)))
    found = results(message)
    assert [(one.result, one.algorithm) for one in found] == [("pass", "rsa-sha256"), ("pass", "ed25519-sha256")]
    assert message.endswith(MESSAGE)
    assert _seed_key().record == _ed25519().record


@pytest.mark.parametrize("canons", CANONS)
def test_others_verify_it(tmp_path: Path, canons: str) -> None:
    message = sent(MESSAGE, edits_of(filter_of(tmp_path, canonicalization=canons, clock=a_clock(PAST))))
    assert dkimpy(message, 0, rsa().record)
    assert dkimpy(message, 1, _seed_key().record)
    assert not dkimpy(message.replace(b"Hello", b"Hullo"), 0, rsa().record)


def test_what_filters_before_have_done_is_signed(tmp_path: Path) -> None:
    content = Content(MESSAGE)
    end = content.size
    mail = transaction("ann@example.org")
    mail.edits += [
        AddHeader("List-Id", "<x.example.org>"),
        RemoveHeader("Subject"),
        AddHeader("Subject", "Another"),
        Splice(end, end, b"-- \r\nExample Ltd\r\n"),
    ]
    signed = edits_of(filter_of(tmp_path), content, mail=mail)
    message = sent(MESSAGE, [*mail.edits, *signed, AddHeader("Received", "from a by b")])
    assert b"Example Ltd" in message
    assert [one.result for one in results(message)] == ["pass", "pass"]
    assert [one.result for one in results(sent(MESSAGE, signed))] == ["fail", "fail"]


def test_a_body_that_was_replaced(tmp_path: Path) -> None:
    mail = transaction("ann@example.org", edits=[ReplaceBody(Content("Ganz neü\r\n".encode()))])
    signed = edits_of(filter_of(tmp_path), mail=mail)
    assert [one.result for one in results(sent(MESSAGE, [*mail.edits, *signed]))] == ["pass", "pass"]


def test_nobody_can_add_what_readers_show(tmp_path: Path) -> None:
    message = sent(MESSAGE, edits_of(filter_of(tmp_path)))
    for name in OVERSIGNED:
        assert "pass" not in [one.result for one in results(f"{name}: x\r\n".encode() + message)], name


def test_the_fields_may_be_chosen(tmp_path: Path) -> None:
    message = sent(MESSAGE, edits_of(filter_of(tmp_path, oversign=["From"], headers=["Subject", "from", "X-Ours"])))
    (value, _) = Message(Content(message)).values("DKIM-Signature")
    assert without_space(parse_tags(value.encode())[b"h"]) == b"From:From:Subject"
    assert [one.result for one in results(message.replace(b"To: Bob", b"To: Rob"))] == ["pass", "pass"]


def test_there_is_never_a_length(tmp_path: Path) -> None:
    message = sent(MESSAGE, edits_of(filter_of(tmp_path)))
    assert all(b"l" not in parse_tags(one.encode()) for one in Message(Content(message)).values("DKIM-Signature"))
    assert "pass" not in [one.result for one in results(message + b"More.\r\n")]


def test_it_may_expire(tmp_path: Path) -> None:
    message = sent(MESSAGE, edits_of(filter_of(tmp_path, expire_after="7d")))
    assert [one.result for one in results(message, now=NOW + 7 * DAY - 1)] == ["pass", "pass"]
    assert "pass" not in [one.result for one in results(message, now=NOW + 8 * DAY)]


@pytest.mark.parametrize(
    ("option", "login", "sender", "identity"),
    [
        ("off", "ann@example.org", "ann@example.org", None),
        ("sender", "x", "ann@mail.example.org", b"ann@mail.example.org"),
        ("sender", "x", '"a b"@example.org', b'"a=20b"@example.org'),
        ("sender", "x", "ann@elsewhere.example", None),
        ("login", "ann@EXAMPLE.org", "x@example.org", b"ann@example.org"),
        ("login", "ann", "x@example.org", None),
        ("login", "evil; d=x@example.org\r\n", "x@example.org", None),
    ],
)
def test_who_it_was(tmp_path: Path, option: str, login: str, sender: str, identity: bytes | None) -> None:
    client = ours(id="1")
    client.identity = Identity(login, "PLAIN")
    edits = edits_of(filter_of(tmp_path, identity=option), client=client, mail=transaction(sender))
    message = sent(MESSAGE, edits)
    (value, _) = Message(Content(message)).values("DKIM-Signature")
    assert parse_tags(value.encode()).get(b"i") == identity
    assert [one.result for one in results(message)] == ["pass", "pass"]


# -- whose mail


def test_what_comes_from_outside_is_not_signed(tmp_path: Path) -> None:
    assert edits_of(filter_of(tmp_path), client=session()) == []


def test_clients_of_our_network_are_ours(tmp_path: Path) -> None:
    client = session(identity=Identity("192.0.2.1", "network"))
    assert len(edits_of(filter_of(tmp_path), client=client)) == 2


def from_(author: str) -> bytes:
    return f"From: {author}\r\n".encode() + MESSAGE.partition(b"\r\n")[2]


def domains_of(folder: Path, **more: Any) -> DkimSign:
    keys_in(folder, "main.pem", "a.news.example.org.pem", "brand.pem", "tenants/t.example.pem")
    return filter_of(
        folder,
        domains={
            "example.org": {"keys": [{"selector": "main", "path": "main.pem"}]},
            "*.news.example.org": {"keys": [{"selector": "news", "path": "{domain}.pem"}]},
            "brand.example": {"keys": [{"selector": "brand", "path": "brand.pem"}], "identities": ["*@brand.example"]},
        },
        keys=[{"selector": "own", "path": "tenants/{domain}.pem"}],
        **more,
    )


@pytest.mark.parametrize(
    ("author", "signed"),
    [
        ("Ann <ann@example.org>", ["main.example.org"]),
        ("ann@EXAMPLE.org.", ["main.example.org"]),
        ("ann@a.news.example.org", ["news.a.news.example.org"]),
        ("ann@b.news.example.org", ["main.example.org"]),  # no file of its own
        ("ann@news.example.org", ["main.example.org"]),
        ("ann@mail.deep.example.org", ["main.example.org"]),
        ("ann@t.example", ["own.t.example"]),
        ("ann@sub.t.example", ["own.t.example"]),
        ("ann@brand.example", []),  # not hers
        ("ann@sub.brand.example", []),
        ("ann@other.example", []),
        ("ann@notexample.org", []),
        ("ann@example.org, bob@t.example, eve@other.example", ["main.example.org", "own.t.example"]),
        ("ann@sub.example.org, ann@example.org", ["main.example.org"]),
    ],
)
def test_which_domain_signs(tmp_path: Path, author: str, signed: list[str]) -> None:
    assert signers(sent(from_(author), edits_of(domains_of(tmp_path), from_(author)))) == signed


def test_who_may_use_a_domain(tmp_path: Path) -> None:
    client = session(identity=Identity("eve@brand.example", "PLAIN"))
    message = from_("eve@brand.example")
    assert signers(sent(message, edits_of(domains_of(tmp_path), message, client=client))) == ["brand.brand.example"]


@pytest.mark.parametrize("author", ["", "Scanner", "Ann <ann>", "undisclosed:;"])
def test_nobodys_mail_has_no_key_of_an_author(tmp_path: Path, author: str) -> None:
    assert edits_of(filter_of(tmp_path), from_(author)) == []
    with pytest.raises(PermanentFailure, match="no key for nobody's domain"):
        edits_of(filter_of(tmp_path, no_key="reject"), from_(author))


@pytest.mark.parametrize("author", ["ann@other.example", "ann@brand.example", "undisclosed:;"])
def test_the_default_domain(tmp_path: Path, author: str) -> None:
    built = domains_of(tmp_path, default_domain="example.org")
    assert signers(sent(from_(author), edits_of(built, from_(author)))) == ["main.example.org"]


def test_a_default_domain_is_not_for_everybody_either(tmp_path: Path) -> None:
    built = domains_of(tmp_path, default_domain="brand.example")
    assert edits_of(built, from_("ann@other.example")) == []


@pytest.mark.parametrize(("option", "raised"), [("defer", TemporaryFailure), ("reject", PermanentFailure)])
def test_mail_without_a_key_can_be_stopped(tmp_path: Path, option: str, raised: type[Exception]) -> None:
    built = domains_of(tmp_path, no_key=option)
    with pytest.raises(raised, match=r"no key for other\.example"):
        edits_of(built, from_("ann@other.example"))
    assert edits_of(built, from_("ann@example.org"))
    assert edits_of(built, from_("ann@other.example"), client=session()) == []


def forwarding(sender: str = "eve@elsewhere.example", **changes: Any) -> Transaction:
    to = recipient("info@example.org")
    to.targets = (Target(recipient("bob@gmail.example").address, "out"),)
    return transaction(sender, [to], **changes)


def test_what_is_forwarded_can_be_signed_by_the_default_domain(tmp_path: Path) -> None:
    built = domains_of(tmp_path, default_domain="example.org", forwarded=True)
    message = from_("eve@elsewhere.example")
    assert signers(sent(message, edits_of(built, message, client=session(), mail=forwarding()))) == ["main.example.org"]
    assert edits_of(built, message, client=session()) == []  # it stays with us
    tenant = from_("eve@t.example")  # of whom we have the key, and do not know that it is he
    assert signers(sent(tenant, edits_of(built, tenant, client=session(), mail=forwarding()))) == ["main.example.org"]
    assert edits_of(domains_of(tmp_path), message, client=session(), mail=forwarding()) == []


@pytest.mark.parametrize("author", ["ann@example.org", "ann@mail.example.org"])
def test_forged_mail_is_not_forwarded_with_our_signature(tmp_path: Path, author: str) -> None:
    built = domains_of(tmp_path, default_domain="example.org", forwarded=True)
    message = from_(author)
    mail = forwarding()
    assert edits_of(built, message, client=session(), mail=mail) == []
    mail.evidence.add(DmarcResult("fail", "example.org"))
    assert edits_of(built, message, client=session(), mail=mail) == []
    mail.evidence.add(DmarcResult("pass", "example.org"))
    assert len(edits_of(built, message, client=session(), mail=mail)) == 1


# -- mail that nobody can sign


HOSTILE: Mapping[str, bytes] = {
    "no From": MESSAGE.partition(b"\r\n")[2],
    "two From": b"From: eve@example.net\r\n" + MESSAGE,
    "malformed": from_("Ann <ann@example.org> <eve@example.net>"),
    "no end": from_('"Ann <ann@example.org>'),
    "a literal": from_("ann@[192.0.2.1]"),
    "encoded": from_("=?utf-8?q?ann=40example=2Eorg?= <x@=?utf-8?q?y?=>"),
    "ten thousand": from_(",\r\n ".join(f"u{number}@example.org" for number in range(10_000))),
    "many domains": from_(", ".join(f"u@d{number}.example.org" for number in range(9))),
    "a bare LF in the header": MESSAGE.replace(b"Subject: A", b"Subject: A\nFrom: x@y.example"),
    "a bare CR in the header": MESSAGE.replace(b"Subject: A", b"Subject: A\rB"),
    "a bare LF in the body": MESSAGE + b"a\nb\r\n",
    "a bare CR at the end": MESSAGE + b"a\r",
    "an endless header": b"X: " + b"x" * 300_000 + b"\r\n" + MESSAGE,
    "no header": b"\r\nHello\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_mail_that_cannot_be_signed_does_not_go(tmp_path: Path, name: str) -> None:
    with pytest.raises(PermanentFailure, match="cannot be signed: ") as raised:
        edits_of(filter_of(tmp_path), HOSTILE[name])
    assert raised.value.reply.code == 550
    with pytest.raises(TemporaryFailure):
        edits_of(filter_of(tmp_path, unsignable="defer"), HOSTILE[name])
    assert edits_of(filter_of(tmp_path, unsignable="continue"), HOSTILE[name]) == []
    assert edits_of(filter_of(tmp_path), HOSTILE[name], client=session()) == []


def test_mail_that_is_forwarded_goes_on_without(tmp_path: Path) -> None:
    built = domains_of(tmp_path, default_domain="example.org", forwarded=True)
    for octets in HOSTILE.values():
        assert edits_of(built, octets, client=session(), mail=forwarding()) == []


def test_letters_of_the_world(tmp_path: Path) -> None:
    keys_in(tmp_path, "u.pem")
    built = filter_of(
        tmp_path,
        domains={"bücher.example": {"keys": [{"selector": "u", "path": "u.pem"}]}},
        identity="sender",
    )
    octets = "From: Jürgen <jürgen@bücher.example>\r\nSubject: Grüße\r\n\r\nSchön.\r\n".encode()
    message = sent(octets, edits_of(built, octets, mail=transaction("jürgen@bücher.example")))
    assert message.partition(b"From:")[0].isascii()
    (found,) = results(message, "u.xn--bcher-kva.example")
    assert (found.result, found.domain, found.identity) == (
        "pass",
        "xn--bcher-kva.example",
        "jürgen@xn--bcher-kva.example",
    )


_LINE = st.text("aZ \t.=é", max_size=12).map(str.encode)


@given(
    st.lists(st.tuples(st.sampled_from([b"Subject", b"to", b"X-A", b"List-Id", b"Received"]), _LINE), max_size=8),
    st.lists(_LINE, max_size=12),
    st.sampled_from(CANONS),
)
@settings(max_examples=60)
def test_whatever_stands_in_it_holds(
    tmp_path_factory: pytest.TempPathFactory,
    fields: list[tuple[bytes, bytes]],
    lines: list[bytes],
    canons: str,
) -> None:
    head = b"".join(name + b":" + value + b"\r\n" for name, value in fields)
    octets = b"From:  Ann  <ann@example.org>\t\r\n" + head + b"\r\n" + b"".join(line + b"\r\n" for line in lines)
    message = sent(
        octets, edits_of(filter_of(_folder(tmp_path_factory), canonicalization=canons, clock=a_clock(PAST)), octets)
    )
    assert [one.result for one in results(message)] == ["pass", "pass"]
    assert dkimpy(message, 0, rsa().record)


def _folder(factory: pytest.TempPathFactory) -> Path:
    found = factory.getbasetemp() / "dkim-sign"
    found.mkdir(exist_ok=True)
    return found


# -- keys and their time


def moment(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def rotation(folder: Path, clock: Clock) -> DkimSign:
    keys_in(folder, "r1.pem", "e1.ed")
    (folder / "r2.pem").write_bytes(pem(1280))
    keys = [
        {"selector": "r1", "path": "r1.pem", "until": datetime.date(2027, 1, 15)},
        {"selector": "r2", "path": "r2.pem", "from": "2027-01-10"},
        {"selector": "e1", "path": "e1.ed", "from": "2026-01-01T00:00:00+01:00"},
    ]
    return filter_of(folder, clock=clock, domains={"example.org": {"keys": keys}})


@pytest.mark.parametrize(
    ("now", "names"),
    [
        ("2027-01-01", ["r1", "e1"]),
        ("2027-01-09T23:59:59", ["r1", "e1"]),
        ("2027-01-10", ["r2", "e1"]),
        ("2027-02-01", ["r2", "e1"]),
    ],
)
def test_the_newest_key_of_each_kind_signs(tmp_path: Path, now: str, names: list[str]) -> None:
    built = rotation(tmp_path, a_clock(moment(now)))
    found = signers(sent(MESSAGE, edits_of(built)))
    assert found == [f"{name}.example.org" for name in names]


def test_a_stream_of_mail_over_the_switch(tmp_path: Path) -> None:
    """Each message is signed by keys that are published, whatever is done to the files meanwhile."""
    clock = a_clock(moment("2027-01-08"))
    built = rotation(tmp_path, clock)
    published = MemoryResolver(
        {
            key_name("example.org", selector): {"TXT": [key.record]}
            for selector, key in (("r1", rsa()), ("r2", rsa(1280)), ("e1", _seed_key()))
        }
    )
    chance = random.Random(7)
    path = tmp_path / "r2.pem"
    seen: set[str] = set()
    for _ in range(150):
        clock.advance(3600 * 1.5)
        match chance.randrange(4):
            case 0:
                path.unlink(missing_ok=True)
            case 1:
                path.write_bytes(pem(1280)[:200])
            case 2:
                path.write_bytes(pem(1280))
        message = sent(MESSAGE, edits_of(built, clock=clock))
        found = wait_for(verify_dkim(published, message, now=clock.seconds()))
        assert [one.result for one in found] == ["pass", "pass"]
        seen.add(found[0].selector)
    assert seen == {"r1", "r2"}


def test_a_new_key_in_the_same_file(tmp_path: Path) -> None:
    clock = a_clock()
    keys_in(tmp_path, "r.pem")
    built = filter_of(tmp_path, clock=clock, domains={"example.org": {"keys": [{"selector": "r", "path": "r.pem"}]}})
    edits_of(built)
    (tmp_path / "r.pem").write_bytes(pem(1280))
    clock.advance(2)
    message = sent(MESSAGE, edits_of(built))
    assert [one.result for one in wait_for(verify_dkim(zone("r.example.org", key=rsa(1280)), message, now=NOW))] == [
        "pass"
    ]


def test_the_old_key_of_a_file_stays_until_the_new_one_can_be_read(tmp_path: Path) -> None:
    clock = a_clock()
    built = filter_of(tmp_path, clock=clock)
    for broken in (b"", b"-----BEGIN PRIVATE KEY-----\r\n", b"x" * 100_000, pem(1024)[:100]):
        (tmp_path / "r.pem").write_bytes(broken)
        clock.advance(2)
        assert [one.result for one in results(sent(MESSAGE, edits_of(built)))] == ["pass", "pass"]
    (tmp_path / "r.pem").unlink()
    clock.advance(2)
    assert [one.result for one in results(sent(MESSAGE, edits_of(built)))] == ["pass", "pass"]


def test_when_the_time_of_every_key_is_over_it_is_a_failure(tmp_path: Path) -> None:
    clock = a_clock()
    keys_in(tmp_path, "r.pem")
    keys = [{"selector": "r", "path": "r.pem", "until": datetime.datetime.fromtimestamp(NOW + 10, datetime.UTC)}]
    built = filter_of(tmp_path, clock=clock, domains={"example.org": {"keys": keys}}, default_domain="example.org")
    assert edits_of(built)
    clock.advance(10)
    with pytest.raises(NoKeyError, match=r"example\.org has no key that signs now: r is over"):
        edits_of(built)


def test_what_the_log_says_of_keys(tmp_path: Path) -> None:
    keys_in(tmp_path, "r.pem")
    path = tmp_path / "r.pem"

    def logged(mode: int, until: str | None, change: bytes = b"") -> list[str]:
        path.chmod(mode)
        key = {"selector": "r", "path": "r.pem"} | ({} if until is None else {"until": until})
        clock = a_clock()
        with capturedLogs() as events:
            built = filter_of(tmp_path, clock=clock, domains={"example.org": {"keys": [key]}})
            if change:
                path.write_bytes(change)
                for _ in range(3):
                    clock.advance(2)
                    edits_of(built)
        return [str(formatEvent(event)).replace(str(path), "FILE") for event in events]

    assert logged(0o640, None) == []
    assert logged(0o644, None) == ["FILE: every user of this machine can read this private key"]
    assert logged(0o600, "2020-01-01") == ["example.org: the time of every key is over; its mail is not sent"]
    assert logged(0o600, "2099-01-01") == [
        "example.org: the last of its keys ends 2099-01-01T00:00:00+00:00; without another one its mail is not sent "
        "from then on"
    ]
    told = "neither a private key in PEM nor the seed of an Ed25519 key (32 octets, or their base64)"
    assert logged(0o600, None, b"x") == [f"FILE: {told}; the key before goes on"]  # once


def test_a_key_that_is_not_in_force_yet(tmp_path: Path) -> None:
    keys_in(tmp_path, "r.pem")
    keys = [{"selector": "r", "path": "r.pem", "from": "2099-01-01"}]
    built = filter_of(tmp_path, domains={"example.org": {"keys": keys}})
    with pytest.raises(NoKeyError, match="r is not yet in force"):
        edits_of(built)


def test_a_key_below_a_star_that_all_share(tmp_path: Path) -> None:
    keys_in(tmp_path, "r.pem")
    built = filter_of(tmp_path, domains={"*.example.org": {"keys": [{"selector": "r", "path": "r.pem"}]}})
    message = from_("ann@a.example.org")
    assert signers(sent(message, edits_of(built, message))) == ["r.a.example.org"]
    (tmp_path / "r.pem").unlink()
    other = from_("ann@b.example.org")
    with pytest.raises(NoKeyError, match="cannot be read"):
        edits_of(built, other)


@pytest.mark.parametrize("where", ["domains", "keys"])
def test_a_key_that_is_there_and_cannot_be_read_is_no_reason_to_go_without(tmp_path: Path, where: str) -> None:
    keys = [{"selector": "r", "path": "{domain}.pem"}]
    given: dict[str, Any] = {"keys": keys} if where == "keys" else {"domains": {"*.example.org": {"keys": keys}}}
    clock = a_clock()
    built = filter_of(tmp_path, clock=clock, **given)
    message = from_("ann@a.example.org")
    assert edits_of(built, message) == []
    (tmp_path / "a.example.org.pem").mkdir()
    clock.advance(2)
    with pytest.raises(NoKeyError, match="cannot be read"):
        edits_of(built, message)
    (tmp_path / "a.example.org.pem").rmdir()
    (tmp_path / "a.example.org.pem").write_bytes(pem()[:100])
    clock.advance(2)
    with pytest.raises(NoKeyError, match="PEM that cannot be read"):
        edits_of(built, message)
    (tmp_path / "a.example.org.pem").write_bytes(pem())
    clock.advance(2)
    assert signers(sent(message, edits_of(built, message))) == ["r.a.example.org"]


def test_the_log_tells_of_a_time_without_a_key(tmp_path: Path) -> None:
    keys_in(tmp_path, "r.pem", "s.pem")
    keys = [
        {"selector": "r", "path": "r.pem", "until": "2098-01-01"},
        {"selector": "s", "path": "s.pem", "from": "2099-01-01"},
    ]
    with capturedLogs() as logs:
        filter_of(tmp_path, domains={"example.org": {"keys": keys}})
    assert (
        "example.org: no key signs from 2098-01-01T00:00:00+00:00 to 2099-01-01T00:00:00+00:00; its mail is not sent "
        "then"
    ) in [formatEvent(one) for one in logs]


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    built = filter_of(tmp_path, keys=[{"selector": "s", "path": "{domain}.pem"}])
    for domain in (".".join(["a" * 60] * 4), "example..org", "../x", "a/b", "%2e%2e"):
        try:
            assert edits_of(built, from_(f"ann@{domain}")) == []
        except PermanentFailure:
            continue


# -- in a pipeline


def judged(
    built: DkimSign, clock: Clock, octets: bytes = MESSAGE, **member: Any
) -> tuple[Transaction, Verdict, EventRecorder]:
    """The transaction after a pipeline of this filter, and what becomes of the message."""
    events = EventRecorder()
    pipeline = Pipeline([[Member("dkim-sign", built, **member)]], clock, events)
    mail = transaction("ann@example.org")
    (verdict,) = wait_for(pipeline.message(ours(), mail, Message(Content(octets))))
    return mail, verdict, events


@pytest.mark.parametrize(
    ("on_failure", "kind"), [(None, Defer), ("defer", Defer), ("reject", Reject), ("quarantine", Quarantine)]
)
def test_nothing_goes_out_unsigned(tmp_path: Path, on_failure: str | None, kind: type[Verdict]) -> None:
    clock = a_clock()
    keys_in(tmp_path, "r.pem")
    keys = [{"selector": "r", "path": "r.pem", "until": datetime.datetime.fromtimestamp(NOW + 10, datetime.UTC)}]
    built = filter_of(tmp_path, clock=clock, domains={"example.org": {"keys": keys}})
    member: dict[str, Any] = {} if on_failure is None else {"on_failure": on_failure}
    mail, verdict, _ = judged(built, clock, **member)
    assert isinstance(verdict, Continue)
    assert len(mail.edits) == 1
    clock.advance(20)
    for _ in range(8):  # the breaker opens meanwhile
        mail, verdict, events = judged(built, clock, **member)
        assert isinstance(verdict, kind)
        assert mail.edits == []
    assert "example.org has no key that signs now" in events.of(FilterFailed)[0].error


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mail_opens_no_breaker(tmp_path: Path, name: str) -> None:
    clock = a_clock()
    built = filter_of(tmp_path, clock=clock)
    for _ in range(8):
        _, verdict, events = judged(built, clock, HOSTILE[name])
        assert isinstance(verdict, Reject)
        assert events.of(FilterFailed) == []
    mail, verdict, _ = judged(built, clock)
    assert isinstance(verdict, Continue)
    assert len(mail.edits) == 2


def test_each_message_of_a_transaction_has_its_own_signature(tmp_path: Path) -> None:
    @implementer(IMessageModifier)
    class Tagging:
        def modify(self, session: Session, transaction: Transaction, message: Message) -> Sequence[Edit | For]:
            bob = transaction.recipients[0].address
            return [For((bob,), (Splice(len(MESSAGE), len(MESSAGE), b"Bob only\r\n"), AddHeader("List-Id", "<b>")))]

    clock = a_clock()
    members = [Member("tagging", Tagging()), Member("dkim-sign", filter_of(tmp_path, clock=clock))]
    pipeline = Pipeline([[one] for one in members], clock, EventRecorder())
    mail = transaction("ann@example.org", ["bob@example.net", "eve@example.net"])
    wait_for(pipeline.message(ours(), mail, Message(Content(MESSAGE))))
    messages = [sent(MESSAGE, [*mail.edits, *one.edits]) for one in mail.edits_for]
    assert [b"Bob only" in one for one in messages] == [True, False]
    assert [[one.result for one in results(message)] for message in messages] == [["pass", "pass"]] * 2


def test_a_next_hop_for_which_content_is_converted_breaks_the_signature(tmp_path: Path) -> None:
    octets = b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n" + MESSAGE + "Grüße\r\n".encode()
    edits = edits_of(filter_of(tmp_path, convert=False), octets)
    assert [one.result for one in results(sent(octets, edits))] == ["pass", "pass"]
    header_edits = [edit for edit in edits if is_of_header(edit)]
    converted = b"".join(recoded(Content(octets), header_edits, "7BIT"))
    assert "pass" not in [one.result for one in results(converted)]


def test_domains_of_many_labels_are_not_looked_for_at_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[Path] = set()
    monkeypatch.setattr(signing_keys, "look_at", seen.add)
    built = filter_of(tmp_path, keys=[{"selector": "s", "path": "{domain}.pem"}])
    assert edits_of(built, from_(f"ann@{'a.' * 100}example")) == []
    assert len(seen) == 8


# -- large content


@pytest.mark.parametrize("is_file", [False, True])
def test_large_content_is_read_in_a_thread(tmp_path: Path, is_file: bool) -> None:
    threads = Threads()
    threads.advance(NOW)
    built = filter_of(tmp_path, clock=threads)
    octets = MESSAGE if is_file else MESSAGE + b"line  of text \r\n" * 40_000
    content = Content(octets)
    if is_file:
        path = tmp_path / "content"
        path.write_bytes(octets)
        content = Content.in_file(path)
    answer = built.modify(ours(), transaction("ann@example.org"), Message(content))
    assert not isinstance(answer, Sequence)
    threads.pool.work()
    edits = wait_for(answer)
    assert [one.result for one in results(sent(octets, edits))] == ["pass", "pass"]


def test_a_file_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(MESSAGE)
    content = Content.in_file(path)
    assert content.header
    path.unlink()
    with pytest.raises(OSError, match="content"):
        edits_of(filter_of(tmp_path), content)


def test_small_content_is_signed_at_once(tmp_path: Path) -> None:
    threads = Threads()
    threads.advance(NOW)
    built = filter_of(tmp_path, clock=threads)
    assert isinstance(built.modify(ours(), transaction("ann@example.org"), Message(Content(MESSAGE))), list)
    (tmp_path / "r.pem").write_bytes(pem(1280))
    threads.advance(2)
    answer = built.modify(ours(), transaction("ann@example.org"), Message(Content(MESSAGE)))
    assert not isinstance(answer, Sequence)  # the new key is read in a thread
    threads.pool.work()
    assert len(wait_for(answer)) == 2
    assert body_at(Content(MESSAGE))


# -- options


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "nothing to sign with"),
        ({"domains": {"example.org": {"keys": [{"selector": "r", "path": "none.pem"}]}}}, "none.pem: cannot be read"),
        ({"domains": {"example.org": {"keys": [{"selector": "r", "path": "bad.pem"}]}}}, "bad.pem: neither"),
        ({"keys": [{"selector": "r", "path": "r.pem"}]}, "no {domain} in it"),
        ({"oversign": ["To"], "headers": ["Subject"]}, "From must be signed"),
        ({"forwarded": True}, "forwarded needs a default_domain"),
        ({"default_domain": "x.example"}, "x.example is none of domains"),
        (
            {
                "domains": {
                    "example.org": {
                        "keys": [{"selector": "r", "path": "r.pem", "from": "2030-01-01", "until": "2029-01-01"}]
                    }
                }
            },
            "ends before it begins",
        ),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: dict[str, object], problem: str) -> None:
    keys_in(tmp_path, "r.pem")
    (tmp_path / "bad.pem").write_text("no key")
    if options and "domains" not in options and "keys" not in options:
        options["domains"] = {"example.org": {"keys": [{"selector": "r", "path": "r.pem"}]}}
    read = Options.model_validate(options, context={"base": tmp_path})
    with pytest.raises(ValueError, match=problem):
        build(read, services(clock=a_clock()))


@pytest.mark.parametrize(
    "options",
    [
        {"domains": {"example.org": {"keys": []}}},
        {"domains": {"example.org": {"keys": [{"selector": "a b", "path": "r"}]}}},
        {"domains": {"example.org": {"keys": [{"selector": "r", "path": "{user}"}]}}},
        {"domains": {"example.org": {"keys": [{"selector": "r", "path": "{domain"}]}}},
        {"domains": {"example.org": {"keys": [{"selector": "r", "path": "r", "from": "soon"}]}}},
        {"domains": {"example.org": {"keys": [{"selector": "r", "path": "r", "from": "2027-01-01T10:00:00"}]}}},
        {"domains": {"example.org": {"keys": [{"selector": "r", "path": "r", "until": 5}]}}},
        {"headers": ["Received"]},
        {"oversign": ["ARC-Seal"]},
        {"headers": ["a b"]},
        {"expire_after": "10m"},
        {"canonicalization": "relaxed"},
    ],
)
def test_options_that_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(options)


def test_keys_whose_time_is_over_need_not_be_there(tmp_path: Path) -> None:
    keys_in(tmp_path, "r.pem")
    keys = [{"selector": "old", "path": "old.pem", "until": "2020-01-01"}, {"selector": "r", "path": "r.pem"}]
    assert signers(sent(MESSAGE, edits_of(filter_of(tmp_path, domains={"example.org": {"keys": keys}})))) == [
        "r.example.org"
    ]


@pytest.fixture(autouse=True, scope="class")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if request.cls is not None:
        request.cls.folder = tmp_path_factory.mktemp("keys")


class TestContract(FilterContract):
    factory = FilterMaker("dkim-sign", "mailgate.filters.dkim_sign", "signs")
    folder: Path

    @property
    def settings(self) -> Mapping[str, object]:  # type: ignore[override]  # the files are a test's own
        keys_in(self.folder, "r.pem", "e.ed")
        both = [
            {"selector": "r", "path": str(self.folder / "r.pem")},
            {"selector": "e", "path": str(self.folder / "e.ed")},
        ]
        return {"domains": {"example.org": {"keys": both}}}

    def occasions(self) -> Iterable[Occasion]:
        return [
            Occasion(),
            Occasion(session=ours(), transaction=transaction("ann@example.org"), message=Message(Content(MESSAGE))),
        ]

    def make_services(self, clock: Clock, **silent: Any) -> FilterServices:
        return services(clock=clock, events=EventRecorder(), **silent)
