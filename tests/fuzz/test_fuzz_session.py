"""Whole sessions against any client: in the clear, under TLS, behind a proxy, by SMTP and LMTP."""

from __future__ import annotations

from itertools import chain, cycle
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mailgate.wire.proxy import write_v1, write_v2
from tests.fuzz.effort import EFFORT
from tests.unit.session_security import client
from tests.unit.smtp_stand import Stand, Wire
from tests.unit.test_session_fuzz import (
    BODIES,
    CHANCE,
    COMMANDS,
    MARKER,
    SCENES,
    WORDS,
    pieces_of,
    run,
    settle,
    stand,
    verdicts_of,
)

HEADERS = [
    *(write_v1(None, None), write_v2(None, None), b"PROXY TCP4 198.51.100.1 192.0.2.25 1 25\r\n"),
    *(b"PROXY x\r\n", b""),
]
NOISE = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=30)), max_size=80)


def talk(one: Stand, wire: Wire, octets: bytes, chance: Random) -> int:
    """Send it in pieces, now and then after a while; how many replies there were. Nothing is said after the last."""
    count = 0
    for piece in pieces_of(octets, chance):
        was_closed = wire.is_closed
        codes = wire.send(piece)
        assert not (was_closed and codes)
        one.clock.advance(chance.choice([0, 0, 0, 1, 20]))
        count += len(codes) + len(wire.codes())
    settle(one)
    return count + len(wire.codes())


@EFFORT
@given(NOISE, CHANCE, st.booleans(), st.booleans())
def test_any_client(words: list[bytes], chance: Random, is_late: bool, is_secure: bool) -> None:
    octets = b"".join(words)
    with stand(has_tls=True, max_errors=50) as one:
        verdicts_of(one, is_late)
        wire = one.connect()
        settle(one)
        assert wire.codes() == [220]
        if is_secure:
            wire.say("EHLO client.example")
            settle(one)
            wire.codes()
            wire.starttls(client())
        assert talk(one, wire, octets, chance) <= octets.count(b"\n") + wire.is_closed


@EFFORT
@given(NOISE, CHANCE, st.sampled_from(HEADERS))
def test_any_client_behind_a_proxy(words: list[bytes], chance: Random, header: bytes) -> None:
    octets = header + b"".join(words)
    with stand(has_tls=True, max_errors=50, proxy_protocol_from=["192.0.2.0/24"]) as one:
        wire = one.connect()
        assert talk(one, wire, octets, chance) <= 1 + octets.count(b"\n") + wire.is_closed
        wire.lose()
        one.strangers = 1 - len(one.causes)


@EFFORT
@given(NOISE, CHANCE)
def test_any_client_of_lmtp(words: list[bytes], chance: Random) -> None:
    octets = b"LHLO client.example\r\n" + b"".join(words).replace(b"EHLO ", b"LHLO ")
    with stand(max_errors=50, protocol="lmtp") as one:
        wire = one.connect()
        assert wire.codes() == [220]
        talk(one, wire, octets, chance)
        wire.lose()


@EFFORT
@given(NOISE, st.integers(1, 200), CHANCE)
def test_a_client_that_is_cut_off_leaves_nothing(words: list[bytes], size: int, chance: Random) -> None:
    octets = b"".join(words)
    with stand(has_tls=True) as one:
        verdicts_of(one, is_late=True)
        wire = one.connect()
        settle(one)
        for at in range(0, len(octets), size):
            wire.send(octets[at : at + size])
        end = chance.choice([wire.lose, one.listener.cut, one.listener.drain])
        end()
        settle(one)


@EFFORT
@given(st.lists(SCENES, max_size=30), st.integers(0, len(BODIES) - 1), st.booleans(), CHANCE, st.booleans())
def test_a_client_that_pipelines_is_told_what_one_is_that_waits(
    scenes: list[list[str]], first: int, is_late: bool, chance: Random, is_secure: bool
) -> None:
    commands = [COMMANDS[0], *chain.from_iterable(scenes)]
    bodies = [*BODIES[first:], *BODIES[:first]]
    with stand() as one:
        verdicts_of(one, is_late=False)
        told, groups = run(one.connect(), commands, cycle(bodies))
        messages = one.script.messages
        assert 214 not in told
    with stand(has_tls=is_secure, tls="implicit" if is_secure else None) as one:
        verdicts_of(one, is_late)
        wire = one.connect()
        if is_secure:
            wire.secure(client())
        codes = []
        for group in groups:
            for piece in pieces_of(group, chance):
                codes += wire.send(piece)
            one.clock.pump([1.0] * 900)
            codes += wire.codes()
        if not is_secure:  # STARTTLS has another answer there
            assert codes == told
        assert one.script.messages == messages


@EFFORT
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), CHANCE, st.booleans())
def test_no_octet_of_a_chunk_is_executed(chunks: list[bytes], chance: Random, is_taken: bool) -> None:
    octets = b"EHLO client.example\r\n"
    if is_taken:
        octets += b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<bob@example.org>\r\n"
    chunks = [chunk + b"\r\n.\r\n" + MARKER for chunk in chunks]
    chunks[0] = b"\r\n" + chunks[0]  # a header section has lines even here, and this one is empty
    for number, chunk in enumerate(chunks, 1):
        octets += b"BDAT %d%b\r\n" % (len(chunk), b" LAST" if number == len(chunks) else b"") + chunk
    with stand() as one:
        wire = one.connect()
        codes = [code for piece in pieces_of(octets + b"NOOP\r\n", chance) for code in wire.send(piece)]
        before = [250, 250, 250] if is_taken else [250]
        assert [*wire.codes(), *codes] == [220, *before, *[250 if is_taken else 503] * len(chunks), 250]
        assert one.script.messages == ([b"".join(chunks)] if is_taken else [])
