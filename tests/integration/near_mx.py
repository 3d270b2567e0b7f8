"""twistd, for a gateway whose destinations are on this machine too: it does not take their mail hosts for itself, looks
for reports that are due right after its start, and makes one after another without a pause."""

from __future__ import annotations

from twisted.scripts.twistd import run

from mailgate.relay import locate
from mailgate.reporting import daily


class _Nobody(locate.OwnAddresses):
    def __call__(self, address: locate.Address) -> bool:
        return False


if __name__ == "__main__":
    locate.OwnAddresses = _Nobody  # type: ignore[misc]  # for service.py, which comes after
    daily._FIRST = daily._PAUSE = 0.2
    run()
