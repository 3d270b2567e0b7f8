"""What filters of copies are given in the place of what the others share: nothing of it reaches anybody."""

from __future__ import annotations

from dataclasses import replace

from mailgate.config.load import Loaded
from mailgate.config.schema import PipelineSection
from mailgate.interfaces import FilterServices
from mailgate.observe.hub import EventHub
from mailgate.stores.counters import MemoryCounters
from mailgate.stores.suppressions import SeenSuppressions

__all__ = ["apart", "without_waiting"]

#: Kinds of filters that look at how a client behaves while it waits: recorded mail does not wait.
_WAITING = frozenset({"early-talker", "tarpit"})


def apart(services: FilterServices, max_keys: int) -> FilterServices:
    """The same, but that they count and remember apart from the others, and nobody hears their events: who would send
    reports about mail, or learn from it, does not know of copies."""
    return replace(
        services,
        counters=MemoryCounters(services.clock, max_keys),
        events=EventHub(),
        suppressions=SeenSuppressions(services.suppressions) if services.suppressions is not None else None,
    )


def without_waiting(loaded: Loaded) -> Loaded:
    """The same, but that no pipeline has filters that only let clients wait, and see what they do."""
    config = loaded.config

    def is_wanted(name: str) -> bool:
        return (config.filter(name).kind or name) not in _WAITING

    pipelines: dict[str, PipelineSection] = {}
    for name, section in config.pipelines.items():
        filters: list[str | list[str]] = []
        for entry in section.filters:
            wanted = list(filter(is_wanted, [entry] if isinstance(entry, str) else entry))
            filters += wanted if isinstance(entry, str) else [wanted] if wanted else []
        pipelines[name] = section.model_copy(update={"filters": filters})
    return replace(loaded, config=config.model_copy(update={"pipelines": pipelines}))
