"""Which filters are installed: found as Twisted plugins, and looked up strictly by their name."""

from __future__ import annotations

import difflib
import pkgutil
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module, invalidate_caches
from types import ModuleType

from twisted.plugin import getPlugins
from zope.interface import Invalid, implementer
from zope.interface.verify import verifyObject

from mailgate.config.schema import Section
from mailgate.interfaces import FilterServices, IFilterFactory

__all__ = ["FilterBrokenError", "FilterMaker", "FilterNotFoundError", "Registry"]


class FilterNotFoundError(LookupError):
    """No filter of this name is installed. The text says which are, and which plugin modules cannot be imported."""


class FilterBrokenError(LookupError):
    """A filter of this name is installed, but it cannot be used, or there are two. The text says why."""


@implementer(IFilterFactory)
class FilterMaker:
    """A factory whose module is imported when its options or a filter are asked for, not before.

    `module` is a dotted path; at the top of that module stand `Options`, a `Section`, and `build(options, services)`.
    """

    def __init__(self, name: str, module: str, summary: str) -> None:
        self.name = name
        self.module = module
        self.summary = summary

    def __repr__(self) -> str:
        return f"FilterMaker({self.name!r}, {self.module!r})"

    @property
    def options(self) -> type:
        """The class of the configuration section. ImportError where the module has none."""
        options = self._of_module("Options")
        if not isinstance(options, type):
            raise ImportError(f"Options in {self.module} is no class")
        return options

    def build(self, options: object, services: FilterServices) -> object:
        return self._of_module("build")(options, services)  # type: ignore[operator]  # calling it shows what it is

    def _of_module(self, name: str) -> object:
        try:
            module = import_module(self.module)
        except AttributeError as error:  # not for those who would take it for a lack of this factory
            raise ImportError(_told(error)) from error
        try:
            return getattr(module, name)
        except AttributeError:
            raise ImportError(f"{self.module} has no {name}") from None


class Registry:
    """The installed filters, as one scan found them. A new Registry scans anew.

    `package` is the dotted path of the package whose modules are plugins.
    """

    def __init__(self, package: str = "mailgate.plugins") -> None:
        self._package = package
        self._factories: list[IFilterFactory] | None = None
        self._failures: dict[str, str] = {}
        self._scanned_directly = False

    def all(self) -> Sequence[IFilterFactory]:
        """Every factory that has a name, sorted by it."""
        return sorted(
            (one for one in self._found() if _name_of(one)),
            key=lambda one: (_name_of(one), _place_of(one)),
        )

    def find(self, kind: str) -> IFilterFactory:
        """The one factory of this name; FilterNotFoundError, or FilterBrokenError where it cannot be used."""
        named = self._named(kind)
        if not named and not self._scanned_directly:
            # Twisted's cache hides a plugin whose file is older than the cache (after a rollback, in a container).
            self._scan_directly()
            named = self._named(kind)
        if not named:
            raise FilterNotFoundError(self._not_found(kind))
        if len(named) > 1:
            places = " and ".join(sorted(map(_place_of, named)))
            raise FilterBrokenError(f"more than one filter is called {kind}: {places}")
        fault = _fault_of(named[0])
        if fault:
            raise FilterBrokenError(f"the filter {kind} ({_place_of(named[0])}) cannot be used: {fault}")
        return named[0]

    def _named(self, kind: str) -> list[IFilterFactory]:
        return [one for one in self._found() if _name_of(one) == kind]

    def _found(self) -> list[IFilterFactory]:
        if self._factories is None:
            self._factories = []
            self._add(getPlugins(IFilterFactory, import_module(self._package)))
        return self._factories

    def _add(self, factories: Iterable[IFilterFactory]) -> None:
        found = self._found()
        for factory in factories:
            # A module that imports another's factory shows the same object again.
            if not any(factory is one for one in found):
                found.append(factory)

    def _scan_directly(self) -> None:
        self._scanned_directly = True
        invalidate_caches()
        package = import_module(self._package)
        for module in sorted({one.name for one in pkgutil.iter_modules(package.__path__)}):
            name = f"{self._package}.{module}"
            try:
                plugins = import_module(name)
            except (Exception, SystemExit) as error:
                self._failures[name] = _told(error)
            else:
                self._add(_factories_in(plugins))

    def _not_found(self, kind: str) -> str:
        installed = sorted({_name_of(one) for one in self._found()} - {""})
        near = difflib.get_close_matches(kind, installed, 1)
        text = f"no filter is called {kind}" + (f", did you mean {near[0]}?" if near else "")
        text += f" (installed are: {', '.join(installed) or 'none'})"
        nameless = [_place_of(one) for one in self._found() if not _name_of(one)]
        if nameless:
            text += f"; without a name: {', '.join(nameless)}"
        for module, error in self._failures.items():
            text += f"; cannot import {module}: {error}"
        return text


def _factories_in(module: ModuleType) -> Iterator[IFilterFactory]:
    return (value for value in list(vars(module).values()) if IFilterFactory.providedBy(value))


def _name_of(factory: IFilterFactory) -> str:
    """The factory's name, or "" where it has none that the configuration could ask for."""
    try:
        name: object = factory.name
    except Exception:  # whatever a stranger's property raises
        return ""
    return name if isinstance(name, str) else ""


def _place_of(factory: IFilterFactory) -> str:
    """Where a factory comes from, for a person who looks for it."""
    if isinstance(factory, FilterMaker):
        return factory.module
    return f"{getattr(factory, '__module__', '?')}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"


def _fault_of(factory: IFilterFactory) -> str:
    """Why the factory cannot be used, or ""."""
    try:
        verifyObject(IFilterFactory, factory)
        options = factory.options
        summary = factory.summary
    except Invalid as error:
        return " ".join(str(error).split())
    except (Exception, SystemExit) as error:
        return _told(error)
    if not isinstance(options, type) or not issubclass(options, Section):
        return "its options are no class of configuration sections (mailgate.config.schema.Section)"
    if not isinstance(summary, str) or not summary:
        return "it has no summary"
    return ""


def _told(error: BaseException) -> str:
    """What a module has failed with, and at which line of it: its author sees no other traceback."""
    text = f"{type(error).__name__}: {error}"
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.name == "<module>":
            return f"{text} ({frame.filename}:{frame.lineno})"
    return text
