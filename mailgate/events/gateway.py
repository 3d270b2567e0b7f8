"""What becomes of the gateway itself and its parts."""

from __future__ import annotations

from mailgate.events.base import Event

__all__ = [
    "BackEndRefuses",
    "BreakerChanged",
    "ConfigRefused",
    "ConfigReloaded",
    "EntrySetAside",
    "FilterFailed",
    "RecipientsChanged",
    "SiteSlowed",
    "SpoolFailed",
    "SpoolRecovered",
    "Started",
    "Stopped",
    "Stopping",
    "SuspensionChanged",
    "WorkerEnded",
]


class SuspensionChanged(Event, frozen=True, kw_only=True):
    """An administrator suspended deliveries, or resumed them; or a back end refuses all that comes by a route, which
    rests then. `kind` and `name` as in Suspension; `until` 0 where it is for good."""

    kind: str
    name: str
    is_suspended: bool
    until: float = 0.0
    reason: str = ""


class SiteSlowed(Event, frozen=True, kw_only=True):
    """A site is asked less, because of what it said, or more again. `factor` is what is left of its limits (1.0: all of
    them), `rests_until` 0 where it does not rest."""

    site: str
    source: str
    factor: float
    rests_until: float
    reason: str


class BackEndRefuses(Event, frozen=True, kw_only=True):
    """A back end (`preset` of a route) refuses this gateway, or a whole domain, and not the mail, which waits: its
    connector or its accepted domains are to be mended. Told once in some minutes, of one `recipient` of many."""

    route: str
    site: str
    host: str
    reply: str
    recipient: str


class WorkerEnded(Event, frozen=True, kw_only=True):
    """One of several processes ended that should not have; another takes its place. `status` says how it ended."""

    worker: int
    status: str


class EntrySetAside(Event, frozen=True, kw_only=True):
    """The spool could not read an entry and has put it where `where` says; nothing was deleted."""

    queue_id: str
    where: str
    reason: str


class SpoolFailed(Event, frozen=True, kw_only=True):
    """The spool cannot write: nothing is accepted or delivered until SpoolRecovered."""

    error: str


class SpoolRecovered(Event, frozen=True, kw_only=True):
    """The spool writes again."""


class FilterFailed(Event, frozen=True, kw_only=True):
    """A filter raised, or passed its deadline; `on_failure` says what was done instead of its verdict."""

    filter: str
    stage: str
    error: str
    on_failure: str
    session: str = ""
    queue_id: str = ""


class BreakerChanged(Event, frozen=True, kw_only=True):
    """A filter's circuit breaker opened (the filter is not asked for a while) or closed again."""

    filter: str
    is_open: bool


class RecipientsChanged(Event, frozen=True, kw_only=True):
    """Something has changed about what a `[recipients.NAME]` can tell, or an `[aliases.NAME]` (as "aliases.NAME"), or a
    `[senders.NAME]` (as "senders.NAME").

    `state` is "unavailable" (it cannot be asked; `reason` is the private cause) and then "available"; "holding" (so
    many addresses would vanish at once that they stay) and "not holding"; "accepts all" (a server that is asked by
    callouts knows no recipients in that stage: all of the domain that `reason` names are known) and "not accepts all".
    """

    source: str
    state: str
    reason: str = ""


class ConfigReloaded(Event, frozen=True, kw_only=True):
    """New sessions use the configuration read from `path`; changes to `needs_restart` wait for the next start."""

    path: str
    needs_restart: tuple[str, ...] = ()


class ConfigRefused(Event, frozen=True, kw_only=True):
    """A reload was refused and the old configuration stays; `errors` holds a line each."""

    path: str
    errors: tuple[str, ...]


class Started(Event, frozen=True, kw_only=True):
    """The gateway accepts and delivers."""

    listeners: tuple[str, ...]


class Stopping(Event, frozen=True, kw_only=True):
    """The gateway has stopped accepting and drains."""


class Stopped(Event, frozen=True, kw_only=True):
    """Everything is closed."""
