"""`mailgate filters`: what is installed."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_type_hints

import click
from zope.interface.interface import InterfaceClass

from mailgate import interfaces
from mailgate.cli.common import FailedError, columns, config_option, json_option
from mailgate.config.reference import reference
from mailgate.interfaces import IFilterFactory
from mailgate.pipeline.registry import FilterMaker, Registry

__all__ = ["Stages", "command", "for_terminal", "stages_of"]

#: The stages in the order in which a mail passes them.
_STAGES = {
    interfaces.IConnectFilter: "connect",
    interfaces.IHeloFilter: "helo",
    interfaces.IAuthFilter: "auth",
    interfaces.IMailFilter: "mail",
    interfaces.IRecipientFilter: "rcpt",
    interfaces.IRouter: "route",
    interfaces.IDataFilter: "data",
    interfaces.IMessageFilter: "message",
    interfaces.IMessageModifier: "modify",
    interfaces.IDeliveryFilter: "delivery",
    interfaces.IEventObserver: "events",
}


@click.command("filters")
@click.argument("name", required=False)
@json_option
@config_option
def command(name: str | None, as_json: bool, config: object) -> None:
    """Installed filters with their stages, or one of them with its options."""
    registry = Registry()
    try:
        factories = [registry.find(name)] if name else list(registry.all())
    except LookupError as error:
        raise FailedError(str(error)) from None
    if as_json:
        click.echo(json.dumps([_as_json(factory, bool(name)) for factory in factories], indent=1))
        return
    if name:
        text = reference(factories)
        text = text[text.index("### ") :].rstrip()
        click.echo(f"stages: {_told(factories[0])}\n\n{for_terminal(text, width) if (width := columns()) else text}")
        return
    width = max((len(factory.name) for factory in factories), default=0)
    for factory in factories:
        click.echo(f"{factory.name:{width}}  {factory.summary}")
        click.echo(f"{'':{width}}  stages: {_told(factory)}")


def _as_json(factory: IFilterFactory, with_options: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": factory.name, "summary": factory.summary}
    try:
        stages = stages_of(factory)
        found |= {"stages": stages.names, "stages_by_options": stages.by_options}
        if with_options:
            found["options"] = factory.options.model_json_schema()  # type: ignore[attr-defined]  # the registry's check
    except ImportError as error:
        found["error"] = str(error)
    return found


def _told(factory: IFilterFactory) -> str:
    try:
        stages = stages_of(factory)
    except ImportError as error:
        return f"unknown: {error}"
    return ", ".join(stages.names or ["unknown"]) + (" (as its options ask)" if stages.by_options else "")


def for_terminal(text: str, width: int) -> str:
    """The reference of a filter, which is Markdown, in lines of this width: each row of a table is a paragraph."""
    paragraphs: list[list[str]] = []
    for part in text.split("\n\n"):
        if not part.startswith("|"):
            paragraphs.append(textwrap.wrap(" ".join(part.split()), width))
            continue
        for row in part.splitlines()[2:]:
            cells = re.split(r"(?<!\\) \| ", row.removeprefix("| ").removesuffix(" |"), maxsplit=3)
            key, kind, default, meaning = (cell.replace("\\", "") for cell in cells)
            head = textwrap.wrap(f"{key}: {kind}; default {default}", width, subsequent_indent="    ")
            body = textwrap.wrap(meaning, width, initial_indent="    ", subsequent_indent="    ")
            paragraphs.append([*head, *body])
    return "\n\n".join("\n".join(lines) for lines in paragraphs)


@dataclass(frozen=True, slots=True)
class Stages:
    """Where filters of a kind are asked, in order; with `by_options`, at those of these that their options ask for."""

    names: list[str]
    by_options: bool = False


def stages_of(factory: IFilterFactory) -> Stages:
    """Where the filters of a factory are asked; without names where that cannot be told without building one.

    A factory may say so in `stages`. Else the class counts that its `build` is declared to return or, where that
    says nothing, the classes of the module in which `build` stands. ImportError where that module cannot be imported.
    """
    declared = getattr(factory, "stages", None)
    if declared is not None:
        return Stages([str(stage) for stage in declared])
    build: Any = factory.build
    if isinstance(factory, FilterMaker):
        build = getattr(import_module(factory.module), "build", None)
    classes = [one for one in (_returned(build), *_classes_of(inspect.getmodule(build))) if isinstance(one, type)]
    for kinds in (classes[:1], classes):
        for is_at, by_options in ((_implements, False), (_has_method, True)):
            names = [stage for interface, stage in _STAGES.items() if any(is_at(kind, interface) for kind in kinds)]
            if names:
                return Stages(names, by_options)
    return Stages([])


def _returned(build: Any) -> object:
    try:
        return get_type_hints(build).get("return")
    except (NameError, TypeError):
        # Names that exist for the type checker only.
        return None


def _classes_of(module: Any) -> list[type]:
    values = vars(module).values() if module is not None else ()
    return [value for value in values if isinstance(value, type) and value.__module__ == module.__name__]


def _implements(kind: type, interface: InterfaceClass) -> bool:
    return bool(interface.implementedBy(kind))


def _has_method(kind: type, interface: InterfaceClass) -> bool:
    """For filters that say with each object which stages it provides."""
    return all(callable(getattr(kind, name, None)) for name in interface.names())
