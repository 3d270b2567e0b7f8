"""The pages by which recipients release their mail: what a link is good for, and what nobody gets by it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from email.header import Header
from pathlib import Path
from typing import Any

import pytest

from mailgate.envelope import TraceStep
from mailgate.events import OperatorActed
from mailgate.interfaces import SpoolError
from mailgate.web.links import Links, Meant
from mailgate.web.quarantine_models import Objection, Rescanned
from tests.unit.http_stand import DAY, NOW, SECRETS, Answer, HttpStand

YES = b"release=yes"
SPAM = TraceStep("message", "score", "quarantine", "looks like spam")


@pytest.fixture
def stand(tmp_path: Path) -> HttpStand:
    return HttpStand(tmp_path)


def look(stand: HttpStand, token: str) -> Answer:
    return stand.ask("GET", f"/release/{token}")


def press(stand: HttpStand, token: str, content: bytes = YES) -> Answer:
    return stand.ask("POST", f"/release/{token}", content=content)


def released(stand: HttpStand) -> list[tuple[str, tuple[str, ...], str]]:
    return [(one.queue_id, one.recipients, one.by) for one in stand.events.of(OperatorActed) if one.action == "release"]


def test_looking_releases_nothing_and_the_button_does(stand: HttpStand) -> None:
    stand.keep("A1")
    token = stand.token("A1")
    for _ in range(20):
        answer = look(stand, token)
        assert answer.status == 200
        assert "Send it to me" in answer.text
        assert "Eve &lt;eve@far.test&gt;" in answer.text
        assert "looks like spam" in answer.text
    assert stand.ask("HEAD", f"/release/{token}").status == 200
    assert stand.ask("OPTIONS", f"/release/{token}").status == 405
    assert (released(stand), stand.states()) == ([], {"A1:0": "quarantined"})
    answer = press(stand, token)
    assert (answer.status, "on its way" in answer.text) == (200, True)
    assert released(stand) == [("A1", ("ann@example.org",), "recipient ann@example.org by link")]
    assert stand.states() == {"A1:0": "queued"}


def test_a_post_without_the_form_releases_nothing(stand: HttpStand) -> None:
    stand.keep("A1")
    token = stand.token("A1")
    for content in (
        b"",
        b"x=1",
        b"release=no",
        b"release=yes&release=no",
        b"{}",
        b"\xff\xfe",
        b"a" * 2000 + b"&release=yes",
        b"a=b&" * 20 + b"release=yes",
    ):
        assert press(stand, token, content).status == 400
    assert stand.states() == {"A1:0": "quarantined"}


def test_a_link_is_for_one_recipient_of_one_message(stand: HttpStand) -> None:
    stand.keep("A1", "ann@example.org", "bob@example.org")
    stand.keep("A2", "ann@example.org")
    assert press(stand, stand.token("A1", 0, "ann@example.org")).status == 200
    assert stand.states() == {"A1:0": "queued", "A1:1": "quarantined", "A2:0": "quarantined"}
    for token in (
        stand.token("A1", 1, "ann@example.org"),  # signed by us, and yet no pair that there is
        stand.token("A1", 0, "bob@example.org"),
        stand.token("A9", 0, "ann@example.org"),
        stand.token("a2", 0, "ann@example.org"),
    ):
        assert press(stand, token).status == 410
    assert stand.states() == {"A1:0": "queued", "A1:1": "quarantined", "A2:0": "quarantined"}


def test_what_was_not_signed_here_is_nothing(stand: HttpStand) -> None:
    stand.keep("A1")
    token = stand.token("A1")
    body, _, signature = token.rpartition(".")
    foreign = Links(b"other" * 8).sign(Meant("A1", 0, "ann@example.org", int(NOW + DAY)))
    wrong = [foreign, token[:-1], token + "A", body, f"{body}.", f".{signature}", token.swapcase(), "x" * 2000, "-._~"]
    for one in wrong:
        answer = press(stand, one)
        assert (answer.status, "does not work" in answer.text) == (404, True), one
    assert stand.states() == {"A1:0": "quarantined"}


def test_every_other_sign_of_a_link_matters(stand: HttpStand) -> None:
    token = stand.token("A1")
    for place in range(len(token) - 1):  # the last carries bits that no octet has
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert stand.links.read(changed) is None


@pytest.mark.parametrize(
    "value", [["A1", 0, "ann@example.org"], ["A1", "0", "a@b", 1], {"a": 1}, None, "A1", [1, 2, 3, 4]]
)
def test_what_was_signed_for_something_else_is_no_link(stand: HttpStand, value: Any) -> None:
    assert stand.links.read(str(stand.links._serializer.dumps(value))) is None


def test_a_link_is_dead_once_its_mail_has_gone(stand: HttpStand) -> None:
    stand.keep("A1")
    stand.keep("A2")
    stand.keep("A3")
    order = json.dumps({"ids": ["A2"]}).encode()
    assert press(stand, stand.token("A1")).status == 200
    assert stand.ask("POST", "/v1/quarantine/delete", SECRETS["keeper"], content=order).json["deleted"] == 1
    for queue_id in ("A1", "A2"):
        for answer in (look(stand, stand.token(queue_id)), press(stand, stand.token(queue_id))):
            assert (answer.status, "not kept back any more" in answer.text) == (410, True)
    assert len(released(stand)) == 1
    token = stand.token("A3", expires=int(NOW + 100))
    stand.clock.advance(99)
    assert look(stand, token).status == 200
    stand.clock.advance(1)
    for answer in (look(stand, token), press(stand, token)):
        assert (answer.status, "has expired" in answer.text) == (410, True)
    assert stand.states()["A3:0"] == "quarantined"


def test_what_others_wrote_is_text_on_the_page(stand: HttpStand) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=y>{{7*7}}"
    subject = Header(f"{evil}\u202egpj.exe\x07", "utf-8").encode().replace("\n", "\r\n").encode()
    content = b'From: "<b>Bank</b>" <eve@far.test>\r\nSubject: ' + subject + b"\r\n\r\nx\r\n"
    stand.keep("A1", content=content, reason=evil, steps=[TraceStep("message", "score", "quarantine", evil)])
    answer = look(stand, stand.token("A1"))
    assert answer.status == 200
    assert "<script" not in answer.text
    assert "<img" not in answer.text
    assert "<b>" not in answer.text
    assert "{{7*7}}" in answer.text  # and not 49
    assert "&lt;script&gt;" in answer.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", answer.text)


def test_a_page_loads_nothing_is_kept_nowhere_and_tells_nobody_its_address(stand: HttpStand) -> None:
    stand.keep("A1")
    for answer in (look(stand, stand.token("A1")), look(stand, "x"), press(stand, stand.token("A1"))):
        policy = answer.fields["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.fields["cache-control"] == "no-store"
        assert answer.fields["referrer-policy"] == "no-referrer"
        assert answer.fields["x-content-type-options"] == "nosniff"
        assert answer.fields["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"src=|href=|<script|style=", answer.text)
        (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([TraceStep("message", "clamav", "quarantine", "Eicar")], "Eicar"),
        ([SPAM, TraceStep("message", "clamav", "reject", "Eicar")], "looks like spam"),
        ([SPAM, TraceStep("message", "clamav", "failure", "timeout (on_failure: continue)")], "looks like spam"),
        ([SPAM, TraceStep("message", "clamav", "abandoned")], "looks like spam"),
        (
            [SPAM, TraceStep("message", "attachments", "quarantine", "exe", recipient="ann@example.org")],
            "looks like spam",
        ),
        (
            [SPAM, TraceStep("message", "clamav", "quarantine", "x", recipient="bob@example.org, Ann@example.org")],
            "looks like spam",
        ),
        (
            [SPAM, TraceStep("message", "clamav", "quarantine", "x", recipient="a@example.org, ... and 5 more")],
            "looks like spam",
        ),
        ([SPAM, TraceStep("message", "clamav", "several", "5 more")], "looks like spam"),
        ([TraceStep("message", "clamav", "failure", "x")], "clamav: no answer"),
        ([], "nobody knows why"),
    ],
)
def test_policy_keeps_what_is_not_theirs_to_decide(stand: HttpStand, steps: list[TraceStep], reason: str) -> None:
    stand.keep("A1", steps=steps, reason=reason)
    for answer in (look(stand, stand.token("A1")), press(stand, stand.token("A1"))):
        assert (answer.status, "Only an administrator" in answer.text) == (403, True)
        assert "hello" not in answer.text
    assert stand.states() == {"A1:0": "quarantined"}


@pytest.mark.parametrize(
    "step",
    [
        TraceStep("message", "clamav", "continue"),
        TraceStep("message", "clamav", "quarantine", "Eicar", enforced=False),
        TraceStep("message", "attachments", "quarantine", "exe", recipient="bob@example.org"),
        TraceStep("message", "attachments", "edit", "stripped"),
    ],
)
def test_what_did_not_count_for_them_is_no_obstacle(stand: HttpStand, step: TraceStep) -> None:
    stand.keep("A1", steps=[SPAM, step])
    assert press(stand, stand.token("A1")).status == 200


def test_an_older_link_is_dead_where_policy_has_changed(stand: HttpStand) -> None:
    stand.keep("A1")
    token = stand.token("A1")
    assert look(stand, token).status == 200
    stand.use(exclude=["clamav", "score"])
    assert [look(stand, token).status, press(stand, token).status] == [403, 403]


@pytest.mark.parametrize(
    ("objection", "status"),
    [
        (("objects", "clamav"), 403),
        (("unknown", "clamav"), 503),
        (("objects", "score"), 200),
        (("unknown", "score"), 200),
        (("unknown", ""), 403),
        (None, 200),
    ],
)
def test_filters_are_asked_again_before_a_release(
    tmp_path: Path, objection: tuple[Any, str] | None, status: int
) -> None:
    stand = HttpStand(tmp_path, scan=True)
    stand.keep("A1")
    if objection is not None:
        found = Objection(
            queue_id="A1", recipient="ann@example.org", word=objection[0], filter=objection[1], reason="x"
        )
        stand.quarantine.says = Rescanned(matched=1, objections=(found,))
    assert look(stand, stand.token("A1")).status == 200
    assert not hasattr(stand.quarantine, "asked")
    assert press(stand, stand.token("A1")).status == status
    assert stand.quarantine.asked.of == ("attachments", "clamav")  # spam says no before they would be asked
    assert (stand.quarantine.asked.ids, stand.quarantine.asked.recipient) == (("A1",), "ann@example.org")
    assert stand.states() == {"A1:0": "queued" if status == 200 else "quarantined"}


def test_a_spool_that_cannot_answer_has_a_page(stand: HttpStand, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise SpoolError("disk")

    monkeypatch.setattr(stand.quarantine, "find", fail)
    answer = look(stand, stand.token("A1"))
    assert (answer.status, "try again" in answer.text, "disk" in answer.text) == (503, True, False)
