"""The filter header-firewall: what strangers must not say, and what stays."""

from __future__ import annotations

from typing import Any

import pytest

from mailgate.doctor.exchange import unguarded
from mailgate.envelope import Session, Tls
from mailgate.filters.header_firewall import FirewallResult, HeaderFirewall, Options, build
from mailgate.message import MAX_HEADER, AddHeader, apply_edits
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction
from mailgate.verdict import Continue, Defer, Reject, Verdict
from tests.unit.doctor_stand import used

FORGED = (
    "X-MS-Exchange-Organization-SCL: -1",
    "X-MS-Exchange-Organization-AuthAs: Internal",
    "x-ms-exchange-forest-rulesexecuted: x",
    "X-MS-Exchange-CrossTenant-Id: 72f988bf",
    "X-MS-Exchange-SkipListedInternetSender: ip=[192.0.2.1]",
    "X-MS-Exchange-ExternalOriginalInternetSender: ip=[192.0.2.1]",
    "X-Forefront-Antispam-Report: SFV:SKN;",
    "X-Forefront-Antispam-Report-Untrusted: SFV:SKN;",
    "X-Microsoft-Antispam-Mailbox-Delivery: ucf:0;",
    "X-Mailgate-Verdict: clean",
)
KEPT = (
    "Received: from a by b; Thu, 01 Jan 2026 12:00:00 +0000",
    "X-MS-Has-Attach: yes",
    "X-MS-TNEF-Correlator: <1@a>",
    "X-MS-Journal-Report: 1",
    "Thread-Index: AdZ",
    "X-OriginatorOrg: partner.test",
    "Subject: X-MS-Exchange-Organization-SCL: -1",
)


def made(**options: Any) -> HeaderFirewall:
    built = build(Options.model_validate(options), services())
    assert isinstance(built, HeaderFirewall)
    return built


def asked(
    firewall: HeaderFirewall, *fields: str, client: Session | None = None, before: tuple[AddHeader, ...] = ()
) -> tuple[Verdict | None, list[str]]:
    """The verdict, and the lines that are left."""
    mail = transaction()
    mail.edits.extend(before)
    found = message("\n".join(fields) + "\n\nX-MS-Exchange-Organization-SCL: in the body\n")
    who = client or session()
    verdict = firewall.on_message(who, mail, found)
    edits = [*before, *firewall.modify(who, mail, found)]
    return verdict, apply_edits(found.content.header, edits).decode().splitlines()


def shown(*names: str, is_verified: bool = True) -> Session:
    tls = Tls(version="TLSv1.3", cipher="x", names=names, fingerprint="00", is_verified=is_verified)
    return session(tls=tls)


def test_strangers_say_nothing_that_only_an_exchange_may() -> None:
    verdict, left = asked(made(), *FORGED, *KEPT)
    assert left == list(KEPT)
    assert isinstance(verdict, Continue)
    (result,) = verdict.evidence
    assert isinstance(result, FirewallResult)
    assert result.facts() == ("header-firewall.removed",)
    assert len(result.names) == len(FORGED)
    assert "and 5 more" in result.summary()


def test_mail_without_any_is_left_alone() -> None:
    verdict, left = asked(made(), *KEPT)
    assert (verdict, left) == (None, list(KEPT))


@pytest.mark.parametrize("line", ["X-MS-Exchange-Organization-SCL : -1", "X-MS-EXCHANGE-ORGANIZATION-SCL:\n -1"])
def test_however_it_is_written(line: str) -> None:
    assert asked(made(), line, "Subject: x")[1] == ["Subject: x"]


@pytest.mark.parametrize(
    "line",
    [
        b"X-MS-Exchange-Organization-SCL\x0b: -1",
        b"\x00X-MS-Exchange-Organization-SCL: -1",
        b"X-MS-Exchange-Organization-\xffSCL: -1",
        b" X-MS-Exchange-SkipListedInternetSender: x",
        b"X-MS-Exchange-\r\n Organization-SCL\r\n\t: -1",
    ],
)
def test_what_is_no_field_and_could_be_taken_for_one_is_refused(line: bytes) -> None:
    firewall, mail = made(), transaction()
    found = message(line + b"\r\nSubject: x\r\n\r\nx\r\n")
    assert isinstance(firewall.on_message(session(), mail, found), Reject)
    assert made(trusted_networks=["192.0.2.1"]).on_message(session("192.0.2.1"), mail, found) is None


@pytest.mark.parametrize("line", [b"X-Other-\xff: 1", b"no field", b"X-MS-Exchange-Organization-SCL", b": x"])
def test_what_is_no_field_of_an_exchange_is_for_others_to_judge(line: bytes) -> None:
    found = message(line + b"\r\nSubject: x\r\n\r\nx\r\n")
    assert made().on_message(session(), transaction(), found) is None


def test_what_leaves_keeps_what_others_may_see() -> None:
    lines = ["X-MS-Exchange-CrossTenant-Id: 1", "X-Microsoft-Antispam: BCL:0;", "X-OriginatorOrg: example.org"]
    _, left = asked(made(direction="outbound"), *FORGED[:3], *lines)
    assert left == lines


def test_fields_of_our_own_filters_stay() -> None:
    ours = AddHeader("X-Mailgate-Verdict", "spam")
    _, left = asked(made(), "X-Mailgate-Verdict: clean", "Subject: x", before=(ours,))
    assert left == ["X-Mailgate-Verdict: spam", "Subject: x"]


def test_names_may_be_added_and_left_out() -> None:
    firewall = made(remove=["X-Corp-*", "Thread-Topic"], keep=["X-Microsoft-Antispam*"])
    _, left = asked(firewall, "X-Corp-A: 1", "Thread-Topic: x", "X-Microsoft-Antispam: BCL:0;", "X-Corporate: 1")
    assert left == ["X-Microsoft-Antispam: BCL:0;", "X-Corporate: 1"]


def test_clients_of_the_organization_are_believed() -> None:
    firewall = made(trusted_networks=["192.0.2.0/24"], trusted_certificates=["ex.example.org"])
    for client in (session("192.0.2.7"), shown("ex.example.org")):
        assert asked(firewall, *FORGED, client=client) == (None, list(FORGED))
    for stranger in (
        session("198.51.100.7"),
        shown("ex.example.org", is_verified=False),
        shown("other.example.org"),
        shown("*.example.org"),
    ):
        stranger.client = session("198.51.100.7").client
        assert asked(firewall, *FORGED, client=stranger)[1] == []


def test_a_hybrid_link_that_goes_through_us_by_mistake() -> None:
    line = "X-MS-Exchange-CrossPremises-AuthAs: Internal"
    verdict, left = asked(made(), line)
    assert isinstance(verdict, Continue)
    assert [one.facts() for one in verdict.evidence if isinstance(one, FirewallResult)] == [
        ("header-firewall.removed", "header-firewall.hybrid")
    ]
    assert left == []
    verdict, _ = asked(made(hybrid="defer"), line)
    assert isinstance(verdict, Defer)
    assert asked(made(hybrid="defer"), FORGED[0])[0] is not None


def test_a_header_that_nobody_reads_to_its_end_is_refused() -> None:
    long = [f"X-Long: {'x' * 900}" for _ in range(MAX_HEADER // 900 + 1)]
    verdict, _ = asked(made(), *long, FORGED[0])
    assert isinstance(verdict, Reject)
    assert asked(made(trusted_networks=["192.0.2.1"]), *long)[0] is None


def test_the_doctor_knows_what_it_keeps_out() -> None:
    fields = ["X-MS-Exchange-Organization-*", "X-MS-Exchange-CrossTenant-*", "X-Microsoft-Antispam*"]
    assert unguarded([used("header-firewall")], fields) == []
    assert unguarded([used("header-firewall", keep=["X-Microsoft-Antispam*"])], fields) == fields[2:]
    assert unguarded([used("header-firewall", direction="outbound")], fields) == fields[1:]


class TestContract(FilterContract):
    factory = FilterMaker("header-firewall", "mailgate.filters.header_firewall", "x")

    def occasions(self) -> list[Occasion]:
        return [
            Occasion(),
            Occasion(message=message("\n".join((*FORGED, *KEPT)) + "\n\nbody\n")),
            Occasion(message=message(b"X-Mailgate-\xff: \xff\r\n\r\n\r\n")),
        ]
