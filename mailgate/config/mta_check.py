"""What sections of services for mail servers say about others, and whether that makes sense."""

from __future__ import annotations

from collections.abc import Iterator

from mailgate.config.document import Document, Table
from mailgate.config.locate import Path
from mailgate.config.mta import MilterSection, PolicySection
from mailgate.config.problems import Problems
from mailgate.config.public import public_space
from mailgate.config.schema import Config, DiscardRoute

__all__ = ["advise_on_mta", "check_mta"]

#: Kinds of filters that can do nothing where a mail server asks us, and why.
_USELESS = {"early-talker": "nobody sees what a client says too early"}
#: The tables of these services.
_SECTIONS = ("milters", "policy_services", "socketmaps")

#: Those that ask filters.
_ASKING = ("milters", "policy_services")


def check_mta(document: Document, problems: Problems) -> None:
    """Errors, in a document that may be wrong elsewhere."""
    if "listeners" not in document.root and not any(map(document.names, _SECTIONS)):
        problems.error(("listeners",), "is missing")
    if document.root.get("listeners") == []:
        problems.error(("listeners",), "must not be empty")
    names: dict[object, Path] = {
        listener.get("name"): ("listeners", number, "name") for number, listener in document.listeners()
    }
    taken: dict[str, Path] = {
        endpoint: ("listeners", number, "endpoints", index)
        for number, listener in document.listeners()
        for index, endpoint in enumerate(_strings(listener.get("endpoints")))
    }
    taken |= {
        endpoint: ("http", "endpoints", index)
        for index, endpoint in enumerate(_strings(document.table("http").get("endpoints")))
    }
    for path, section in _sections(document):
        if path[-1] in names:
            line = problems.line(names[path[-1]])
            problems.error(path, f"is the name of what stands in line {line}, too: each way in has a name of its own")
        names.setdefault(path[-1], path)
        for index, endpoint in enumerate(_strings(section.get("endpoints"))):
            if endpoint in taken:
                text = f'"{endpoint}" stands in line {problems.line(taken[endpoint])} already'
                problems.error((*path, "endpoints", index), text)
            taken.setdefault(endpoint, (*path, "endpoints", index))
    for table in _ASKING:
        for name, section in document.tables(table).items():
            for key in ("pipeline", "trusted_pipeline"):
                problems.known((table, name, key), section.get(key), "pipeline", document.names("pipelines"))
    for name, section in document.tables("milters").items():
        path = ("milters", name)
        problems.known((*path, "route"), section.get("route"), "route", document.names("routes"))
        if section.get("quarantine") == "own" and "route" not in section:
            problems.error((*path, "quarantine"), "own: nothing could leave it: it needs route")


def advise_on_mta(config: Config, document: Document, problems: Problems) -> None:
    """Warn about a file without errors."""
    services: list[MilterSection | PolicySection] = [*config.milters.values(), *config.policy_services.values()]
    asking = {name for one in services for name in (one.pipeline, one.trusted_pipeline)}
    for filter_name, place in document.pipeline_filters():
        why = _USELESS.get(document.kind_of(filter_name))
        if why is not None and place[1] in asking:
            problems.warn(place, f"{filter_name} has no effect: {why}, where a mail server asks us")
    for table in _ASKING:
        for name, section in getattr(config, table).items():
            if text := public_space(section.mail_servers):
                problems.warn((table, name, "mail_servers"), f"{text} may tell us anything about who sends mail")
            if text := public_space(section.trusted_networks):
                problems.warn((table, name, "trusted_networks"), f"{text} counts as your own users")
    for name, socketmap in config.socketmaps.items():
        if text := public_space(socketmap.mail_servers):
            problems.warn(("socketmaps", name, "mail_servers"), f"{text} may find out who your recipients are")
    for name, section in config.milters.items():
        path: Path = ("milters", name)
        if section.route is None:
            if section.refused_for_some == "report":
                problems.warn((*path, "refused_for_some"), "has no effect: reports are ours to send only with a route")
            for pipeline in {section.pipeline, section.trusted_pipeline or section.pipeline}:
                for one in _parting(config, pipeline):
                    problems.warn(
                        path,
                        f"has no route: what {one}, which is for some recipients only, changes cannot be sent to these "
                        "alone, and messages to others as well are deferred",
                    )
        elif isinstance(config.routes[section.route], DiscardRoute):
            problems.warn((*path, "route"), f"{section.route} throws away what leaves the quarantine")


def _parting(config: Config, pipeline: str) -> Iterator[str]:
    """The filters of a pipeline that may change a message for some of its recipients only."""
    for group in config.pipelines[pipeline].filters:
        for name in [group] if isinstance(group, str) else group:
            section = config.filter(name)
            if section.only_for or section.except_for:
                yield name


def _sections(document: Document) -> Iterator[tuple[Path, Table]]:
    for table in _SECTIONS:
        for name, section in document.tables(table).items():
            yield (table, name), section


def _strings(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
