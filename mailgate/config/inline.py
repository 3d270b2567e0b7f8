"""Routes whose next hop is asked while the client waits: where that cannot be, and what has no effect."""

from __future__ import annotations

from collections.abc import Iterator

from mailgate.config.document import Document
from mailgate.config.locate import Path
from mailgate.config.problems import Problems
from mailgate.config.routes import ServerRoute
from mailgate.config.schema import Config

__all__ = ["advise_on_inline", "check_inline", "inline_slips"]

#: The options of a route that are for this alone.
_ONLY_INLINE = ("when_unreachable", "rcpt_timeout", "hold_timeout")


def inline_slips(document: Document, problems: Problems) -> Iterator[Path]:
    """Report, and yield, options that only a route to servers has."""
    for name, route in document.tables("routes").items():
        transport = route.get("transport")
        if transport in ("smtp", "lmtp") or not isinstance(transport, str):
            continue
        for key in ("queue", *_ONLY_INLINE):
            if key in route:
                text = f"is for smtp and lmtp: by {transport} there is no next hop whose answers could be the client's"
                problems.error(("routes", name, key), text)
                yield ("routes", name, key)


def check_inline(document: Document, problems: Problems) -> None:
    """A route that goes by MX cannot be inline: one client's recipients would have many next hops."""
    for name, route in document.tables("routes").items():
        if route.get("queue") is False and route.get("transport") == "smtp" and not route.get("hosts"):
            text = "false is for fixed hosts, and this route goes by MX: give it `hosts`, or leave its mail queued"
            problems.error(("routes", name, "queue"), text)


def advise_on_inline(config: Config, problems: Problems) -> None:
    """Warn of what has no effect."""
    for name, route in config.routes.items():
        if isinstance(route, ServerRoute) and route.queue:
            for key in _ONLY_INLINE:
                if key in route.model_fields_set:
                    problems.warn(("routes", name, key), "has no effect without queue = false")
