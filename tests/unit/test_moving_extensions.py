"""Addresses with an extension behind recipient_delimiter, which Postfix looks up without it where it finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from mailgate.address import Address
from mailgate.filters.access_rules import RuleTable, parse_rule
from mailgate.pipeline.scope import Scope
from tests.unit.test_moving_postfix import Imported, imported_in

Make = Callable[..., Imported]
RELAY = (
    "relay_domains = a.example\nrelay_transport = smtp:[10.0.0.1]\ntransport_maps = hash:m\nrecipient_delimiter = +\n"
)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(*texts: str, **files: str) -> Imported:
        imported = imported_in(tmp_path, *texts, **files)
        assert imported.errors == ()
        return imported

    return made


def is_closed(imported: Imported, address: str) -> bool:
    """Whether the filters closed refuse a recipient."""
    sections: dict[str, Any] = imported.document["filters"]
    for name in (one for one in sections if one.startswith("closed")):
        rules = RuleTable(parse_rule(line, "x", 0) for line in imported.lines(sections[name]["files"][0]))
        spared = [f"file:{imported.output / one[5:]}" if one.startswith("file:") else one
                  for one in sections[name].get("except_for", [])]  # fmt: skip
        parsed = Address.parse(address)
        if rules.recipient(parsed) and Scope([], spared, Clock()).is_for(parsed):
            return True
    return False


@pytest.mark.parametrize("delimiter", ["+", "-+", "-"])
def test_what_is_spared_of_a_closed_domain_is_spared_with_its_extensions(make: Make, delimiter: str) -> None:
    main = RELAY.replace("delimiter = +", f"delimiter = {delimiter}")
    imported = make(main, m="a.example error:5.1.1 gone\nann@a.example smtp:[10.0.0.2]\nbob@a.example :\n")
    one = delimiter[0]
    assert not is_closed(imported, "ann@a.example")
    assert not is_closed(imported, f"ann{one}tag@a.example")
    assert not is_closed(imported, f"BOB{one}x{one}y@a.example")
    assert is_closed(imported, "anna@a.example")
    assert is_closed(imported, f"eve{one}ann@a.example")


def test_an_extension_may_be_closed_alone_or_spared_alone(make: Make) -> None:
    imported = make(
        RELAY, m="a.example :\nann@a.example error:gone\nann+vip@a.example smtp:[10.0.0.2]\nbob+no@a.example error:no\n"
    )
    closed = {one: is_closed(imported, f"{one}@a.example") for one in ("ann", "ann+x", "ann+vip", "bob", "bob+no")}
    assert closed == {"ann": True, "ann+x": True, "ann+vip": False, "bob": False, "bob+no": True}


def test_aliases_are_spared_with_their_extensions(make: Make) -> None:
    main = f"{RELAY}virtual_alias_maps = hash:v\n"
    imported = make(main, m="a.example error:gone\n", v="info@a.example x@b.example\n")
    assert not is_closed(imported, "info+x@a.example")


def test_without_a_delimiter_an_address_is_itself_alone(make: Make) -> None:
    imported = make(RELAY.replace("recipient_delimiter = +\n", ""), m="a.example error:gone\nann@a.example :\n")
    assert is_closed(imported, "ann+tag@a.example")
    assert imported.document["filters"]["closed"]["except_for"] == ["ann@a.example"]


@pytest.mark.parametrize("subject", ["sender", "recipient"])
def test_access_is_about_addresses_with_their_extensions(make: Make, subject: str) -> None:
    imported = make(
        f"recipient_delimiter = +\nsmtpd_{subject}_restrictions = check_{subject}_access hash:m\n",
        m="bob@a.example REJECT no\nann+vip@a.example REJECT\n",
    )
    table = RuleTable(parse_rule(line, "x", 0) for line in imported.lines(f"access-{subject}-m"))
    refused = [
        one
        for one in ("bob", "bob+x", "Bob+x+y", "bobby", "ann", "ann+vip", "ann+vip+x", "ann+x")
        if getattr(table, subject)(Address.parse(f"{one}@a.example"))
    ]
    assert refused == ["bob", "bob+x", "Bob+x+y", "ann+vip"]


def test_an_extension_that_is_allowed_before_its_address_is_refused(make: Make) -> None:
    imported = make(
        "recipient_delimiter = +\nsmtpd_recipient_restrictions = check_recipient_access hash:m\n",
        m="bob@a.example REJECT no\nbob+vip@a.example OK\na.example OK\n",
    )
    said = []
    for address in ("bob", "bob+x", "bob+vip", "eve"):
        said.append("")
        for name in imported.document["pipelines"]["mx"]["filters"]:
            for file in imported.document["filters"].get(name, {}).get("files", []):
                rules = [parse_rule(line, "x", 0) for line in imported.lines(file)]
                # Of one filter an allow goes before all that refuses.
                for action in ("allow", "deny"):
                    table = RuleTable(one for one in rules if one.action == action)
                    if table.recipient(Address.parse(f"{address}@a.example")):
                        said[-1] = said[-1] or action
    assert said == ["deny", "deny", "allow", "allow"]


def test_who_owns_an_address_owns_its_extensions(make: Make) -> None:
    imported = make(
        "recipient_delimiter = +\nsmtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\n"
        "smtpd_sender_login_maps = hash:m\nsmtpd_sender_restrictions = reject_sender_login_mismatch\n",
        m="ann@a.example ann\n",
    )
    table = RuleTable(parse_rule(line, "x", 0) for line in imported.lines("access-owned"))
    assert table.sender(Address.parse("ann+x@a.example")) is not None
    assert imported.lines("sender-login") == ["ann ann@a.example, ann+*@a.example"]
