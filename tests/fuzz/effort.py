"""How much is tried: MAILGATE_FUZZ_EXAMPLES examples for each target, few where it is not set."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["EFFORT"]

#: For each target. What a long run finds is kept by Hypothesis and tried first the next time.
EFFORT = settings(
    max_examples=int(os.environ.get("MAILGATE_FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
