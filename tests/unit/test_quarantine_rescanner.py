"""As whom, and by whose filters, mail is looked at again that has waited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailgate.address import Address
from mailgate.envelope import Envelope, EnvelopeRecipient, Identity, Kept, Origin
from mailgate.interfaces import Again
from mailgate.message import Content
from mailgate.quarantine.rescan import Rescanner
from mailgate.testing import wait_for
from tests.unit.config_file import load_text
from tests.unit.quarantine_stand import CONFIG, NO, PASS, SaysRescan

MORE = """
[[listeners]]
name = "both"
role = "hybrid"
endpoints = ["tcp:2526:interface=127.0.0.1"]
pipeline = "mx"
trusted_pipeline = "ours"
trusted_networks = ["192.0.2.0/24"]

[pipelines.ours]
filters = []

[http.injection]
pipeline = "ours"

[milters.front]
endpoints = ["tcp:8891"]
pipeline = "mx"
trusted_pipeline = "ours"
trusted_networks = ["192.0.2.0/24"]
"""


class Stand:
    def __init__(self, folder: Path) -> None:
        config = load_text(folder, CONFIG.partition("[quarantine]")[0] + MORE).config
        self.strangers, self.ours = SaysRescan(), SaysRescan()
        self.rescanner = Rescanner()
        self.rescanner.use(config, {"mx": self.strangers, "ours": self.ours})

    def start(self, **more: Any) -> Deferred[Sequence[Again]]:
        recipients = (
            EnvelopeRecipient(0, Address("a", "b.test"), "box"),
            EnvelopeRecipient(3, Address("c", "b.test"), "x"),
        )
        envelope = Envelope(
            **{
                "queue_id": "A",
                "sender": Address("ann", "client.test"),
                "recipients": recipients,
                "received": 1.0,
                "size": 5,
                "listener": "both",
                **more,
            }
        )
        return Deferred.fromCoroutine(self.rescanner.ask(envelope, Content(b"hello"), recipients))

    def ask(self, **more: Any) -> list[Again]:
        return list(wait_for(self.start(**more)))


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


@pytest.mark.parametrize(
    ("more", "identity"),
    [
        ({"origin": Origin(address="203.0.113.9")}, None),
        ({"origin": Origin(address="192.0.2.9")}, Identity("192.0.2.9", "network")),
        ({"origin": Origin(address="203.0.113.9", login="ann")}, Identity("ann", "")),
        ({"client": "unknown[local]"}, Identity("local", "network")),
        ({"client": "unknown[local]", "origin": Origin(source="REMOTE")}, None),
        ({"client": "unknown[203.0.113.9]"}, None),
        ({"origin": Origin(address="not an address")}, None),
        ({"origin": Origin(address="0.0.0.0")}, None),  # noqa: S104  an address that says nothing
    ],
)
def test_those_who_may_relay_have_their_own_filters(
    stand: Stand, more: dict[str, Any], identity: Identity | None
) -> None:
    stand.ask(**more)
    asked, other = (stand.strangers, stand.ours) if identity is None else (stand.ours, stand.strangers)
    assert other.asked == []
    ((session, _, _, _),) = asked.asked
    assert (session.identity, session.role) == (identity, "hybrid")


def test_nobody_is_trusted_at_an_inbound_listener(stand: Stand) -> None:
    stand.ask(listener="mx", origin=Origin(address="192.0.2.9"), client="unknown[local]")
    ((session, _, _, _),) = stand.strangers.asked
    assert session.identity is None


def test_facts_are_those_that_were_kept(stand: Stand) -> None:
    for kept, facts in ((None, None), (Kept(), ()), (Kept(facts=("spf.fail",)), ("spf.fail",))):
        stand.ask(kept=kept)
        assert stand.strangers.asked[-1][3] == facts


def test_each_recipient_is_judged_by_what_was_found_for_it(stand: Stand) -> None:
    stand.strangers.says["c@b.test"] = NO
    kept = Kept(facts=("spf.fail", "rspamd.reject"), facts_for=(((0,), (0,)), ((3,), (0, 1))))
    assert stand.ask(kept=kept) == [PASS, NO]
    asked = [(str(one[1].recipients[0].address), tuple(one[3] or ())) for one in stand.strangers.asked]
    assert asked == [("a@b.test", ("spf.fail",)), ("c@b.test", ("spf.fail", "rspamd.reject"))]


def test_filters_are_asked_about_the_addresses_that_the_sender_has_named(stand: Stand) -> None:
    stand.strangers.says["sales@b.test"] = NO
    assert stand.ask(kept=Kept(named=((3, "sales", "b.test"),))) == [PASS, NO]
    ((_, transaction, _, _),) = stand.strangers.asked
    assert [str(one.address) for one in transaction.recipients] == ["a@b.test", "sales@b.test"]


def test_each_recipient_has_its_answer(stand: Stand) -> None:
    stand.strangers.says["c@b.test"] = NO
    assert stand.ask() == [PASS, NO]


def test_live_mail_does_not_wait_for_it(stand: Stand) -> None:
    answers: list[Deferred[Any]] = []

    def ask(*_: object) -> Deferred[Any]:
        answers.append(Deferred())
        return answers[-1]

    stand.strangers.ask = ask  # type: ignore[method-assign,assignment]
    waiting = [stand.start() for _ in range(5)]
    assert len(answers) == 2  # at a time
    waiting[3].addErrback(lambda _: None)
    waiting[3].cancel()  # whoever gives up leaves the line
    for number in range(4):
        answers[number].callback([PASS, PASS])
    assert [one.called for one in waiting] == [True] * 5
    assert len(answers) == 4


def test_mail_that_was_handed_in_by_http_is_the_tokens(stand: Stand) -> None:
    stand.ask(listener="api", origin=Origin(address="203.0.113.9", login="app"))
    (session, *_) = stand.ours.asked[0]
    assert (session.listener, session.role, session.identity) == ("api", "outbound", Identity("app", ""))
    assert stand.strangers.asked == []


def test_mail_of_which_a_mail_server_has_asked_is_looked_at_as_it_was(stand: Stand) -> None:
    stand.ask(listener="front", origin=Origin(address="203.0.113.9"))
    stand.ask(listener="front", origin=Origin(address="192.0.2.9"))
    assert [(asked[0].listener, asked[0].identity) for asked in (*stand.strangers.asked, *stand.ours.asked)] == [
        ("front", None),
        ("front", Identity("192.0.2.9", "network")),
    ]
