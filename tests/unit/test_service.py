"""The command's options, and what makes a start impossible. The running gateway is in tests/memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from mailgate.config.load import load
from mailgate.pipeline.registry import Registry
from mailgate.service import Gateway, IGatewayReactor
from mailgate.start import Options

TEXT = """
[gateway]
hostname = "gw.example.org"
state_dir = "state"

[[listeners]]
name = "mx"
endpoints = ["tcp:25", "tcp:2525:interface=192.0.2.25:backlog=7", "unix:/run/mx.sock"]
pipeline = "in"

[pipelines.in]
filters = ["headers"]

[domains."example.org"]
route = "inside"

[routes.inside]
transport = "discard"
"""


def write(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "mailgate.toml"
    path.write_text(text)
    return path


def options(*words: str) -> Options:
    found = Options()
    found.parseOptions(list(words))  # type: ignore[no-untyped-call]  # Twisted's
    return found


def test_the_file_is_named_by_an_option_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setenv("MAILGATE_CONFIG", str(tmp_path / "other.toml"))
    for words in (("--config", str(path)), ("-c", str(path)), (f"--config={path}",)):
        loaded = options(*words).loaded
        assert loaded is not None
        assert loaded.config.gateway.hostname == "gw.example.org"
    monkeypatch.setenv("MAILGATE_CONFIG", str(path))
    assert options().loaded is not None
    monkeypatch.delenv("MAILGATE_CONFIG")
    assert Options().file == Path("/etc/mailgate/mailgate.toml")


def test_every_error_of_the_file_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT.replace('hostname = "gw.example.org"', "hostname = 3").replace("inside", "nowhere", 1))
    with pytest.raises(SystemExit) as error:
        options("--config", str(path))
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{path}:3: gateway.hostname: ")
    assert "nowhere" in second
    with pytest.raises(SystemExit, match=r"gone\.toml: cannot be read"):
        options("--config", str(tmp_path / "gone.toml"))


def test_a_filter_that_is_not_installed_is_an_error_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT.replace('["headers"]', '["headers", "no-such-filter"]'))
    with pytest.raises(SystemExit, match="no-such-filter"):
        options("-c", str(path))


class Reactor(MemoryReactorClock):
    """Some of whose ports are taken."""

    taken: tuple[int, ...] = ()

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> IListeningPort:  # noqa: N802
        if port in self.taken:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        listening = super().listenTCP(port, factory, backlog, interface)  # type: ignore[no-untyped-call]  # Twisted's
        return cast(IListeningPort, listening)


def gateway(tmp_path: Path, reactor: Reactor | None = None) -> tuple[Gateway, Any]:
    reactor = reactor or Reactor()  # type: ignore[no-untyped-call]  # Twisted's
    return Gateway(load(write(tmp_path), Registry().find), cast(IGatewayReactor, reactor)), reactor


def test_ports_are_bound_before_privileges_are_dropped(tmp_path: Path) -> None:
    found, reactor = gateway(tmp_path)
    found.privilegedStartService()
    assert [(port, backlog, interface) for port, _, backlog, interface in reactor.tcpServers] == [
        (25, 1024, ""),
        (2525, 7, "192.0.2.25"),
    ]
    assert [path for path, *_ in reactor.unixServers] == ["/run/mx.sock"]
    assert not (tmp_path / "state").exists()


def test_a_port_that_is_taken_is_named_and_so_is_every_other(tmp_path: Path) -> None:
    reactor = Reactor()  # type: ignore[no-untyped-call]  # Twisted's
    reactor.taken = (25, 2525)
    found, _ = gateway(tmp_path, reactor)
    with pytest.raises(SystemExit) as error:
        found.privilegedStartService()
    first, second = str(error.value).splitlines()
    assert "tcp:25" in first
    assert "already in use" in first
    assert "tcp:2525" in second
