"""How much is tried: MAILGATE_FUZZ_EXAMPLES examples for each target, others each time; where it is not set, a few,
always the same."""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["EFFORT"]

_EXAMPLES = os.environ.get("MAILGATE_FUZZ_EXAMPLES", "")

#: For each target. What a long run finds is kept by Hypothesis and tried first the next time.
EFFORT = (
    settings(settings.get_profile("explore"), max_examples=int(_EXAMPLES)) if _EXAMPLES else settings(max_examples=50)
)
