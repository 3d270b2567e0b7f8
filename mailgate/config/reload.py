"""What a reload cannot change: it is built once, at the start."""

from __future__ import annotations

from mailgate.config.schema import Config, ListenerSection

__all__ = ["as_running", "needs_restart"]

_SECTIONS = ("spool", "dns", "counters", "history", "log")
_GATEWAY = ("hostname", "state_dir", "workers")
_LISTENER = ("endpoints", "protocol")
_SERVICES = ("milters", "policy_services", "socketmaps")
_HTTP = ("endpoints", "tls", "max_connections", "max_connections_per_client", "max_body", "request_timeout")


def needs_restart(old: Config, new: Config) -> tuple[str, ...]:
    """The keys and sections whose change waits for the next start."""
    waits = [f"gateway.{key}" for key in _GATEWAY if getattr(old.gateway, key) != getattr(new.gateway, key)]
    before = {section.name: section for section in old.listeners}
    after = {section.name: section for section in new.listeners}
    waits += [
        f"listeners.{name}"
        for name in sorted(before.keys() | after.keys())
        if _differ(before.get(name), after.get(name))
    ]
    for kind in _SERVICES:
        served, serving = getattr(old, kind), getattr(new, kind)
        waits += [
            f"{kind}.{name}"
            for name in sorted(served.keys() | serving.keys())
            if name not in served or name not in serving or served[name].endpoints != serving[name].endpoints
        ]
    waits += [name for name in _SECTIONS if getattr(old, name) != getattr(new, name)]
    waits += [f"http.{key}" for key in _HTTP if getattr(old.http, key) != getattr(new.http, key)]
    return tuple(waits)


def as_running(started: Config, new: Config) -> Config:
    """The new configuration, with what waits for the next start as it was at the last."""
    before = {section.name: section for section in started.listeners}
    kept = {key: getattr(started.gateway, key) for key in _GATEWAY}
    changes: dict[str, object] = {name: getattr(started, name) for name in _SECTIONS}
    changes["http"] = new.http.model_copy(update={key: getattr(started.http, key) for key in _HTTP})
    changes["gateway"] = new.gateway.model_copy(update=kept)
    changes["listeners"] = [
        section.model_copy(update={key: getattr(before[section.name], key) for key in _LISTENER})
        if section.name in before
        else section
        for section in new.listeners
    ]
    for kind in _SERVICES:
        served = getattr(started, kind)
        changes[kind] = {
            name: section.model_copy(update={"endpoints": served[name].endpoints}) if name in served else section
            for name, section in getattr(new, kind).items()
        }
    return new.model_copy(update=changes)


def _differ(old: ListenerSection | None, new: ListenerSection | None) -> bool:
    return old is None or new is None or any(getattr(old, key) != getattr(new, key) for key in _LISTENER)
