"""Words about where mail waits."""

from __future__ import annotations

import pytest

from mailgate.relay.wording import in_line, per_time, seconds


@pytest.mark.parametrize(
    ("place", "told"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st"), (112, "112th")],
)
def test_places(place: int, told: str) -> None:
    assert in_line(place, 200) == f"{told} of 200"


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (2.0, "2 messages a second"),
        (0.5, "30 messages a minute"),
        (1.0, "60 messages a minute"),
        (100 / 60, "100 messages a minute"),
        (5000 / 3600, "5000 messages an hour"),
        (1 / 3, "20 messages a minute"),
        (1.7, "102 messages a minute"),
        (0.123456, "7.41 messages a minute"),
        (1 / 90, "40 messages an hour"),
        (1e-6, "0.0864 messages a day"),
    ],
)
def test_rates(rate: float, told: str) -> None:
    assert per_time(rate, "messages") == told


def test_a_wait_that_is_over_is_none() -> None:
    assert (seconds(39.6), seconds(-3.0)) == ("40 s", "0 s")
