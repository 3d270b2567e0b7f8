"""The filter sender-login: whose address is whose, in the envelope and in the header."""

from __future__ import annotations

from email import message_from_string, policy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailgate.backends.questions import BackendError
from mailgate.envelope import Identity, Session, Transaction
from mailgate.filters.authors import AmbiguousFieldError, addresses_in
from mailgate.filters.sender_login import Options, SenderLogin, SenderLoginResult, build
from mailgate.filters.who import AddressPatterns, IdentitySet, IdentityTable
from mailgate.interfaces import FindOwners
from mailgate.message import MAX_HEADER, Content, Message
from mailgate.pipeline.registry import FilterMaker
from mailgate.stores.lists import FileError
from mailgate.testing import FilterContract, Occasion, message, services, session, transaction, wait_for
from mailgate.verdict import Continue, Quarantine, Reject, Verdict

ANN = Identity("ann@example.org", "PLAIN")


class Desk:
    """A filter, asked as a session would ask it."""

    def __init__(self, owners: dict[str, FindOwners] | None = None, **options: Any) -> None:
        self.clock = Clock()
        built = build(Options.model_validate(options), services(clock=self.clock, owners=owners or {}))
        assert isinstance(built, SenderLogin)
        self.filter = built

    def asked(
        self, sender: str, identity: Identity | None = ANN, header: str = ""
    ) -> tuple[Verdict | None, Verdict | None]:
        """What is said at MAIL, and after the content, whose From is the sender unless a header is given."""
        client, mail = session(role="outbound", identity=identity), transaction(sender)
        at_mail = wait_for(self.filter.on_mail(client, mail), self.clock)
        if isinstance(at_mail, Continue):
            mail.evidence.extend(at_mail.evidence)
        found = message((header or f"From: {sender}") + "\nSubject: hi\n\nbody\n")
        return at_mail, wait_for(self.filter.on_message(client, mail, found), self.clock)

    def may(self, sender: str, identity: Identity | None = ANN, header: str = "") -> bool:
        return not any(isinstance(one, Reject) for one in self.asked(sender, identity, header))


def user(name: str) -> Identity:
    return Identity(name, "SCRAM-SHA-256")


def network(name: str) -> Identity:
    return Identity(name, "network")


def test_an_identity_may_use_its_own_address_and_no_other() -> None:
    desk = Desk()
    assert desk.may("ann@example.org")
    assert desk.may("Ann+lists@EXAMPLE.org")
    assert not desk.may("boss@example.org")
    assert not desk.may("ann@example.net")
    verdict, _ = desk.asked("boss@example.org")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "553 5.7.1 You may not send as this address"
    assert verdict.reason == "ann@example.org may not use boss@example.org in MAIL FROM"
    assert verdict.evidence == (SenderLoginResult("ann@example.org", "boss@example.org", "MAIL FROM"),)


def test_the_header_is_the_identitys_too() -> None:
    desk = Desk()
    _, verdict = desk.asked("ann@example.org", header="From: The Boss <boss@example.org>")
    assert isinstance(verdict, Reject)
    assert str(verdict.reply) == "550 5.7.1 You may not send as this address"
    assert not desk.may("ann@example.org", header="From: ann@example.org, boss@example.org\nSender: ann@example.org")
    assert not desk.may("ann@example.org", header="From: ann@example.org\nSender: boss@example.org")
    assert desk.may("ann@example.org", header="From: Ann <ann@example.org>\nSender: ann@example.org")
    assert Desk(header="off").may("ann@example.org", header="From: boss@example.org")


def test_who_may_send_for_others_says_so_in_sender() -> None:
    desk = Desk(header="sender")
    assert desk.may("ann@example.org", header="From: boss@example.org\nSender: ann@example.org")
    assert not desk.may("ann@example.org", header="From: boss@example.org\nSender: eve@example.org")
    assert not desk.may("ann@example.org", header="From: boss@example.org")


@pytest.mark.parametrize(
    "header",
    [
        "From: ann@example.org\nFrom: boss@example.org",
        "Subject: no author at all",
        "From: boss@example.org <ann@example.org> <boss@example.org>",
        "From: =?utf-8?q?boss=40example.org?=",
        'From: "ann@example.org" boss@example.org',
        'From: "ann+, boss@example.org"@example.org',
        'From: "ann+<boss>"@example.org',
    ],
)
def test_a_header_that_hides_its_author_is_refused(header: str) -> None:
    _, verdict = Desk().asked("ann@example.org", header=header)
    assert isinstance(verdict, Reject)
    assert "ann@example.org" not in verdict.reply.text


@pytest.mark.parametrize(
    "shown",
    [
        '"boss@example.org" <ann@example.org>',
        "\"'boss@example.org'\" <ann@example.org>",
        "=?utf-8?q?boss=40example.org?= <ann@example.org>",
        "=?utf-8?b?Ym9zc0BleGFtcGxlLm9yZw==?= <ann@example.org>",
        "ann@example.org (boss@example.org)",
        '"Boss BOSS@EXAMPLE.ORG" <ann@example.org>',
        '"ann@example.org" <ann@example.org>, "boss@example.org" <ann+x@example.org>',
    ],
)
def test_a_name_that_shows_somebody_else(shown: str) -> None:
    _, verdict = Desk().asked("ann@example.org", header=f"From: {shown}")
    assert isinstance(verdict, Reject)
    assert verdict.reason == "ann@example.org may not use boss@example.org in From-name"
    assert verdict.evidence == (SenderLoginResult("ann@example.org", "boss@example.org", "From-name"),)
    for options in ({"names": False}, {"header": "off"}, {"allow": {"ann@example.org": ["boss@example.org"]}}):
        assert Desk(**options).may("ann@example.org", header=f"From: {shown}")


@pytest.mark.parametrize(
    "shown", ["Ann", "'ann@example.org'", "ann@example.org", "eve@far.example", "a@b", "Ann @ work"]
)
def test_names_that_show_nobody_of_ours_but_oneself(shown: str) -> None:
    assert Desk().may("ann@example.org", header=f'From: "{shown}" <ann@example.org>')


def test_a_name_of_many_addresses_is_no_name() -> None:
    many = " ".join(f"a{number}@example.org" for number in range(9))
    assert not Desk(allow={"*": ["*"]}).may("ann@example.org", header=f'From: "{many}" <ann@example.org>')


def test_a_header_whose_end_is_not_seen_is_refused() -> None:
    desk = Desk()
    filler = b"X: y\r\n" + b" z" * 400 + b"\r\n"
    octets = b"words\r\nFrom: ann@example.org\r\n" + filler * (MAX_HEADER // len(filler) + 1)
    found = Message(Content(octets + b"From: boss@example.org\r\n\r\nbody\r\n"))
    client, mail = session(role="outbound", identity=ANN), transaction("ann@example.org")
    verdict = wait_for(desk.filter.on_message(client, mail, found), desk.clock)
    assert isinstance(verdict, Reject)
    assert "the header section is too large" in verdict.reason


def test_letters_that_fold_alike_are_other_mailboxes() -> None:
    assert Desk().may("STRASSE@example.org", user("strasse@example.org"))
    assert not Desk().may("straße@example.org", user("strasse@example.org"))
    assert not IdentitySet(["strasse"]).has(user("straße"))
    owners: dict[str, FindOwners] = {"people": lambda _: ["straße"]}
    assert not Desk(owners, senders=["people"]).may("x@example.org", user("strasse"))


def test_names_that_are_no_addresses() -> None:
    assert not Desk().may("ann@example.org", user("ann"))
    assert Desk(domain="example.org").may("ann@example.org", user("ANN"))
    assert not Desk(domain="example.org", own=False).may("ann@example.org", user("ann"))
    assert not Desk(domain="example.org").may("ann@example.org", user("no name <>"))


def test_what_the_configuration_gives() -> None:
    allow = {
        "ann@example.org": ["info@example.org", "*.lists.example.org"],
        "app-*": ["bounce-*@example.org", "@shop.example.org"],
        "*": ["everybody@example.org"],
    }
    desk = Desk(allow=allow)
    assert desk.may("info@example.org")
    assert desk.may("any@one.lists.example.org")
    assert not desk.may("any@lists.example.org")
    assert desk.may("bounce-17@example.org", user("app-shop"))
    assert desk.may("any@shop.example.org", user("APP-shop"))
    assert not desk.may("info@example.org", user("app-shop"))
    assert not desk.may("bounce-17@example.org", user("ann"))
    assert desk.may("everybody@example.org", user("anybody"))


def test_files_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "senders"
    path.write_text("ann@example.org info@example.org, sales@example.org  # both\napp-*\texample.net\n")
    desk = Desk(files=[str(path)])
    assert desk.may("sales@example.org")
    assert desk.may("any@example.net", user("app-1"))
    path.write_text("ann@example.org press@example.org\n")
    desk.clock.advance(2)
    assert not desk.may("sales@example.org")
    assert desk.may("press@example.org")
    path.write_text("nobody\n")
    desk.clock.advance(2)
    assert desk.may("press@example.org")


@pytest.mark.parametrize("line", ["ann", "ann not@an@address", "ann a@b.test\nANN c@d.test"])
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "senders"
    path.write_text(line)
    with pytest.raises(FileError, match="senders:"):
        Desk(files=[str(path)])


def test_what_is_asked_of_a_source() -> None:
    asked: list[str] = []

    def find(key: str) -> Deferred[list[str] | None]:
        asked.append(key)
        return succeed({"info@example.org": ["ann@example.org", "BOB"], "@example.net": ["bob"]}.get(key))

    desk = Desk({"people": find}, senders=["people"])
    assert desk.may("Info+x@example.org")
    assert asked[:2] == ["info+x@example.org", "info@example.org"]
    assert desk.may("info@example.org", user("bob"))
    assert desk.may("any@example.net", user("Bob"))
    assert not desk.may("any@example.net")
    asked.clear()
    assert desk.may("ann@example.org")
    assert not desk.may("info@example.org", network("192.0.2.1"), "From: x@example.net")
    assert not asked  # what is known in memory is not asked about, nor are clients that only have an address


def test_a_source_that_cannot_be_asked_is_a_failure() -> None:
    desk = Desk({"people": lambda key: fail(BackendError("down"))}, senders=["people"])
    with pytest.raises(BackendError):
        desk.may("info@example.org")


def test_a_section_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"senders: there is no \[senders\.people\]"):
        Desk(senders=["people"])


def test_clients_that_are_known_by_their_address() -> None:
    scanner = network("192.0.2.7")
    assert Desk().may("any@example.org", scanner)
    assert not Desk().may("any@example.net", scanner)
    assert Desk(trusted="any").may("any@example.net", scanner)
    assert not Desk(trusted="listed").may("any@example.org", scanner)
    desk = Desk(allow={"192.0.2.0/24": ["scanner@example.org"], "local": ["root@example.org"]})
    assert desk.may("scanner@example.org", scanner)
    assert not desk.may("ann@example.org", scanner)
    assert desk.may("ann@example.org", network("198.51.100.1"))
    assert desk.may("scanner@example.org", network("::ffff:192.0.2.7"))
    # a user with the name of an address is not that client
    assert not desk.may("scanner@example.org", user("192.0.2.7"))


def test_who_may_send_with_the_null_sender() -> None:
    receipt = "From: ann@example.org"
    assert Desk().may("", header=receipt)
    assert not Desk().may("", header="From: boss@example.org")
    desk = Desk(null_sender=["robot-*"])
    assert not desk.may("", header=receipt)
    verdict, _ = desk.asked("", header=receipt)
    assert isinstance(verdict, Reject)
    assert verdict.reason == "ann@example.org may not use <> in MAIL FROM"


def test_strangers_are_judged_where_that_is_asked_for() -> None:
    assert Desk().may("ann@example.org", None)
    desk = Desk(strangers="reject")
    assert not desk.may("ann@example.org", None)
    assert desk.may("ann@client.example", None)
    assert desk.may("", None)


def test_quarantine_in_the_place_of_a_refusal() -> None:
    desk = Desk(verdict="quarantine")
    at_mail, at_end = desk.asked("boss@example.org")
    assert isinstance(at_mail, Continue)
    assert at_end == Quarantine("ann@example.org may not use boss@example.org in MAIL FROM")
    _, at_end = desk.asked("ann@example.org", header="From: boss@example.org")
    assert isinstance(at_end, Quarantine)
    assert desk.asked("ann@example.org")[1] is None


@pytest.mark.parametrize("pattern", ["", "no address", "a@b@c", "*.", "a@*"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({"allow": {"ann": [pattern]}})


def test_an_identity_stands_there_once() -> None:
    table: IdentityTable[int] = IdentityTable()
    table.add("ann", 1)
    for key in ("ANN", " ann ", ""):
        with pytest.raises(ValueError, match=r"twice|has a name"):
            table.add(key, 2)
    assert not IdentitySet([])
    assert not IdentitySet(["ann"]).has(None)


def test_patterns_mean_nothing_by_brackets() -> None:
    patterns = AddressPatterns(["a?*@example.org"])
    assert not patterns.has(transaction("ab@example.org").sender)
    assert patterns.has(transaction("a?b@example.org").sender)


PIECES = st.sampled_from(
    ["ann@example.org", "boss@example.org", "Ann", "<", ">", '"', "(", ")", ",", ";", ":", " ", "\\", "@", "=?utf-8?q?"]
)


@given(st.lists(PIECES, max_size=9).map("".join))
@example("boss@example.org <ann@example.org>")
@example('"boss@example.org" <ann@example.org>')
@example("ann@example.org (boss@example.org)")
@example("ann@example.org,)")
def test_whom_others_read_in_a_field_is_found_there(value: str) -> None:
    try:
        found = addresses_in([value])
    except AmbiguousFieldError:
        return
    try:
        read = message_from_string(f"From: {value}\n\n", policy=policy.default)["From"].addresses
    except (AttributeError, IndexError):  # the other reader stumbles over some groups
        return
    # more may be found: each must be the sender's
    known = {str(one).lower() for one in found}
    others = [one.addr_spec.lower() for one in read if "@" in one.addr_spec]
    assert all(one in known or one.strip('"') in known for one in others)


def test_comments_without_end_are_a_clear_result() -> None:
    with pytest.raises(AmbiguousFieldError, match="nested too deeply"):
        addresses_in(["(" * 7000 + ")" * 7000 + " ann@example.org"])


def occasions() -> list[Occasion]:
    def one(sender: str, who: Identity | None) -> Occasion:
        client: Session = session(identity=who)
        mail: Transaction = transaction(sender)
        return Occasion(session=client, transaction=mail)

    return [one("ann@example.org", ANN), one("boss@example.org", ANN), one("", ANN), one("x@example.org", None)]


class TestContract(FilterContract):
    factory = FilterMaker("sender-login", "mailgate.filters.sender_login", "x")

    def occasions(self) -> list[Occasion]:
        return occasions()
