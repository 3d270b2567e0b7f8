"""Access rules: what a rule fits, allow before deny, when a refusal is said, and files that change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgate.envelope import Client
from mailgate.filters.access import Access, Options, build
from mailgate.interfaces import IConnectFilter, IHeloFilter, IMailFilter, IRecipientFilter
from mailgate.plugins import builtin
from mailgate.testing import FilterContract, Occasion, recipient, services, session, transaction
from mailgate.verdict import Accept, Defer, Disconnect, Reject, Verdict

STAGES = (IConnectFilter, IHeloFilter, IMailFilter, IRecipientFilter)


def made(*rules: str, clock: Clock | None = None, **options: object) -> Access:
    built = build(Options.model_validate({"rules": rules, **options}), services(clock=clock or Clock()))
    assert isinstance(built, Access)
    return built


class Mail:
    """One mail, and what the filter says of it at each stage."""

    def __init__(
        self,
        built: Access,
        client: str = "203.0.113.9",
        name: str = "host.client.example",
        helo: str = "client.example",
        sender: str = "ann@client.example",
        to: str = "bob@example.org",
    ) -> None:
        self.session = session(Client(ip_address(client), 40000, name), helo=helo)
        self.transaction = transaction(sender)
        self.recipient = recipient(to)
        self._built = built

    @property
    def verdicts(self) -> dict[str, Verdict]:
        answers: dict[str, Verdict | None] = {
            "connect": self._built.on_connect(self.session),
            "helo": self._built.on_helo(self.session),
            "mail": self._built.on_mail(self.session, self.transaction),
            "rcpt": self._built.on_rcpt(self.session, self.transaction, self.recipient),
        }
        return {stage: answer for stage, answer in answers.items() if answer is not None}


@pytest.mark.parametrize(
    ("rule", "mail"),
    [
        ("client 203.0.113.9", {}),
        ("client 203.0.113.0/24", {}),
        ("client 203.0.113.0/24", {"client": "::ffff:203.0.113.77"}),
        ("client 2001:db8::/32", {"client": "2001:db8:1::1"}),
        ("client ::/0", {"client": "2001:db8:1::1"}),
        ("name host.client.example", {}),
        ("name .client.example", {"name": "HOST.Client.Example."}),
        ("name *.example", {}),
        ("name *", {}),
        ("helo CLIENT.example", {}),
        ("helo .example", {}),
        ("helo [203.0.113.9]", {"helo": "[203.0.113.9]"}),
        ("helo localhost", {"helo": "LOCALHOST"}),
        ("sender ann@client.example", {"sender": "Ann@CLIENT.example"}),
        ("sender @client.example", {}),
        ("sender client.example", {}),
        ("sender *.example", {}),
        ("sender .client.example", {"sender": "a@b.c.client.example"}),
        ("sender *", {}),
        ("sender <>", {"sender": ""}),
        ("sender bücher.example", {"sender": "a@xn--bcher-kva.example"}),
        ("recipient bob@example.org", {}),
        ("recipient example.org", {"to": "anyone@EXAMPLE.org"}),
        ("recipient bob+*@example.org", {"to": "Bob+tag+more@EXAMPLE.org"}),
        ("sender ann-*@client.example", {"sender": "ann-b@client.example"}),
    ],
)
def test_what_a_rule_fits(rule: str, mail: dict[str, str]) -> None:
    subject, pattern = rule.split(" ", 1)
    (verdict,) = Mail(made(f"deny {rule}"), **mail).verdicts.values()
    assert isinstance(verdict, Reject)
    assert verdict.reason.endswith(f'matches "deny {subject} {pattern}" (rules:1)')
    (allowed, *_) = Mail(made(f"allow {rule}"), **mail).verdicts.values()
    assert isinstance(allowed, Accept)


@pytest.mark.parametrize(
    ("rule", "mail"),
    [
        ("client 203.0.113.0/29", {}),
        ("client 0.0.0.0/0", {"client": "2001:db8::1"}),
        ("name .client.example", {"name": "client.example"}),
        ("name .client.example", {"name": "badclient.example"}),
        ("name *", {"name": ""}),
        ("helo lient.example", {}),
        ("sender *.client.example", {}),
        ("sender *", {"sender": ""}),
        ("sender ann@client.example", {"sender": "anna@client.example"}),
        ("sender <>", {}),
        ("recipient client.example", {}),
        ("recipient bob+*@example.org", {}),
        ("recipient bob+*@example.org", {"to": "bob-tag@example.org"}),
        ("recipient bob+*@example.org", {"to": "bobby+tag@example.org"}),
    ],
)
def test_what_a_rule_does_not_fit(rule: str, mail: dict[str, str]) -> None:
    assert Mail(made(f"deny {rule}"), **mail).verdicts == {}


@pytest.mark.parametrize(
    ("rule", "reply"),
    [
        ("deny recipient bob@example.org", "550 5.7.1 Not today"),
        ("deny recipient bob@example.org  This  address is closed ", "550 5.7.1 This  address is closed"),
        ("defer recipient bob@example.org", "450 4.7.1 Not today"),
        ("defer client 203.0.113.9 Come back", "450 4.7.1 Come back"),
    ],
)
def test_what_the_peer_is_told(rule: str, reply: str) -> None:
    (verdict,) = Mail(made(rule, text="Not today")).verdicts.values()
    assert isinstance(verdict, Reject | Defer)
    assert str(verdict.reply) == reply


@pytest.mark.parametrize(
    ("allow", "stage"),
    [
        ("client 203.0.113.9", "connect"),
        ("name .client.example", "connect"),
        ("helo client.example", "helo"),
        ("sender ann@client.example", "mail"),
        ("recipient bob@example.org", "rcpt"),
    ],
)
@pytest.mark.parametrize("when", ["rcpt", "at-once"])
def test_allow_beats_every_deny_known_by_then_and_ends_its_own_stage_only(allow: str, stage: str, when: str) -> None:
    denied = ["name *", "helo *", "sender *", "recipient *", "client 0.0.0.0/0"]
    later = {"connect": denied, "helo": denied[1:4], "mail": denied[2:4], "rcpt": denied[3:4]}[stage]
    rules = [f"deny {one}" for one in (denied if when == "rcpt" else later)]
    verdicts = Mail(made(*rules, f"allow {allow}", when=when), to="bob@example.org").verdicts
    assert list(verdicts) == [stage]
    assert isinstance(verdicts[stage], Accept)


def test_at_recipients_the_history_sees_the_whole_envelope() -> None:
    mail = Mail(made("deny client 203.0.113.0/24", "deny helo client.example", "deny sender @client.example"))
    assert list(mail.verdicts) == ["rcpt"]


def test_at_once_everything_is_said_as_soon_as_it_is_known() -> None:
    rules = ["deny client 203.0.113.0/24 Go", "deny helo client.example", "defer sender *", "deny recipient *.org"]
    verdicts = Mail(made(*rules, when="at-once")).verdicts
    connect, helo, mail, rcpt = verdicts.values()
    assert isinstance(connect, Disconnect)
    assert connect.reply.to_bytes() == b"554 Go\r\n"
    assert isinstance(helo, Reject)
    assert helo.reply.to_bytes() == b"550 Refused by policy\r\n"
    assert isinstance(mail, Defer)
    assert isinstance(rcpt, Reject)


def test_a_client_can_be_put_off_at_once() -> None:
    verdict = Mail(made("defer name .client.example", when="at-once")).verdicts["connect"]
    assert isinstance(verdict, Disconnect)
    assert verdict.reply.to_bytes() == b"421 Refused by policy\r\n"


@pytest.mark.parametrize("to", ["postmaster@example.org", "PostMaster@mx.example.org"])
def test_everybody_reaches_our_postmaster(to: str) -> None:
    assert Mail(made("deny client 0.0.0.0/0", "deny sender *"), to=to).verdicts == {}


@pytest.mark.parametrize(
    ("rules", "to", "options"),
    [
        (["deny sender *"], "postmaster@elsewhere.example", {}),
        (["deny sender *", "deny recipient postmaster@example.org"], "postmaster@example.org", {}),
        (["deny sender *"], "postmaster@example.org", {"reachable": []}),
        (["deny sender *"], "postmaster+x@example.org", {}),
    ],
)
def test_but_no_more_than_that(rules: list[str], to: str, options: dict[str, Any]) -> None:
    assert isinstance(Mail(made(*rules, **options), to=to).verdicts["rcpt"], Reject)


def test_of_two_rules_the_first_and_the_nearer_one_speak() -> None:
    mail = Mail(
        made(
            "deny client 203.0.0.0/16 wide",
            "defer client 203.0.113.0/24 near",
            "deny client 203.0.113.0/24 late",
        )
    )
    (verdict,) = mail.verdicts.values()
    assert isinstance(verdict, Defer)
    assert verdict.reply.text == "near"


def test_a_client_without_an_address_is_in_no_network() -> None:
    built = made("deny client 0.0.0.0/0", "deny client ::/0")
    assert built.on_rcpt(session(Client(None)), transaction(), recipient()) is None


@pytest.mark.parametrize(
    ("rules", "when", "stages"),
    [
        ([], "rcpt", [IConnectFilter]),
        (["deny client 192.0.2.1", "deny sender x.example"], "rcpt", [IRecipientFilter]),
        (["deny client 192.0.2.1", "deny sender x.example"], "at-once", [IConnectFilter, IMailFilter]),
        (["allow helo a.example", "allow name b.example"], "rcpt", [IConnectFilter, IHeloFilter]),
    ],
)
def test_only_the_stages_that_rules_need_are_provided(rules: list[str], when: str, stages: list[object]) -> None:
    built = made(*rules, when=when)
    assert [stage for stage in STAGES if stage.providedBy(built)] == stages
    for stage in STAGES:
        assert verifyObject(stage, built, tentative=True)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("", "a rule is written"),
        ("deny", "a rule is written"),
        ("deny client", "a rule is written"),
        ("refuse client 192.0.2.1", "a rule is written"),
        ("deny ip 192.0.2.1", "a rule is written"),
        ("deny client 192.0.2.1/24", "192.0.2.0/24"),
        ("deny client mail.example", "no network"),
        ("deny name mail..example", "no name"),
        ("deny name *.*.example", "no name"),
        ("deny name .", "no name"),
        ("deny sender @", "no name"),
        ("deny sender a@b@c", "no address"),
        ("deny sender ann@", "no address"),
        ("allow client 192.0.2.1 welcome", "has no text"),
    ],
)
def test_lines_that_are_no_rule_are_refused(rule: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=what):
        Options.model_validate({"rules": [rule]})
    if rule:
        path = tmp_path / "access"
        path.write_text(f"# a comment\n\n{rule}\n")
        with pytest.raises(ValueError, match=what) as raised:
            made(files=[str(path)])
        assert str(raised.value).startswith(f"{path}:3: ")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none"):
        made(files=[str(tmp_path / "none")])


def test_files_are_read_again_and_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text("deny client 198.51.100.0/24\n")
    clock = Clock()
    built = made("deny recipient closed@example.org", clock=clock, files=[str(path)])
    assert [stage for stage in STAGES if stage.providedBy(built)] == list(STAGES)
    assert Mail(built).verdicts == {}
    path.write_text("# now with a comment\ndeny sender @client.example  Enough # of it\n")
    os.utime(path, (1, 1))
    clock.advance(2)
    (verdict,) = Mail(built).verdicts.values()
    assert isinstance(verdict, Reject)
    assert verdict.reason == f'ann@client.example matches "deny sender @client.example" ({path}:2)'
    assert verdict.reply.text == "Enough"
    assert list(Mail(built, sender="x@y.example", to="closed@example.org").verdicts) == ["rcpt"]


def test_an_allow_rule_of_one_file_beats_a_deny_of_another(tmp_path: Path) -> None:
    (tmp_path / "deny").write_text("deny client 0.0.0.0/0\n")
    (tmp_path / "allow").write_text("allow sender ann@client.example\n")
    built = made(files=[str(tmp_path / "deny"), str(tmp_path / "allow")])
    assert list(Mail(built).verdicts) == ["mail"]
    assert list(Mail(built, sender="eve@client.example").verdicts) == ["rcpt"]


def test_a_hundred_thousand_networks_are_found_as_fast_as_one(tmp_path: Path) -> None:
    lines = [f"deny client {number >> 16 & 255}.{number >> 8 & 255}.{number & 255}.0/24" for number in range(100_000)]
    path = tmp_path / "access"
    path.write_text("\n".join(lines))
    built = made(files=[str(path)])
    (verdict,) = Mail(built, client="1.134.159.7").verdicts.values()
    assert isinstance(verdict, Reject)
    assert f"({path}:100000)" in verdict.reason
    assert Mail(built, client="1.134.160.7").verdicts == {}
    # One look-up for each length of prefix, however many networks there are.
    (source,) = built._sources
    assert len(source.value.refused._clients._v4) == 1


class TestContract(FilterContract):
    factory = builtin.access
    settings: Mapping[str, object] = {
        "rules": ["deny client 192.0.2.1", "allow sender good@client.example", "defer helo evil.example"]
    }

    def occasions(self) -> Iterable[Occasion]:
        return [
            Occasion(),
            Occasion(session=session("198.51.100.1", helo="evil.example")),
            Occasion(transaction=transaction("good@client.example")),
        ]


class TestContractAtOnce(TestContract):
    settings: Mapping[str, object] = {**TestContract.settings, "when": "at-once"}


class TestContractWithoutRules(FilterContract):
    factory = builtin.access
