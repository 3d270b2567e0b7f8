"""The filter authentication-results: nobody else writes in our name, and what we found stands on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mailgate.envelope import Client, Evidence, Identity, MailParameters, Session, Transaction
from mailgate.filters.authentication_results import AuthenticationResultsFilter, Options, build, results_of
from mailgate.filters.fcrdns import IprevResult
from mailgate.mailauth.authentication_results import AuthenticationResults, MethodResult
from mailgate.mailauth.results import ArcResult, ArcSet, DkimResult, DmarcRecord, DmarcResult, SpfResult
from mailgate.message import AddHeader, Content, Edit, Message, RemoveHeader, apply_edits, rendered
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, services, session, transaction

NAME = "Authentication-Results"


def made(**options: object) -> AuthenticationResultsFilter:
    built = build(Options.model_validate(options), services())
    assert isinstance(built, AuthenticationResultsFilter)
    return built


def left(header: bytes, before: Iterable[Edit] = (), **options: object) -> list[str]:
    """The values of the fields that are left, unfolded, first to last; ours is among them unless add = false."""
    content = Content(header + b"Subject: x\r\n\r\nHello\r\n")
    found = transaction(edits=list(before))
    edits = [*found.edits, *made(**options).modify(session(), found, Message(content))]
    parsed = message_from_bytes(b"".join(rendered(content, edits)))
    return [value.replace("\r\n", "") for value in parsed.get_all(NAME, [])]


def added(sess: Session | None = None, trans: Transaction | None = None, **options: object) -> str:
    (edit,) = made(**options).modify(sess or session(), trans or transaction(), Message(Content(b"\r\n")))
    assert isinstance(edit, AddHeader)
    assert edit.name == NAME
    return edit.value


# -- what is removed

OURS = (
    b"Authentication-Results: mx.example.org; spf=pass\r\n",
    b"AUTHENTICATION-RESULTS:MX.Example.ORG;spf=pass\r\n",
    b"Authentication-Results : mx.example.org; spf=pass\r\n",
    b"Authentication-Results:\r\n\t(comment (in comment))\r\n\tmx.example.org 1;\r\n spf=pass\r\n",
    b'Authentication-Results: "mx.example.org"; spf=pass\r\n',
    b"Authentication-Results: mx.example.org. (x); none\r\n",
    b"Authentication-Results: mx.example.org spf=pass ((((\r\n",
    b"Authentication-Results: mx.example.org\r\n",
    b"Authentication-Results: mx.example.org\xff; spf=pass\r\n",
    b"Authentication-Results: (never closed mx.example.org; spf=pass\r\n",
    "Authentication-Results: \u00a0mx.example.org; spf=pass\r\n".encode(),
    "Authentication-Results: \u3000\u200emx.example.org; spf=pass\r\n".encode(),
    'Authentication-Results: "\u00a0mx.example.org"; spf=pass\r\n'.encode(),
    b"Authentication-Results: \xa0mx.example.org; spf=pass\r\n",
    b"Authentication-Results: =?utf-8?q?mx.example.org?=; spf=pass\r\n",
    b"Authentication-Results: =?us-ascii?B?bXguZXhhbXBsZS5vcmc7?= spf=pass\r\n",
    b'Authentication-Results: "=?utf-8?q?mx.example.org?="; spf=pass\r\n',
)
THEIRS = (
    b"Authentication-Results: other.example; spf=pass smtp.helo=mx.example.org\r\n",
    b"Authentication-Results: mx.example.org.evil.example; spf=pass\r\n",
    b"Authentication-Results: spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=example.org\r\n",
    b"Authentication-Results: ((((\r\n",
    b"Authentication-Results:\r\n",
    b"X-Authentication-Results: mx.example.org; spf=pass\r\n",
    b"ARC-Authentication-Results: i=1; mx.example.org; spf=pass\r\n",
)


@pytest.mark.parametrize("field", OURS)
def test_whatever_is_in_our_name_is_removed(field: bytes) -> None:
    assert left(field) == ["mx.example.org; none"]
    assert left(field * 3 + THEIRS[0] + field)[1:] == ["other.example; spf=pass smtp.helo=mx.example.org"]


@pytest.mark.parametrize("field", THEIRS)
def test_what_is_in_other_names_stays_octet_for_octet(field: bytes) -> None:
    header = field + b"Subject: x\r\n"
    edits = made(add=False).modify(session(), transaction(), Message(Content(header + b"\r\n")))
    assert apply_edits(header, edits) == header


def test_all_of_them_can_be_removed() -> None:
    assert left(b"".join((*THEIRS[:5], *OURS)), remove_all=True) == ["mx.example.org; none"]


def test_further_names() -> None:
    header = THEIRS[0] + b"Authentication-Results: third.example; spf=pass\r\n"
    assert left(header, also_remove=["Other.Example"], add=False) == ["third.example; spf=pass"]


def test_our_name_may_be_another() -> None:
    assert left(OURS[0] + THEIRS[0], authserv_id="other.example") == [
        "other.example; none",
        "mx.example.org; spf=pass",
    ]


def test_it_can_only_remove() -> None:
    assert left(OURS[0], add=False) == []


def test_what_a_filter_of_ours_has_added_before_stays() -> None:
    before = [AddHeader(NAME, "mx.example.org; x-ours=pass")]
    assert left(OURS[0], before) == ["mx.example.org; none", "mx.example.org; x-ours=pass"]


def test_a_thousand_fields_are_looked_at_once_each() -> None:
    def field(number: int) -> bytes:
        return b"Authentication-Results: %s; x=%d\r\n" % (
            b"mx.example.org" if number % 2 else b"other.example",
            number,
        )

    header = b"".join(map(field, range(1000)))
    edits = made(add=False).modify(session(), transaction(), Message(Content(header + b"\r\n")))
    assert len(edits) == 500
    assert all(isinstance(one, RemoveHeader) for one in edits)
    assert apply_edits(header, edits) == b"".join(map(field, range(0, 1000, 2)))
    honest = b"".join(field(2 * number) for number in range(1001))
    more = made(add=False).modify(session(), transaction(), Message(Content(honest + b"\r\n")))
    assert len(more) == 1001  # nobody reads so many: all go
    long = b"Authentication-Results: other.example; %s\r\n" % (b"x=y; " * 7000)
    assert len(made(add=False).modify(session(), transaction(), Message(Content(long + b"\r\n")))) == 1
    same = made(add=False).modify(session(), transaction(), Message(Content(OURS[0] * 1000 + b"\r\n")))
    assert len(same) == 1


@given(st.lists(st.sampled_from([*OURS, *THEIRS]), max_size=8), st.binary(max_size=40))
def test_nothing_in_our_name_is_left(fields: list[bytes], junk: bytes) -> None:
    wild = b"Authentication-Results: " + junk.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"") + b"\r\n"
    header = b"".join([*fields, wild])
    edits = made(add=False).modify(session(), transaction(), Message(Content(header + b"\r\n")))
    for one in Message(Content(apply_edits(header, edits) + b"\r\n")).values(NAME):
        try:
            assert AuthenticationResults.parse(one).authserv_id.lower().rstrip(".") != "mx.example.org"
        except ValueError:
            assert not one.lower().lstrip().startswith("mx.example.org;")


# -- what is added


def known(*found: object) -> Evidence:
    return Evidence(found)


RECORD = DmarcRecord("client.example", "reject", "reject", "reject")
EVERYTHING = transaction(
    evidence=known(
        SpfResult("softfail", "client.example", mechanism="~all"),
        DkimResult("pass", "client.example", "s1", "@client.example", "rsa-sha256", "Ab/+3dEfGhIj"),
        DkimResult("fail", "list.example", "s2", "@list.example", "ed25519-sha256", "AbCdEfGh", "the body has changed"),
        ArcResult("pass", sets=(ArcSet(1, "list.example", "s"),), oldest_pass=0),
        DmarcResult("fail", "reject", "client.example", "client.example", RECORD),
    )
)


def test_nothing_found() -> None:
    assert added() == "mx.example.org; none"


def test_everything_found() -> None:
    iprev = IprevResult("pass", name="client.example", address="192.0.2.1")
    sess = session(evidence=known(iprev, SpfResult("none", "helo.example", "helo")))
    assert added(sess, EVERYTHING).split("\r\n\t") == [
        "mx.example.org;",
        "iprev=pass policy.iprev=192.0.2.1;",
        "spf=none smtp.helo=helo.example;",
        "spf=softfail smtp.mailfrom=client.example;",
        "dkim=pass header.d=client.example header.i=@client.example",
        'header.s=s1 header.a=rsa-sha256 header.b="Ab/+3dEfGhIj";',
        'dkim=fail reason="the body has changed" header.d=list.example',
        "header.i=@list.example header.s=s2 header.a=ed25519-sha256",
        "header.b=AbCdEfGh;",
        "dmarc=fail policy.dmarc=reject header.from=client.example;",
        "arc=pass smtp.remote-ip=192.0.2.1 header.oldest-pass=0",
    ]


def test_the_null_sender_is_judged_by_its_greeting() -> None:
    helo = SpfResult("pass", "client.example", "helo")
    trans = transaction("", evidence=known(helo))
    assert added(trans=trans) == "mx.example.org;\r\n\tspf=pass smtp.helo=client.example"
    # Asked at HELO and again at MAIL: told once.
    assert added(session(evidence=known(helo)), trans) == "mx.example.org;\r\n\tspf=pass smtp.helo=client.example"


def test_the_latest_greeting_counts() -> None:
    sess = session(evidence=known(SpfResult("fail", "a.example", "helo"), SpfResult("pass", "b.example", "helo")))
    assert added(sess) == "mx.example.org;\r\n\tspf=pass smtp.helo=b.example"


def test_a_domain_without_a_policy_is_asked_for_none() -> None:
    trans = transaction(evidence=known(DmarcResult("none", domain="client.example")))
    assert added(trans=trans) == "mx.example.org;\r\n\tdmarc=none header.from=client.example"


def test_a_broken_chain_has_no_oldest_pass() -> None:
    trans = transaction(evidence=known(ArcResult("fail", "hop 1 has no ARC-Seal")))
    assert added(session("2001:db8::1"), trans) == (
        'mx.example.org;\r\n\tarc=fail reason="hop 1 has no ARC-Seal" smtp.remote-ip="2001:db8::1"'
    )
    assert added(session(Client(None)), transaction(evidence=known(ArcResult("none")))) == (
        "mx.example.org;\r\n\tarc=none"
    )


def test_who_logged_in_is_told_only_where_that_is_wanted() -> None:
    sess = session(identity=Identity("ann@example.org", "PLAIN"))
    assert added(sess) == "mx.example.org;\r\n\tauth=pass"
    assert added(sess, tell_identity=True) == "mx.example.org;\r\n\tauth=pass smtp.auth=ann@example.org"


@pytest.mark.parametrize("mechanism", ["network", "certificate"])
def test_who_did_not_log_in_has_no_auth(mechanism: str) -> None:
    assert added(session(identity=Identity("192.0.2.1", mechanism)), tell_identity=True) == "mx.example.org; none"


def test_signatures_beyond_reason_are_not_told() -> None:
    trans = transaction(evidence=known(*(DkimResult("fail", f"d{number}.example") for number in range(1000))))
    assert len(results_of(session(), trans)) == 20


def test_letters_beyond_ascii_only_where_the_message_may_have_them() -> None:
    found = known(DkimResult("pass", "client.example", identity="jürgen@client.example"))
    assert "header.i=j?rgen@client.example" in added(trans=transaction(evidence=found)).replace('"', "")
    utf8 = transaction(evidence=found, parameters=MailParameters(smtputf8=True))
    assert 'header.i="jürgen@client.example"' in added(trans=utf8)


@given(st.text(), st.text(), st.text(), st.booleans())
def test_whatever_peers_say_it_is_one_field(one: str, two: str, three: str, utf8: bool) -> None:
    sess = session(identity=Identity(one, "PLAIN"), evidence=known(SpfResult("fail", two, "helo", reason=three)))
    trans = transaction(
        evidence=known(
            SpfResult("fail", one, reason=two),
            DkimResult("pass", two, three, one, two, three, reason=one),
            DmarcResult("fail", "reject", three, record=RECORD, reason=one),
            ArcResult("pass", reason=two),
        ),
        parameters=MailParameters(smtputf8=utf8),
    )
    edits = made(tell_identity=True).modify(sess, trans, Message(Content(b"\r\n")))
    raw = b"".join(rendered(Content(b"Subject: x\r\n\r\n"), edits))
    assert message_from_bytes(raw).keys() == [NAME, "Subject"]
    assert utf8 or raw.isascii()
    value = Message(Content(raw)).values(NAME)[0]
    found = AuthenticationResults.parse(value)
    assert [result.method for result in found.results] == ["auth", "spf", "spf", "dkim", "dmarc", "arc"]


def test_results_of_the_evidence_can_be_had_by_themselves() -> None:
    trans = transaction(evidence=known(SpfResult("pass", "client.example")))
    assert results_of(session(), trans) == (
        MethodResult("spf", "pass", properties=(("smtp", "mailfrom", "client.example"),)),
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"authserv_id": ""}, "authserv_id"),
        ({"authserv_id": "a b"}, "authserv_id"),
        ({"authserv_id": "mx;x"}, "authserv_id"),
        ({"authserv_id": "bücher.example"}, "A-labels"),
        ({"also_remove": ["a\r\nb"]}, "also_remove"),
        ({"remove_all": "yes"}, "remove_all"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Mapping[str, object], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate(options)


class TestContract(FilterContract):
    factory = FilterMaker(
        "authentication-results",
        "mailgate.filters.authentication_results",
        "tells what was found out about a message, and removes what others say in our name",
    )
    settings: Mapping[str, object] = {"tell_identity": True}

    def occasions(self) -> Iterable[Occasion]:
        return [
            Occasion(),
            Occasion(transaction=EVERYTHING, message=Message(Content(b"".join(OURS) + b"\r\n"))),
        ]
