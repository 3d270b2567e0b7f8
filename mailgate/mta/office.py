"""The services of one process for mail servers: their doors, which stay, and what is behind them, which a reload
changes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mailgate.config.schema import Config
from mailgate.interfaces import ITally
from mailgate.mta.door import Door
from mailgate.mta.milter.protocol import MilterServer
from mailgate.mta.milter.services import MilterServices
from mailgate.mta.policy.desk import Cases
from mailgate.mta.policy.protocol import PolicyServer
from mailgate.mta.policy.services import PolicyServices
from mailgate.mta.socketmap.protocol import SocketmapServer
from mailgate.mta.socketmap.services import SocketmapServices

__all__ = ["MtaOffice"]


class MtaOffice:
    """Those of the configuration that the process was started with; `use` comes before the first connection."""

    def __init__(self, config: Config, tally: ITally) -> None:
        names = (*config.milters, *config.policy_services, *config.socketmaps)
        self.doors: Mapping[str, Door] = {name: Door(name, tally) for name in names}
        self._milters: dict[str, MilterServices] = {}
        self._policies: dict[str, PolicyServices] = {}
        self._cases: dict[str, Cases] = {}
        self._socketmaps: dict[str, SocketmapServices] = {}

    def use(
        self,
        milters: Mapping[str, MilterServices],
        policies: Mapping[str, PolicyServices] = MappingProxyType({}),
        socketmaps: Mapping[str, SocketmapServices] = MappingProxyType({}),
    ) -> None:
        """From now on, new sessions go by these, and requests that have none before them."""
        for name, services in milters.items():
            door = self.doors.get(name)
            if door is not None:
                self._milters[name] = services
                door.serve(services.section, self._milter)
        for name, policy in policies.items():
            if name in self.doors:
                self._policies[name] = policy
                self._cases.setdefault(name, Cases(policy.clock))
                self.doors[name].serve(policy.section, self._policy)
        for name, socketmap in socketmaps.items():
            if name in self.doors:
                self._socketmaps[name] = socketmap
                self.doors[name].serve(socketmap.section, self._socketmap)

    def _milter(self, door: Door) -> MilterServer:
        return MilterServer(door, lambda: self._milters[door.name])

    def _policy(self, door: Door) -> PolicyServer:
        return PolicyServer(door, self._cases[door.name], lambda: self._policies[door.name])

    def _socketmap(self, door: Door) -> SocketmapServer:
        return SocketmapServer(door, lambda: self._socketmaps[door.name])
