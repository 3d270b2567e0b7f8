"""Reads the configuration: a file to checked sections, or every error of it at once, each with its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from mailgate.config.advice import advise
from mailgate.config.check import check, filter_options
from mailgate.config.document import Document
from mailgate.config.locate import Lines, locate
from mailgate.config.locate import Path as Where
from mailgate.config.machine import check_machine, is_path
from mailgate.config.problems import Problems
from mailgate.config.rules import ReplyRules, advise_on_rules
from mailgate.config.schema import Config
from mailgate.config.slips import find_slips
from mailgate.config.source import ConfigError, parse_source, read_source
from mailgate.config.wording import reworded
from mailgate.interfaces import IFilterFactory

__all__ = ["ConfigError", "Loaded", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that can be used: `options` by filter name, `warnings` in the form of errors; `rules` are those that
    `bounces.rules` names, None where it names none."""

    config: Config
    path: Path
    options: Mapping[str, object]
    warnings: tuple[str, ...] = ()
    lines: Lines = field(default_factory=lambda: Lines({}), repr=False, compare=False)
    rules: ReplyRules | None = None
    origins: Mapping[Where, Where] = field(default_factory=dict, repr=False, compare=False)

    def error(self, where: tuple[str | int, ...], text: str) -> str:
        """A line of ConfigError about a key, for what shows only when parts are built: ("filters", "dnsbl")."""
        return Problems(str(self.path), {}, self.lines, self.origins).format(where, text)


def load(path: Path, find: Callable[[str], IFilterFactory], source: str | None = None) -> Loaded:
    """The configuration in `path`; `find` gives the factory of a kind of filter, or raises LookupError.

    Paths in the file are relative to its folder. `source` is its text, where that has been read already. ConfigError:
    everything that is wrong with it.
    """
    if source is None:
        source = read_source(path)
    document = parse_source(path, source)
    lines = locate(source)
    problems = Problems(str(path), document, lines)
    base = path.absolute().parent
    shape = Document(document)
    slips = find_slips(shape, problems)
    config: Config | None = None
    try:
        config = Config.model_validate(document, context={"base": base})
    except ValidationError as error:
        for where, text in reworded(Config, document, error):
            if not any(where[: len(slip)] == slip for slip in slips):
                problems.error(where, text)
    check(shape, problems)
    check_machine(shape, base, problems)
    options = filter_options(shape, base, find, problems)
    rules = _rules(shape, base, problems)
    if problems.errors or config is None:
        raise ConfigError(problems.errors)
    advise(config, shape, problems)
    return Loaded(config, path, options, problems.warnings, lines, rules, problems.origins)


def _rules(document: Document, base: Path, problems: Problems) -> ReplyRules | None:
    """What the file of rules holds; what is wrong with it stands among the errors, at the places in that file."""
    file = document.table("bounces").get("rules")
    if not isinstance(file, str) or not is_path(file):
        return None  # reported where the section was validated
    place, path = ("bounces", "rules"), base / file
    try:
        path.open("rb").close()
        rules, warnings = advise_on_rules(path)
    except OSError as error:
        problems.error(place, f"{path} cannot be read: {error.strerror or error}")
        return None
    except ConfigError as error:
        problems.add_lines(place, error.errors)
        return None
    problems.add_warnings(place, warnings)
    return rules
