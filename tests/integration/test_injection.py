"""Mail handed in by HTTP to a gateway that runs: delivered, followed, and never twice, whatever breaks in between."""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from injected import OTHER, READER, WRONG, InjectionSite
from parts import Gateway, Sink, memory_of, wait_until

#: Recipients of one call: as many as two processors deliver to in half a minute.
_MANY = 20_000

Build = Callable[[str, int], Gateway]


def test_from_json_to_the_mailbox(base: Path, build: Build) -> None:
    site = InjectionSite(base, build).start()
    file = base64.b64encode(b"\0\1 octets").decode()
    status, told = site.post(
        from_={"name": "Jörg, Müller", "address": "shop@box.test"},
        to=["Ann <ann@box.test>"],
        cc=["bob@box.test"],
        bcc=["carl@box.test"],
        subject="Grüße an alle",
        text="Grüß Gott " + "und so weiter " * 100,
        html="<p>hello</p><img src=cid:logo>",
        attachments=[
            {"content": file, "name": "größe €.bin"},
            {"content": file, "type": "image/png", "cid": "logo"},
        ],
        headers={"X-Campaign": "winter"},
        tags=["invoice"],
        stream="invoices",
    )
    assert (status, told["taken"], told["refused"]) == (202, 1, [])
    (queue_id,) = told["ids"]
    for user in ("ann", "bob", "carl"):
        wait_until(partial(site.has, user), f"{user} has it")
    (mail,) = site.mails("ann")
    assert mail["Subject"] == "Grüße an alle"
    assert mail["From"].addresses[0].display_name == "Jörg, Müller"
    assert (mail["To"], mail["Cc"], mail["Bcc"]) == ("Ann <ann@box.test>", "bob@box.test", None)
    assert (mail["X-Campaign"], mail["Message-ID"]) == ("winter", f"<{queue_id}@mailgate.test>")
    assert "Date" in mail
    assert [one.get_filename() for one in mail.iter_attachments()] == ["größe €.bin"]
    assert [one.get_content() for one in mail.iter_attachments()] == [b"\0\1 octets"]
    wait_until(lambda: site.state(queue_id) == ["delivered"] * 3, "it is followed to its end")
    assert site.ask("GET", f"/v1/messages/{queue_id}", secret=OTHER)[0] == 404
    assert site.ask("GET", f"/v1/messages/{queue_id}", secret=READER)[0] == 403
    wait_until(lambda: "app by token" in site.gateway.command("why", queue_id).stdout, "the history says who it was")


def test_a_template_for_each_recipient(base: Path, build: Build) -> None:
    site = InjectionSite(base, build).start()
    people = [{"to": f"user{one}@box.test", "substitutions": {"name": f"N<{one}>"}} for one in range(40)]
    people.insert(7, {"to": "nobody@box.test", "substitutions": {}})
    people.insert(9, {"to": "far@elsewhere.test", "substitutions": {"name": "x"}})
    template = {"subject": "For {{ name }}", "text": "{{ name }}{{ sign }}", "html": "<b>{{ name }}</b>"}
    order = {"from": "shop@box.test", "recipients": people, "template": template, "substitutions": {"sign": "!"}}
    status, told = site.ask("POST", "/v1/messages", json.dumps(order).encode())
    assert (status, told["taken"], told["ids"][7], told["ids"][9]) == (202, 40, None, None)
    assert [(one["number"], one["path"], one["status"]) for one in told["refused"]] == [
        (7, "recipients.7.substitutions", 400),
        (9, "recipients.9.to", 422),
    ]
    wait_until(lambda: site.count() == 40, "each has one")
    (mail,) = site.mails("user3")
    assert (mail["To"], mail["Subject"]) == ("user3@box.test", "For N<3>")
    assert [part.get_content() for part in mail.iter_parts()] == ["N<3>!\n", "<b>N&lt;3&gt;</b>\n"]


def test_a_raw_message(base: Path, build: Build) -> None:
    site = InjectionSite(base, build).start()
    fields = {"Content-Type": "message/rfc822"}
    content = b"From: shop@box.test\nTo: list@box.test\nBcc: secret@box.test\nSubject: raw\n\n.dot\nline\n"
    status, told = site.ask(
        "POST", "/v1/messages?from=bounce@box.test&to=ann@box.test&to=bob@box.test", content, fields=fields
    )
    assert status == 202, told
    wait_until(lambda: len(site.mails("ann")) == len(site.mails("bob")) == 1, "both have it")
    (mail,) = site.mails("ann")
    assert (mail["Return-Path"], mail["To"], mail["Bcc"]) == ("<bounce@box.test>", "list@box.test", None)
    assert mail.get_content() == ".dot\nline\n"
    assert mail["Message-ID"] == f"<{told['ids'][0]}@mailgate.test>"
    fields |= {"X-Envelope-To": "ann@box.test, bob@box.test"}
    assert site.ask("POST", "/v1/messages", content, fields=fields)[0] == 202
    status, told = site.ask("POST", "/v1/messages", b"To: x\r\n\r\nx", fields=fields)
    assert (status, told["errors"][0]["path"]) == (400, "content")


def test_verdicts_become_answers(base: Path, build: Build) -> None:
    quota = """
[filters.quota]
rules = [{ count = "messages", limit = 3, window = "1h" }]
"""
    site = InjectionSite(base, build, filters='"quota", ', sections=quota).start()
    status, told = site.post(secret=OTHER, to=["ann@box.test"])
    assert (status, told["errors"][0]["path"]) == (403, "from")
    assert "You may not send as this address" in told["error"]
    assert site.post(from_="other@box.test", secret=OTHER, to=["ann@box.test"])[0] == 202
    status, told = site.post(to=["ann@box.test", "far@elsewhere.test"])
    assert (status, told["errors"][0]["path"]) == (422, "to.1")
    people = [{"to": f"user{one}@box.test"} for one in range(4)]
    status, told = site.post(key="some", recipients=people)
    assert (status, told["taken"], told["idempotency_key"]) == (429, 2, "some")
    wait_until(lambda: site.count() == 3, "what was taken is delivered")
    status, told = site.ask("GET", "/v1/messages?idempotency_key=some")
    assert (status, told["taken"]) == (409, 2)
    assert site.post(secret=READER, to=["ann@box.test"])[0] == 403
    assert site.post(secret=WRONG, to=["ann@box.test"])[0] == 401


def test_later(base: Path, build: Build) -> None:
    site = InjectionSite(base, build, more='max_hold = "3650d"').start()
    status, told = site.post(to=["ann@box.test"], send_at="2031-01-01T10:00:00+01:00")
    assert status == 202
    recipient = site.ask("GET", f"/v1/messages/{told['ids'][0]}")[1]["recipients"][0]
    assert (recipient["state"], recipient["next_attempt"]) == ("queued", "2031-01-01T09:00:00Z")
    assert site.post(to=["ann@box.test"], send_at="2131-01-01T10:00:00Z")[1]["errors"][0]["path"] == "send_at"


def test_the_same_key_in_parallel_in_sequence_and_after_a_restart(base: Path, build: Build) -> None:
    site = InjectionSite(base, build).start()
    people = [{"to": f"user{one}@box.test"} for one in range(100)]
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(site.post(key="one", recipients=people))) for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    answers.append(site.post(key="one", recipients=people))
    site.gateway.stop()
    site.start()
    answers.append(site.post(key="one", recipients=people))
    assert len(answers) == 10
    assert all(one == answers[0] for one in answers)
    assert site.post(key="one", recipients=people[1:])[0] == 422
    assert site.post(key="one", secret=OTHER, from_="other@box.test", recipients=people)[0] == 202  # another's key
    wait_until(lambda: site.count() == 200, "each has one of each")
    wait_until(lambda: site.marks() == 0, "what was noted of calls that are over goes")


def _has(site: InjectionSite, enough: int) -> bool:
    return site.count() > enough


def test_kill_9_after_202_and_in_the_middle(base: Path, build: Build) -> None:
    site = InjectionSite(base, build).start()
    status, told = site.post(to=["first@box.test"])
    site.gateway.stop(signal.SIGKILL)
    assert status == 202
    site.start()
    wait_until(lambda: len(site.mails("first")) >= 1, "what was promised is delivered")
    people = [{"to": f"user{one}@box.test"} for one in range(900)]
    answers: list[tuple[int, object]] = []
    for enough in (20, 250, 500):
        thread = threading.Thread(target=lambda: answers.append(site.post(key="bulk", recipients=people)))
        thread.start()
        wait_until(partial(_has, site, enough), "some are there")
        site.gateway.stop(signal.SIGKILL)
        thread.join()
        site.start()
    status, told = site.post(key="bulk", recipients=people)
    assert (status, told["taken"], None in told["ids"]) == (202, 900, False)
    wait_until(lambda: all(len(site.mails(f"user{one}")) >= 1 for one in range(900)), "each has one")
    assert len(set(told["ids"])) == 900
    # A delivery may come once more for a kill; a message that is taken twice has another id.
    ids = {mail["Message-ID"] for one in range(900) for mail in site.mails(f"user{one}")}
    assert ids == {f"<{one}@mailgate.test>" for one in told["ids"]}


@pytest.mark.needs("smtp-sink")
def test_many_in_one_call_beside_an_urgent_one(base: Path, build: Build) -> None:
    (base / "sink").mkdir()
    with Sink(base / "sink") as sink:
        route = f"""
[domains."many.test"]
route = "many"

[routes.many]
transport = "smtp"
hosts = ["127.0.0.1:{sink.port}"]
"""
        site = InjectionSite(base, build, sections=route).start()
        site.post(to=["warm@box.test"])
        memory = most = memory_of(site.gateway.pid)
        people = [{"to": f"u{one}@many.test", "substitutions": {"n": one}} for one in range(_MANY)]
        answers: list[tuple[int, Any]] = []

        def bulk() -> None:
            order = {"from": "shop@box.test", "recipients": people, "template": {"text": "{{ n }} " * 20}}
            fields = {"Idempotency-Key": "bulk"}
            answers.append(site.ask("POST", "/v1/messages", json.dumps(order).encode(), fields=fields))

        thread = threading.Thread(target=bulk)
        thread.start()
        wait_until(lambda: sink.messages > 100, "the many are under way")
        assert site.post(to=["urgent@box.test"])[0] == 202
        wait_until(lambda: len(site.mails("urgent")) == 1, "the urgent one is there")
        assert sink.messages < _MANY
        assert thread.is_alive()
        while thread.is_alive():
            most = max(most, memory_of(site.gateway.pid))
            thread.join(1)
        assert (answers[0][0], answers[0][1]["taken"]) == (202, _MANY)
        assert len(set(answers[0][1]["ids"])) == _MANY
        wait_until(lambda: sink.messages >= _MANY, "all are there", 120)
        assert max(most, memory_of(site.gateway.pid)) < memory + 100 * 1024**2
        wait_until(lambda: site.marks() == 0, "what was noted of the call goes")
