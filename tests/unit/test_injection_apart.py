"""Processes that read large calls: what they find is what is found here, and they hold up nobody here."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mailgate.config.injection import InjectionSection
from mailgate.web.injection.apart.inside import serve
from mailgate.web.injection.apart.readers import Readers
from mailgate.web.injection.apart.talk import Answer, Ask, GoneError, Head, say, take
from mailgate.web.injection.composing import Draft
from mailgate.web.injection.problems import CallError
from mailgate.web.injection.reading import Asked, Call, read_whole

NOW = 1_800_000_000.0
SECTION = InjectionSection(pipeline="out")
TOO_MUCH = "it takes more memory or time to read than a call may"
SHOP = {"from": "Shop <shop@example.org>", "subject": "x", "text": "y\n"}


@pytest.fixture
def readers() -> Iterator[Readers]:
    found = Readers()
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Readers]:
    """For those to whom it is all one which process it is."""
    found = Readers()
    yield found
    found.close()


def asked(**order: Any) -> Asked:
    return Asked(json.dumps({**SHOP, **order}).encode(), "application/json", {}, {})


def people(count: int) -> list[dict[str, str]]:
    return [{"to": f"a{one}@example.net"} for one in range(count)]


def pids(parent: int) -> list[int]:
    """The processes that this one has started."""
    found = []
    for one in os.listdir("/proc"):
        if one.isdigit():
            try:
                with open(f"/proc/{one}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(one))
    return found


def outline(call: Call) -> tuple[object, ...]:
    return call.count, call.digest, call.key, call.stream, call.tags, call.is_list


def drafts(found: Any) -> list[object]:
    return [
        (one.number, one.sender, one.recipients, one.parameters, len(one.content)) if isinstance(one, Draft) else one[0]
        for one in found
    ]


@pytest.mark.parametrize(
    "order",
    [
        {"to": ["Ann <ann@example.net>"], "cc": ["b\u00fcro@example.net"], "stream": "news", "tags": ["a", "b"]},
        {"recipients": people(3), "idempotency_key": "k", "send_at": "2027-01-20T08:00:00Z"},
        {
            "recipients": [*people(2), {"to": "c@example.net", "substitutions": {"x": 1}}],
            "template": {"text": "{{ x }}"},
            "substitutions": {},
            "text": "",
            "subject": "",
        },
    ],
)
def test_a_process_finds_what_is_found_here(shared: Readers, order: dict[str, Any]) -> None:
    here, there = (read(asked(**order), SECTION, "gw", NOW) for read in (read_whole, shared.read))
    assert outline(here) == outline(there)
    assert drafts(here.first) == drafts(there.first)
    assert drafts(here.messages.drafts(1, 3)) == drafts(there.messages.drafts(1, 3))
    there.messages.close()


def test_a_raw_message_comes_back_as_it_went(shared: Readers) -> None:
    content = b"From: a@example.org\r\nDate: x\r\nMessage-ID: <x@y>\r\n\r\n" + b"line\r\n" * 100_000
    call = shared.read(Asked(content, "message/rfc822", {"to": ["b@example.net"]}, {}), SECTION, "gw", NOW)
    (draft,) = call.first
    assert isinstance(draft, Draft)
    assert draft.content == content


def test_what_is_wrong_is_told_as_it_is_here(shared: Readers) -> None:
    wrong = asked(to=["nobody"], headers={"X": "a\nb"})
    told = []
    for read in (read_whole, shared.read):
        with pytest.raises(CallError) as raised:
            read(wrong, SECTION, "gw", NOW)
        told.append((raised.value.status, tuple(raised.value.faults)))
    assert told[0] == told[1]
    assert shared.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW).count == 1


def test_this_process_does_next_to_nothing_for_a_large_call(shared: Readers) -> None:
    file = {"content": base64.b64encode(os.urandom(12 * 1024**2)).decode(), "name": "a.bin"}
    large = asked(to=["ann@example.net"], attachments=[file])
    shared.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW)
    spent = []
    for read in (read_whole, shared.read):
        before = time.thread_time()
        read(large, SECTION, "gw", NOW)
        spent.append(time.thread_time() - before)
    assert spent[1] < spent[0] / 4


def test_one_process_serves_one_call_after_another(readers: Readers) -> None:
    mine = set(pids(os.getpid()))
    for _ in range(3):
        readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW)
    assert len(set(pids(os.getpid())) - mine) == 1
    many = [readers.read(asked(recipients=people(2)), SECTION, "gw", NOW) for _ in range(4)]
    assert len(set(pids(os.getpid())) - mine) == 4
    for one in many:
        one.messages.close()
        one.messages.close()
    assert len(set(pids(os.getpid())) - mine) == 2
    assert many[0].messages.drafts(1, 2) == []
    readers.close()
    assert set(pids(os.getpid())) <= mine


def test_a_process_that_is_killed_costs_its_call_only(readers: Readers) -> None:
    mine = set(pids(os.getpid()))
    call = readers.read(asked(recipients=people(3)), SECTION, "gw", NOW)
    for one in set(pids(os.getpid())) - mine:
        os.kill(one, signal.SIGKILL)
    with pytest.raises(CallError) as raised:
        call.messages.drafts(1, 3)
    assert (raised.value.status, raised.value.retry_after > 0) == (503, True)
    call.messages.close()
    assert readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW).count == 1


def test_a_process_that_says_nothing_is_not_waited_for_for_ever() -> None:
    readers = Readers(patience=0.0)
    try:
        with pytest.raises(CallError) as raised:
            readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW)
        assert raised.value.status == 503
    finally:
        readers.close()


def test_a_process_that_had_nothing_to_do_is_gone_and_another_comes(readers: Readers) -> None:
    mine = set(pids(os.getpid()))
    readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW)
    (process,) = set(pids(os.getpid())) - mine
    os.kill(process, signal.SIGALRM)  # as its own clock does
    assert readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW).count == 1
    assert process not in pids(os.getpid())


def test_too_much_time() -> None:
    """Thousands of messages, of which each takes long: many times what is allowed."""
    readers = Readers(cpu=1)
    order = {
        "template": {"subject": "x", "text": "{{ x }}" * 4000},
        "substitutions": {"x": "y"},
        "idempotency_key": "k",
    }
    long = asked(**order, recipients=people(40_000), subject="", text="")
    try:
        with pytest.raises(CallError) as raised:
            readers.read(long, SECTION, "gw", NOW).messages.drafts(1, 40_000)
        assert (raised.value.status, str(raised.value)) == (413, TOO_MUCH)
        assert readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW).count == 1
    finally:
        readers.close()


def test_too_much_memory(readers: Readers) -> None:
    small = InjectionSection(pipeline="out", max_call="64KiB")  # type: ignore[arg-type]  # as in a file
    junk = Asked(b'{"recipients":[{"to":[' + b"[]," * 20_000_000 + b"1]}]}", "application/json", {}, {})
    with pytest.raises(CallError) as raised:
        readers.read(junk, small, "gw", NOW)
    assert (raised.value.status, str(raised.value)) == (413, TOO_MUCH)
    assert readers.read(asked(to=["ann@example.net"]), small, "gw", NOW).count == 1


def test_calls_of_many_threads(shared: Readers) -> None:
    found: list[int] = []

    def one(count: int) -> None:
        call = shared.read(asked(recipients=people(count)), SECTION, "gw", NOW)
        found.append(len(call.messages.drafts(1, count)) + 1)
        call.messages.close()

    threads = [threading.Thread(target=one, args=(count,)) for count in (2, 3, 4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(found) == [2, 3, 4]


def test_the_end_waits_for_no_answer() -> None:
    """A process that computes for long, here one that is stopped."""
    readers = Readers()
    mine = set(pids(os.getpid()))
    call = readers.read(asked(recipients=people(3)), SECTION, "gw", NOW)
    (process,) = set(pids(os.getpid())) - mine
    os.kill(process, signal.SIGSTOP)
    told: list[CallError] = []

    def ask() -> None:
        try:
            call.messages.drafts(1, 3)
        except CallError as error:
            told.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        readers.close()
        thread.join(60)
        assert [one.status for one in told] == [503]
    finally:
        if process in pids(os.getpid()):
            os.kill(process, signal.SIGKILL)
            thread.join()
    call.messages.close()
    with pytest.raises(CallError) as raised:
        readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW)
    assert raised.value.status == 503
    assert set(pids(os.getpid())) <= mine


def test_an_answer_that_is_broken_off_here_is_never_taken_for_that_to_another_call(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> bytes:
        raise MemoryError

    call = readers.read(asked(recipients=people(3), text="secret"), SECTION, "gw", NOW)
    with monkeypatch.context() as patch:
        patch.setattr("mailgate.web.injection.apart.readers.octets", broken)
        with pytest.raises(MemoryError):
            call.messages.drafts(1, 3)
        call.messages.close()
        with pytest.raises(MemoryError):
            readers.read(asked(to=["ann@example.net"]), SECTION, "gw", NOW)
    (draft,) = readers.read(asked(to=["bob@example.net"]), SECTION, "gw", NOW).first
    assert isinstance(draft, Draft)
    assert b"secret" not in draft.content
    assert not readers._used


# -- what runs in it, here


def served(*questions: tuple[Head | Ask, bytes]) -> list[Answer]:
    source, sink = io.BytesIO(), io.BytesIO()
    for question, behind in questions:
        say(source, question, behind)
    source.seek(0)
    serve(source, sink)
    sink.seek(0)
    decoder = msgspec.msgpack.Decoder(Answer)
    found = []
    while (answer := take(sink, decoder)) is not None:
        found.append(answer)
        sink.read(sum(one.size for one in answer.drafts))
    return found


def head(content: bytes) -> tuple[Head, bytes]:
    return Head("application/json", {}, {}, SECTION.model_dump(), "gw", NOW, len(content)), content


def test_a_call_that_is_over_is_not_kept() -> None:
    many = head(asked(recipients=people(3)).content)
    first, rest, nothing, again = served(many, (Ask(1, 3), b""), (Ask(), b""), (Ask(1, 3), b""), many)
    assert [len(one.drafts) for one in (first, rest, nothing, again)] == [1, 2, 0, 1]
    single = head(asked(to=["ann@example.net"]).content)
    assert [len(one.drafts) for one in served(single, (Ask(1, 2), b""))] == [1, 0]


def test_an_error_of_ours_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> Call:
        raise ZeroDivisionError("oh")

    content = asked(to=["ann@example.net"]).content
    with monkeypatch.context() as patch:
        patch.setattr("mailgate.web.injection.apart.inside.read_call", broken)
        (answer,) = served(head(content))
    assert "ZeroDivisionError: oh" in answer.broken
    (answer,) = served(head(content))
    assert answer.call is not None


@pytest.mark.parametrize("octets", [b"\0\0", b"\0\0\0\x05ab", b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1"])
def test_what_makes_no_sense_ends_it(octets: bytes) -> None:
    with pytest.raises(GoneError):
        serve(io.BytesIO(octets), io.BytesIO())
