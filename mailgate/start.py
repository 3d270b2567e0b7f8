"""What `twistd mailgate` runs: one process, or several (`gateway.workers`), whose supervisor imports what it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.python import usage

from mailgate.config.load import ConfigError, Loaded, load
from mailgate.config.source import read_source
from mailgate.pipeline.registry import Registry

__all__ = ["Options", "makeService"]


class Options(usage.Options):
    """`twistd mailgate`."""

    synopsis = "[--config FILE]"
    longdesc = "A mail gateway that people program in Python. The configuration is checked before anything starts."

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        self.file = Path(os.environ.get("MAILGATE_CONFIG", "/etc/mailgate/mailgate.toml"))
        self.source = ""
        self.loaded: Loaded | None = None

    def opt_config(self, value: str) -> None:
        """The configuration; $MAILGATE_CONFIG, then /etc/mailgate/mailgate.toml, if not given."""
        self.file = Path(value)

    opt_c = opt_config

    def postOptions(self) -> None:
        """Read the configuration: SystemExit with every error of it."""
        try:
            self.source = read_source(self.file)
            self.loaded = load(self.file, Registry().find, self.source)
        except ConfigError as error:
            raise SystemExit("\n".join(error.errors)) from None


def makeService(options: Options) -> Service:
    """The service for this configuration."""
    from twisted.internet import reactor  # noqa: TID251  the composition root

    loaded, the_reactor = options.loaded, _any(reactor)
    twistd: dict[str, Any] = {} if options.parent is None else options.parent
    if loaded is None:
        raise AssertionError("the options have not been parsed")
    if loaded.config.gateway.workers > 1:
        from mailgate.workers.supervisor import Supervisor

        return Supervisor(loaded, options.source, the_reactor, twistd)
    from mailgate.service import Gateway

    return Gateway(loaded, the_reactor, twistd)


def _any(reactor: Any) -> Any:
    """Twisted's types call the reactor a module."""
    return reactor
