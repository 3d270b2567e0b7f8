"""Every interface of the gateway: what its parts may know of one another, and what a filter provides.

Where a method returns `X | Awaitable[X]`, a plain value, a coroutine and a Deferred all serve; a plain value
costs nothing. Times are seconds (float), sizes octets. Everything runs in the reactor's thread unless it
says otherwise. A method that may fail names its exceptions; any other exception is a bug of the provider.
"""

from __future__ import annotations

from mailgate.interfaces.filters import (
    Answered,
    AttemptContext,
    IAuthFilter,
    IConnectFilter,
    IDataFilter,
    IDeliveryFilter,
    IEventObserver,
    IFilterFactory,
    IHeloFilter,
    IMailFilter,
    IMessageFilter,
    IMessageModifier,
    IRecipientFilter,
    IRouter,
    MaybeVerdict,
)
from mailgate.interfaces.relay import (
    IRelay,
    ISlots,
    ITally,
    SiteView,
)
from mailgate.interfaces.services import (
    Answer,
    DnsStatus,
    FilterServices,
    ICounters,
    IEvents,
    IRecipientDirectory,
    IResolver,
    RecipientStatus,
)
from mailgate.interfaces.session import (
    IIntake,
    IPipeline,
    IRouting,
)
from mailgate.interfaces.spool import (
    Destination,
    EntryView,
    Grouping,
    Handover,
    ISpool,
    Lease,
    Outcome,
    OutcomeKind,
    Return,
    Selector,
    SpoolError,
    Summary,
    Suspended,
    Suspension,
    SweepReport,
)

__all__ = [
    "Answer",
    "Answered",
    "AttemptContext",
    "Destination",
    "DnsStatus",
    "EntryView",
    "FilterServices",
    "Grouping",
    "Handover",
    "IAuthFilter",
    "IConnectFilter",
    "ICounters",
    "IDataFilter",
    "IDeliveryFilter",
    "IEventObserver",
    "IEvents",
    "IFilterFactory",
    "IHeloFilter",
    "IIntake",
    "IMailFilter",
    "IMessageFilter",
    "IMessageModifier",
    "IPipeline",
    "IRecipientDirectory",
    "IRecipientFilter",
    "IRelay",
    "IResolver",
    "IRouter",
    "IRouting",
    "ISlots",
    "ISpool",
    "ITally",
    "Lease",
    "MaybeVerdict",
    "Outcome",
    "OutcomeKind",
    "RecipientStatus",
    "Return",
    "Selector",
    "SiteView",
    "SpoolError",
    "Summary",
    "Suspended",
    "Suspension",
    "SweepReport",
]
