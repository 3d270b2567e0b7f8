"""`make bench ARGS="--inline"`: mailgate with `queue = false` beside Postfix's proxy before the queue.

Nobody makes anything durable here: both take a message whole (Postfix by `speed_adjust`; it passes content on while it
comes where it has not), and give it to smtp-sink, whose answer is the client's. "postfix" is one smtpd whose
`smtpd_proxy_filter` is the sink, which is as much as mailgate does. In "postfix, filter" a second smtpd stands between,
as a filter that does nothing: that is how it stands with a real one, which speaks SMTP on both sides.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from parts import Gateway, Postfix, Sink, free_port

from bench.systems import System, configuration

__all__ = ["start_inline"]

_ADJUST = {"smtpd_proxy_options": "speed_adjust"}


def start_inline(base: Path, sink: Sink, stack: ExitStack, *, connections: int) -> list[System]:
    """Start all below `base`, until `stack` is closed."""
    port = free_port()
    route = f'hosts = ["127.0.0.1:{sink.port}"]\n'
    text = configuration(port, sink).replace(route, f"{route}queue = false\nconnections = {connections}\n")
    gateway = Gateway(base / "inline", text, [port])
    stack.enter_context(gateway)
    to_sink = {"smtpd_proxy_filter": f"127.0.0.1:{sink.port}"}
    doors: dict[str, dict[str, object]] = {
        "proxy": {**to_sink, **_ADJUST},
        "streams": {**to_sink},
        "filter": {**_ADJUST},
        "nothing": {**to_sink},
    }
    postfix = Postfix(base / "postfix-proxy", relay_port=sink.port, doors=doors)
    doors["filter"]["smtpd_proxy_filter"] = f"127.0.0.1:{postfix.ports['nothing']}"
    stack.enter_context(postfix)
    return [
        System("mailgate", port, gateway),
        System("postfix", postfix.ports["proxy"], postfix),
        System("postfix, streams", postfix.ports["streams"], postfix),
        System("postfix, filter", postfix.ports["filter"], postfix),
        System("bare sink", sink.port, None, has_tls=False),
    ]
