"""From a loaded configuration and the installed filters to pipelines; every error at once, with the filter's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twisted.logger import Logger
from zope.interface import Interface, Invalid
from zope.interface.verify import verifyObject

from mailgate.config.load import ConfigError, Loaded
from mailgate.config.schema import FilterSection, PipelineSection
from mailgate.interfaces import FilterServices, IDeliveryFilter, IEventObserver, IMarkingModifier
from mailgate.pipeline.delivery import DeliveryFilters
from mailgate.pipeline.member import QUESTIONS, Member
from mailgate.pipeline.registry import FilterBrokenError, FilterNotFoundError, Registry
from mailgate.pipeline.rescan import Rescan
from mailgate.pipeline.runner import Pipeline
from mailgate.pipeline.scope import Scope

__all__ = ["HEADERS", "Pipelines", "build_pipelines"]

_log = Logger()

#: The kind of filter that every pipeline gets at its end, if it names none: RFC 5321 section 4.4 asks for a
#: Received field in every mail.
HEADERS = "headers"

_INTERFACES: tuple[type[Interface], ...] = (
    *(question.interface for question in QUESTIONS),
    IMarkingModifier,
    IEventObserver,
)


@dataclass(frozen=True, slots=True)
class Pipelines:
    """What a configuration's filters make; `rescans` are the content filters of each pipeline, to be asked again.

    A delivery attempt and an event know of no pipeline: `delivery` and `observers` hold what any pipeline names.
    """

    by_name: Mapping[str, Pipeline]
    rescans: Mapping[str, Rescan]
    delivery: DeliveryFilters
    observers: Sequence[IEventObserver]


def build_pipelines(loaded: Loaded, registry: Registry, services: FilterServices) -> Pipelines:
    """Build each filter that a pipeline names, once, and the pipelines. ConfigError with every error there is.

    A filter that only has a section is not built: what no pipeline names is never run.
    """
    builder = _Builder(loaded, registry, services)
    groups = {name: builder.groups(section) for name, section in loaded.config.pipelines.items()}
    if builder.errors:
        raise ConfigError(tuple(builder.errors))
    members = list(builder.members.values())
    return Pipelines(
        {
            name: Pipeline(members_of, services.clock, services.events, loaded.config.routes)
            for name, members_of in groups.items()
        },
        {
            name: Rescan(
                members_of, {one: builder.kind_of(one) for one in builder.members}, services.clock, services.events
            )
            for name, members_of in groups.items()
        },
        DeliveryFilters(
            [member for member in members if IDeliveryFilter.providedBy(member.filter)],
            services.clock,
            services.events,
        ),
        # An observer decides nothing, so shadow mode makes no difference to it.
        [member.filter for member in members if IEventObserver.providedBy(member.filter)],
    )


class _Builder:
    def __init__(self, loaded: Loaded, registry: Registry, services: FilterServices) -> None:
        self._loaded = loaded
        self._registry = registry
        self._services = services
        #: By the filter's name; None where it could not be built, which is reported once.
        self.members: dict[str, Member] = {}
        self.errors: list[str] = []
        self._tried: set[str] = set()

    def groups(self, section: PipelineSection) -> list[list[Member]]:
        groups = [[entry] if isinstance(entry, str) else list(entry) for entry in section.filters]
        kinds = {self.kind_of(name) for group in groups for name in group}
        members = [[member for name in group if (member := self.member(name))] for group in groups]
        if HEADERS not in kinds:
            member = self.default_headers()
            members += [[member]] if member else []
        return members

    def member(self, name: str) -> Member | None:
        return self._member(name, self._loaded.config.filter(name), self._loaded.options.get(name))

    def default_headers(self) -> Member | None:
        """The headers filter as its section says, if there is one, else as it is by default."""
        if self.kind_of(HEADERS) == HEADERS:
            return self.member(HEADERS)
        # The name belongs to a filter of another kind.
        return self._member(f"{HEADERS} (by default)", FilterSection(kind=HEADERS), None)

    def kind_of(self, name: str) -> str:
        """The kind of the filter of this name."""
        return self._loaded.config.filter(name).kind or name

    def _member(self, name: str, section: FilterSection, options: object | None) -> Member | None:
        if name not in self._tried:
            self._tried.add(name)
            try:
                built = self._filter(section.kind or name, options)
                scope = self._scope(section, built)
                self.members[name] = Member(name, built, section.mode, section.deadline, section.on_failure, scope)
            except (FilterNotFoundError, FilterBrokenError, ValueError) as error:
                self._refuse(name, str(error))
            except Exception as error:
                _log.failure("the filter {filter} cannot be built", filter=name)
                self._refuse(name, f"{type(error).__name__}: {error}")
        return self.members.get(name)

    def _refuse(self, name: str, reason: str) -> None:
        self.errors.append(self._loaded.error(("filters", name), reason))

    def _scope(self, section: FilterSection, built: object) -> Scope | None:
        if not (section.only_for or section.except_for):
            return None
        if IDeliveryFilter.providedBy(built):
            raise ValueError("only_for, except_for: a filter that is asked before deliveries is for all recipients")
        return Scope(section.only_for, section.except_for, self._services.clock)

    def _filter(self, kind: str, options: object | None) -> object:
        factory = self._registry.find(kind)
        if options is None:
            options = factory.options()
        built = factory.build(options, self._services)
        provided = [interface for interface in _INTERFACES if interface.providedBy(built)]
        if not provided:
            raise ValueError(f"{type(built).__name__} provides no stage interface (see mailgate.interfaces)")
        for interface in provided:
            try:
                verifyObject(interface, built)
            except Invalid as error:
                raise ValueError(" ".join(str(error).split())) from error
        return built
