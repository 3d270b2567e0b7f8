"""The filter exchange-online: mail from addresses that all tenants share goes on for ours only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mailgate.envelope import Identity, Session, Tls
from mailgate.filters.exchange_online import ExchangeOnline, Options, TenantResult, build
from mailgate.message import MAX_HEADER
from mailgate.pipeline.registry import FilterMaker
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction
from mailgate.verdict import Continue, Defer, Reject, Verdict
from tests.unit.config_file import load_text

OURS, THEIRS = "72f988bf-86f1-41af-91ab-2d7cd011db47", "11111111-2222-3333-4444-555555555555"
TENANT, ORGANIZATION = f"X-MS-Exchange-CrossTenant-Id: {OURS}", "X-OriginatorOrg: example.org"
SETTINGS: dict[str, Any] = {"tenants": [OURS], "organizations": ["example.org"], "senders": ["example.org", "e.test"]}


def made(**changes: Any) -> ExchangeOnline:
    built = build(Options.model_validate(SETTINGS | changes), services())
    assert isinstance(built, ExchangeOnline)
    return built


def microsoft(
    name: str = "mail.protection.outlook.com", *, is_verified: bool = True, mechanism: str = "network", **changes: Any
) -> Session:
    tls = Tls(version="TLSv1.3", cipher="x", names=(name, "*.mail.eo.outlook.com"), is_verified=is_verified)
    return session("40.92.0.1", role="outbound", identity=Identity("40.92.0.1", mechanism), tls=tls, **changes)


def asked(
    one: ExchangeOnline, *fields: str, client: Session | None = None, sender: str = "ann@example.org"
) -> Verdict | None:
    """The first objection, at MAIL or after the content; or what is said last."""
    who, mail = client or microsoft(), transaction(sender)
    at_mail = one.on_mail(who, mail)
    if isinstance(at_mail, Reject | Defer):
        return at_mail
    return one.on_message(who, mail, message("\n".join((*fields, "Subject: x", "", "body", ""))))


def test_mail_of_our_tenant_goes_on() -> None:
    found = asked(made(), TENANT, ORGANIZATION)
    assert isinstance(found, Continue)
    assert found.evidence == (TenantResult(),)
    assert isinstance(asked(made(), TENANT.upper().replace("X-MS-EXCHANGE", "X-MS-Exchange"), ORGANIZATION), Continue)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((), "no field X-MS-Exchange-CrossTenant-Id"),
        ((ORGANIZATION,), "no field X-MS-Exchange-CrossTenant-Id"),
        ((TENANT,), "no field X-OriginatorOrg"),
        ((TENANT.replace(OURS, THEIRS), ORGANIZATION), "is none of ours"),
        ((TENANT, "X-OriginatorOrg: other.test"), "is none of ours"),
        ((TENANT, TENANT.replace(OURS, THEIRS), ORGANIZATION), "2 fields"),
        ((TENANT, TENANT, ORGANIZATION), "2 fields"),
        ((TENANT, ORGANIZATION, "X-OriginatorOrg: other.test"), "2 fields"),
        ((TENANT + ", x", ORGANIZATION), "is none of ours"),
    ],
)
def test_mail_of_another_tenant_is_refused(fields: tuple[str, ...], why: str) -> None:
    found = asked(made(), *fields)
    assert isinstance(found, Reject)
    assert why in found.reason
    assert (found.reply.code, found.reply.status) == (550, "5.7.1")
    assert "CrossTenant" not in found.reply.text


@pytest.mark.parametrize(
    "client",
    [
        microsoft("mail.other.test"),
        microsoft(is_verified=False),
        session("40.92.0.1", role="outbound", identity=Identity("40.92.0.1", "network")),
    ],
)
def test_the_address_alone_is_nothing(client: Session) -> None:
    assert isinstance(asked(made(), TENANT, ORGANIZATION, client=client), Defer)
    assert isinstance(asked(made(certificates=[]), TENANT, ORGANIZATION, client=client), Continue)


def test_senders_of_other_domains_are_refused_before_the_content() -> None:
    assert isinstance(made().on_mail(microsoft(), transaction("eve@other.test")), Reject)
    assert isinstance(asked(made(), TENANT, ORGANIZATION, sender="eve@other.test"), Reject)
    assert isinstance(asked(made(), TENANT, ORGANIZATION, sender="eve@sub.example.org"), Reject)
    assert isinstance(asked(made(), TENANT, ORGANIZATION, sender="bob@E.TEST"), Continue)


def test_reports_need_the_fields_only() -> None:
    assert isinstance(asked(made(), TENANT, ORGANIZATION, sender=""), Continue)
    assert isinstance(asked(made(), sender=""), Reject)


def test_one_of_both_fields_is_enough_where_only_that_is_asked_for() -> None:
    assert isinstance(asked(made(organizations=[]), TENANT), Continue)
    assert isinstance(asked(made(tenants=[]), ORGANIZATION), Continue)


def test_whoever_has_logged_in_is_not_its_business() -> None:
    for identity in (Identity("ann", "PLAIN"), None):
        assert asked(made(), client=session(identity=identity), sender="eve@other.test") is None
    assert isinstance(asked(made(), client=microsoft(mechanism="certificate")), Reject)  # known by a fingerprint


def test_only_the_networks_that_are_given() -> None:
    assert asked(made(networks=["52.100.0.0/14"]), sender="eve@other.test") is None
    assert isinstance(asked(made(networks=["40.92.0.0/15"]), sender="eve@other.test"), Reject)


def test_a_header_that_nobody_reads_to_its_end_is_refused() -> None:
    long = [f"X-Long: {'x' * 900}" for _ in range(MAX_HEADER // 900 + 1)]
    assert isinstance(asked(made(), TENANT, ORGANIZATION, *long), Reject)


@pytest.mark.parametrize("lacking", ["senders", "tenants and organizations"])
def test_nothing_but_addresses_is_no_configuration(lacking: str) -> None:
    changes: dict[str, Any] = {name: [] for name in lacking.split(" and ")}
    with pytest.raises(ValueError, match="give "):
        made(**changes)


def test_mistakes() -> None:
    with pytest.raises(ValidationError, match="is no id of a tenant"):
        made(tenants=["example.onmicrosoft.com"])


MICROSOFT = """
[gateway]
hostname = "mx.example.org"
state_dir = "state"

[[listeners]]
name = "from-exchange-online"
role = "outbound"
endpoints = ["tcp:2525"]
trusted_networks = ["40.92.0.0/15", "52.100.0.0/14"]
pipeline = "tenant"

[pipelines.tenant]
filters = [["exchange-online"], "headers"]

[routing]
default = "internet"

[routes.internet]
transport = "smtp"

[filters.exchange-online]
tenants = ["72f988bf-86f1-41af-91ab-2d7cd011db47"]
senders = ["example.org"]
"""


@pytest.mark.parametrize(
    ("change", "is_open"),
    [
        ("", False),
        ('mode = "shadow"', True),
        ('on_failure = "continue"', True),
        ('except_for = ["example.net"]', True),
        ('only_for = ["example.net"]', True),
        ('networks = ["40.92.0.0/15"]', True),
        ("[filters.headers]", False),
    ],
)
def test_without_it_the_addresses_are_an_open_relay(tmp_path: Path, change: str, is_open: bool) -> None:
    warnings = load_text(tmp_path, f"{MICROSOFT}{change}\n").warnings
    assert any("open relay" in one for one in warnings) is is_open
    assert any("asked of nobody" in one for one in warnings) is (change != 'mode = "shadow"')
    without = MICROSOFT.replace('["exchange-online"], ', "")
    assert any("open relay" in one for one in load_text(tmp_path, without).warnings)


class TestContract(FilterContract):
    factory = FilterMaker("exchange-online", "mailgate.filters.exchange_online", "x")
    settings = SETTINGS

    def occasions(self) -> list[Occasion]:
        theirs = message(f"X-OriginatorOrg: other.test\n{TENANT}\n\nbody\n")
        return [
            Occasion(),
            Occasion(session=microsoft("other.test")),
            Occasion(session=microsoft(), transaction=transaction("ann@example.org"), message=theirs),
        ]
