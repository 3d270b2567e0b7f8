"""Our policy service: what Postfix tells becomes a session, each step is judged once, and verdicts become actions."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from mailgate.address import NULL_PATH, Address
from mailgate.envelope import Client, Identity, Session, Tls, Transaction
from mailgate.events import Discarded, Judged, Refused
from mailgate.mailauth.results import SpfResult
from mailgate.pipeline.votes import Pending
from mailgate.reply import Reply
from mailgate.verdict import Accept, Continue, Defer, Discard, Disconnect, Quarantine, Reject
from tests.unit.milter_stand import Judge
from tests.unit.policy_stand import Asking

NO = Reject(Reply.of(550, "5.7.1", "Not 100% liked\nat all"), "private")
LATER = Defer(Reply.of(451, "4.7.1", "Come again"), "private")
BOB, EVE = Address("bob", "here.example"), Address("eve", "here.example")


def saying(verdict: Any) -> Callable[..., Any]:
    return lambda *_: verdict


def pending(verdict: Any, *, recipient: Address | None = None, is_for: Any = None) -> Callable[..., Any]:
    """A stage that keeps a verdict for when there is a message, as the pipeline does."""

    def stage(session: Session, transaction: Transaction | None = None, *_: Any) -> Any:
        found = session.evidence if transaction is None else transaction.evidence
        found.add(Pending(verdict, "some filter", recipient, is_for))
        return Continue()

    return stage


@pytest.fixture
def asking() -> Asking:
    return Asking()


# -- what is told


def test_all_that_postfix_tells_is_known_to_filters() -> None:
    asking = Asking(trusted=Judge())
    action = asking.ask(
        client_name="unknown",
        helo_name="box",
        sasl_username="ann",
        sasl_method="PLAIN",
        encryption_protocol="TLSv1.3",
        encryption_cipher="AES",
        ccert_subject="CN=ann",
        ccert_fingerprint=":".join(["aB"] * 32),
        size="4321",
        queue_id="4XyZ",
        sender="",
    )
    assert action == "DUNNO"
    session, transaction = asking.judge.session, asking.trusted.transaction
    assert session is not None
    assert transaction is not None
    assert session.client == Client(ip_address("192.0.2.1"), 40000)
    assert session.destination == (ip_address("192.0.2.25"), 25)
    assert (session.helo, session.protocol, session.listener) == ("box", "ESMTPSA", "front")
    assert session.identity == Identity("ann", "PLAIN")
    assert session.tls == Tls(version="TLSv1.3", cipher="AES", subject="CN=ann", fingerprint="ab" * 32)
    assert (transaction.sender, transaction.declared_size) == (NULL_PATH, 4321)
    assert [one.address for one in transaction.recipients] == [BOB]
    assert transaction.origin is not None
    assert (transaction.origin.ident, transaction.origin.address, transaction.origin.login) == (
        "4XyZ",
        "192.0.2.1",
        "ann",
    )
    assert asking.judge.asked == ["connect", "helo", "auth"]
    assert asking.trusted.asked == ["mail", "rcpt"]


@pytest.mark.parametrize(
    ("more", "address", "port", "name"),
    [
        ({"client_address": "2001:db8::1"}, "2001:db8::1", 40000, "client.example"),
        ({"client_address": "::ffff:192.0.2.9"}, "192.0.2.9", 40000, "client.example"),
        ({"client_address": "unknown", "client_port": "unknown"}, None, 0, "client.example"),
        ({"client_port": None, "client_name": "a b"}, "192.0.2.1", 0, ""),
        ({"client_port": "9" * 400}, "192.0.2.1", 0, "client.example"),
    ],
)
def test_clients(asking: Asking, more: dict[str, Any], address: str | None, port: int, name: str) -> None:
    assert asking.ask(**more) == "DUNNO"
    assert asking.judge.session is not None
    found = asking.judge.session.client
    assert found == Client(None if address is None else ip_address(address), port, name)


def test_what_is_not_printable_is_not_believed(asking: Asking) -> None:
    asking.ask(helo_name="a\x1bb", sasl_username="x\x00", encryption_protocol="\x07")
    session = asking.judge.session
    assert session is not None
    assert (session.helo, session.identity, session.tls) == ("invalid", None, None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sender": "a\x1b@client.example"}, "553 5.1.7"),
        ({"sender": "x" * 500 + "@client.example"}, "553 5.1.7"),
        ({"recipient": ""}, "553 5.1.3"),
        ({"recipient": None}, "553 5.1.3"),
    ],
)
def test_an_address_that_cannot_be_read_is_no_null_sender(asking: Asking, more: dict[str, Any], said: str) -> None:
    assert asking.ask(**more).startswith(said)
    assert asking.judge.asked == ["connect", "helo"]
    (told,) = asking.events.of(Refused)
    assert told.stage == "rcpt"


def test_addresses_that_need_quotes_come_without_them(asking: Asking) -> None:
    asking.ask(sender="ann smith@client.example", recipient="root")
    transaction = asking.judge.transaction
    assert transaction is not None
    assert transaction.sender == Address("ann smith", "client.example")
    assert [one.address for one in transaction.recipients] == [Address("root", "mx.test")]


# -- whom we trust


def test_clients_of_the_trusted_networks_have_the_other_pipeline() -> None:
    asking = Asking(trusted=Judge(), trusted_networks=["192.0.2.0/24"])
    asking.ask()
    assert asking.judge.asked == []
    assert asking.trusted.session is not None
    assert asking.trusted.session.identity == Identity("192.0.2.1", "network")


@pytest.mark.parametrize("address", ["unknown", "", "192.0.3.1"])
def test_who_has_no_address_is_not_trusted(address: str) -> None:
    asking = Asking(trusted=Judge(), trusted_networks=["192.0.2.0/24"])
    assert asking.ask(client_address=address) == "DUNNO"
    assert asking.trusted.asked == []
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt"]


def test_on_an_inbound_service_nobody_is_one_of_ours() -> None:
    asking = Asking(trusted=Judge(), trusted_networks=["192.0.2.0/24"], role="inbound")
    asking.ask(sasl_username="ann", sasl_method="PLAIN")
    assert asking.trusted.asked == []
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt"]
    assert asking.judge.session is not None
    assert asking.judge.session.identity is None


@pytest.mark.parametrize(
    "first",
    [{"sasl_username": "ann", "sasl_method": "PLAIN"}, {"encryption_protocol": "TLSv1.3", "encryption_cipher": "AES"}],
)
@pytest.mark.parametrize("instance", ["1.2.3.0", "1.2.4.0"])
def test_who_comes_later_from_the_same_port_inherits_neither_login_nor_tls(
    first: dict[str, Any], instance: str
) -> None:
    asking = Asking(trusted=Judge())
    assert asking.ask(**first) == "DUNNO"
    asking.judge.asked.clear()
    asking.trusted.asked.clear()
    assert asking.ask(instance=instance) == "DUNNO"
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt"]
    assert asking.trusted.asked == []
    session = asking.judge.session
    assert session is not None
    assert (session.identity, session.tls) == (None, None)


def test_a_login_that_is_refused_is_asked_about_once(asking: Asking) -> None:
    asking.judge.says["auth"] = saying(NO)
    for _ in range(2):
        assert asking.ask(sasl_username="ann", sasl_method="PLAIN") == "550 5.7.1 Not 100% liked at all"
    assert asking.judge.asked == ["connect", "helo", "auth"]
    (told,) = asking.events.of(Refused)
    assert (told.stage, told.user) == ("auth", "ann")


# -- each step once


def early(asking: Asking, sender: str = "ann@client.example", **more: Any) -> None:
    """What a Postfix that refuses at once asks before the first recipient: there is no instance yet."""
    more = {"recipient": "", "instance": ""} | more
    assert asking.ask("EHLO", sender="", **more) == "DUNNO"
    assert asking.ask("MAIL", sender=sender, **more) == "DUNNO"


@pytest.mark.parametrize("sender", ["ann@client.example", ""])
def test_the_states_of_one_message(asking: Asking, sender: str) -> None:
    asking.ask("CONNECT", sender="", recipient="", helo_name="", instance="")
    early(asking, sender)
    for state in ("RCPT", "DATA", "END-OF-MESSAGE"):
        assert asking.ask(state, sender=sender) == "DUNNO"
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt", "data"]
    early(asking, sender)
    assert asking.ask(instance="1.2.3.1", sender=sender) == "DUNNO"
    assert asking.judge.asked[5:] == ["mail", "rcpt"]


def test_a_message_that_has_begun_is_not_another_one(asking: Asking) -> None:
    early(asking)
    asking.ask(sender="eve@client.example")
    assert asking.judge.asked == ["connect", "helo", "mail", "mail", "rcpt"]
    early(asking)
    asking.ask(client_port="40001", instance="1.2.4.0")
    assert asking.judge.asked[5:] == ["mail", "connect", "helo", "mail", "rcpt"]


def test_each_connection_of_a_client_is_a_session(asking: Asking) -> None:
    for _ in range(2):
        asking.ask("CONNECT", sender="", recipient="", helo_name="", instance="")
        early(asking)
    assert asking.judge.asked == ["connect", "helo", "mail"] * 2


def test_recipients_of_one_message_come_one_after_another(asking: Asking) -> None:
    for name in ("bob", "eve", "bob"):
        asking.ask(recipient=f"{name}@here.example")
    asking.ask("DATA", recipient="", recipient_count="2")
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt", "rcpt", "data"]
    assert asking.judge.transaction is not None
    assert [one.address for one in asking.judge.transaction.recipients] == [BOB, EVE]


def test_a_session_has_several_messages(asking: Asking) -> None:
    asking.ask(instance="1.2.3.0")
    asking.ask(instance="1.2.3.1")
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt", "mail", "rcpt"]


def test_another_client_of_the_same_process_is_another_session(asking: Asking) -> None:
    asking.ask(instance="1.2.3.0")
    asking.ask(instance="1.2.4.0", client_port="40001")
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt"] * 2


def test_an_old_postfix_tells_no_port_and_each_message_is_a_session(asking: Asking) -> None:
    asking.ask(instance="1.2.3.0", client_port=None)
    asking.ask(instance="1.2.3.0", client_port=None, recipient="eve@here.example")
    asking.ask(instance="1.2.3.1", client_port=None)
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt", "rcpt", "connect", "helo", "mail", "rcpt"]


def test_a_message_goes_on_by_another_connection(asking: Asking) -> None:
    asking.ask()
    asking.connect()
    asking.ask(recipient="eve@here.example")
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt", "rcpt"]


@pytest.mark.parametrize("more", [{"client_address": "192.0.2.2"}, {"sender": "eve@evil.example"}, {"instance": ""}])
def test_an_instance_that_is_not_the_same_message_begins_anew(asking: Asking, more: dict[str, Any]) -> None:
    asking.ask(**({"instance": ""} if "instance" in more else {}))
    before = asking.judge.transaction
    asking.ask(**more)
    assert asking.judge.transaction is not before
    assert asking.judge.asked.count("mail") == 2


def test_what_was_long_ago_is_forgotten(asking: Asking) -> None:
    asking.ask(client_port=None)
    asking.clock.advance(1300)
    asking.ask(client_port=None)
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt"] * 2


def test_without_recipients_told_data_knows_the_one_that_it_names(asking: Asking) -> None:
    assert asking.ask("DATA") == "DUNNO"
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt", "data"]


def test_another_greeting_is_judged_again(asking: Asking) -> None:
    asking.judge.says["helo"] = lambda session: NO if session.helo == "bad" else Continue()
    assert asking.ask(helo_name="bad").startswith("550")
    assert asking.ask(helo_name="bad", recipient="eve@here.example").startswith("550")
    assert asking.ask(helo_name="good", instance="1.2.3.1") == "DUNNO"
    assert asking.judge.asked == ["connect", "helo", "helo", "mail", "rcpt"]
    assert len(asking.events.of(Refused)) == 1


# -- refusals


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt"])
@pytest.mark.parametrize(
    ("verdict", "action"),
    [
        (NO, "550 5.7.1 Not 100% liked at all"),
        (LATER, "451 4.7.1 Come again"),
        (Disconnect(Reply.of(450, "4.7.0", "Bye"), "x"), "421 4.7.0 Bye"),
        (Disconnect(Reply.of(554, "5.7.1", "Bye"), "x"), "521 5.7.1 Bye"),
        (Reject(Reply(550, "", ("b\xfccher\naction=OK",)), "x"), "550 b?cher?action=OK"),
        (Accept(), "DUNNO"),
    ],
)
def test_verdicts(asking: Asking, stage: str, verdict: Any, action: str) -> None:
    asking.judge.says[stage] = saying(verdict)
    assert asking.ask(queue_id="4XyZ") == action
    told = asking.events.of(Refused)
    assert len(told) == (action != "DUNNO")
    assert [(one.stage, one.reply, one.reason) for one in told] == [
        (stage, str(verdict.reply), verdict.reason) for _ in told
    ]
    if told and stage in ("mail", "rcpt"):
        assert told[0].ident == "4XyZ"


def test_who_has_been_sent_away_is_sent_away_again(asking: Asking) -> None:
    asking.judge.says["rcpt"] = saying(Disconnect(Reply.of(421, "4.7.0", "Bye"), "x"))
    asking.ask()
    assert asking.ask(instance="1.2.3.1") == "421 4.7.0 Bye"
    assert asking.judge.asked == ["connect", "helo", "mail", "rcpt"]


def test_one_recipient_is_refused_and_told_so_again(asking: Asking) -> None:
    asking.judge.says["rcpt"] = lambda _session, _transaction, one: NO if one.address == EVE else Continue()
    assert asking.ask() == "DUNNO"
    for _ in range(2):
        assert asking.ask(recipient="eve@here.example").startswith("550")
    assert asking.ask("DATA") == "DUNNO"
    (told,) = asking.events.of(Refused)
    assert (told.recipient, told.stage) == ("eve@here.example", "rcpt")


def test_a_refusal_at_data(asking: Asking) -> None:
    asking.judge.says["data"] = saying(NO)
    asking.ask()
    assert asking.ask("DATA").startswith("550 5.7.1")
    assert asking.ask("END-OF-MESSAGE").startswith("550 5.7.1")
    assert len(asking.events.of(Refused)) == 1
    assert not asking.events.of(Judged)


@pytest.mark.parametrize("state", ["VRFY", "ETRN", "CONNECT", "EHLO", "SOMETHING-NEW"])
def test_outside_a_message_nobody_is_asked_about_one(asking: Asking, state: str) -> None:
    asking.judge.says["connect"] = pending(Discard("spam"))
    assert asking.ask(state) == "DUNNO"
    assert asking.judge.asked == ["connect", "helo"]


def test_an_address_that_stands_for_others_is_judged_as_these(asking: Asking) -> None:
    asking.expand = lambda address: (EVE,) if address == BOB else None
    asking.judge.says["rcpt"] = lambda _session, _transaction, one: NO if one.targets else Continue()
    assert asking.ask(recipient="ann@here.example") == "DUNNO"
    assert asking.ask() == "550 5.7.1 Not 100% liked at all"


@pytest.mark.parametrize("verdict", [NO, LATER])
def test_an_address_that_stands_for_nobody_is_refused(asking: Asking, verdict: Any) -> None:
    asking.expand = lambda _: verdict
    assert asking.ask() == " ".join(str(verdict.reply).split("\n"))
    assert "rcpt" not in asking.judge.asked
    (told,) = asking.events.of(Refused)
    assert (told.stage, told.recipient) == ("rcpt", "bob@here.example")


# -- what is decided for when there is a message


@pytest.mark.parametrize("stage", ["connect", "helo", "mail"])
def test_mail_is_discarded_where_that_is_meant_for_all(asking: Asking, stage: str) -> None:
    asking.judge.says[stage] = pending(Discard("spam\ntrap"))
    assert asking.ask(queue_id="4XyZ").startswith("DISCARD mailgate ")
    assert asking.ask("DATA").endswith(": spam?trap")
    (judged,), (told,) = asking.events.of(Judged), asking.events.of(Discarded)
    assert (judged.answer, judged.reason, judged.ident, judged.recipients) == (
        "discard",
        "spam\ntrap",
        "4XyZ",
        ("bob@here.example",),
    )
    assert told.queue_id == judged.queue_id


def test_mail_that_one_recipient_is_not_to_get_is_lost_for_nobody(asking: Asking) -> None:
    asking.judge.says["rcpt"] = lambda session, transaction, one: (
        pending(Discard("spam"), recipient=EVE)(session, transaction) if one.address == EVE else Continue()
    )
    assert asking.ask() == "DUNNO"
    assert "HOLD mailgate" in asking.ask(recipient="eve@here.example")
    action = asking.ask("DATA", recipient="", recipient_count="2")
    assert action.startswith("HOLD mailgate ")
    assert action.endswith("to be discarded for some: spam")


def test_mail_that_no_recipient_is_to_get_is_discarded_when_all_are_known(asking: Asking) -> None:
    asking.judge.says["rcpt"] = lambda session, transaction, one: pending(Discard("spam"), recipient=one.address)(
        session, transaction
    )
    assert asking.ask().startswith("HOLD")
    assert asking.ask("DATA").startswith("DISCARD")


def test_what_becomes_of_it_in_the_end_is_told_with_all_recipients(asking: Asking) -> None:
    asking.judge.says["rcpt"] = lambda session, transaction, one: pending(Discard("spam"), recipient=one.address)(
        session, transaction
    )
    for name in ("bob", "eve"):
        assert asking.ask(recipient=f"{name}@here.example").startswith("HOLD")
    for state in ("DATA", "END-OF-MESSAGE"):
        assert asking.ask(state, recipient="", recipient_count="2").startswith("DISCARD")
    both = ("bob@here.example", "eve@here.example")
    told = [(one.answer, one.recipients, one.is_early, one.is_again) for one in asking.events.of(Judged)]
    assert told == [("quarantine", both[:1], True, False), ("discard", both, True, True)]
    assert [one.recipients for one in asking.events.of(Discarded)] == [both]


def test_each_recipient_whose_mail_is_discarded_is_told_of_once(asking: Asking) -> None:
    asking.judge.says["mail"] = pending(Discard("spam"))
    for name in ("bob", "eve"):
        assert asking.ask(recipient=f"{name}@here.example").startswith("DISCARD")
    assert asking.ask("DATA", recipient="", recipient_count="2").startswith("DISCARD")
    told = asking.events.of(Discarded)
    assert [one.recipients for one in told] == [("bob@here.example",), ("eve@here.example",)]
    assert [one.is_again for one in asking.events.of(Judged)] == [False, True]


def test_what_is_known_of_the_recipients_may_not_be_all(asking: Asking) -> None:
    asking.judge.says["rcpt"] = lambda session, transaction, one: pending(Discard("spam"), recipient=one.address)(
        session, transaction
    )
    asking.ask()
    assert asking.ask("DATA", recipient="", recipient_count="2").startswith("HOLD")


def test_quarantine_is_the_hold_queue(asking: Asking) -> None:
    asking.judge.says["mail"] = pending(Quarantine("odd"))
    action = asking.ask()
    (told,) = asking.events.of(Judged)
    assert action == f"HOLD mailgate {told.queue_id}: odd"
    assert (told.answer, told.reason) == ("quarantine", "odd")
    assert asking.ask("MAIL", instance="1.2.3.1").startswith("HOLD")
    assert len(asking.events.of(Judged)) == 1  # without a recipient there is no message yet


def test_a_refusal_that_waited_for_its_recipients(asking: Asking) -> None:
    asking.judge.says["data"] = pending(NO, is_for=lambda address: address == EVE)
    asking.ask()
    asking.ask(recipient="eve@here.example")
    action = asking.ask("DATA", recipient="", recipient_count="2")
    assert action.startswith("HOLD mailgate ")
    assert "refused: 550 5.7.1 Not 100% liked at all (private)" in action


@pytest.mark.parametrize(("verdict", "code"), [(NO, "550"), (LATER, "451")])
def test_a_refusal_that_is_for_all_of_them_after_all(asking: Asking, verdict: Any, code: str) -> None:
    asking.judge.says["data"] = pending(verdict, is_for=lambda address: True)
    asking.ask()
    assert asking.ask("DATA").startswith(code)
    assert len(asking.events.of(Refused)) == 1


def test_mail_that_goes_on_is_told_of_once_all_is_known(asking: Asking) -> None:
    asking.ask()
    assert not asking.events.of(Judged)
    asking.ask("DATA")
    asking.ask("END-OF-MESSAGE", size="1234")
    (told,) = asking.events.of(Judged)
    assert (told.answer, told.ident, told.recipients) == ("continue", "4XyZ", ("bob@here.example",))


# -- the field on top


def spf(session: Session, transaction: Transaction) -> Any:
    transaction.evidence.add(SpfResult("pass", "client.example", mechanism="mx"))
    return Continue()


def test_results_are_put_on_top_once() -> None:
    asking = Asking(prepend="authentication-results")
    asking.judge.says["mail"] = spf
    assert asking.ask() == "PREPEND Authentication-Results: mx.test; spf=pass smtp.mailfrom=client.example"
    assert asking.ask(recipient="eve@here.example") == "DUNNO"
    assert asking.ask("DATA", recipient="", recipient_count="2") == "DUNNO"


def test_the_field_comes_with_the_first_recipient_that_is_taken_and_even_if_nothing_is_known() -> None:
    asking = Asking(prepend="authentication-results")
    asking.judge.says["rcpt"] = lambda _session, _transaction, one: NO if one.address == EVE else Continue()
    assert asking.ask(recipient="eve@here.example").startswith("550")
    assert asking.ask() == "PREPEND Authentication-Results: mx.test; none"


def test_at_the_end_it_would_be_too_late() -> None:
    asking = Asking(prepend="authentication-results")
    assert asking.ask("END-OF-MESSAGE") == "DUNNO"


def test_nobody_gets_one_who_has_not_asked_for_it(asking: Asking) -> None:
    asking.judge.says["mail"] = spf
    assert asking.ask() == "DUNNO"
